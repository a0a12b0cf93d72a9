# SPDX-License-Identifier: MIT
"""tools/bench: measure, print a table, write a CSV file, draw the plots."""

from __future__ import annotations

import argparse
import fcntl
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from labkit import host
from labkit.__main__ import prepare
from labkit.paths import ROOT, STATE
from labkit.say import Failed, Run, clock

from . import audit, converge, cpu_floor, environment, failover, gateway, machine, mode_switch, render, results
from .lab import Lab
from .render import NAMES, PAGE, PLOTS, RESULTS
from .results import Figure

#: What a run on 2 cores takes, minutes; cpu_floor's first run compiles for 6 more.
MINUTES = {"converge": 8, "gateway": 11, "failover": 5, "cpu_floor": 7, "audit": 10, "mode_switch": 8}
COLD_PHASES = 7


def _converge(options: argparse.Namespace, run: Run, earlier: Sequence[Figure]) -> tuple[list[Figure], dict[str, str]]:
    made: list[Figure] = []
    if options.cold:
        docker, tag = prepare(run, host.read_host())
        made = converge.cold(run, docker, tag)
    lab = Lab()
    found = converge.measure(lab, options.quick, [] if options.cold else earlier)
    return made + found, converge.versions()


def _gateway(options: argparse.Namespace, run: Run, _: Sequence[Figure]) -> tuple[list[Figure], dict[str, str]]:
    lab = Lab()
    run.note("the load goes the way of a client on the tailnet, beginning at the ingress")
    return gateway.measure(lab, options.quick), lab.versions()


def _failover(options: argparse.Namespace, run: Run, _: Sequence[Figure]) -> tuple[list[Figure], dict[str, str]]:
    lab = Lab()
    run.note("the engine stand-in is told to fail, and is healthy again afterwards")
    return failover.measure(lab, options.quick), lab.versions()


def _cpu_floor(options: argparse.Namespace, run: Run, _: Sequence[Figure]) -> tuple[list[Figure], dict[str, str]]:
    return cpu_floor.measure(run, options.quick)


def _audit(options: argparse.Namespace, run: Run, _: Sequence[Figure]) -> tuple[list[Figure], dict[str, str]]:
    lab = Lab()
    run.note("the lab machine is audited, and its guard is away for some seconds at a time")
    return audit.measure(lab, options.quick), lab.versions()


def _mode_switch(options: argparse.Namespace, run: Run, _: Sequence[Figure]) -> tuple[list[Figure], dict[str, str]]:
    lab = Lab()
    run.note("the lab machine's GPU mode changes, and is the old one afterwards")
    return mode_switch.measure(lab, options.quick), mode_switch.versions(lab)


BENCHMARKS: dict[str, Callable[[argparse.Namespace, Run, Sequence[Figure]], tuple[list[Figure], dict[str, str]]]] = {
    "converge": _converge,
    "gateway": _gateway,
    "failover": _failover,
    "cpu_floor": _cpu_floor,
    "audit": _audit,
    "mode_switch": _mode_switch,
}


def benchmark(name: str, options: argparse.Namespace, run: Run, out: Path) -> None:
    """Measure, print, write. Raises Failed."""
    path = out / f"{name}.csv"
    try:
        earlier = results.read(path)
    except (OSError, ValueError):
        earlier = []
    with run.phase(f"{name} (about {MINUTES[name]} minutes on 2 cores)"):
        figures, versions = BENCHMARKS[name](options, run, earlier)
        results.write(path, figures, machine.facts(ROOT, versions))
    print("\n".join(["", *results.table(figures), "", f"written: {path}", ""]), flush=True)


def draw(run: Run, names: Sequence[str], folder: Path, out: Path) -> None:
    """Draw the plots of a folder of results."""
    python = environment.plots(run)
    run.command(
        [python, "-m", "benchkit.plots", folder, out, *names],
        why="Drawing the plots",
        env={"PYTHONPATH": str(ROOT / "benchmarks")},
    )


def render_all(run: Run) -> None:
    """Everything that is made from the committed results: the plots and the tables of the page."""
    with run.phase("Plots and tables"):
        draw(run, render.names_of(ROOT, NAMES), ROOT / RESULTS, ROOT / PLOTS)
        page = ROOT / PAGE
        page.write_text(render.page(ROOT, page.read_text(encoding="utf-8")), encoding="utf-8")
        run.note(f"written: {PLOTS}/*.svg and the tables of {PAGE}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tools/bench",
        description="Measure on this machine, print a table, write a CSV file, draw the plots: benchmarks/README.md.",
    )
    parser.add_argument("name", choices=[*NAMES, "all", "render"], help="render: only plots and tables")
    parser.add_argument("--out", type=Path, help=f"folder for the results (default: {RESULTS})")
    parser.add_argument("--quick", action="store_true", help="try the tool: few repeats; its figures say nothing")
    parser.add_argument("--cold", action="store_true", help="converge: build the lab machine anew first")
    options = parser.parse_args()
    lock = (STATE / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"Another tools/lab, tools/test or tools/bench runs in {ROOT}. Wait for it to end.", file=sys.stderr)
        return 1
    # A quick run must never look like a measurement.
    out = (options.out or (STATE / "bench/quick" if options.quick else ROOT / RESULTS)).resolve()
    names = [] if options.name == "render" else list(NAMES) if options.name == "all" else [options.name]
    # Ended from outside, a benchmark still puts right what it told the stand-in.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run = Run("bench", len(names) + 1 + (COLD_PHASES if options.cold and "converge" in names else 0))
    began, failed = time.monotonic(), []
    try:
        for name in names:
            try:
                benchmark(name, options, run, out)
            except (Failed, OSError) as error:
                failed.append(name)
                print(f"\n{name}: {error}\nThe log is {run.log_path}.\n", file=sys.stderr, flush=True)
        if out == ROOT / RESULTS:
            render_all(run)
        else:
            with run.phase("Plots"):
                draw(run, [name for name in names if name not in failed], out, out)
    except (Failed, OSError, ValueError) as error:
        print(f"\n{error}\n\nThe log is {run.log_path}; its last lines:\n{run.tail()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nInterrupted; the engine stand-in was put right. The log is {run.log_path}.", file=sys.stderr)
        return 130
    print(f"Total time {clock(time.monotonic() - began)}." + (f" Failed: {', '.join(failed)}." if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
