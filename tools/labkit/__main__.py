# SPDX-License-Identifier: MIT
"""tools/lab: build the whole machine, look into it, throw it away."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import sys

import yaml

from . import collections, depot, engine, host, image, scenario
from .paths import DOCKER, ROOT, SCENARIO, STATE
from .say import Failed, Run

UP_PHASES = 7
#: Where verify.yml leaves who answered.
TABLE = STATE / "verify.txt"


def up(run: Run) -> None:
    """Build the lab machine, run site.yml on it, and let every profile answer."""
    this = host.read_host()
    docker, tag = prepare(run, this)
    env = scenario.environment(docker, tag)
    with run.phase("Create the lab: three networks, the machine, a stranger, a client, the internet"):
        scenario.molecule(run, "create", env, "Creating the lab")
    with run.phase("Run playbooks/site.yml on the machine"):
        scenario.molecule(run, "converge", env, "Converging the machine")
    with run.phase("Ask every profile one question"):
        wishes = json.dumps({"verify_include_cloud": True, "verify_table_file": str(TABLE)})
        scenario.playbook(run, "verify", env, "Asking every profile", ["--extra-vars", wishes])
    print(answers())
    print("The machine is up. Look around: tools/lab shell · Throw it away: tools/lab down")


def prepare(run: Run, this: host.Host) -> tuple[str, str]:
    """Everything before the scenario. Returns the Docker engine's address and the machine image's tag."""
    with run.phase("Ansible collections"):
        collections.install(run)
    with run.phase("Docker engine"):
        settings = yaml.safe_load((SCENARIO / "vars.yml").read_text())
        found = engine.address()
        if not (found and scenario.running(run, {"DOCKER_HOST": found})):
            networks = settings["lab_networks"].items()
            wanted = {f"{name} {v}": pair[v] for name, pair in networks for v in ("v4", "v6")}
            ours = [] if found is None else _our_routes(run, found)
            host.remove_left_bridges(run, [pair["bridge"] for _, pair in networks if pair["v4"] not in ours])
            taken = [*host.taken_networks(run), *host.addresses_of(this.mirror)]
            host.refuse_overlap(wanted, [net for net in taken if str(net) not in ours])
        docker = engine.start(run)
    with run.phase(f"Machine image ({this.suite})"):
        tag = image.build(run, this, {"DOCKER_HOST": docker})
    with run.phase("Depot: every package the machine will install"):
        depot.fill(run, this, {"DOCKER_HOST": docker})
    return docker, tag


def _our_routes(run: Run, docker: str) -> list[str]:
    """Ranges of the lab's own networks when they exist already."""
    names = run.output(
        ["docker", "network", "ls", "--filter", f"name=^{scenario.PREFIX}-", "--format", "{{.Name}}"],
        why="Listing networks",
        env={"DOCKER_HOST": docker},
    ).split()
    if not names:
        return []
    shape = "{{range .IPAM.Config}}{{.Subnet}} {{end}}"
    found = run.output(
        ["docker", "network", "inspect", "--format", shape, *names], why="Reading networks", env={"DOCKER_HOST": docker}
    )
    return found.split()


def answers() -> str:
    """The table that verify.yml left behind."""
    return TABLE.read_text() if TABLE.is_file() else "(verify.yml left no table)"


def down(run: Run) -> None:
    """Remove the lab's containers and networks and stop the private engine."""
    docker = engine.address()
    with run.phase("Take the lab away"):
        if docker is None:
            run.note("no Docker engine answers")
        else:
            collections.install(run)
            scenario.molecule(run, "destroy", scenario.environment(docker), "Removing the lab")
    with run.phase("Docker engine"):
        engine.stop(run)


def status(run: Run) -> None:
    """What runs."""
    docker = engine.address()
    if docker is None:
        print("No Docker engine runs; the lab is down.")
        return
    names = scenario.running(run, {"DOCKER_HOST": docker})
    print(f"Docker engine: {docker}{' (private)' if str(DOCKER) in docker else ''}")
    print("Lab: " + (", ".join(names) if names else "down"))
    if scenario.HUB in names:
        print(answers())


def shell() -> None:
    """A root shell on the lab machine."""
    docker = engine.address()
    if docker is None:
        raise Failed("The lab is down. Bring it up first: tools/lab up")
    os.environ["DOCKER_HOST"] = docker
    interactive = ["-it"] if sys.stdin.isatty() else ["-i"]
    # No shell in between: this process becomes the one in the machine.
    os.execvp("docker", ["docker", "exec", *interactive, scenario.HUB, "bash", "-l"])  # noqa: S606


def reset(run: Run) -> None:
    """Down, and forget everything made so far, so that the next `up` starts from nothing."""
    docker = engine.address()
    if docker is not None:
        run.note("removing the machine's images")
        names = run.output(
            ["docker", "images", "--format", "{{.Repository}}:{{.Tag}}", image.NAME],
            why="Listing images",
            env={"DOCKER_HOST": docker},
        ).split()
    down(run)
    if docker is not None and names and engine.address() == docker:
        run.command(["docker", "image", "rm", *names], why="Removing images", env={"DOCKER_HOST": docker}, check=False)
    with run.phase("Forget what was made"):
        for path in STATE.iterdir():
            if path.name not in ("venv", "uv", "logs", "lock"):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


VERBS = {"up": (up, UP_PHASES), "down": (down, 2), "reset": (reset, 3), "status": (status, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/lab", description="The whole machine, thrown away after use.")
    parser.add_argument("verb", choices=[*VERBS, "shell"], help="up · status · shell · down · reset (down, and forget)")
    verb = parser.parse_args().verb
    if verb == "shell":
        try:
            shell()
        except Failed as error:
            print(error, file=sys.stderr)
        return 1
    lock = (STATE / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"Another tools/lab or tools/test runs in {ROOT}. Wait for it to end.", file=sys.stderr)
        return 1
    work, phases = VERBS[verb]
    run = Run(verb, phases)
    try:
        work(run)
    except (Failed, OSError) as error:
        print(f"\n{error}\n\nThe log is {run.log_path}; its last lines:\n{run.tail()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nInterrupted. Running the same command again goes on. The log is {run.log_path}.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
