# SPDX-License-Identifier: MIT
"""engine_probe: a completion is the proof, a green page is none, and what cannot come is not waited for."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.modules import engine_probe

GOOD = (200, {"choices": [{"message": {"content": "p"}}], "usage": {"completion_tokens": 1}})
GREEN_PAGE = (200, {"status": "ok"})
LOADING = (503, {"error": {"code": 503, "message": "Loading model"}})


class Engine(http.server.ThreadingHTTPServer):
    """Answers what it is told, in order; the last answer stays."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, dict[str, Any]]] = [GOOD]
        self.asked: list[tuple[str, str | None, dict[str, Any]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Engine

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers["Authorization"], body))
        status, answer = self.server.answers[0]
        if len(self.server.answers) > 1:
            self.server.answers.pop(0)
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that the base class gives it
        """Quiet."""


@pytest.fixture
def engine() -> Iterator[Engine]:
    server = Engine()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_probe, "PAUSE_SECONDS", 0.0)


def entry(url: str, **more: Any) -> dict[str, Any]:
    empty = {"name": "one", "model": "m", "key_file": None, "unit": None, "container": None}
    return {**empty, "url": url, **more}


def ask(*engines: dict[str, Any], wait: int = 0, says: dict[str, tuple[int, str]] | None = None) -> dict[str, Any]:
    """One probe; ``says``: what the program with this second word answers."""

    def run(command: Sequence[str]) -> tuple[int, str]:
        return (says or {})[command[1] if command[0] == "systemctl" else command[2]]

    options = {"engines": list(engines), "namespace": "", "wait": wait, "timeout": 5}
    return engine_probe.probe(options, run, time.monotonic)


def test_a_completion_is_the_proof(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-secret\nsk-other\n")
    result = ask(entry(engine.url, key_file=str(tmp_path / "key")))
    assert (result["waiting"], result["dead"], result["message"]) == ({}, {}, "all answer")
    path, key, body = engine.asked[0]
    assert (path, key, body["model"], body["max_tokens"]) == ("/v1/chat/completions", "Bearer sk-secret", "m", 1)
    assert "sk-secret" not in json.dumps(result)


@pytest.mark.parametrize(
    ("answer", "why"),
    [(GREEN_PAGE, "an answer without a choice"), (LOADING, "HTTP 503 503 Loading model"), ((404, {}), "HTTP 404")],
)
def test_everything_else_is_none(engine: Engine, answer: tuple[int, dict[str, Any]], why: str) -> None:
    engine.answers = [answer]
    result = ask(entry(engine.url))
    assert result["waiting"] == {"one": why} and result["message"] == f"one: {why}"


def test_it_waits_for_a_slow_start(engine: Engine) -> None:
    engine.answers = [LOADING, LOADING, GOOD]
    assert ask(entry(engine.url), wait=30)["waiting"] == {}
    assert len(engine.asked) == 3


def test_only_those_that_have_not_answered_are_asked_again(engine: Engine) -> None:
    engine.answers = [GOOD]
    result = ask(entry(engine.url), entry("http://127.0.0.1:9/v1", name="two"), wait=1)
    assert list(result["waiting"]) == ["two"] and "refused" in result["waiting"]["two"]
    assert len(engine.asked) == 1


def test_a_failed_unit_is_not_waited_for() -> None:
    result = ask(entry("http://127.0.0.1:9/v1", unit="x.service"), wait=600, says={"is-failed": (0, "failed\n")})
    assert "unit x.service is failed" in result["dead"]["one"] and result["waiting"] == {}


@pytest.mark.parametrize(
    ("says", "dead"),
    [
        ({"inspect": (1, "no such container")}, "is missing"),
        ({"inspect": (0, "exited\n")}, "is exited"),
        ({"inspect": (0, "running\n"), "logs": (0, "Capturing CUDA graphs 40 %\n")}, ""),
    ],
)
def test_a_container_tells_how_far_it_is(says: dict[str, tuple[int, str]], dead: str) -> None:
    result = ask(entry("http://127.0.0.1:9/v1", container="c"), says=says)
    if dead:
        assert dead in result["dead"]["one"]
    else:
        assert result["dead"] == {} and result["message"].endswith("; Capturing CUDA graphs 40 %")


def test_a_missing_key_is_named(run: Any) -> None:
    result = run(engine_probe, engines=[entry("http://127.0.0.1:9/v1", key_file="/none/x.key")])
    assert result["failed"] and "/none/x.key" in result["msg"]
