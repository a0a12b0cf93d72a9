# SPDX-License-Identifier: MIT
"""tools/test: everything that gates a change. Its last line is a plain count of the tests."""

from __future__ import annotations

import argparse
import fcntl
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from . import collections, engine, host, scenario
from .__main__ import prepare
from .paths import COLLECTIONS, ROOT, STATE, VENV
from .say import Failed, Run

RESULTS = STATE / "results"
#: Phases of prepare() in __main__, and of the scenario here.
PREPARE_PHASES, SCENARIO_PHASES = 4, 7


def count(path: Path) -> tuple[int, int]:
    """Passed and failed tests in a JUnit file; a missing file counts as one failure."""
    if not path.is_file():
        return 0, 1
    passed = failed = 0
    for suite in ElementTree.parse(path).getroot().iter("testsuite"):
        bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        failed += bad
        passed += int(suite.get("tests", 0)) - bad - int(suite.get("skipped", 0))
    return passed, failed


def unit(run: Run, arguments: Sequence[str]) -> bool:
    """The unit tests: no root, no network, no engine. True when all passed."""
    with run.phase("Unit tests"):
        collections.install(run)
        status = run.command(
            [VENV / "bin/python", "-m", "pytest", "-q", "-p", "no:testinfra", "-p", "no:cacheprovider"]
            + [f"--junitxml={RESULTS / 'unit.xml'}", ROOT / "tests/unit", *arguments],
            why="Unit tests",
            env={"ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS), "ANSIBLE_HOME": str(STATE / "ansible")},
            check=False,
            show=True,
        )
    return status == 0


def lab(run: Run, arguments: Sequence[str]) -> bool:
    """The lab scenario on a machine built for it: dry run, converge, converge again, verify. True when all passed."""
    docker, tag = prepare(run, host.read_host())
    env = scenario.environment(docker, tag)
    env["PYTEST_ADDOPTS"] = " ".join(
        ["-p no:cacheprovider", f"--junitxml={RESULTS / 'lab.xml'}", "--durations=15", *arguments]
    )
    with run.phase("Begin with nothing"):
        scenario.molecule(run, "destroy", env, "Removing an earlier lab")
    with run.phase("Create the lab"):
        scenario.molecule(run, "create", env, "Creating the lab")
    with run.phase("Dry run on the new machine (--check --diff)"):
        scenario.playbook(run, "site", env, "A dry run on a new machine", ["--check", "--diff"])
    with run.phase("Converge"):
        scenario.molecule(run, "converge", env, "Converging the machine")
    with run.phase("Converge again: 0 changed"):
        scenario.molecule(run, "idempotence", env, "The second converge")
    with run.phase("Dry run on the built machine: 0 changed"):
        scenario.dry_run_is_clean(run, env)
    with run.phase("Verify"):
        status = run.command(
            ["molecule", "verify", "--scenario-name", "lab"], why="Verify", env=env, check=False, show=True
        )
    return status == 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/test", description="Everything that gates a change.")
    parser.add_argument("--unit", action="store_true", help="the unit tests alone")
    parser.add_argument("--lab", action="store_true", help="the lab scenario alone")
    parser.add_argument("--keep", action="store_true", help="leave the lab up afterwards")
    parser.add_argument("arguments", nargs="*", help="further arguments for pytest, after --")
    chosen = parser.parse_args()
    lock = (STATE / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"Another tools/lab or tools/test runs in {ROOT}. Wait for it to end.", file=sys.stderr)
        return 1
    RESULTS.mkdir(parents=True, exist_ok=True)
    for old in RESULTS.glob("*.xml"):
        old.unlink()
    do_unit, do_lab = not chosen.lab, not chosen.unit
    run = Run("test", do_unit * 1 + do_lab * (PREPARE_PHASES + SCENARIO_PHASES + (not chosen.keep)))
    good = True
    try:
        if do_unit:
            good = unit(run, chosen.arguments)
        if do_lab and (good or chosen.lab):
            good = lab(run, chosen.arguments) and good
    except Failed as error:
        good = False
        print(f"\n{error}\n\nThe log is {run.log_path}; its last lines:\n{run.tail()}", file=sys.stderr)
    finally:
        if do_lab and not chosen.keep:
            _take_away(run)
    wanted = [RESULTS / f"{name}.xml" for name, ran in (("unit", do_unit), ("lab", do_lab)) if ran]
    totals = [count(path) for path in wanted]
    passed, failed = sum(total[0] for total in totals), sum(total[1] for total in totals)
    print(f"Total time {run.elapsed()}. The log is {run.log_path}.")
    print(f"{passed} passed, {failed} failed", flush=True)
    return 0 if good and failed == 0 and passed > 0 else 1


def _take_away(run: Run) -> None:
    """Remove the lab, whatever happened before."""
    docker = engine.address()
    if docker is None:
        return
    try:
        with run.phase("Take the lab away"):
            scenario.molecule(run, "destroy", scenario.environment(docker), "Removing the lab")
            engine.stop(run)
    except Failed as error:
        print(error, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
