# SPDX-License-Identifier: MIT
"""tools/test: everything that gates a change. Its last line is a plain count: each check and each test counts one."""

from __future__ import annotations

import argparse
import fcntl
import importlib
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from . import checks, collections, engine, environments, host, scenario, vllm_cpu
from .__main__ import prepare
from .paths import COLLECTIONS, ROOT, STATE, VENV
from .say import Failed, Run

RESULTS = STATE / "results"
#: Phases of each part: the static checks, the unit tests, prepare() in __main__, the scenario here.
STATIC_PHASES, UNIT_PHASES, PREPARE_PHASES, SCENARIO_PHASES = 2, 1, 4, 7


def count(path: Path) -> tuple[int, int]:
    """Passed and failed tests in a JUnit file; a missing file, or nothing that ran, counts as one failure."""
    if not path.is_file():
        return 0, 1
    passed = failed = 0
    for suite in ElementTree.parse(path).getroot().iter("testsuite"):  # noqa: S314 - reads what pytest wrote
        bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        failed += bad
        passed += int(suite.get("tests", 0)) - bad - int(suite.get("skipped", 0))
    # A part that ran nothing, because a filter matched nothing, has shown nothing.
    return passed, failed or int(passed == 0)


def unit(run: Run, arguments: Sequence[str], nightly: bool) -> tuple[int, int]:
    """The unit tests: no network, no engine; without what is too long for a gate, unless it is asked for."""
    with run.phase("Unit tests"):
        collections.install(run)
        tools = environments.make(run, "checks")
        # Parts of one file stay together: what they share is made once.
        words = ["-q", "-n", "auto", "--dist", "loadfile", "-p", "no:testinfra", "-p", "no:cacheprovider"]
        words += ["--durations=10", *(() if nightly else ("-m", "not nightly"))]
        report = f"--junitxml={RESULTS / 'unit.xml'}"
        run.command(
            [VENV / "bin/python", "-m", "pytest", *words, report, ROOT / "tests/unit", *arguments],
            why="Unit tests",
            env={
                "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
                "ANSIBLE_HOME": str(STATE / "ansible"),
                "MUSHISHI_SHELLCHECK": str(tools / "bin/shellcheck"),
            },
            check=False,
            show=True,
        )
    return count(RESULTS / "unit.xml")


def real_engine(run: Run, arguments: Sequence[str]) -> tuple[int, int]:
    """A real vLLM on the processor: the role's command lines before its parsers, a server for each mode."""
    report = RESULTS / "vllm.xml"
    vllm_cpu.test(run, report, arguments)
    return count(report)


def lab(run: Run, arguments: Sequence[str], nightly: bool, seed: int | None, real: bool = False) -> tuple[int, int]:
    """The lab scenario on a machine built for it: dry run, converge, converge again, verify; killed converges.

    ``real``: also with a real vLLM as a tenant of the card.
    """
    docker, tag = prepare(run, host.read_host())
    env = scenario.environment(docker, tag)
    if real:
        with run.phase("An image of a real vLLM"):
            vllm_cpu.image(run, {"DOCKER_HOST": docker})
        env["MUSHISHI_REAL_VLLM"] = "1"
    env["PYTEST_ADDOPTS"] = " ".join(
        ["-p no:cacheprovider", f"--junitxml={RESULTS / 'lab.xml'}", "--durations=15", *arguments]
    )
    env["MUSHISHI_EPOCHS"] = "all" if nightly else "gate"
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
    with run.phase("Verify" + (", all epochs" if nightly else "")):
        run.command(["molecule", "verify", "--scenario-name", "lab"], why="Verify", env=env, check=False, show=True)
    passed, failed = count(RESULTS / "lab.xml")
    if nightly:
        # Only here: the gate does without it.
        kills = importlib.import_module("labkit.kills")
        with run.phase("Killed converges"):
            survived, lost = kills.kills(run, env, seed)
        passed, failed = passed + survived, failed + lost
    return passed, failed


def chosen_parts(given: argparse.Namespace) -> dict[str, bool]:
    """Which parts run: those that were named; when none was, all but the real vLLM, which has to be asked for."""
    named = {"static": given.static, "unit": given.unit, "vllm": given.vllm, "lab": given.lab}
    return named if any(named.values()) else {name: name != "vllm" for name in named}


def parser() -> argparse.ArgumentParser:
    """The words of tools/test."""
    words = argparse.ArgumentParser(prog="tools/test", description="Everything that gates a change.")
    words.add_argument("--static", action="store_true", help="the checks that only read the source, alone")
    words.add_argument("--unit", action="store_true", help="the unit tests alone")
    words.add_argument("--lab", action="store_true", help="the lab scenario alone")
    words.add_argument(
        "--vllm", action="store_true", help="a real vLLM on the processor alone (2.1 GB); with --lab: there as well"
    )
    words.add_argument("--nightly", action="store_true", help="also what is too long for a gate")
    words.add_argument("--seed", type=int, help="of the kills of --nightly; without it one is chosen and printed")
    words.add_argument("--keep", action="store_true", help="leave the lab up afterwards")
    words.add_argument("arguments", nargs="*", help="further arguments for pytest, after --")
    return words


def main() -> int:
    given = parser().parse_args()
    lock = (STATE / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"Another tools/lab or tools/test runs in {ROOT}. Wait for it to end.", file=sys.stderr)
        return 1
    RESULTS.mkdir(parents=True, exist_ok=True)
    for old in RESULTS.glob("*.xml"):
        old.unlink()
    parts = chosen_parts(given)
    lab_phases = PREPARE_PHASES + SCENARIO_PHASES + given.nightly + given.vllm + (not given.keep)
    phases = {"static": STATIC_PHASES, "unit": UNIT_PHASES, "vllm": vllm_cpu.TEST_PHASES, "lab": lab_phases}
    run = Run("test", sum(phases[name] for name, wanted in parts.items() if wanted))
    totals: list[tuple[int, int]] = []
    left_out: list[str] = []
    try:
        for name, wanted in parts.items():
            if not wanted:
                continue
            if any(failed for _, failed in totals):
                left_out.append(name)  # the cheap faults first; the rest takes minutes
                continue
            # A part that breaks before it can count is one failure.
            totals.append((0, 1))
            if name == "static":
                totals[-1] = checks.run_all(run)
            elif name == "unit":
                totals[-1] = unit(run, given.arguments, given.nightly)
            elif name == "vllm":
                totals[-1] = real_engine(run, given.arguments)
            else:
                totals[-1] = lab(run, given.arguments, given.nightly, given.seed, given.vllm)
    except Failed as error:
        print(f"\n{error}\n\nThe log is {run.log_path}; its last lines:\n{run.tail()}", file=sys.stderr)
    finally:
        if parts["lab"] and "lab" not in left_out and not given.keep:
            _take_away(run)
    passed, failed = sum(total[0] for total in totals), sum(total[1] for total in totals)
    if left_out:
        print(f"Not run, because of the failures above: {', '.join(left_out)}.")
    print(f"Minutes and seconds of each phase:\n{run.phases()}")
    print(f"Total time {run.elapsed()}. The log is {run.log_path}.")
    print(f"{passed} passed, {failed} failed", flush=True)
    return 0 if failed == 0 and passed > 0 else 1


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
