# SPDX-License-Identifier: MIT
"""The engine door, shut and opened by a mode switch: what a caller gets (with HAProxy itself), and every odd answer."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import door as gpu_door
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.door import Door, NoDoor, in_service, servers

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "roles/gateway"))
import door_bench

CHAT = "/gpu/v1/chat/completions"


@pytest.fixture
def engine() -> Iterator[door_bench.Engine]:
    engine = door_bench.Engine(door_bench.plain())
    yield engine
    engine.close()


@pytest.fixture
def running(engine: door_bench.Engine, tmp_path: Path) -> Iterator[door_bench.Door]:
    with door_bench.running_door(tmp_path, {"gpu": engine.port, "gpu-forensic": engine.port}, {"agent": 2}) as door:
        yield door


@pytest.fixture
def ours(running: door_bench.Door) -> Door:
    return Door("", ("127.0.0.1", running.control), running.closed)


def ask(door: door_bench.Door, backend: str = "gpu") -> int:
    return door.ask("sovereign", "POST", f"/{backend}/v1/chat/completions", b"{}")[0]


def test_a_shut_engine_is_as_one_that_refuses(running: door_bench.Door, engine: door_bench.Engine, ours: Door) -> None:
    assert (ask(running), ask(running, "gpu-forensic")) == (200, 200) and ours.closed() == set()
    ours.close("agent")
    ours.close("agent")
    assert ours.closed() == {"agent"}
    seen, began = len(engine.seen), time.monotonic()
    status, _, body = running.ask("hybrid", "POST", CHAT, b"{}")
    assert status == 503 and json.loads(body)["error"]["code"] == "engine_unreachable"
    assert time.monotonic() - began < 0.5 and len(engine.seen) == seen, "at once, and without the engine"
    assert ask(running, "gpu-forensic") == 200, "another mode is not concerned"
    ours.open("agent")
    ours.open("agent")
    assert ask(running) == 200 and ours.closed() == set()


def test_what_flows_flows_on(running: door_bench.Door, engine: door_bench.Engine, ours: Door) -> None:
    go = threading.Event()

    def slow(connection: socket.socket, _request: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 4\r\n\r\nab")
        go.wait(10)
        connection.sendall(b"cd")

    engine.script = slow
    with running.send("sovereign", f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()) as caller:
        first = caller.recv(65536)
        ours.close("agent")
        assert ask(running) == 503
        go.set()
        assert (first + b"".join(iter(lambda: caller.recv(65536), b""))).endswith(b"abcd")


def test_the_prober_does_not_undo_it(running: door_bench.Door, ours: Door) -> None:
    ours.close("agent")
    for state in ("maint", "ready"):
        running.command(f"set server engine-gpu/engine state {state}")
    assert ask(running) == 503
    ours.open("agent")
    assert ask(running) == 200


def test_no_more_than_an_engine_works_at(running: door_bench.Door, engine: door_bench.Engine) -> None:
    engine.script = door_bench.hang
    raw = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    long_ones = [running.send("sovereign", raw), running.send("hybrid", raw)]
    deadline = time.monotonic() + 10
    while len(engine.seen) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    began = time.monotonic()
    status, _, body = running.ask("hybrid", "POST", CHAT, b"{}")
    assert status == 503 and time.monotonic() - began < 0.5 and len(engine.seen) == 2
    assert json.loads(body)["error"]["code"] == "engine_unreachable"
    long_ones.pop().close()
    engine.script = door_bench.plain()
    while ask(running) != 200:
        assert time.monotonic() < deadline, "a place that is free again is given"
        time.sleep(0.02)
    long_ones.pop().close()


def test_a_door_that_starts_anew_is_told_again(engine: door_bench.Engine, tmp_path: Path) -> None:
    with door_bench.running_door(tmp_path, {"gpu": engine.port}) as first:
        ours = Door("", ("127.0.0.1", first.control), first.closed)
        ours.close("agent")
        assert ask(first) == 503
    ours.again()
    with door_bench.running_door(tmp_path, {"gpu": engine.port}, control=first.control) as second:
        assert ask(second) == 200, "it has forgotten"
        ours.again()
        assert ask(second) == 503
        ours.open("agent")
        ours.again()
        assert ask(second) == 200


def test_in_service(running: door_bench.Door, engine: door_bench.Engine, ours: Door) -> None:
    where = ("127.0.0.1", engine.port)
    assert ours.serving(*where) is True and ours.serving("10.9.9.9", 1) is None
    running.command("set server engine-gpu/engine state maint; set server engine-gpu-forensic/engine state maint")
    assert ours.serving(*where) is False
    waited: list[float] = []
    assert not in_service(ours, *where, waited.append, seconds=1.0) and sum(waited) == 1.0

    def comes_back(seconds: float) -> None:
        running.command("set server engine-gpu/engine state ready; set server engine-gpu-forensic/engine state ready")

    assert in_service(ours, *where, comes_back)
    assert in_service(ours, "10.9.9.9", 1, waited.append), "nobody leads there: nothing to wait for"


def test_without_a_door(tmp_path: Path) -> None:
    nobody = Door("", ("127.0.0.1", door_bench.free_port()), "x")
    for door in (nobody, NoDoor()):
        door.close("agent")
        door.again()
        door.open("agent")
        assert door.closed() is None and door.serving("10.88.0.10", 8000) is None


class Odd:
    """Somebody who listens and says one thing to everything; None says nothing."""

    def __init__(self, says: str | None) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.says, self.heard = says, b""
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            self.heard += connection.recv(4096)
            if self.says is not None:
                connection.sendall(self.says.encode())
                connection.close()


@pytest.mark.parametrize(
    ("says", "seen"),
    [
        ("Unknown ACL identifier. Please use #<id> or <name>.\n\n", "it has no list"),
        ("\n", "agent is not shut although it was told"),
        (None, "it does not answer"),
    ],
)
def test_a_door_that_does_not_do_it(says: str | None, seen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_door, "SECONDS", 0.3)
    odd = Odd(says)
    door = Door("", odd.server.getsockname()[:2], "closed")
    with pytest.raises(SovereignError, match=seen):
        door.close("agent")
    door.again()
    odd.server.close()


def test_what_lists_no_engines_is_an_error() -> None:
    odd = Odd("hello\n")
    with pytest.raises(SovereignError, match="it does not list its engines"):
        Door("", odd.server.getsockname()[:2], "closed").serving("10.88.0.10", 8000)
    odd.server.close()
    for text in ("", "1\n", "# srv_addr srv_port\n"):
        with pytest.raises(ValueError, match="does not list"):
            servers(text)


@pytest.mark.parametrize("name", ["", "Agent", "agent;shutdown", "agent\nshow info", "a" * 32])
def test_a_name_is_a_name(name: str) -> None:
    odd = Odd("0x1 agent\n")
    door = Door("", odd.server.getsockname()[:2], "closed")
    for order in (door.close, door.open):
        with pytest.raises(SovereignError, match="is no name of a mode"):
            order(name)
    assert odd.heard == b""
    odd.server.close()
