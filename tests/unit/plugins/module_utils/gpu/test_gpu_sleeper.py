# SPDX-License-Identifier: MIT
"""Sleep as vLLM has it, asked over real HTTP of a small server that answers as one of its kind."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.sleeper import VllmSleeper
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.tenants import Tenant
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.warm import Doubt
from gpu_world import registry


class Engine(ThreadingHTTPServer):
    """What was asked, and what is answered: path → (status, body)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str, Any]] = []
        self.answers: dict[str, tuple[int, bytes]] = {}


class Handler(BaseHTTPRequestHandler):
    """One request."""

    def do_GET(self) -> None:
        assert isinstance(self.server, Engine)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.command, self.path, json.loads(body) if body else None))
        status, text = self.server.answers.get(self.path.partition("?")[0], (404, b'{"detail": "Not Found"}'))
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_GET  # noqa: N815 - the library's names

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is http.server's
        """Nothing."""


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def tenant(engine: Engine, project: str = "/nowhere/compose.yml") -> Tenant:
    url = f"http://127.0.0.1:{engine.server_address[1]}"
    return replace(
        registry().tenants["vllm-agent"],
        ready={"kind": "completion", "url": url, "model": "nemotron"},
        containers=("mushishi-vllm-agent", "mushishi-vllm-more"),
        project=project,
    )


def sleeper(run: Any = None, meminfo: str = "/proc/meminfo") -> VllmSleeper:
    def never(argv: Sequence[str]) -> tuple[int, str, str]:
        raise AssertionError(argv)

    return VllmSleeper("", run or never, meminfo)


def test_it_is_let_to_end_its_work(engine: Engine) -> None:
    engine.answers["/sleep"] = (200, b'{"status": "sleeping", "level": 1}')
    sleeper().sleep(tenant(engine), 1)
    assert engine.asked == [("POST", "/sleep?level=1&mode=wait", None)]


def test_it_wakes_by_its_level(engine: Engine) -> None:
    engine.answers |= dict.fromkeys(("/wake_up", "/collective_rpc", "/reset_prefix_cache"), (200, b""))
    sleeper().wake(tenant(engine), 1)
    assert engine.asked == [("POST", "/wake_up", None)]
    engine.asked.clear()
    sleeper().wake(tenant(engine), 2)
    assert engine.asked == [
        ("POST", "/wake_up?tags=weights", None),
        ("POST", "/collective_rpc", {"method": "reload_weights"}),
        ("POST", "/wake_up?tags=kv_cache", None),
        ("POST", "/reset_prefix_cache", None),
    ]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((500, b"'list' object has no attribute 'zero_'"), "/wake_up answers with status 500"),
        ((404, b""), "it has no /wake_up: it does not run with VLLM_SERVER_DEV_MODE=1"),
        ((200, b"awake"), "/wake_up answers no JSON"),
    ],
)
def test_what_it_does_not_do_is_a_doubt(engine: Engine, answer: tuple[int, bytes], words: str) -> None:
    engine.answers["/wake_up"] = answer
    with pytest.raises(Doubt) as doubt:
        sleeper().wake(tenant(engine), 1)
    assert str(doubt.value) == words


def test_one_that_is_gone_is_a_doubt(engine: Engine) -> None:
    gone = tenant(engine)
    engine.server_close()
    with pytest.raises(Doubt, match="/is_sleeping gets no answer"):
        sleeper().asleep(gone)


@pytest.mark.parametrize(("said", "asleep"), [(b'{"is_sleeping": true}', True), (b'{"is_sleeping": false}', False)])
def test_what_it_says_of_itself(engine: Engine, said: bytes, asleep: bool) -> None:
    engine.answers["/is_sleeping"] = (200, said)
    assert sleeper().asleep(tenant(engine)) is asleep
    assert engine.asked[0][0] == "GET"


@pytest.mark.parametrize("said", [b"{}", b"[]", b'{"is_sleeping": "no"}'])
def test_half_a_word_is_a_doubt(engine: Engine, said: bytes) -> None:
    engine.answers["/is_sleeping"] = (200, said)
    with pytest.raises(Doubt, match="does not say"):
        sleeper().asleep(tenant(engine))


def test_its_words(engine: Engine) -> None:
    engine.answers["/v1/completions"] = (200, b'{"choices": [{"text": " one cat"}]}')
    assert sleeper().says(tenant(engine)) == " one cat"
    body = engine.asked[0][2]
    assert (body["model"], body["temperature"], body["seed"]) == ("nemotron", 0, 7) and body["max_tokens"] > 16
    for said in (b'{"choices": [{"text": ""}]}', b'{"choices": []}', b"[]"):
        engine.answers["/v1/completions"] = (200, said)
        with pytest.raises(Doubt):
            sleeper().says(tenant(engine))


@pytest.mark.parametrize(
    ("line", "policy"), [("    restart: unless-stopped\n", "unless-stopped"), ('    restart: "no"\n', "no"), ("", "no")]
)
def test_it_comes_back_by_itself_as_its_project_says(engine: Engine, tmp_path: Path, line: str, policy: str) -> None:
    project, calls = tmp_path / "compose.yml", []
    project.write_text(f"services:\n  engine:\n{line}")

    def run(argv: Sequence[str]) -> tuple[int, str, str]:
        calls.append(list(argv))
        return 0, "", ""

    ours = sleeper(run)
    ours.restarts(tenant(engine, str(project)), False)
    ours.restarts(tenant(engine, str(project)), True)
    both = ["mushishi-vllm-agent", "mushishi-vllm-more"]
    assert calls == [["docker", "update", "--restart=no", *both], ["docker", "update", f"--restart={policy}", *both]]


def test_docker_that_says_no_is_a_doubt(engine: Engine) -> None:
    with pytest.raises(Doubt, match="docker update ended with 1: No such container"):
        sleeper(lambda _argv: (1, "", "No such container\n")).restarts(tenant(engine), False)
    with pytest.raises(Doubt, match="cannot be read"):
        sleeper().restarts(tenant(engine), True)


def test_memory_of_the_machine(tmp_path: Path) -> None:
    there = tmp_path / "meminfo"
    there.write_text("MemTotal:  2048000 kB\nMemAvailable:   1048576 kB\n")
    assert sleeper(meminfo=str(there)).host_free() == 1024
    there.write_text("MemTotal:  2048000 kB\n")
    with pytest.raises(Doubt):
        sleeper(meminfo=str(there)).host_free()
    with pytest.raises(Doubt):
        sleeper(meminfo=str(tmp_path / "none")).host_free()
