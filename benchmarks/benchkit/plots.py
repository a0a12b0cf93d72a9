# SPDX-License-Identifier: MIT
"""One plot per result: ``python -m benchkit.plots RESULTS OUT [NAME…]``. What is drawn comes from the CSV file alone.

The SHA-256 of the file stands in the plot (``dc:identifier``): a test says whether the two still belong together.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import results
from .results import Figure

COLOURS = {"T1": "#1f5f8b", "T2": "#c8553d", "llama-server": "#1f5f8b", "llama-cpp-python": "#c8553d"}
GREY, GOAL = "#6b7280", "#2e7d32"
IDENTIFIER = re.compile(r"<dc:identifier>sha256:([0-9a-f]{64})</dc:identifier>")
CELL = re.compile(r"^(?P<way>T\d), (?P<kind>plain|stream), (?P<parallel>\d+) at once$")
SPEED = re.compile(r"^(?P<model>[^,]+), (?P<server>[^,]+), threads (?P<threads>\d+), (?P<parallel>\d+) at once$")


def digest_in(svg: str) -> str:
    """The digest of the file that a plot was made from, empty when it has none."""
    found = IDENTIFIER.search(svg)
    return found[1] if found else ""


# --- what is drawn ---------------------------------------------------------------------------------------------------


def gateway_lines(figures: Sequence[Figure]) -> dict[tuple[str, str, str], list[tuple[int, Figure]]]:
    """(kind, way, percentile) → [(parallel, figure)], in the order of parallel."""
    found: dict[tuple[str, str, str], list[tuple[int, Figure]]] = {}
    for figure in figures:
        cell = CELL.match(figure.case)
        percent = re.match(r"added (p\d+) ", figure.metric)
        if cell and percent:
            found.setdefault((cell["kind"], cell["way"], percent[1]), []).append((int(cell["parallel"]), figure))
    return {key: sorted(points, key=lambda point: point[0]) for key, points in found.items()}


def failover_points(figures: Sequence[Figure]) -> dict[str, list[tuple[str, str, Figure]]]:
    """Metric → [(way, case, figure)]: the three metrics of which one is drawn each, in milliseconds."""
    wanted = {
        "first request: added p95 to the first piece": "first request, p95 added",
        "later requests: added p95 to the first piece": "later requests, p95 added",
        "until the GPU is used again": "GPU used again after",
    }
    found: dict[str, list[tuple[str, str, Figure]]] = {}
    for figure in figures:
        way, _, case = figure.case.partition(", ")
        if figure.metric in wanted:
            found.setdefault(wanted[figure.metric], []).append((way, case, figure))
    return found


def speeds(figures: Sequence[Figure]) -> dict[tuple[str, int], list[tuple[str, int, Figure]]]:
    """(model, parallel) → [(server, threads, figure)]."""
    found: dict[tuple[str, int], list[tuple[str, int, Figure]]] = {}
    for figure in figures:
        match = SPEED.match(figure.case)
        if match and figure.metric == "speed":
            key = (match["model"], int(match["parallel"]))
            found.setdefault(key, []).append((match["server"], int(match["threads"]), figure))
    return found


def limits(figures: Sequence[Figure]) -> dict[tuple[str, int], float]:
    """(model, threads) → tokens/s that the memory could give to one request."""
    found = {}
    for figure in figures:
        match = re.match(r"^([^,]+), threads (\d+)$", figure.case)
        if match and figure.metric.startswith("limit by memory"):
            found[match[1], int(match[2])] = figure.estimate.value
    return found


def converge_bars(figures: Sequence[Figure]) -> tuple[list[tuple[str, Figure]], list[tuple[str, Figure]]]:
    """(label, figure) of the whole runs, and of the roles in a run without a change."""
    times = [figure for figure in figures if figure.metric == "time"]
    whole = [(figure.case, figure) for figure in times if not figure.case.startswith("no change, ")]
    inner = [figure for figure in times if figure.case.startswith("no change, ")]
    return whole, [(figure.case.removeprefix("no change, "), figure) for figure in inner]


def audit_bars(figures: Sequence[Figure]) -> tuple[list[tuple[str, Figure]], list[tuple[str, Figure]]]:
    """(label, figure) of the median latencies with and without each guard, and of what each adds at the tail."""
    times = [figure for figure in figures if figure.unit == "ms"]
    medians = [figure for figure in times if re.match(r"p50\b", figure.metric)]
    added = [figure for figure in times if figure.metric.startswith("added p")]

    def label(figure: Figure) -> str:
        return f"{figure.case}\n{figure.metric}"

    return [(label(figure), figure) for figure in medians], [(label(figure), figure) for figure in added]


def mode_switch_parts(figures: Sequence[Figure]) -> dict[str, list[tuple[str, Figure]]]:
    """Way → [(part, figure)]: what a whole switch is made of, from the engines to what is left."""
    wanted = ("docker compose", "engine until its first answer", "overhead")
    found: dict[str, list[tuple[str, Figure]]] = {}
    for figure in figures:
        if figure.metric in wanted and " / " not in figure.case:
            found.setdefault(figure.case, []).append((figure.metric, figure))
    return found


# --- drawing ---------------------------------------------------------------------------------------------------------
# The drawing library has no complete types, so its objects are Any here.


def _bars(axes: Any, bars: Sequence[tuple[str, Figure]], colour: str) -> None:
    labels = [label for label, _ in bars]
    values = [figure.estimate.value for _, figure in bars]
    axes.barh(labels, values, color=colour, height=0.6, xerr=_errors([figure for _, figure in bars]), ecolor=GREY)
    axes.invert_yaxis()
    for at, value in enumerate(values):
        axes.annotate(f" {results.number(value)}", (value, at), va="center", xytext=(6, 0), textcoords="offset points")
    axes.margins(x=0.18)


def _errors(figures: Sequence[Figure]) -> list[list[float]]:
    return [
        [max(0.0, figure.estimate.value - figure.estimate.low) for figure in figures],
        [max(0.0, figure.estimate.high - figure.estimate.value) for figure in figures],
    ]


def _plain_log(plt: Any, axis: Any) -> None:
    """Numbers as people write them, at 1, 2 and 5."""
    axis.set_major_locator(plt.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(plt.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(plt.NullFormatter())


def draw_converge(plt: Any, figures: Sequence[Figure]) -> Any:
    """Whole runs beside the floor, and where the time of a run without a change goes."""
    whole, roles = converge_bars(figures)
    canvas, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), gridspec_kw={"width_ratios": [1, 1.2]})
    _bars(left, whole, "#1f5f8b")
    left.axvline(60, color=GOAL, linestyle="--", linewidth=1)
    left.set_title("A whole run (dashed: goal of a run without a change)")
    left.set_xlabel("seconds")
    _bars(right, roles[:12], "#8fb3c9")
    right.set_title("Without a change: seconds per role")
    right.set_xlabel("seconds")
    return canvas


def draw_gateway(plt: Any, figures: Sequence[Figure]) -> Any:
    """Added latency over the number of requests at once; plain and streamed side by side."""
    lines = gateway_lines(figures)
    canvas, panels = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True)
    styles = {"p50": "-", "p95": "--", "p99": ":"}
    for panel, kind in zip(panels, ("plain", "stream"), strict=True):
        for (found, way, percent), points in lines.items():
            if found != kind:
                continue
            xs = [parallel for parallel, _ in points]
            ys = [figure.estimate.value for _, figure in points]
            errors = _errors([figure for _, figure in points])
            panel.errorbar(
                xs, ys, yerr=errors, color=COLOURS[way], linestyle=styles[percent], marker="o", markersize=3.5,
                linewidth=1.3, elinewidth=0.7, label=f"{way} {percent}",
            )  # fmt: skip
            for parallel, figure in points:
                if figure.goal:
                    bound = float(figure.goal.split(" ")[1])
                    panel.plot([parallel], [bound], marker="_", markersize=22, color=GOAL, markeredgewidth=2)
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        _plain_log(plt, panel.yaxis)
        panel.set_xticks([1, 4, 16], ["1", "4", "16"])
        panel.set_xlabel("requests at once")
        panel.grid(True, which="both", linewidth=0.3, color="#d1d5db")
    panels[0].set_ylabel("added milliseconds (log scale)")
    panels[0].set_title("Plain: to the last byte (green: goals)")
    panels[1].set_title("Streamed: to the first token")
    panels[1].legend(fontsize=8, ncols=2)
    return canvas


def draw_failover(plt: Any, figures: Sequence[Figure]) -> Any:
    """For each way to fail: what the first and the later requests pay, and when the GPU is back."""
    groups = failover_points(figures)
    canvas, panels = plt.subplots(1, max(1, len(groups)), figsize=(11, 3.6), sharey=True, squeeze=False)
    for panel, (title, points) in zip(panels[0], groups.items(), strict=False):
        cases = list(dict.fromkeys(case for _, case, _ in points))
        for way, shift in (("T1", -0.17), ("T2", 0.17)):
            own = [(cases.index(case), figure) for found, case, figure in points if found == way]
            ys = [at + shift for at, _ in own]
            values = [max(0.1, figure.estimate.value) for _, figure in own]
            panel.barh(ys, values, height=0.3, color=COLOURS[way], label=way)
            for y, value in zip(ys, values, strict=True):
                panel.annotate(
                    f" {results.number(round(value, 1))}", (0, y), xycoords=("axes fraction", "data"), va="center",
                    fontsize=7, color="white",
                )  # fmt: skip
            for at, figure in own:
                if figure.goal:
                    bound = float(figure.goal.split(" ")[1])
                    panel.plot([bound, bound], [at - 0.36, at + 0.36], color=GOAL, linewidth=2)
        panel.set_yticks(range(len(cases)), cases)
        panel.set_xscale("log")
        panel.set_xlim(left=4)
        panel.set_xticks([10, 100, 1000], ["10", "100", "1000"])
        panel.set_title(title)
        panel.set_xlabel("milliseconds (log scale; green: goals)")
    panels[0][0].invert_yaxis()
    panels[0][-1].legend(fontsize=8)
    return canvas


def draw_cpu_floor(plt: Any, figures: Sequence[Figure]) -> Any:
    """Tokens per second of both servers, per model and number of requests at once; the memory's limit as a line."""
    groups, bounds = speeds(figures), limits(figures)
    canvas, panels = plt.subplots(1, max(1, len(groups)), figsize=(11, 3.8), squeeze=False)
    for panel, ((model, parallel), points) in zip(panels[0], sorted(groups.items()), strict=False):
        counts = sorted({threads for _, threads, _ in points})
        for server, shift in (("llama-server", -0.2), ("llama-cpp-python", 0.2)):
            own = [(threads, figure) for found, threads, figure in points if found == server]
            xs = [counts.index(threads) + shift for threads, _ in own]
            values = [figure.estimate.value for _, figure in own]
            chosen = [figure for _, figure in own]
            panel.bar(xs, values, width=0.36, color=COLOURS[server], label=server, yerr=_errors(chosen), ecolor=GREY)
            for x, value in zip(xs, values, strict=True):
                panel.annotate(results.number(round(value, 1)), (x, value), ha="center", va="bottom", fontsize=7)
        for at, threads in enumerate(counts):
            if parallel == 1 and (model, threads) in bounds:
                panel.plot([at - 0.42, at + 0.42], [bounds[model, threads]] * 2, color=GOAL, linewidth=2)
        panel.set_xticks(range(len(counts)), [str(count) for count in counts])
        panel.set_xlabel("threads")
        panel.set_title(f"{model}, {parallel} at once")
        panel.margins(y=0.15)
    panels[0][0].set_ylabel("tokens/s (green: what the memory could give)")
    panels[0][0].legend(fontsize=8)
    return canvas


