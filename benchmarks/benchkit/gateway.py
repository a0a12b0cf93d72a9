# SPDX-License-Identifier: MIT
"""gateway: what the ways to an engine add to its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from labkit.say import Failed

from . import stats
from .lab import WAYS, Lab, Usage
from .load import Question, Sample, in_turn
from .results import Figure, exact
from .say import Progress
from .stats import Estimate

#: What the engine stand-in is told, milliseconds; and how many tokens are asked for.
FIRST_MS, TOKEN_MS, TOKENS = 100, 5, 24
#: A whole answer of the engine, seconds.
NOMINAL = (FIRST_MS + TOKEN_MS * (TOKENS - 1)) / 1000
PERCENTILES = (50, 95, 99)
#: Failed requests, as a share or as a number, above which a figure would say nothing.
TOLERATED, FEW = 0.01, 2
#: (kind, parallel, percentile) → most added milliseconds, on both ways.
GOALS = {("plain", 1, 50): "<= 15", ("plain", 16, 99): "<= 60"}


@dataclass(frozen=True)
class Cell:
    """One combination: plain or streamed, how many at once, and how much is asked of each target."""

    stream: bool
    parallel: int
    blocks: int
    block: int

    @property
    def kind(self) -> str:
        """``plain`` or ``stream``."""
        return "stream" if self.stream else "plain"

    @property
    def expected(self) -> float:
        """Seconds, about."""
        return (self.blocks * self.block / self.parallel + 2) * NOMINAL * (1 + 1.15 * len(WAYS))


def cells(quick: bool) -> list[Cell]:
    """All combinations; ``quick``: a twentieth of the requests, for trying the tool only."""
    sizes = {1: (15, 20), 4: (10, 40), 16: (10, 64)}
    if quick:
        sizes = {1: (2, 8), 4: (2, 12), 16: (2, 32)}
    return [Cell(stream, n, *sizes[n]) for stream in (False, True) for n in sizes]


def seconds(samples: Sequence[Sample], stream: bool) -> list[float]:
    """The time that counts: to the first piece of content when streaming, else to the last byte."""
    return [sample.first if stream else sample.whole for sample in samples]


def judge(cell: Cell, found: dict[str, list[list[Sample]]], direct: str) -> list[Figure]:
    """The figures of one cell. Raises Failed when too many requests failed."""
    place = f"{cell.kind}, {cell.parallel} at once"
    figures: list[Figure] = []
    for name, blocks in found.items():
        everything = [sample for block in blocks for sample in block]
        bad = [sample for sample in everything if not sample.good]
        if len(bad) > max(FEW, TOLERATED * len(everything)):
            raise Failed(
                f"{name}, {place}: {len(bad)} of {len(everything)} requests failed, the first with"
                f" {bad[0].error or bad[0].status}. A figure made of the others would say nothing."
            )
    base = [seconds([s for s in block if s.good], cell.stream) for block in found[direct]]
    what = "to the first token" if cell.stream else "to the last byte"
    nominal = FIRST_MS / 1000 if cell.stream else NOMINAL
    own = [value - nominal for block in base for value in block]
    for percent in PERCENTILES:
        figures.append(_figure(f"engine directly, {place}", f"p{percent} {what}, over nominal", own, percent))
    for name, blocks in found.items():
        if name == direct:
            continue
        more = stats.added([seconds([s for s in block if s.good], cell.stream) for block in blocks], base)
        for percent in PERCENTILES:
            goal = GOALS.get((cell.kind, cell.parallel, percent), "")
            figures.append(_figure(f"{name}, {place}", f"added p{percent} {what}", more, percent, goal))
        failed = sum(1 for block in blocks for sample in block if not sample.good)
        if failed:
            figures.append(Figure(f"{name}, {place}", "failed", "requests", exact(failed), "", "<= 0"))
    return figures


def _figure(case: str, metric: str, values: Sequence[float], percent: int, goal: str = "") -> Figure:
    found = stats.percentile_estimate(values, percent)
    in_ms = Estimate(found.value * 1000, found.low * 1000, found.high * 1000, found.n)
    return Figure(case, metric, "ms", in_ms, goal=goal)


def memory(lab: Lab, when: str) -> list[Figure]:
    """Resident memory of every service of the ways."""
    figures = []
    for unit, used in sorted(lab.usage().items()):
        for metric, size in (("RSS", used.resident), ("memory of its group", used.group)):
            if size is not None:
                figures.append(Figure(f"{unit}, {when}", metric, "MiB", exact(size / 2**20), ""))
    return figures


def ways_of(unit: str) -> tuple[str, ...]:
    """The ways that go through a service; none for those that no request passes."""
    if unit.endswith("door"):
        return tuple(WAYS)
    own = {"ingress-sovereign": "T1", "sovereign-admission": "T1", "sovereign-gateway": "T1"}
    own |= {"ingress-hybrid": "T2", "hybrid-gateway": "T2"}
    return (own[unit],) if unit in own else ()


def work(kind: str, before: dict[str, Usage], after: dict[str, Usage], asked: int) -> list[Figure]:
    """Processor time per request of each service, over all cells of a kind; ``asked``: requests per way."""
    figures = []
    for unit in sorted(set(before) & set(after)):
        requests = asked * len(ways_of(unit))
        if requests:
            spent = max(0.0, after[unit].cpu - before[unit].cpu) * 1000 / requests
            figures.append(Figure(f"{unit}, {kind}", "processor time per request", "ms", exact(spent), ""))
    return figures


def measure(lab: Lab, quick: bool) -> list[Figure]:
    """Run all cells. The stand-in gets its own speed back, whatever happens."""
    todo = cells(quick)
    progress = Progress("gateway", sum(cell.expected for cell in todo))
    targets = [lab.direct("gpu"), *(lab.way(name) for name in WAYS)]
    figures: list[Figure] = []
    done = 0.0
    with lab.standin_kept():
        lab.standin("speed", first_ms=FIRST_MS, token_ms=TOKEN_MS)
        rest = memory(lab, "at rest")
        used = lab.usage()
        asked = 0
        spent: list[Figure] = []
        for cell in todo:
            text = f"{cell.kind}, {cell.parallel} at once"

            def tell(rounds: int, cell: Cell = cell, text: str = text, before: float = done) -> None:
                progress.say(f"{text}, round {rounds} of {cell.blocks}", before + cell.expected * rounds / cell.blocks)

            question = Question(TOKENS, cell.stream)
            found = asyncio.run(in_turn(targets, question, cell.parallel, cell.blocks, cell.block, tell))
            wrong = {s.backend for name in WAYS for block in found[name] for s in block if s.good} - {"gpu"}
            if wrong:
                raise Failed(f"Not every answer came from the GPU engine, but also from {', '.join(sorted(wrong))}.")
            figures += judge(cell, found, targets[0].name)
            done += cell.expected
            # Each target was warmed up with two rounds.
            asked += cell.blocks * cell.block + 2 * cell.parallel
            if cell.parallel == max(other.parallel for other in todo):
                now = lab.usage()
                spent += work(cell.kind, used, now, asked)
                used, asked = now, 0
        figures += spent + rest + memory(lab, "after the load")
        # The stand-in keeps every byte that it gets; a thousand requests are enough.
        lab.standin("reset")
    progress.end()
    return figures
