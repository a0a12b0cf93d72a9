# SPDX-License-Identifier: MIT
"""One CSV file per benchmark: a figure per row, and in each row where and on what it was measured."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .stats import Estimate

#: What each row begins with. ``spread`` says what low and high are; ``goal`` is empty where nothing was promised.
FIGURE = ("case", "metric", "unit", "value", "low", "high", "spread", "n", "goal", "met")
#: What each row ends with, so that files of several machines can be put together.
MACHINE = ("cores", "memory_gib", "cpu", "kernel", "versions", "commit", "measured_at")
COLUMNS = FIGURE + MACHINE

INTERVAL = "95 % interval"
REPEATS = "smallest and largest repeat"


@dataclass(frozen=True)
class Figure:
    """One figure. ``goal`` is ``<= 15`` or ``>= 5`` or empty; ``machine`` is filled in when it is written."""

    case: str
    metric: str
    unit: str
    estimate: Estimate
    spread: str = INTERVAL
    goal: str = ""
    machine: Mapping[str, str] = field(default_factory=dict)

    @property
    def met(self) -> str:
        """``yes`` or ``no``; empty without a goal. What is judged is the figure itself, not its interval."""
        if not self.goal:
            return ""
        sign, _, text = self.goal.partition(" ")
        bound = float(text)
        if sign not in ("<=", ">="):
            raise ValueError(f"goal {self.goal!r}: neither <= nor >=")
        return "yes" if (self.estimate.value <= bound if sign == "<=" else self.estimate.value >= bound) else "no"

    def row(self) -> dict[str, str]:
        """The figure as a row of the file."""
        return {
            "case": self.case,
            "metric": self.metric,
            "unit": self.unit,
            "value": number(self.estimate.value),
            "low": number(self.estimate.low),
            "high": number(self.estimate.high),
            "spread": self.spread,
            "n": str(self.estimate.n),
            "goal": self.goal,
            "met": self.met,
            **{name: self.machine.get(name, "") for name in MACHINE},
        }

    @classmethod
    def of(cls, row: Mapping[str, str]) -> Figure:
        """The figure of a row. Raises KeyError, ValueError for a row that is none."""
        estimate = Estimate(float(row["value"]), float(row["low"]), float(row["high"]), int(row["n"]))
        machine = {name: row[name] for name in MACHINE}
        return cls(row["case"], row["metric"], row["unit"], estimate, row["spread"], row["goal"], machine)


def number(value: float) -> str:
    """Four digits that mean something, without an exponent."""
    if value == 0:
        return "0"
    text = f"{value:.4g}"
    return f"{float(text):.0f}" if "e" in text or abs(value) >= 1000 else text


def exact(value: float) -> Estimate:
    """A figure that was counted, not measured."""
    return Estimate(value, value, value, 1)


def write(path: Path, figures: Iterable[Figure], machine: Mapping[str, str]) -> None:
    """Write a file. A figure that brings its own machine keeps it."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for figure in figures:
        writer.writerow((figure if figure.machine else replace(figure, machine=machine)).row())
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(text.getvalue(), encoding="utf-8")
    partial.replace(path)


def read(path: Path) -> list[Figure]:
    """The figures of a file. Raises OSError, ValueError naming the file when it is not one of ours."""
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path}: its columns are {reader.fieldnames}, not {list(COLUMNS)}; measure again")
        return [Figure.of(row) for row in reader]


def digest(path: Path) -> str:
    """SHA-256 of a file; it stands in every plot and table made from it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def table(figures: Sequence[Figure]) -> list[str]:
    """The figures as an aligned text table, one line each."""
    heads = ("case", "metric", "value", "unit", "from", "to", "n", "goal", "met")
    rows = [heads]
    for figure in figures:
        row = figure.row()
        rows.append(
            (*(row[name] for name in ("case", "metric", "value", "unit", "low", "high", "n", "goal", "met")),)  # type: ignore[arg-type]  # nine of them
        )
    return aligned(rows, right=(2, 4, 5, 6))


def aligned(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Rows of the same length as lines with columns; a rule under the first; ``right``: columns set to the right."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = (text.rjust(widths[at]) if at in right else text.ljust(widths[at]) for at, text in enumerate(row))
        return "  ".join(cells).rstrip()

    return [line(rows[0]), "  ".join("-" * width for width in widths), *(line(row) for row in rows[1:])]


def markdown(figures: Sequence[Figure]) -> list[str]:
    """The figures as a Markdown table; where they were measured stands in one line above it."""
    lines = []
    for machine in dict.fromkeys(tuple(figure.machine.get(name, "") for name in MACHINE) for figure in figures):
        cores, memory, cpu, kernel, versions, commit, when = machine
        lines.append(
            f"{cores} cores of {cpu}, {memory} GiB, kernel {kernel}; {versions}; commit `{commit}`, {when}."
        )
        lines += ["", "| case | metric | figure | from, to | n | goal | met |", "|---|---|---:|---:|---:|---|---|"]
        for figure in figures:
            if tuple(figure.machine.get(name, "") for name in MACHINE) != machine:
                continue
            row = figure.row()
            same = row["low"] == row["value"] == row["high"]
            span = "" if same else f"{row['low']}, {row['high']}"
            goal = row["goal"].replace("<=", "≤").replace(">=", "≥")
            met = {"yes": "yes", "no": "**no**"}.get(row["met"], "")
            value = f"{row['value']} {row['unit']}".rstrip()
            lines.append(f"| {row['case']} | {row['metric']} | {value} | {span} | {row['n']} | {goal} | {met} |")
        lines.append("")
    return lines[:-1]