def draw_audit(plt: Any, figures: Sequence[Figure]) -> Any:
    """What a request takes with and without the guards, and what they add."""
    medians, added = audit_bars(figures)
    canvas, (left, right) = plt.subplots(1, 2, figsize=(11, 6))
    _bars(left, medians, "#1f5f8b")
    left.set_title("Medians")
    left.set_xlabel("milliseconds")
    _bars(right, added, "#8fb3c9")
    right.set_title("Added")
    right.set_xlabel("milliseconds")
    for panel in (left, right):
        panel.tick_params(axis="y", labelsize=6.5)
    return canvas


def draw_mode_switch(plt: Any, figures: Sequence[Figure]) -> Any:
    """One bar for each way: Docker, the engine, and what is left."""
    parts = mode_switch_parts(figures)
    canvas, axes = plt.subplots(figsize=(9, 2.6))
    colours = {"docker compose": "#c9d6df", "engine until its first answer": "#8fb3c9", "overhead": "#c8553d"}
    for at, (_way, found) in enumerate(parts.items()):
        begin = 0.0
        for metric, figure in found:
            value = figure.estimate.value
            label = metric if at == 0 else None
            axes.barh([at], [value], left=[begin], height=0.55, color=colours[metric], label=label)
            if metric == "overhead":
                axes.annotate(f" {results.number(value)} s", (begin + value, at), va="center")
            begin += value
    axes.set_yticks(range(len(parts)), list(parts))
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("seconds of one switch (medians)")
    axes.legend(fontsize=8, loc="lower right")
    return canvas


