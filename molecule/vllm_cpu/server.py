# SPDX-License-Identifier: MIT
"""A real `vllm serve` as a process of this machine, with the words that the role has written for its container."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import flags

#: Nobody else's.
ADDRESS = "127.0.0.1"
#: Beyond the role's own words, and why.
ADDED: Mapping[str, str] = {
    "--dtype=float32": "the processor's kernels are exact in it, so that the same question has the same answer",
    "--enforce-eager": "compiling takes minutes and a compiler, and a model of this size gains nothing",
}
#: Variables beyond the role's own. The first tells the build which platform it is on. The second: as many threads as it
#: gets cores would spin against whatever else the machine does.
VARIABLES: Mapping[str, str] = {"VLLM_TARGET_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
#: Between two looks, seconds.
PAUSE = 0.1


def free_port() -> int:
    """One that nobody listens at now."""
    with socket.socket() as listener:
        listener.bind((ADDRESS, 0))
        return int(listener.getsockname()[1])


def left_out(words: Sequence[str], known: flags.Flags) -> list[str]:
    """Flags of a command line that the build for processors does not know."""
    return [name for name, _value in flags.pairs(words) if flags.CPU not in known.known[name].marks]


def command(words: Sequence[str], model: Path, port: int, known: flags.Flags) -> list[str]:
    """The arguments of `vllm serve` here: the container's, with another model, address and port, and ``ADDED``."""
    skipped = set(left_out(words, known))
    found = [str(model)]
    for name, value in flags.pairs(words):
        given = {"--host": ADDRESS, "--port": str(port)}.get(name, value)
        if name not in skipped:
            found.append(name if given is None else f"{name}={given}")
    return [*found, *ADDED]


def environment(given: Mapping[str, str], home: Path) -> dict[str, str]:
    """The container's variables, its cache in a folder of ours, and nothing of this process's own."""
    moved = {name: re.sub("^/cache", str(home), value) for name, value in given.items()}
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", **moved, **VARIABLES}


@dataclass(frozen=True)
class Reply:
    """An HTTP answer; ``pieces``: the data of each event of a stream."""

    status: int
    text: str
    pieces: tuple[str, ...] = ()

    @property
    def body(self) -> Any:
        """Its JSON."""
        return json.loads(self.text)


def ask(port: int, path: str, body: Mapping[str, Any] | None = None, timeout: float = 300) -> Reply:
    """One request. Raises OSError when nobody answers."""
    connection = http.client.HTTPConnection(ADDRESS, port, timeout=timeout)
    try:
        text = None if body is None else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, text, {"Content-Type": "application/json"})
        response = connection.getresponse()
        got = response.read().decode()
    finally:
        connection.close()
    pieces = tuple(line[len("data: ") :] for line in got.splitlines() if line.startswith("data: "))
    return Reply(response.status, got, pieces)


def question(model: str, tokens: int, **more: Any) -> dict[str, Any]:
    """A chat request that is answered with exactly so many tokens, the same ones each time."""
    message = {"role": "user", "content": "Say something."}
    length = {"max_tokens": tokens, "min_tokens": tokens}
    return {"model": model, "messages": [message], "temperature": 0, "seed": 7, **length, **more}


@dataclass(frozen=True)
class Ended:
    """How a server ended. ``engine``: seconds until all but its first process were gone, those on a card among them;
    ``whole``: until nothing was left; ``killed``: not by itself."""

    engine: float
    whole: float
    killed: bool


@dataclass
class Server:
    """One that runs. ``seconds``: from its start to its first answer."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    seconds: float = 0.0

    def tail(self, lines: int = 40) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def wait(self, seconds: float) -> None:
        """Until it lists its models. Raises RuntimeError with its last words when it ends, or does not in time."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            if self.process.poll() is not None:
                raise RuntimeError(f"vllm serve ended with {self.process.returncode}:\n{self.tail()}")
            try:
                if ask(self.port, "/v1/models", timeout=5).status == 200:
                    self.seconds = time.monotonic() - began
                    return
            except OSError:
                time.sleep(PAUSE)
        raise RuntimeError(f"vllm serve did not answer within {seconds:.0f} s:\n{self.tail()}")

    def stop(self, seconds: float) -> Ended:
        """Ask it to end and kill what has not ended in its time, as Docker does with a container."""
        began, engine = time.monotonic(), 0.0
        self.process.send_signal(signal.SIGTERM)
        while left := members(self.process.pid):
            passed = time.monotonic() - began
            if not engine and left == [self.process.pid]:
                engine = passed
            if passed > seconds:
                break
            time.sleep(PAUSE)
        self.kill()
        passed = time.monotonic() - began
        return Ended(engine or passed, passed, bool(left))

    def kill(self) -> None:
        """Whatever is left of it."""
        deadline = time.monotonic() + 30
        # Again until nobody is left: one of them may have made another meanwhile, and an end takes its time.
        while (left := members(self.process.pid)) and time.monotonic() < deadline:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        self.process.wait(30)


def members(session: int) -> list[int]:
    """Processes of a session, those apart that have ended and were not asked for."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # After the name in brackets: state, parent, group, session.
            state, _parent, _group, owner = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(owner) == session and state != "Z":
            found.append(int(entry.name))
    return found


def resident_mib(pid: int) -> int:
    """Memory that a process holds; 0 for one that has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") // (1 << 20)


@contextmanager
def serving(
    python: Path, words: Sequence[str], variables: Mapping[str, str], folder: Path, seconds: float = 300
) -> Iterator[Server]:
    """A server that answers, and none of it afterwards. ``words``: what ``command`` made, its port included."""
    port = int(dict(flags.pairs(words))["--port"] or 0)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "server.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [str(python.parent / "vllm"), "serve", *words],
            env=environment(variables, folder / "cache"),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(process, port, log)
    try:
        server.wait(seconds)
        yield server
    finally:
        server.kill()
