# SPDX-License-Identifier: MIT
"""The engine door with HAProxy itself: what passes, what does not, what a caller gets when an engine is gone."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import mushishi_gateway_probe
import pytest
from door_bench import Door, Engine, answer, hang, head, plain, running_door

CHAT = "/gpu/v1/chat/completions"


@pytest.fixture
def gpu() -> Iterator[Engine]:
    engine = Engine(plain())
    yield engine
    engine.close()


@pytest.fixture
def door(gpu: Engine, tmp_path: Path) -> Iterator[Door]:
    with running_door(tmp_path, {"gpu": gpu.port, "gpu-forensic": gpu.port}) as running:
        yield running


def test_a_completion_is_written_anew(door: Door, gpu: Engine) -> None:
    sent = (
        "Authorization: Bearer k\r\nContent-Type: application/json\r\nCookie: a\r\nX-Forwarded-For: 1.2.3.4\r\n"
        "traceparent: t\r\nTE: trailers\r\nTrailer: x\r\nUpgrade: h2c\r\nUser-Agent: litellm\r\n"
        "_x: 1\r\n1x: 1\r\n!x: 1\r\n'x: 1\r\n"
    )
    status, headers, body = door.ask("sovereign", "POST", f"{CHAT}?model=other&x=1", b'{"model":"x"}', sent)
    assert (status, body) == (200, b'{"choices":[]}')
    assert "server" not in headers and "set-cookie" not in headers
    line, seen = head(gpu.seen[0])
    assert line == "POST /v1/chat/completions HTTP/1.1"
    assert seen == {
        "authorization": "Bearer k",
        "content-type": "application/json",
        "content-length": "13",
        "host": f"127.0.0.1:{gpu.port}",
        "connection": "close",
    }
    assert gpu.seen[0].endswith(b'\r\n\r\n{"model":"x"}')


def test_a_body_in_pieces_keeps_its_framing(door: Door, gpu: Engine) -> None:
    raw = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    with door.send("hybrid", raw.encode() + b"2\r\n{}\r\n0\r\n\r\n") as connection:
        assert answer(connection)[0] == 200
    _, seen = head(gpu.seen[0])
    assert seen["transfer-encoding"] == "chunked" and "content-length" not in seen


@pytest.mark.parametrize("plane", ["sovereign", "hybrid"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", CHAT),
        ("PUT", "/gpu/v1/models"),
        ("POST", "/gpu/v1/models"),
        ("DELETE", "/gpu/v1/models"),
        ("OPTIONS", CHAT),
        ("GET", "/"),
        ("GET", "/v1/models"),
        ("GET", "/gpu/metrics"),
        ("GET", "/gpu/v1/models/"),
        ("GET", "/gpu//v1/models"),
        ("GET", "//gpu/v1/models"),
        ("GET", "/GPU/v1/models"),
        ("GET", "/gpu/v1/../metrics"),
        ("GET", "/gpu/v1/models/../../metrics"),
        ("GET", "/gpu/v1/models%2f..%2fmetrics"),
        ("GET", "/gpu/v1/%6dodels"),
        ("GET", "/gpu/v1/models;x"),
        ("POST", "/gpu/v1/completions"),
        ("POST", "/gpu/tokenize"),
        ("POST", f"{CHAT}/"),
        ("GET", "/nothing/v1/models"),
    ],
)
def test_what_is_not_listed_does_not_exist(door: Door, gpu: Engine, plane: str, method: str, path: str) -> None:
    status, headers, body = door.ask(plane, method, path, b"{}" if method == "POST" else b"")
    assert status == 404 and headers["content-type"] == "application/json"
    assert method == "HEAD" or json.loads(body)["error"]["code"] == "route_not_found"
    assert gpu.seen == []
    assert door.ask(plane, "GET", "/gpu/v1/models?x=/metrics")[0] == 200, "control: a listed route passes"
    assert head(gpu.seen[0])[0] == "GET /v1/models HTTP/1.1"


def test_only_the_sovereign_side_opens_the_engines_of_t1(door: Door, gpu: Engine) -> None:
    path = "/gpu-forensic/v1/models"
    assert door.ask("hybrid", "GET", path)[0] == 404 and gpu.seen == []
    assert door.ask("sovereign", "GET", path)[0] == 200 and len(gpu.seen) == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /gpu/v1/models HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
        b"POST /gpu/v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"\x16\x03\x01\x00\x05hello\r\n\r\n",
    ],
    ids=["http2", "connect", "no header", "two lengths", "tls"],
)
def test_what_is_no_plain_request_reaches_no_engine(door: Door, gpu: Engine, raw: bytes) -> None:
    with door.send("hybrid", raw) as connection:
        try:
            line = connection.recv(65536).split(b"\r\n")[0]
        except ConnectionResetError:
            line = b""
    assert not line.startswith(b"HTTP/1.1 2") and not line.startswith(b"\x00")
    assert gpu.seen == []


def test_a_refused_engine_is_said_at_once(door: Door, gpu: Engine) -> None:
    gpu.close()
    began = time.monotonic()
    status, _, body = door.ask("sovereign", "GET", "/cpu/v1/models")
    assert status == 503 and json.loads(body)["error"]["code"] == "engine_unreachable"
    assert time.monotonic() - began < 0.5


def test_what_an_engine_answers_goes_back_as_it_is(door: Door, gpu: Engine) -> None:
    for status in (400, 404, 500):
        gpu.script = plain(b'{"error":{}}', f"{status} Word")
        assert door.ask("sovereign", "POST", CHAT, b"{}")[::2] == (status, b'{"error":{}}')


def test_an_engine_out_of_service_costs_nothing_and_its_callers_are_cut(door: Door, gpu: Engine) -> None:
    gpu.script = hang
    waiting: list[tuple[int, float]] = []

    def wait() -> None:
        status, _, _ = door.ask("sovereign", "POST", CHAT, b"{}")
        waiting.append((status, time.monotonic()))

    caller = threading.Thread(target=wait)
    caller.start()
    while not gpu.seen:
        time.sleep(0.01)
    cut = time.monotonic()
    door.command("set server engine-gpu/engine state maint; shutdown sessions server engine-gpu/engine")
    caller.join(5)
    assert waiting[0][0] == 502 and waiting[0][1] - cut < 0.5
    began = time.monotonic()
    status, _, body = door.ask("hybrid", "POST", CHAT, b"{}")
    assert status == 503 and time.monotonic() - began < 0.2
    assert json.loads(body)["error"]["code"] == "engine_unreachable"
    gpu.script = plain()
    door.command("set server engine-gpu/engine state ready")
    assert door.ask("hybrid", "POST", CHAT, b"{}")[0] == 200


def _stream(pieces: list[bytes], *, whole: bool) -> object:
    def script(connection: socket.socket, _request: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for piece in pieces:
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
            time.sleep(0.2)
        if whole:
            connection.sendall(b"0\r\n\r\n")

    return script


def test_each_piece_of_a_stream_goes_out_at_once_and_a_cut_shows(door: Door, gpu: Engine) -> None:
    for whole in (True, False):
        gpu.script = _stream([b"data: a\n\n", b"data: b\n\n"], whole=whole)  # type: ignore[assignment]  # a script
        raw = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}"
        with door.send("hybrid", raw.encode()) as connection:
            first = connection.recv(65536)
            while b"data: a" not in first:
                first += connection.recv(65536)
            assert b"data: b" not in first, "the second piece is not out yet"
            rest = b""
            while b"0\r\n\r\n" not in rest and (piece := connection.recv(65536)):
                rest += piece
        assert b"data: b" in rest
        assert rest.endswith(b"0\r\n\r\n") is whole, "a cut stream has no end"


def test_a_caller_who_leaves_ends_his_request(door: Door, gpu: Engine) -> None:
    gpu.script = hang
    raw = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}"
    connection = door.send("sovereign", raw.encode())
    while not gpu.seen:
        time.sleep(0.01)
    assert gpu.ended == []
    connection.close()
    deadline = time.monotonic() + 5
    while not gpu.ended and time.monotonic() < deadline:
        time.sleep(0.01)
    assert gpu.ended, "the engine was told"


def test_the_roles_own_question_knows_a_door(door: Door, gpu: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    assert mushishi_gateway_probe.main(["--door", f"http://127.0.0.1:{door.ports['sovereign']}"]) == 0
    assert mushishi_gateway_probe.main(["--door", f"http://127.0.0.1:{gpu.port}"]) == 1, "what answers / is no door"
    gpu.close()
    assert mushishi_gateway_probe.main(["--door", "http://127.0.0.1:1"]) == 1
    assert "http://127.0.0.1:1" in capsys.readouterr().err