DRAWINGS: dict[str, Callable[[Any, Sequence[Figure]], Any]] = {
    "converge": draw_converge,
    "gateway": draw_gateway,
    "failover": draw_failover,
    "cpu_floor": draw_cpu_floor,
    "audit": draw_audit,
    "mode_switch": draw_mode_switch,
}


def main(arguments: Sequence[str]) -> int:
    """Draw every result that lies in the folder, or the named ones."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    # The same file gives the same plot: names within it come from a fixed salt, no date is written.
    mpl.rcParams.update(
        {
            "svg.hashsalt": "mushishi",
            "svg.fonttype": "none",
            "font.family": "sans-serif",
            "font.size": 9,
            "axes.titlesize": 9.5,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )
    folder, out, names = Path(arguments[0]), Path(arguments[1]), list(arguments[2:]) or list(DRAWINGS)
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        source = folder / f"{name}.csv"
        if not source.is_file():
            continue
        canvas = DRAWINGS[name](plt, results.read(source))
        canvas.tight_layout()
        canvas.savefig(
            out / f"{name}.svg",
            metadata={
                "Title": f"mushishi.sovereign, benchmark {name}",
                "Source": f"benchmarks/results/{name}.csv",
                "Identifier": f"sha256:{results.digest(source)}",
                "Date": None,
                "Creator": None,
            },
        )
        plt.close(canvas)
        print(f"{out / name}.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
