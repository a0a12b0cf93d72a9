# SPDX-License-Identifier: MIT
"""converge: how long a run of site.yml takes, and how long as many tasks that do nothing on the same connection."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from labkit import scenario
from labkit.paths import ROOT, STATE
from labkit.say import Failed, Run

from . import stats
from .lab import Lab
from .results import REPEATS, Figure, aligned, exact
from .say import Progress
from .stats import over_repeats

CALLBACK = Path(__file__).resolve().parents[1] / "callback"
WORK = STATE / "bench/converge"
#: Actions that run on the controller alone: nothing is executed on the machine.
CONTROLLER_ONLY = frozenset(
    {
        "add_host",
        "assert",
        "debug",
        "fail",
        "group_by",
        "import_playbook",
        "import_role",
        "import_tasks",
        "include_role",
        "include_tasks",
        "include_vars",
        "meta",
        "pause",
        "set_fact",
        "set_stats",
        "validate_argument_spec",
    }
)
#: Rows of the profile that is printed.
SLOWEST = 15


@dataclass(frozen=True)
class Task:
    """One task of a run, as the callback wrote it."""

    name: str
    action: str
    seconds: float
    results: int
    skipped: int
    #: How often something was executed on the machine.
    executions: int
    loop: bool

    @classmethod
    def of(cls, line: str) -> Task:
        """Read one line. Raises ValueError, KeyError."""
        told = json.loads(line)
        done = told["ok"] + told["changed"]
        remote = told["action"].rpartition(".")[2] not in CONTROLLER_ONLY
        executions = (told["items"] if told["loop"] else done) if remote else 0
        return cls(
            told["name"],
            told["action"],
            told["seconds"],
            done + told["skipped"],
            told["skipped"],
            executions,
            told["loop"],
        )


@dataclass(frozen=True)
class Playback:
    """One run of a playbook: seconds, and its tasks."""

    seconds: float
    tasks: tuple[Task, ...]

    @property
    def executions(self) -> int:
        """How often something was executed on the machine."""
        return sum(task.executions for task in self.tasks)


def floor_playbook(tasks: Iterable[Task]) -> str:
    """A playbook with as many executions in the same shape: a ping where a task ran, a looped one where it looped."""
    pings: list[dict[str, object]] = []
    for task in tasks:
        if task.executions == 0:
            continue
        ping: dict[str, object] = {"name": "Nothing", "ansible.builtin.ping": {}}
        if task.loop:
            ping["loop"] = list(range(task.executions))
        pings.append(ping)
    play = {"name": "As many executions of nothing", "hosts": "sovereign", "become": True, "gather_facts": False}
    return yaml.safe_dump([{**play, "tasks": pings}], sort_keys=False)


def play(lab: Lab, name: str, playbook: Path, may_change: bool = False) -> Playback:
    """Run a playbook against the lab machine. Raises Failed when it fails, or changes something that it may not."""
    WORK.mkdir(parents=True, exist_ok=True)
    profile, log = WORK / f"{name}.jsonl", WORK / f"{name}.log"
    callbacks = {
        "ANSIBLE_CALLBACK_PLUGINS": str(CALLBACK),
        "ANSIBLE_CALLBACKS_ENABLED": "bench_profile",
        "BENCH_PROFILE": str(profile),
    }
    began = time.monotonic()
    with log.open("w", encoding="utf-8") as out:
        done = subprocess.run(
            ["ansible-playbook", "--inventory", str(ROOT / "inventory/lab"), str(playbook)],
            cwd=ROOT,
            env={**lab.environment(), **callbacks},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    took = time.monotonic() - began
    text = log.read_text(encoding="utf-8")
    recap = re.search(r"^hub\s*:.*$", text, re.MULTILINE)
    if done.returncode != 0 or recap is None:
        raise Failed(f"{playbook.name} failed; the log is {log}:\n" + "\n".join(text.splitlines()[-15:]))
    if not may_change and not re.search(r"changed=0\b", recap.group()):
        raise Failed(f"{playbook.name} changed something, so this is no run without a change: {recap.group()}; {log}")
    return Playback(took, tuple(Task.of(line) for line in profile.read_text(encoding="utf-8").splitlines()))


def slowest(tasks: Sequence[Task], rows: int = SLOWEST) -> list[str]:
    """The tasks that take longest, as a table; tasks of the same name are one row."""
    sums: dict[str, tuple[int, int, float]] = defaultdict(lambda: (0, 0, 0.0))
    for task in tasks:
        count, executions, seconds = sums[task.name]
        sums[task.name] = (count + 1, executions + task.executions, seconds + task.seconds)
    ordered = sorted(sums.items(), key=lambda item: -item[1][2])
    table = [("seconds", "runs", "executions", "task")]
    table += [(f"{seconds:.2f}", str(count), str(n), name) for name, (count, n, seconds) in ordered[:rows]]
    left = sum(seconds for _, (_, _, seconds) in ordered[rows:])
    table.append((f"{left:.2f}", "", "", f"{max(0, len(ordered) - rows)} others"))
    return aligned(table, right=(0, 1, 2))


def by_role(tasks: Sequence[Task]) -> dict[str, float]:
    """Seconds per role; tasks outside a role count for the playbook."""
    found: dict[str, float] = defaultdict(float)
    for task in tasks:
        role, colon, _ = task.name.partition(" : ")
        found[role.rpartition(".")[2] if colon else "playbook"] += task.seconds
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def figures(runs: Sequence[Playback], floors: Sequence[Playback], earlier: Sequence[Figure]) -> list[Figure]:
    """The rows of the result. A cold figure of an earlier run stays, with where it was measured."""
    took, nothing = [run.seconds for run in runs], [run.seconds for run in floors]
    last = runs[-1]
    skipped = sum(task.skipped for task in last.tasks)
    made = [
        Figure("no change", "time", "s", over_repeats(took), REPEATS, "<= 60"),
        Figure("no change", "tasks", "", exact(sum(task.results for task in last.tasks)), ""),
        Figure("no change", "tasks skipped", "", exact(skipped), ""),
        Figure("no change", "executions on the machine", "", exact(last.executions), ""),
        Figure("floor", "time", "s", over_repeats(nothing), REPEATS),
        Figure("floor", "executions on the machine", "", exact(floors[-1].executions), ""),
        Figure("no change / floor", "ratio", "", stats.ratio(took, nothing), "most careful pairing", "<= 3"),
    ]
    for role in by_role(last.tasks):
        each = [by_role(run.tasks).get(role, 0.0) for run in runs]
        made.append(Figure(f"no change, {role}", "time", "s", over_repeats(each), REPEATS))
    return made + [replace(figure) for figure in earlier if figure.case.startswith("cold")]


def measure(lab: Lab, quick: bool, earlier: Sequence[Figure]) -> list[Figure]:
    """Runs without a change and floors, in turn, after one run that warms up both sides."""
    repeats = 1 if quick else 3
    progress = Progress("converge", (repeats + 1) * 80 + repeats * 40)
    done = 0.0
    progress.say("a first run, not counted", done)
    warm = play(lab, "warm-up", ROOT / "playbooks/site.yml", may_change=True)
    progress.expected = (repeats + 1) * warm.seconds + repeats * warm.seconds / 3
    done += warm.seconds
    floor = WORK / "floor.yml"
    runs: list[Playback] = []
    floors: list[Playback] = []
    for number in range(repeats):
        progress.say(f"run {number + 1} of {repeats}", done)
        runs.append(play(lab, f"run-{number + 1}", ROOT / "playbooks/site.yml"))
        done += warm.seconds
        # From a run without a change: the first one may have restarted services.
        floor.write_text(floor_playbook(runs[0].tasks), encoding="utf-8")
        progress.say(f"floor {number + 1} of {repeats}", done)
        floors.append(play(lab, f"floor-{number + 1}", floor))
        done += warm.seconds / 3
    progress.end()
    print("\n".join(["", "The slowest tasks of a run without a change:", *slowest(runs[-1].tasks), ""]))
    return figures(runs, floors, earlier)


def cold(run: Run, docker: str, tag: str) -> list[Figure]:
    """Throw the lab machine away, make it anew, converge it; packages and llama-server come from the caches."""
    env = scenario.environment(docker, tag)
    with run.phase("Throw the lab machine away"):
        scenario.molecule(run, "destroy", env, "Removing the lab")
    with run.phase("Make it anew"):
        scenario.molecule(run, "create", env, "Creating the lab")
    began = time.monotonic()
    with run.phase("Converge it"):
        scenario.molecule(run, "converge", env, "Converging the machine")
    took = time.monotonic() - began
    cached = any((STATE / "cache/machine/llama.cpp").glob("*/llama-server"))
    case = "cold, llama-server cached" if cached else "cold, llama-server built"
    return [Figure(case, "time", "s", exact(took), "")]




def versions() -> dict[str, str]:
    """Of what runs the play."""
    from importlib.metadata import version

    return {"ansible-core": version("ansible-core"), "python": platform.python_version()}
