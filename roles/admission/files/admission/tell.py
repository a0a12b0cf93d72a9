# SPDX-License-Identifier: MIT
"""What is told of the private queue: numbers and fixed sentences, in two files. No content, no name of a job."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from admission.config import Rule

NOTICE = "queue.json"
METRICS = "queue.prom"
BUCKETS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0)
"""Upper bounds of the waits that are counted, seconds."""


@dataclass
class Waits:
    """A histogram of how long jobs waited for their answer."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds


@dataclass(frozen=True)
class Line:
    """One profile's line. up: whether an engine is known to answer; None while nobody has tried."""

    profile: str
    waiting: int
    oldest_seconds: float
    up: bool | None
    modes: tuple[str, ...]


@dataclass(frozen=True)
class Figures:
    """Everything that is told. outcomes: (profile, state) → number since the start."""

    now: float
    lines: tuple[Line, ...]
    outcomes: Mapping[tuple[str, str], int]
    waits: Mapping[str, Waits]
    counters: Mapping[str, int]
    held: int


def modes_of(rule: Rule) -> tuple[str, ...]:
    """The GPU modes that would serve a profile, in the order of its chain."""
    return tuple(dict.fromkeys(link.mode for link in rule.links if link.mode))


def duration(seconds: float) -> str:
    """``240`` → ``4 min``."""
    if seconds < 60:
        return f"{int(seconds)} s"
    return f"{int(seconds // 60)} min" if seconds < 7200 else f"{int(seconds // 3600)} h"


def sentence(line: Line) -> str:
    """What a person should know, and do."""
    what = f"{line.waiting} {line.profile} request{'' if line.waiting == 1 else 's'} waiting"
    text = f"{what} {duration(line.oldest_seconds)}"
    if line.up or not line.modes:
        return text
    return f"{text}; `sovereignctl mode switch {line.modes[0]}` would serve them"


def notice(figures: Figures) -> dict[str, object]:
    """The file for whoever alerts."""
    return {
        "time": round(figures.now, 1),
        "lines": [
            {
                "profile": line.profile,
                "waiting": line.waiting,
                "oldest_seconds": round(line.oldest_seconds, 1),
                "engine": {True: "answers", False: "away", None: "not asked"}[line.up],
                "modes": list(line.modes),
                "text": sentence(line) if line.waiting else "",
            }
            for line in figures.lines
        ],
    }


def _series(name: str, kind: str, about: str, rows: Iterable[tuple[Mapping[str, str], float]]) -> list[str]:
    lines = [f"# HELP mushishi_queue_{name} {about}", f"# TYPE mushishi_queue_{name} {kind}"]
    for labels, value in rows:
        inside = ",".join(f'{key}="{text}"' for key, text in labels.items())
        lines.append(f"mushishi_queue_{name}{'{' + inside + '}' if inside else ''} {value:g}")
    return lines


def _histogram(waits: Mapping[str, Waits]) -> list[str]:
    name = "mushishi_queue_wait_seconds"
    lines = [f"# HELP {name} Seconds from acceptance to the stored answer.", f"# TYPE {name} histogram"]
    for profile, found in sorted(waits.items()):
        below = 0
        for bound, count in zip((*(f"{one:g}" for one in BUCKETS), "+Inf"), found.counts, strict=True):
            below += count
            lines.append(f'{name}_bucket{{profile="{profile}",le="{bound}"}} {below}')
        lines += [
            f'{name}_sum{{profile="{profile}"}} {found.total:.3f}',
            f'{name}_count{{profile="{profile}"}} {below}',
        ]
    return lines


def metrics(figures: Figures) -> str:
    """The file for Prometheus' textfile collector."""
    lines = _series(
        "depth", "gauge", "Jobs without an answer.", [({"profile": one.profile}, one.waiting) for one in figures.lines]
    )
    lines += _series(
        "oldest_seconds",
        "gauge",
        "Age of the oldest job without an answer.",
        [({"profile": one.profile}, round(one.oldest_seconds, 1)) for one in figures.lines],
    )
    lines += _series(
        "engine_up",
        "gauge",
        "1 when an engine of the chain is known to answer.",
        [({"profile": one.profile}, int(bool(one.up))) for one in figures.lines],
    )
    lines += _series("held_connections", "gauge", "Clients that wait on their connection.", [({}, figures.held)])
    lines += _series(
        "ended_total",
        "counter",
        "Jobs that ended, by how.",
        [({"profile": profile, "state": state}, n) for (profile, state), n in sorted(figures.outcomes.items())],
    )
    for name, value in sorted(figures.counters.items()):
        lines += _series(name, "counter", "See docs/queue.md.", [({}, value)])
    return "\n".join(lines + _histogram(figures.waits)) + "\n"


def place(path: Path, text: str) -> None:
    """Replace a small file as a whole, so that nobody reads half of it. Raises OSError."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def tell(folder: Path, figures: Figures) -> None:
    """Write both files. Raises OSError."""
    place(folder / NOTICE, json.dumps(notice(figures)) + "\n")
    place(folder / METRICS, metrics(figures))
