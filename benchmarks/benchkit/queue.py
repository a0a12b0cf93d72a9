# SPDX-License-Identifier: MIT
"""queue: what it costs to be taken into the private queue, how fast it is emptied, how soon it is back after a kill.

Without the lab: the real admission as a process, and the stand-in for vLLM in the gateway's place, on loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from labkit.paths import ROOT, STATE
from labkit.say import Failed

from . import stats
from .load import Crowd, Question, Target
from .results import INTERVAL, REPEATS, Figure
from .say import Progress
from .stats import Estimate, over_repeats

#: The engine: milliseconds to the first token, per further one, tokens; slots, which are also the load at once.
FIRST_MS, TOKEN_MS, TOKENS, SLOTS = 100, 5, 24, 4
PERCENTILES = (50, 99)
#: Requests taken in, by how many at once.
ACCEPTS = {1: 600, 16: 800}
#: Jobs of a round, rounds.
DRAINED, ROUNDS = 200, 3
#: Jobs that lie in the file when the service is killed, kills.
DEEP, KILLS = 10_000, 5
QUICK_ACCEPTS, QUICK_DRAINED, QUICK_DEEP = {1: 20}, 20, 200
KEY, GATEWAY_KEY = "key-of-the-benchmark-0123456789", "gateway-key-of-the-benchmark-0123"
PATIENCE = 300.0


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Machine:
    """Admission and its engine below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        self.port, self.engine_port, self.control = free_port(), free_port(), free_port()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.data.mkdir(mode=0o700)
        (folder / "credentials").mkdir()
        (folder / "credentials/gateway.key").write_text(GATEWAY_KEY)
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        (folder / "credentials/profiles.json").write_text(json.dumps({digest: "private"}))
        link = {"backend": "cpu", "mode": None, "model": "private"}
        rule = {
            "tier": "T1", "group": "private", "terminal": "queue", "links": [link], "context_length": 32768,
            "timeout": 120, "wait": 0,
        }  # fmt: skip
        config = {
            "listen": {"host": "127.0.0.1", "port": self.port},
            "upstream": {"url": f"http://127.0.0.1:{self.engine_port}"},
            "rules": {"version": 1, "profiles": {"private": rule}},
            "limits": {"concurrent_requests": 64},
            "queue": {"directory": str(self.data), "slots": SLOTS, "free_bytes": 0, "probe_seconds": 0.2},
        }
        (folder / "config.json").write_text(json.dumps(config))
        self.environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'roles/admission/files'}:{ROOT / 'molecule'}",
            "CREDENTIALS_DIRECTORY": str(folder / "credentials"),
            "STANDIN_CONTROL": f"127.0.0.1:{self.control}",
        }

    def begin(self, name: str, port: int, *argv: str) -> None:
        """Start a process and wait until it listens. Raises Failed."""
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen([sys.executable, "-m", *argv], env=self.environment, stdout=log, stderr=log)
        self._processes[name] = process
        until = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.002)
        raise Failed(f"{name} does not answer:\n{(self.folder / 'log').read_text()[-2000:]}")

    def engine(self) -> None:
        """Start the engine."""
        self.begin(
            "engine", self.control, "standins.engine", "--served-model-name", "private", "--host", "127.0.0.1",
            "--port", str(self.engine_port),
        )  # fmt: skip
        self.tell("speed", str(FIRST_MS), str(TOKEN_MS))

    def admission(self) -> None:
        """Start admission."""
        self.begin("admission", self.port, "admission", "serve", "--config", str(self.folder / "config.json"))

    def tell(self, *words: str) -> None:
        """Steer the engine. Raises Failed."""
        argv = [sys.executable, "-m", "standins.ctl", "--control", f"127.0.0.1:{self.control}", *words]
        done = subprocess.run(argv, env=self.environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(f"the engine stand-in: {done.stdout}{done.stderr}")

    def end(self, name: str, how: int = signal.SIGKILL) -> None:
        """End a process."""
        process = self._processes.pop(name, None)
        if process is not None:
            process.send_signal(how)
            process.wait()

    def close(self) -> None:
        """End everything."""
        for name in list(self._processes):
            self.end(name)

    def jobs(self) -> list[dict[str, Any]]:
        """What queuectl says."""
        argv = [
            sys.executable, "-m", "admission.queuectl", "--config", str(self.folder / "config.json"), "list", "--json"
        ]  # fmt: skip
        done = subprocess.run(argv, env=self.environment, capture_output=True, text=True, check=True)
        return list(json.loads(done.stdout)["jobs"])

    def target(self, name: str) -> Target:
        """Whom to ask: ``queue`` (taken in, not tried) or ``engine``."""
        if name == "engine":
            return Target(name, "127.0.0.1", self.engine_port, "private")
        prefer = (("Prefer", "respond-async"),)
        return Target(name, "127.0.0.1", self.port, "private", KEY, headers=prefer)


@contextlib.contextmanager
def machine() -> Iterator[Machine]:
    """A machine in a folder of the disk that the checkout is on; gone afterwards."""
    (STATE / "bench").mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="queue-", dir=STATE / "bench"))
    made = Machine(folder)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(folder)


