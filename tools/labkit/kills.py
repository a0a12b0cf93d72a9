# SPDX-License-Identifier: MIT
"""Ten kills of a converge at random tasks, after each of which the next run must converge.

A kill in a run that has nothing to do proves nothing. So each round first makes work: it takes away a random half of
what the roles make on the machine (packages, environments, programs, settings, units, keys, users, images and
containers, the plane), and the first round begins with a machine that was never built. Taking away is chosen over a
new machine in every round because it costs 10 seconds instead of 35 and leaves mixtures of old and new that a new
machine never has; the binary of llama-server stays in its cache, because its build (6 minutes, a unit of its own) is
not a task of the play.

The first converge of the new machine is measured and killed nowhere: it gives the tasks and their seconds. In each
round a task is drawn, one half of the rounds evenly over the tasks, the other half in proportion to the time they
take, and a moment within it. Then everything gets SIGKILL: ansible-playbook with its workers, and in the machine
every process that a ``docker exec`` has started, children, orphans and background jobs included. In every third round
the controller alone is killed, and what runs in the machine runs on under the feet of the next run. The next run must
end without a failure, and every profile must be answered as its chain promises. After the last round a further run
must change nothing.

On 2 cores a round takes about 3 minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from . import collections, engine, host, scenario
from .__main__ import prepare
from .paths import ROOT, STATE
from .say import Failed, Run, clock

ROUNDS = 10
#: Throws of the dice for one round.
DRAWS = 3
#: Phases of prepare() in __main__.
PREPARE_PHASES = 4
#: The longest that a killed run may take to reach its moment; later the run counts as hanging.
RUN_SECONDS = 1200
HEAD = re.compile(r"^(?:TASK|RUNNING HANDLER) \[(?P<name>.+?)\] \*")

#: What the shell lines below may use.
PRELUDE = r"""
purge() { # those of the named packages that are known here
    DEBIAN_FRONTEND=noninteractive apt-get -q -y purge $(dpkg-query -W -f '${Package}\n' "$@" 2> /dev/null) 2>&1 || true
}
"""
#: What the roles make on the machine, by part: shell lines that take it away. Each must succeed on a half-made machine.
PARTS = {
    # Only what the depot has; python3-venv, too, belongs to the image and could not come again.
    "the packages": "purge caddy haproxy nftables",
    "docker's packages": "systemctl stop docker.service docker.socket containerd.service 2>/dev/null || true; "
    "purge docker.io containerd docker-cli docker-compose; rm -rf /etc/docker /etc/systemd/system/docker.service.d",
    "uv": "rm -rf /opt/mushishi/uv",
    "the environments": "rm -rf /opt/mushishi/venvs",
    # As an installation leaves it that was killed in the middle: its record comes last.
    "half of each environment": "rm -f /opt/mushishi/venvs/*/mushishi-lock; "
    "find /opt/mushishi/venvs -path '*/site-packages/*' -name '[a-m]*.py' -delete 2>/dev/null || true",
    "the programs": "rm -rf /opt/mushishi/admission /opt/mushishi/gateway /opt/mushishi/plane /opt/mushishi/llama.cpp "
    "/opt/mushishi/guard /opt/mushishi/audit /usr/local/bin/mushishi-audit /opt/mushishi/sovereignctl "
    "/opt/mushishi/tailnet /opt/mushishi/firewall",
    "the units": "rm -rf /etc/systemd/system/mushishi-* /etc/systemd/system/*.wants/mushishi-* "
    "/etc/systemd/system/sovereign*.slice /etc/systemd/journald@sovereign.conf",
    "the running units": "systemctl stop 'mushishi-*' 2>/dev/null || true",
    "the settings": "rm -rf /etc/mushishi/gateway /etc/mushishi/admission /etc/mushishi/ingress-* /etc/mushishi/vllm "
    "/etc/mushishi/guard /etc/mushishi/plane /etc/mushishi/gpu",
    "what the mode switches remember": "rm -rf /var/lib/mushishi-gpu",
    "the keys": "rm -rf /etc/mushishi/secrets",
    "the users": "systemctl stop 'mushishi-*' 2>/dev/null || true; "
    "for user in $(cut -d: -f1 /etc/passwd | grep ^mushishi-); do userdel \"$user\" || true; done",
    "the engine": "docker ps -aq 2>/dev/null | xargs -r docker rm -f || true",
    "the images": "docker ps -aq 2>/dev/null | xargs -r docker rm -f || true; "
    "docker image ls -q 2>/dev/null | xargs -r docker image rm -f || true",
    "the plane": "systemctl stop mushishi-plane.service 2>/dev/null || true; "
    "docker network rm sovereign 2>/dev/null || true; "
    "ip netns delete sovereign 2>/dev/null || true; ip link delete br-sovereign 2>/dev/null || true",
    "the firewall": "ufw disable 2>/dev/null || true; rm -f /etc/mushishi/doors.json; "
    "for each in iptables ip6tables; do $each -F DOCKER-USER 2>/dev/null || true; done",
    "the tailnet's login": "tailscale logout 2>/dev/null || true",
    "the server's settings for SSH": "rm -f /etc/ssh/sshd_config.d/00-mushishi.conf "
    "/etc/systemd/system/ssh.service.d/20-tailnet.conf",
    "the package lists": "rm -rf /var/lib/apt/lists/*",
}

#: Kills, in the machine, every process that a `docker exec` has started: what stands in no systemd unit, itself aside.
#: The root of each has no parent in the machine's PID namespace; orphans and background jobs are known by their cgroup.
REAPER = r"""
import os, signal
me, mine = os.getpid(), set()
def state(pid):  # letter and parent
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rpartition(")")[2].split()
    return fields[0], int(fields[1])
