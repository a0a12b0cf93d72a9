# SPDX-License-Identifier: MIT
"""What an audit finds: rows, and one verdict over them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

#: What was looked at. ``control`` rows are the planted holes: there ``leaked`` is the wanted outcome.
KINDS = ("static", "attack", "request", "pull", "files", "logs", "capture", "control")
#: ``refused``: tried, and stopped. ``holds``: read back, and as it must be. ``leaked``: tried, and it got through, or
#: read back and open. ``not tested``: says why in ``detail``.
OUTCOMES = ("refused", "holds", "leaked", "not tested")
GREEN, RED, INVALID = "green", "red", "invalid"


@dataclass(frozen=True)
class Row:
    """One path or setting that was tried.

    ``rule``: P1 to P10, or empty. ``source``: who tried, or what was read (``unit mushishi-sovereign-gateway``).
    ``path``: the way (``→ internet v4 198.51.100.53 tcp 443``). ``ms``: time to the outcome. ``detail``: errno, value
    found, reason.
    """

    kind: str
    rule: str
    source: str
    path: str
    outcome: str
    ms: float | None = None
    detail: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.outcome not in OUTCOMES:
            raise ValueError(f"{self.source} {self.path}: no such kind ({self.kind}) or outcome ({self.outcome})")

    def as_dict(self) -> dict[str, Any]:
        """For JSON and for the module's result."""
        return asdict(self)


def verdict(rows: Iterable[Row]) -> str:
    """``red`` when anything leaked; ``invalid`` when nothing was tried, or a planted hole was missed, or none was."""
    found = list(rows)
    tried = [row for row in found if row.kind != "control"]
    if any(row.outcome == "leaked" for row in tried):
        return RED
    controls = [row for row in found if row.kind == "control"]
    if not controls or any(row.outcome != "leaked" for row in controls):
        return INVALID
    if not any(row.outcome in ("refused", "holds") for row in tried):
        return INVALID
    return GREEN


def summary(rows: Iterable[Row]) -> dict[str, dict[str, int]]:
    """Kind → outcome → how many."""
    counted: dict[str, Counter[str]] = {}
    for row in rows:
        counted.setdefault(row.kind, Counter())[row.outcome] += 1
    return {kind: dict(sorted(counted[kind].items())) for kind in KINDS if kind in counted}
