# SPDX-License-Identifier: MIT
"""failover: what a request pays when the GPU engine fails under it, and how soon a returned engine is used."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from labkit.say import Failed

from . import stats
from .lab import WAYS, Lab
from .load import Client, Question, Sample
from .results import REPEATS, Figure, exact
from .say import Progress
from .stats import Estimate, over_repeats

#: Tokens asked for. Streamed, so that the first byte can be told from the last.
TOKENS = 8
#: Longest wait for anything here, seconds.
PATIENCE = 60.0
#: A request in a state that lasts: asked this often, seconds.
STEP = 0.02


@dataclass(frozen=True)
class Case:
    """A way to fail: what the stand-in is told, what is promised, how often it is tried from a healthy engine."""

    name: str
    fault: str
    #: Goal for a request that meets an engine that has just begun to fail, milliseconds.
    goal: str = ""
    onsets: int = 8
    #: Between the first request that met the failure and those that count as later, seconds.
    settle: float = 0.5

    def expected(self, onsets: int, later: int) -> float:
        """Seconds on one way, about."""
        return onsets * (self.settle + 0.8) + later * 0.15


CASES = (
    Case("refused", "refuse", "<= 50", 20),
    # Whoever watches the engine needs a moment to see that it hangs.
    Case("hanging", "hang", "<= 3000", 8, settle=4.0),
    Case("500", "500"),
    Case("404", "404"),
    Case("cut before the first byte", "drop"),
)
#: Percentile that the goal of a case is about.
GOAL_PERCENT = 95
RETURN_GOAL = "<= 1000"


async def ask(client: Client, question: Question) -> Sample:
    """One answer, which must be whole. Raises Failed."""
    sample = await client.ask(question, PATIENCE)
    if not sample.good:
        raise Failed(f"{sample.target}: no answer but {sample.error or sample.status} after {sample.whole:.1f} s.")
    return sample


async def until(client: Client, question: Question, backend: str) -> float:
    """Ask again and again until ``backend`` answers; the moment of the first piece of that answer."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        sample = await ask(client, question)
        if sample.backend == backend:
            return sample.began + sample.first
        await asyncio.sleep(STEP)
    raise Failed(f"{client.target.name}: {backend} did not answer within {PATIENCE:.0f} s.")


@dataclass
class Found:
    """What was measured for one case on one way: seconds. ``missed``: tries in which the engine was left at once."""

    onset: list[float]
    later: list[float]
    back: list[float]


async def one_case(lab: Lab, name: str, case: Case, onsets: int, later: int, tell: Callable[[int], None]) -> Found:
    """Let the engine fail ``onsets`` times from health; ask at once, then ``later`` times in all; let it return."""
    question = Question(TOKENS, stream=True)
    found = Found([], [], [])
    way, cpu = Client(lab.way(name)), Client(lab.direct("cpu"))
    try:
        for number in range(onsets):
            tell(number)
            await until(way, question, "gpu")
            base = (await ask(cpu, question)).first
            lab.standin("fault", fault=case.fault)
            try:
                found.onset.append((await _not_gpu(way, question, case)).first - base)
                # A prober or a counter of failures may decide meanwhile: what do those pay who come later?
                settled = time.monotonic() + case.settle
                while time.monotonic() < settled:
                    await ask(way, question)
                for _ in range(-(-later // onsets)):
                    base = (await ask(cpu, question)).first
                    found.later.append((await _not_gpu(way, question, case)).first - base)
            finally:
                lab.standin("fault", fault="ok")
                returned = time.monotonic()
            found.back.append(await until(way, question, "gpu") - returned)
    finally:
        way.close()
        cpu.close()
    return found


async def _not_gpu(way: Client, question: Question, case: Case) -> Sample:
    sample = await ask(way, question)
    if sample.backend == "gpu":
        raise Failed(f"{way.target.name}: the GPU engine is said to have answered although it was told `{case.fault}`.")
    return sample


def figures(way: str, case: Case, found: Found) -> list[Figure]:
    """The rows of one case on one way."""
    place = f"{way}, {case.name}"
    made = []
    for percent in (50, GOAL_PERCENT):
        goal = case.goal if percent == GOAL_PERCENT else ""
        made.append(_ms(place, f"first request: added p{percent} to the first piece", found.onset, percent, goal))
    for percent in (50, GOAL_PERCENT):
        goal = case.goal if percent == GOAL_PERCENT else ""
        made.append(_ms(place, f"later requests: added p{percent} to the first piece", found.later, percent, goal))
    back = over_repeats([value * 1000 for value in found.back])
    made.append(Figure(place, "until the GPU is used again", "ms", back, REPEATS, RETURN_GOAL))
    return made


def _ms(place: str, metric: str, values: Sequence[float], percent: int, goal: str) -> Figure:
    found = stats.percentile_estimate(values, percent)
    return Figure(
        place, metric, "ms", Estimate(found.value * 1000, found.low * 1000, found.high * 1000, found.n), goal=goal
    )


def measure(lab: Lab, quick: bool) -> list[Figure]:
    """All cases on both ways. The stand-in is healthy again afterwards, whatever happens."""
    onsets = {case.name: 2 if quick else case.onsets for case in CASES}
    later = 4 if quick else 60
    expected = sum(len(WAYS) * case.expected(onsets[case.name], later) for case in CASES)
    progress = Progress("failover", expected)
    made: list[Figure] = []
    done = 0.0
    with lab.standin_kept():
        # Fast, so that what is measured is the way and not the engine.
        lab.standin("speed", first_ms=5, token_ms=1)
        for name in WAYS:
            for case in CASES:
                times, share = onsets[case.name], case.expected(onsets[case.name], later)
                place = f"{name}, {case.name}"

                def tell(number: int, at: float = done, part: float = share, of: int = times, at_: str = place) -> None:
                    progress.say(f"{at_} {number + 1} of {of}", at + part * number / of)

                try:
                    found = asyncio.run(one_case(lab, name, case, times, later, tell))
                except Failed as error:
                    progress.end()
                    print(f"failover: {name}, {case.name}: {error}", flush=True)
                    made.append(Figure(f"{name}, {case.name}", "not answered", "cases", exact(1), "", "<= 0"))
                else:
                    made += figures(name, case, found)
                done += share
    progress.end()
    return made
