# SPDX-License-Identifier: MIT
"""The rows of an audit as a table that a person reads: what leaked first, what was not tested and why, and how the
rest was refused. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from statistics import median

from .model import Row


def chosen(rows: Iterable[Row], kinds: Sequence[str], only: Sequence[str]) -> list[Row]:
    """Rows of these kinds whose source and path fit one of these patterns; without kinds or patterns all of them."""
    return [
        row
        for row in rows
        if (not kinds or row.kind in kinds)
        and (not only or any(fnmatchcase(f"{row.source} {row.path}", f"*{word}*") for word in only))
    ]


def lines(rows: Sequence[Row], verdict: str, most: int = 40) -> list[str]:
    """The table. At most so many leaks and untested paths are spelled out; how many more there are is said."""
    leaks = [row for row in rows if row.outcome == "leaked" and row.kind != "control"]
    holes = [row for row in rows if row.kind == "control"]
    missed = [row for row in holes if row.outcome != "leaked"]
    untested = [row for row in rows if row.outcome == "not tested" and row.kind != "control"]
    counted = f"{len(rows) - len(holes)} paths and settings, {len(leaks)} leaked, {len(untested)} not tested"
    found = [f"Verdict: {verdict}. {counted}; {len(holes) - len(missed)} of {len(holes)} planted holes found."]
    for title, some in (("LEAKED", leaks), ("PLANTED HOLE NOT FOUND", missed), ("not tested", untested)):
        if some:
            found += ["", f"{title} ({len(some)}):"]
            found += [
                f"  {row.rule:<4}{row.source} · {row.path}{f' ({row.detail})' if row.detail else ''}"
                for row in some[:most]
            ]
            found += [f"  … and {len(some) - most} more"] if len(some) > most else []
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.outcome in ("refused", "holds") and row.kind != "control":
            groups.setdefault((row.kind, row.source), []).append(row)
    if groups:
        found += ["", "Held, by who tried or what was read:"]
    for (kind, source), some in sorted(groups.items()):
        times = sorted(row.ms for row in some if row.ms is not None)
        took = f", refused in {median(times):.2f} ms (median), {times[-1]:.1f} ms at most" if times else ""
        found.append(f"  {kind:<8}{source}: {len(some)}{took}")
    return found