def syncs(folder: Path, count: int) -> list[float]:
    """The floor: seconds that the disk takes to sync 4 KiB that were appended to a file."""
    took = []
    descriptor = os.open(folder / "floor", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        for _ in range(count):
            began = time.monotonic()
            os.write(descriptor, b"x" * 4096)
            os.fdatasync(descriptor)
            took.append(time.monotonic() - began)
    finally:
        os.close(descriptor)
    return took


def ms(seconds: Sequence[float], percent: int) -> Estimate:
    """A percentile in milliseconds."""
    found = stats.percentile_estimate(seconds, percent)
    return Estimate(found.value * 1000, found.low * 1000, found.high * 1000, found.n)


async def _ask(target: Target, parallel: int, count: int) -> list[float]:
    crowd = Crowd(target, parallel)
    try:
        samples = await crowd.block(Question(TOKENS, stream=False), count)
    finally:
        crowd.close()
    wanted = 200 if target.name == "engine" else 202
    wrong = [sample for sample in samples if sample.status != wanted]
    if wrong:
        raise Failed(f"{len(wrong)} of {count} answers of {target.name} are not {wanted}: {wrong[0].error}")
    return [sample.whole for sample in samples]


def accepts(made: Machine, sizes: dict[int, int]) -> list[Figure]:
    """How long it takes to be taken in, with the engine away: to the 202, after the sync."""
    found = []
    made.tell("fault", "500")
    floor = syncs(made.data, 300)
    found += [Figure("disk", f"p{percent} of a sync of 4 KiB", "ms", ms(floor, percent)) for percent in PERCENTILES]
    for parallel, count in sizes.items():
        asyncio.run(_ask(made.target("queue"), parallel, 2 * parallel))
        took = asyncio.run(_ask(made.target("queue"), parallel, count))
        case = f"accepted, {parallel} at once"
        found += [Figure(case, f"p{percent} to the 202", "ms", ms(took, percent), INTERVAL) for percent in PERCENTILES]
        rate = count / sum(took) * parallel
        found.append(Figure(case, "rate", "1/s", Estimate(rate, rate, rate, count), ""))
    return found


def settle(made: Machine) -> list[dict[str, Any]]:
    """Wait until nothing waits; the jobs. Raises Failed."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        jobs = made.jobs()
        if not any(job["state"] == "queued" for job in jobs):
            return jobs
        time.sleep(0.5)
    raise Failed(f"the queue is not empty after {PATIENCE:.0f} s")


def rate_of(ends: Sequence[float]) -> float:
    """Answers per second from their ends, the first SLOTS left out: until then not all slots were at work."""
    ordered = sorted(ends)
    return (len(ordered) - SLOTS) / (ordered[-1] - ordered[SLOTS - 1])


async def _direct(target: Target, count: int) -> list[float]:
    crowd = Crowd(target, SLOTS)
    try:
        samples = await crowd.block(Question(TOKENS, stream=False), count)
    finally:
        crowd.close()
    if not all(sample.good for sample in samples):
        raise Failed("the engine did not answer everything")
    return [sample.began + sample.whole for sample in samples]


def drains(made: Machine, count: int, rounds: int) -> tuple[list[float], list[float]]:
    """Answers per second of the engine with SLOTS requests at once, and of the queue with as many slots, in turn."""
    direct, queued = [], []
    for number in range(rounds):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            if which == 0:
                made.tell("fault", "ok")
                direct.append(rate_of(asyncio.run(_direct(made.target("engine"), count))))
                continue
            made.tell("fault", "500")
            before = {job["number"] for job in made.jobs()}
            asyncio.run(_ask(made.target("queue"), 8, count))
            made.tell("fault", "ok")
            ends = [float(job["ended_unix"]) for job in settle(made) if job["number"] not in before]
            queued.append(rate_of(ends))
    return direct, queued


def fill(made: Machine, count: int) -> None:
    """So many jobs through the service itself, the engine away."""
    made.tell("fault", "500")
    asyncio.run(_ask(made.target("queue"), 32, count))


def until(what: Callable[[], bool], pause: float = 0.002) -> float:
    """Seconds until it is so. Raises Failed."""
    began = time.monotonic()
    while not what():
        if time.monotonic() - began > PATIENCE:
            raise Failed("the service did not come back")
        time.sleep(pause)
    return time.monotonic() - began


def recoveries(made: Machine, kills: int) -> tuple[list[float], list[float], int]:
    """After each SIGKILL with a deep queue: seconds to the port, to the first job's answer; how many jobs were lost."""
    listens, answers = [], []
    deep = sum(job["state"] == "queued" for job in made.jobs())
    lost = 0
    for _ in range(kills):
        made.tell("fault", "500")
        made.end("admission")
        there = sum(job["state"] == "queued" for job in made.jobs())
        lost += max(0, deep - there)
        made.tell("fault", "ok")
        began = time.monotonic()
        made.admission()
        listens.append(time.monotonic() - began)
        log = made.folder / "log"
        at = log.stat().st_size

        def answered(at: int = at, log: Path = log) -> bool:
            with log.open("rb") as file:
                file.seek(max(0, at - 4096))
                return b'"queue_end"' in file.read().rpartition(b'"queue_open"')[2]

        until(answered)
        answers.append(time.monotonic() - began)
        made.tell("fault", "500")
        time.sleep(1.0)
        deep = sum(job["state"] == "queued" for job in made.jobs())
    return listens, answers, lost


def versions() -> dict[str, str]:
    """What was measured with."""
    return {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "uvicorn": importlib.metadata.version("uvicorn"),
    }


def measure(quick: bool) -> tuple[list[Figure], dict[str, str]]:
    """Taken in, emptied, killed."""
    sizes, drained, rounds, deep, kills = (
        (QUICK_ACCEPTS, QUICK_DRAINED, 1, QUICK_DEEP, 1) if quick else (ACCEPTS, DRAINED, ROUNDS, DEEP, KILLS)
    )
    progress = Progress("queue", 200.0)
    with machine() as made:
        made.engine()
        made.admission()
        progress.say("taken in", 0)
        found = accepts(made, sizes)
        progress.say("what was taken in is answered", 20)
        made.tell("speed", "0", "0")
        made.tell("fault", "ok")
        settle(made)
        made.tell("speed", str(FIRST_MS), str(TOKEN_MS))
        progress.say("emptied", 60)
        direct, queued = drains(made, drained, rounds)
        case = f"drained, {SLOTS} slots"
        found += [
            Figure(case, "engine alone", "1/s", over_repeats(direct), REPEATS),
            Figure(case, "from the queue", "1/s", over_repeats(queued), REPEATS),
            Figure(case, "of the engine's own rate", "", stats.ratio(queued, direct), REPEATS, ">= 0.95"),
        ]
        progress.say("filled and killed", 140)
        fill(made, deep)
        listens, answers, lost = recoveries(made, kills)
        case = f"killed, {deep} jobs deep"
        found += [
            Figure(case, "until it listens", "s", over_repeats(listens), REPEATS),
            Figure(case, "until the first job is answered", "s", over_repeats(answers), REPEATS),
            Figure(case, "jobs lost", "", Estimate(lost, lost, lost, kills), "", "<= 0"),
        ]
    progress.end()
    return found, versions()
