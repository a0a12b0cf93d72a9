# SPDX-License-Identifier: MIT
"""mode_switch: what a switch adds to the engines' own stop and start, beside a stop-script written by hand."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labkit.say import Failed

from . import stats
from .lab import Lab
from .results import REPEATS, Figure, exact
from .say import Progress
from .stats import over_repeats
from .switching import Switched

HERE = Path(__file__).resolve().parent
OURS, SCRIPT = "sovereignctl", "stop-script"
#: What a switch of ours may add, seconds; and how many times as much the script adds, at least.
GOAL, TIMES = "<= 1", ">= 5"
ROUNDS, QUICK_ROUNDS = 6, 1
REGISTRY = "/etc/mushishi/gpu/registry.json"
NAMESPACE = "sovereign"
COMMAND = "/usr/local/bin/sovereignctl"
#: Where the script is put on the lab machine.
PLACE = "/tmp/plain_switch.sh"  # noqa: S108 - a machine that is thrown away


def pair(registry: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Two modes with one tenant each that answers completions: mode → tenant. Raises Failed."""
    found: dict[str, Mapping[str, Any]] = {}
    for name, mode in registry["modes"].items():
        tenants = [registry["tenants"][each] for each in mode["tenants"]]
        projects = [tenant["project"] for tenant in found.values()]
        if len(tenants) == 1 and tenants[0]["ready"]["kind"] == "completion" and tenants[0]["project"] not in projects:
            found[name] = tenants[0]
        if len(found) == 2:
            return found
    raise Failed(f"{REGISTRY} has no two modes with one engine each (found: {', '.join(found) or 'none'}).")


def plan_of(
    registry: Mapping[str, Any],
    ours: Sequence[str],
    script: str,
    namespace: str,
    docker: str,
    rounds: int,
) -> dict[str, Any]:
    """What switching.py is told. ``ours``: the command, to which the mode is added; ``namespace``: a name, or empty."""
    projects = [tenant["project"] for tenant in registry["tenants"].values()]
    targets = {}
    for mode, tenant in pair(registry).items():
        url = str(tenant["ready"]["url"]).rstrip("/")
        by_hand = ["bash", script, tenant["project"], f"{url}/health", namespace or "-", *projects]
        targets[mode] = {
            "url": url,
            "model": tenant["ready"]["model"],
            "ways": {OURS: [*ours, mode], SCRIPT: by_hand},
        }
    path = f"/run/netns/{namespace}" if namespace else ""
    return {"docker": docker, "namespace": path, "rounds": rounds, "targets": targets}


def read(text: str) -> list[Switched]:
    """What switching.py has measured. Raises Failed with its own words."""
    try:
        said = json.loads(text.strip().splitlines()[-1])
        if said["error"]:
            raise Failed(f"A switch failed: {said['error']}")
        return [Switched(**each) for each in said["switched"]]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Failed(
            f"The measuring program has answered nothing that can be read: {text[-300:]!r} ({error})"
        ) from None


def figures(found: Sequence[Switched]) -> list[Figure]:
    """The rows: each way whole, what of it is the engines' and Docker's, what is left; and the two ways' ratio."""
    made: list[Figure] = []
    left: dict[str, list[float]] = {}
    for way in (OURS, SCRIPT):
        own = [each for each in found if each.way == way]
        if not own:
            raise Failed(f"{way} was not measured.")
        left[way] = [each.overhead for each in own]
        parts = {
            "whole": [each.whole for each in own],
            "docker compose": [each.compose for each in own],
            "engine until its first answer": [each.loading for each in own],
        }
        made += [Figure(way, metric, "s", over_repeats(values), REPEATS) for metric, values in parts.items()]
        goal = GOAL if way == OURS else ""
        made.append(Figure(way, "overhead", "s", over_repeats(left[way]), REPEATS, goal))
        if way == OURS and (alone := _alone(found)):
            made.append(Figure(way, "overhead, the switch alone", "s", over_repeats(alone), REPEATS))
        early = sum(each.early for each in own)
        made.append(Figure(way, "said to be done before it answered", "switches", exact(early), ""))
    made.append(Figure(f"{SCRIPT} / {OURS}", "overhead", "", stats.ratio(left[SCRIPT], left[OURS]), REPEATS, TIMES))
    if alone := _alone(found):
        ratio = stats.ratio(left[SCRIPT], alone)
        made.append(Figure(f"{SCRIPT} / {OURS}", "overhead, the switch alone", "", ratio, REPEATS))
    return made


def _alone(found: Sequence[Switched]) -> list[float]:
    """What the switch itself adds: without the start of the program, of its Python and of what it imports."""
    own = [each for each in found if each.way == OURS]
    return [each.told - each.compose - each.loading for each in own if each.told is not None]


def measure(lab: Lab, quick: bool) -> list[Figure]:
    """On the lab machine: real Docker and compose projects, engines by stand-ins. It ends in the old mode."""
    registry = json.loads(lab.run("cat", REGISTRY))
    before = json.loads(lab.run(COMMAND, "mode", "status", "--json"))["mode"]
    rounds = QUICK_ROUNDS if quick else ROUNDS
    progress = Progress("mode_switch", (rounds + 1) * 4 * 15)
    progress.say(f"{rounds + 1} rounds of 4 switches", 0)
    lab.run("sh", "-c", f"cat > {PLACE}", stdin=(HERE / "plain_switch.sh").read_text(encoding="utf-8"))
    docker = lab.run("sh", "-c", "command -v docker").strip()
    ours = [COMMAND, "mode", "switch", "--json", "--on-busy", "wait"]
    plan = plan_of(registry, ours, PLACE, NAMESPACE, docker, rounds)
    _first, second = plan["targets"]
    try:
        # From the second target on: each round begins with the first.
        lab.run(COMMAND, "mode", "switch", "--on-busy", "wait", second)
        program = (HERE / "switching.py").read_text(encoding="utf-8")
        said = lab.run("python3", "-c", program, stdin=json.dumps(plan), check=False, seconds=3600)
        return figures(read(said))
    finally:
        progress.end()
        back = before or "off"
        lab.run("sh", "-c", f"rm -f {PLACE}; {COMMAND} mode switch --on-busy wait {shlex.quote(back)}", check=False)


def versions(lab: Lab) -> dict[str, str]:
    """What the figures depend on."""
    words = lab.run("docker", "compose", "version", "--short").strip()
    return {"docker": lab.run("docker", "version", "--format", "{{.Server.Version}}").strip(), "compose": words}
