# SPDX-License-Identifier: MIT
"""Times switches on the machine they happen on; needs nothing but Python there. One JSON document in, one out.

A way is a command that brings a tenant up in place of another one. What the engine and Docker take themselves is seen
beside it: every ``docker compose up`` and ``down`` is timed by a program of that name in front of the real one, and the
engine is asked for a completion all the time, so that the moment of its first answer is known to some hundredths of a
second. All else is the way's own.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

#: Between two questions to the engine, seconds.
STEP = 0.02
#: Longest time for one switch, seconds.
PATIENCE = 600.0
#: In front of the real docker; what it does not know it passes on.
SHIM = """#!/bin/sh
began=$(date +%s.%N)
"$REAL_DOCKER" "$@"
status=$?
printf '%s\\t%s\\t%s\\n' "$began" "$(date +%s.%N)" "$*" >> "$DOCKER_LOG"
exit $status
"""


@dataclass(frozen=True)
class Call:
    """One call of docker; moments in Unix time."""

    began: float
    ended: float
    words: str

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.began

    @property
    def compose(self) -> str:
        """``up`` or ``down``; empty for any other."""
        words = self.words.split()
        return next((word for word in words if word in ("up", "down")), "") if words[:1] == ["compose"] else ""


@dataclass(frozen=True)
class Switched:
    """One switch, in seconds: the whole, compose's calls, the engine's wait, what the command says of itself."""

    way: str
    target: str
    whole: float
    compose: float
    loading: float
    told: float | None = None
    #: The command said that it was done, and the engine had not answered yet.
    early: bool = False

    @property
    def overhead(self) -> float:
        """What is left when engine and Docker are taken off."""
        return self.whole - self.compose - self.loading


def calls(log: str) -> list[Call]:
    """The lines that the program in front of docker has written."""
    found = []
    for line in log.splitlines():
        began, ended, words = line.split("\t", 2)
        found.append(Call(float(began), float(ended), words))
    return found


def judged(
    way: str, target: str, began: float, ended: float, log: Sequence[Call], first: float, told: float | None
) -> Switched:
    """One switch from what was seen. ``first``: the moment of the engine's first answer. Raises ValueError."""
    ups = [call for call in log if call.compose == "up"]
    if not ups:
        raise ValueError(
            f"{way} to {target}: nothing was brought up; docker was called with {[call.words for call in log]}"
        )
    compose = sum(call.seconds for call in log if call.compose)
    # A command that ends before the engine answers has not brought it about yet.
    whole = max(ended, first) - began
    return Switched(way, target, whole, compose, max(0.0, first - ups[-1].ended), told, early=first > ended + STEP * 2)


def answers(url: str, model: str) -> bool:
    """Whether an engine completes one token."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=5)
    body = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "Say yes."}]}
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return response.status == 200


class Watch(threading.Thread):
    """Asks an engine until it answers; in the network namespace of this path, if there is one."""

    def __init__(self, url: str, model: str, namespace: str) -> None:
        super().__init__(daemon=True)
        self._url, self._model, self._namespace = url, model, namespace
        self.over = threading.Event()
        self.first: float | None = None
        self.trouble = ""

    def run(self) -> None:
        """A thread may be in another namespace than the rest of its process."""
        try:
            if self._namespace:
                with open(self._namespace, "rb") as stream:  # noqa: PTH123 - the namespace is a file of the kernel's
                    os.setns(stream.fileno(), os.CLONE_NEWNET)  # type: ignore[attr-defined,unused-ignore]  # from Python 3.12 on
        except (AttributeError, OSError) as error:
            self.trouble = f"the namespace {self._namespace} cannot be entered: {error}"
            return
        while not self.over.is_set():
            if answers(self._url, self._model):
                self.first = time.time()
                return
            time.sleep(STEP)


def one(plan: Mapping[str, Any], way: str, target: str, folder: Path) -> Switched:
    """Switch once and judge it. Raises ValueError when it fails."""
    log = folder / "docker.log"
    log.write_text("")
    about = plan["targets"][target]
    environment = {
        **os.environ,
        "PATH": f"{folder}:{os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}",
        "REAL_DOCKER": plan["docker"],
        "DOCKER_LOG": str(log),
    }
    watch = Watch(about["url"], about["model"], plan["namespace"])
    if answers_now(watch):
        raise ValueError(f"{target} answers before it is switched to")
    watch = Watch(about["url"], about["model"], plan["namespace"])
    began = time.time()
    watch.start()
    try:
        done = subprocess.run(
            about["ways"][way], env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        ended = time.time()
        watch.join(PATIENCE if done.returncode == 0 else 0)
    finally:
        watch.over.set()
    if done.returncode != 0 or watch.first is None:
        said = (done.stderr or done.stdout).strip()[-600:]
        raise ValueError(
            f"{way} to {target} ended with {done.returncode}: {watch.trouble or said or 'nothing answers'}"
        )
    told = None
    with contextlib.suppress(ValueError, KeyError, IndexError, TypeError):
        told = float(json.loads(done.stdout.splitlines()[-1])["total_seconds"])
    return judged(way, target, began, ended, calls(log.read_text()), watch.first, told)


def answers_now(watch: Watch) -> bool:
    """Whether its engine answers at this moment."""
    watch.start()
    time.sleep(STEP)
    watch.over.set()
    watch.join(10)
    return watch.first is not None


def measure(plan: Mapping[str, Any]) -> list[Switched]:
    """Every way to every target, in turn, ``rounds`` times after one round that does not count.

    ``plan``: ``docker`` (the real program), ``namespace`` (path, or empty), ``rounds``, ``targets``: name → ``url``,
    ``model``, ``ways`` (name → argument list). Raises ValueError.
    """
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shim = folder / "docker"
        shim.write_text(SHIM)
        shim.chmod(stat.S_IRWXU)
        targets = list(plan["targets"])
        ways = list(plan["targets"][targets[0]]["ways"])
        for number in range(int(plan["rounds"]) + 1):
            # Whose turn it is first changes, so that a slow minute of the machine meets all.
            for way in ways if number % 2 == 0 else reversed(ways):
                for target in targets:
                    made = one(plan, way, target, folder)
                    print(
                        f"{number} {way} {target}: {made.whole:.2f} s, own {made.overhead:.2f} s",
                        file=sys.stderr,
                        flush=True,
                    )
                    if number:
                        found.append(made)
    return found


def main() -> int:
    """The plan on standard input, what was measured on standard output."""
    try:
        found = measure(json.load(sys.stdin))
    except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        print(json.dumps({"error": str(error), "switched": []}))
        return 1
    print(json.dumps({"error": "", "switched": [asdict(each) for each in found]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