def group(pid):
    with open(f"/proc/{pid}/cgroup") as f:
        return next(line.rstrip("\n").split(":", 2)[2] for line in f if line.startswith("0:"))
while me > 1:
    mine.add(me)
    me = state(me)[1]
machine = group(1).removesuffix("/init.scope")
killed = 0
for _ in range(50):
    found = 0
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in mine or int(name) == 1:
            continue
        try:
            inside = group(name).removeprefix(machine)
            if inside not in ("", "/", "/init.scope") or state(name)[0] in "ZX":
                continue
            os.kill(int(name), signal.SIGKILL)
            found += 1
        except (OSError, StopIteration, IndexError):
            continue
    killed += found
    if not found:
        break
print(killed)
"""


@dataclass(frozen=True)
class Task:
    """A task as a full run showed it: its place among the tasks, its name, its seconds."""

    number: int
    name: str
    seconds: float


@dataclass(frozen=True)
class Moment:
    """When to kill: seconds after the head of a task, and whether the machine's side is killed, too."""

    task: Task
    after: float
    machine_too: bool


def draw(dice: random.Random, tasks: Sequence[Task], number: int) -> Moment:
    """The moment of one round; ``number`` counts from 0."""
    weights = [task.seconds if number % 2 else 1.0 for task in tasks]
    task = dice.choices(tasks, weights)[0]
    return Moment(task, dice.uniform(0, task.seconds), machine_too=number % 3 != 2)


def wreckage(dice: random.Random) -> list[str]:
    """The parts that are taken away in one round, in the order of :data:`PARTS`: half of them, at least one."""
    chosen = set(dice.sample(sorted(PARTS), len(PARTS) // 2))
    return [name for name in PARTS if name in chosen]


def tasks_of(lines: Sequence[tuple[float, str]]) -> list[Task]:
    """The tasks of a run from its output, each line with the second at which it came; the end is the last line."""
    heads = [(second, match.group("name")) for second, line in lines if (match := HEAD.match(line))]
    ends = [second for second, _ in heads[1:]] + [second for second, _ in lines[-1:] if heads]
    return [
        Task(number, name, max(0.05, end - second))
        for number, ((second, name), end) in enumerate(zip(heads, ends, strict=True))
    ]


@contextlib.contextmanager
def _step(run: Run, title: str) -> Iterator[None]:
    """A part of a phase: said when it begins, and with its seconds when it is over."""
    run.note(f"{title} …")
    begun = time.monotonic()
    yield
    run.note(f"{title}: {clock(time.monotonic() - begun)}")


def _start(run: Run, env: dict[str, str]) -> tuple[subprocess.Popen[str], IO[str]]:
    """site.yml in a session of its own, and its output."""
    argv = ["ansible-playbook", "--inventory", str(ROOT / "inventory/lab"), str(ROOT / "playbooks/site.yml")]
    print(f"$ {' '.join(argv)}", file=run.log, flush=True)
    process = subprocess.Popen(
        argv,
        cwd=ROOT,
        env={**os.environ, **env, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    if process.stdout is None:
        raise Failed("ansible-playbook has no output to read.")
    return process, process.stdout


@contextlib.contextmanager
def deadline(process: subprocess.Popen[str], seconds: float = RUN_SECONDS) -> Iterator[threading.Event]:
    """Kill a run that is not over after ``seconds``, silent or not. The event tells that it came to that."""
    passed = threading.Event()

    def end() -> None:
        passed.set()
        kill_tree(process)

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        yield passed
    finally:
        timer.cancel()
        timer.join()


def converge(run: Run, env: dict[str, str]) -> tuple[int, list[tuple[float, str]]]:
    """One whole run of site.yml: its exit status, and its lines with the second at which each came.

    Raises:
        Failed: it hangs.
    """
    process, output = _start(run, env)
    begun = time.monotonic()
    lines = []
    with deadline(process) as passed:
        for line in output:
            run.log.write(line)
            lines.append((time.monotonic() - begun, line))
        status = process.wait()
    if passed.is_set():
        raise Failed(f"A run of site.yml hangs; its last line: {lines[-1][1].strip() if lines else '(none)'}")
    return status, lines


def descendants(pid: int, proc: Path = Path("/proc")) -> list[int]:
    """All children of a process and theirs, in whatever session they are; workers of Ansible have their own."""
    parents: dict[int, list[int]] = {}
    for folder in proc.iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                above = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                parents.setdefault(above, []).append(int(folder.name))
    found, todo = [], [pid]
    while todo:
        for child in parents.get(todo.pop(), []):
            found.append(child)
            todo.append(child)
    return found


def kill_tree(process: subprocess.Popen[str]) -> None:
    """SIGKILL for a process and all below it. It is stopped first, so that no child comes while they are counted."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGSTOP)
        for pid in [*descendants(process.pid), process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL for a run on the controller, and its end awaited."""
    kill_tree(process)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def killed_converge(run: Run, env: dict[str, str], moment: Moment) -> tuple[str, int]:
    """A run of site.yml, killed at its moment. Returns where it was, empty when it had ended before, and its changes.

    Raises:
        Failed: it hangs before its moment, or the machine cannot be reached.
    """
    process, output = _start(run, env)
    number, last, changes = -1, "(no task)", 0
    with deadline(process) as passed:
        for line in output:
            run.log.write(line)
            changes += line.startswith("changed:")
            if match := HEAD.match(line):
                number, last = number + 1, match.group("name")
                if number >= moment.task.number:
                    break
    if passed.is_set():
        process.wait()
        raise Failed(f"The run that was to be killed hangs at {last}.")
    # The moment is a drawn time, not a wait for something.
    time.sleep(min(moment.after, RUN_SECONDS))
    if process.poll() is not None:
        return "", changes
    kill(process)
    gone = "the controller alone"
    if moment.machine_too:
        done = subprocess.run(
            ["docker", "exec", "-i", scenario.HUB, "python3", "-"],
            input=REAPER,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise Failed(f"The processes in the machine could not be killed: {done.stderr.strip()[-300:]}")
        gone = f"the controller and {done.stdout.strip()} processes in the machine"
    return f"{last}: killed {gone}", changes


def take_away(run: Run, env: dict[str, str], parts: Sequence[str]) -> None:
    """Make work: remove these parts from the machine."""
    script = "\n".join(PARTS[name] for name in parts)
    run.command(
        ["docker", "exec", "-i", scenario.HUB, "sh", "-s"],
        why="Taking parts away",
        env=env,
        stdin=f"{PRELUDE}{script}\nexit 0\n",
    )


def one_round(run: Run, env: dict[str, str], dice: random.Random, tasks: Sequence[Task], number: int) -> bool:
    """Wreck, kill, converge, ask. True when the run after the kill converged and every profile was answered rightly."""
    try:
        with _step(run, f"Kill {number + 1} of {ROUNDS}"):
            where = ""
            # A run with less to do can end before its moment: then nothing was killed, and the dice are thrown again.
            for _attempt in range(DRAWS):
                moment, parts = draw(dice, tasks, number), wreckage(dice) if number else []
                run.note(f"taken away: {', '.join(parts) or 'nothing, the machine was never built'}")
                take_away(run, env, parts)
                run.note(f"to be killed {moment.after:.1f} s into task {moment.task.number + 1} of {len(tasks)}")
                where, changes = killed_converge(run, env, moment)
                if where:
                    break
            else:
                raise Failed(f"{DRAWS} runs in a row ended before their moment; nothing was killed")
            run.note(where)
            status, lines = converge(run, env)
            if status != 0:
                raise Failed("the run after the kill did not converge: " + _failure(lines))
            if not changes + sum(line.startswith("changed:") for _, line in lines):
                raise Failed("nothing had to be mended, so nothing was taken away and the kill proves nothing")
            wishes = json.dumps({"verify_include_cloud": True})
            scenario.playbook(run, "verify", env, "Asking every profile", ["--extra-vars", wishes])
    except Failed as error:
        run.note(f"FAILED: {error}")
        return False
    return True


def _failure(lines: Sequence[tuple[float, str]]) -> str:
    return next((line.strip()[:600] for _, line in lines if line.startswith("fatal:")), "see the log")


def kills(run: Run, env: dict[str, str], seed: int | None) -> tuple[int, int]:
    """Ten rounds on a lab machine made for them. Returns how many passed and failed; the last check counts as one.

    Args:
        run: where to speak and log.
        env: as :func:`scenario.environment` gives it, with the machine's image.
        seed: of the dice; None draws one. It is printed, and the same seed repeats the same draw on the same tasks.
    """
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    dice = random.Random(seed)  # noqa: S311 - dice, not secrets
    run.note(f"seed {seed} (the same again: PYTHONPATH=tools .lab/venv/bin/python -m labkit.kills --seed {seed})")
    with _step(run, "A machine that was never built, converged once and measured"):
        scenario.molecule(run, "destroy", env, "Removing an earlier lab")
        scenario.molecule(run, "create", env, "Creating the lab")
        status, lines = converge(run, env)
        if status != 0:
            raise Failed("The first converge failed: " + _failure(lines))
        tasks = tasks_of(lines)
    with _step(run, "A machine that was never built, for the first kill"):
        scenario.molecule(run, "destroy", env, "Removing the measured lab")
        scenario.molecule(run, "create", env, "Creating the lab")
    good = [one_round(run, env, dice, tasks, number) for number in range(ROUNDS)]
    with _step(run, "A further run changes nothing"):
        status, lines = converge(run, env)
        recap = next((line.strip() for _, line in reversed(lines) if line.startswith("hub ")), "")
        quiet = status == 0 and " changed=0 " in recap
        if not quiet:
            run.note(f"FAILED: {recap or _failure(lines)}")
    good.append(quiet)
    run.note(f"kills, seed {seed}: {sum(good)} passed, {len(good) - sum(good)} failed, after {run.elapsed()}")
    return sum(good), len(good) - sum(good)


def main() -> int:
    """The kills alone: ``python -m labkit.kills``."""
    parser = argparse.ArgumentParser(prog="labkit.kills", description="Ten kills of a converge, each mended.")
    parser.add_argument("--seed", type=int, help="the seed that an earlier run printed")
    chosen = parser.parse_args()
    lock = (STATE / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"Another tools/lab or tools/test runs in {ROOT}. Wait for it to end.", file=sys.stderr)
        return 1
    run = Run("kills", PREPARE_PHASES + 1)
    try:
        collections.install(run)
        docker, tag = prepare(run, host.read_host())
        with run.phase("Killed converges"):
            passed, failed = kills(run, scenario.environment(docker, tag), chosen.seed)
    except Failed as error:
        print(f"\n{error}\n\nThe log is {run.log_path}; its last lines:\n{run.tail()}", file=sys.stderr)
        passed, failed = 0, 1
    finally:
        if engine.address() is not None:
            run.note("the lab is left up; throw it away with: tools/lab down")
    print(f"{passed} passed, {failed} failed", flush=True)
    return 0 if failed == 0 and passed > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
