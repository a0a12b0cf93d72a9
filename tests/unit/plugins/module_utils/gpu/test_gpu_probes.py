# SPDX-License-Identifier: MIT
"""Ready and busy, asked of real sockets that answer as the tenants do, and as they should not."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import probes
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.tenants import Process, Tenant

NOBODY = "http://127.0.0.1:9"


def tenant(**given: Any) -> Tenant:
    ready = {"kind": "completion", "url": NOBODY, "model": "nemotron"}
    return Tenant("engine", "/x", ("engine",), 100, **{"ready": ready, **given})


HERE = [Process(1, 100, "python3", "root", "engine")]


class Quiet(http.server.BaseHTTPRequestHandler):
    """Says what it is told to, and nothing of it on standard error."""

    def say(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_words: object) -> None:
        """Be quiet."""


@contextmanager
def listening(handler: type[Quiet]) -> Iterator[str]:
    """An HTTP service of this handler; its base address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@contextmanager
def answering(answers: dict[str, tuple[int, str]]) -> Iterator[str]:
    """An HTTP service; its base address."""

    class Handler(Quiet):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.say(*answers.get(self.path, (404, "{}")))

        do_GET = do_POST = answer  # noqa: N815 - the library's names

    with listening(Handler) as url:
        yield url


GOOD = json.dumps({"choices": [{"message": {"content": "yes"}}], "usage": {"completion_tokens": 1}})


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((200, GOOD), ""),
        ((200, "{}"), "status 200"),
        ((200, "OK"), "status 200"),
        ((503, json.dumps({"error": {"code": 503, "message": "still loading"}})), "status 503 503 still loading"),
    ],
)
def test_ready_is_a_completion_and_nothing_else(answer: tuple[int, str], why: str) -> None:
    with answering({"/v1/chat/completions": answer, "/health": (200, "")}) as url:
        asked = tenant(ready={"kind": "completion", "url": url, "model": "nemotron"})
        assert probes.Probes("").ready(asked) == why


def test_nobody_is_there() -> None:
    assert "refused" in probes.Probes("").ready(tenant())
    assert "efused" in probes.Probes("").ready(tenant(ready={"kind": "answer", "url": NOBODY, "key": "x"}))


def test_ready_is_an_answer_with_a_key() -> None:
    with answering({"/system_stats": (200, '{"system": {}}'), "/page": (200, "<p>"), "/list": (200, "[]")}) as url:

        def why(path: str, key: str) -> str:
            return probes.Probes("").ready(tenant(ready={"kind": "answer", "url": f"{url}{path}", "key": key}))

        assert why("/system_stats", "system") == ""
        assert why("/system_stats", "devices") == "its answer has no devices"
        assert why("/page", "x") == "it answers no JSON" and why("/list", "x") == "it answers no JSON object"
        assert why("/gone", "x") == "status 404"


VLLM = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="nemotron"} %s
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="nemotron"} %s
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 7.0
"""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (VLLM % ("0.0", "0.0"), []),
        (VLLM % ("2.0", "0.0"), ["2 requests running"]),
        (VLLM % ("2.0", "1e+1"), ["2 requests running", "10 requests waiting"]),
        ("up 1\n", ["it does not say whether it works (its metrics count no requests)"]),
    ],
)
def test_vllm_at_work(text: str, found: list[str]) -> None:
    with answering({"/metrics": (200, text)}) as url:
        asked = tenant(busy=({"kind": "vllm", "url": f"{url}/metrics"},))
        assert probes.Probes("").busy(asked, HERE) == found


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ('vllm:prompt_tokens_total{engine="0"} 40.0\nvllm:generation_tokens_total{engine="0"} 1.5e+2\n', 190.0),
        ("vllm:generation_tokens_total 3\nvllm:generation_tokens_created 1.7e9\n", 3.0),
        (VLLM % ("2.0", "0.0"), None),
    ],
)
def test_what_vllm_has_made(text: str, made: float | None) -> None:
    with answering({"/metrics": (200, text)}) as url:
        load = {"kind": "load", "percent": 5}
        assert probes.Probes("").made(tenant(busy=(load, {"kind": "vllm", "url": f"{url}/metrics"}))) == made
        assert probes.Probes("").made(tenant(busy=(load, {"kind": "vllm", "url": f"{url}/gone"}))) is None
        assert probes.Probes("").made(tenant(busy=(load,))) is None


@pytest.mark.parametrize(
    ("metrics", "why"),
    [
        ("llamacpp:requests_processing 2\nllamacpp:requests_deferred 1\n", ""),
        ("llamacpp:requests_processing 0\n", "timed out"),
        ("up 1\n", "timed out"),
        (None, "timed out"),
    ],
    ids=["all places taken", "nobody in it", "it counts nothing", "it says nothing"],
)
def test_a_floor_that_works_for_others_is_not_dead(
    metrics: str | None, why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its places are taken: a question waits, and its metrics, told between two steps of the work, say so."""
    monkeypatch.setattr(probes, "FLOOR_SECONDS", 0.5)
    (tmp_path / "key").write_text("sk-floor\n")
    asked: list[tuple[str, str | None]] = []
    with silent_but(metrics, asked) as url:
        probe = {"kind": "completion", "url": url, "model": "c", "key_file": str(tmp_path / "key")}
        assert probes.Probes("").floor("cpu", probe) == why
    assert asked == [("/v1/chat/completions", "Bearer sk-floor"), ("/metrics", "Bearer sk-floor")]
    assert "efused" in probes.Probes("").floor("cpu", {**probe, "url": NOBODY}), "control: gone is gone"


@contextmanager
def silent_but(metrics: str | None, asked: list[tuple[str, str | None]]) -> Iterator[str]:
    """A llama-server that answers no completion, and its metrics or not; its base address."""
    over = threading.Event()

    class Handler(Quiet):
        def answer(self) -> None:
            asked.append((self.path, self.headers.get("authorization")))
            if self.path != "/metrics" or metrics is None:
                over.wait(30)
                self.close_connection = True
                return
            self.say(200, metrics)

        do_GET = do_POST = answer  # noqa: N815 - the library's names

    with listening(Handler) as url:
        try:
            yield url
        finally:
            over.set()


@pytest.mark.parametrize(
    ("queue", "found"),
    [
        ({"queue_running": [], "queue_pending": []}, []),
        ({"queue_running": [[1]], "queue_pending": [[2], [3]]}, ["1 prompts running", "2 prompts waiting"]),
        ({"queue_running": 3}, ["it does not say whether it works (it answers no queue)"]),
    ],
)
def test_comfyui_at_work(queue: dict[str, Any], found: list[str]) -> None:
    with answering({"/queue": (200, json.dumps(queue))}) as url:
        assert probes.Probes("").busy(tenant(busy=({"kind": "comfyui", "url": f"{url}/queue"},)), HERE) == found


@contextmanager
def redis(answers: dict[str, str]) -> Iterator[str]:
    """As much of Redis as is asked: commands in one line each."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                self.wfile.write(f"{answers.get(line.decode().strip(), ':0')}\r\n".encode())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"redis://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ({}, []),
        ({"LLEN rq:queue:gpu": ":3"}, ["3 jobs waiting in gpu"]),
        ({"ZCARD rq:wip:gpu": ":1", "LLEN rq:queue:low": ":2"}, ["1 jobs running in gpu", "2 jobs waiting in low"]),
        ({"ZCARD rq:wip:low": "-NOAUTH"}, ["it does not say whether it works (it answers '-NOAUTH')"]),
    ],
)
def test_rq_at_work(answers: dict[str, str], found: list[str]) -> None:
    with redis(answers) as url:
        asked = tenant(busy=({"kind": "rq", "url": url, "queues": ["gpu", "low"]},))
        assert probes.Probes("").busy(asked, HERE) == found


def test_one_that_is_gone_works_at_nothing() -> None:
    asked = tenant(busy=({"kind": "vllm", "url": f"{NOBODY}/metrics"}, {"kind": "rq", "url": NOBODY, "queues": ["x"]}))
    assert probes.Probes("").busy(asked, []) == []
    assert len(probes.Probes("").busy(asked, HERE)) == 2, "control: it holds the card and says nothing"


@pytest.mark.parametrize(
    ("load", "here", "found"), [(90, True, True), (10, True, False), (90, False, False), (None, True, False)]
)
def test_the_back_stop(load: int | None, here: bool, found: bool) -> None:
    asked = tenant(busy=({"kind": "load", "percent": 50},))
    said = probes.Probes("", lambda: load).busy(asked, HERE if here else [])
    assert bool(said) is found and said == (["the card is used to 90 %"] if found else [])


def test_a_namespace_that_is_not_there() -> None:
    with pytest.raises(SovereignError, match="network namespace /run/netns/none"):
        probes.Probes("/run/netns/none").ready(tenant())


def test_a_probe_of_another_version_is_refused() -> None:
    probes.known(tenant(busy=({"kind": "load", "percent": 5},)))
    with pytest.raises(SovereignError, match="'health' is not known"):
        probes.known(replace(tenant(), ready={"kind": "health"}))
    with pytest.raises(SovereignError, match="'moon' is not known"):
        probes.known(tenant(busy=({"kind": "moon"},)))


def test_who_is_no_engine_of_the_policy_is_asked_from_inside_itself() -> None:
    """An engine from the plane, whoever its callers are; all others where their address is."""
    seen: list[tuple[str, str]] = []
    answers: dict[str, str | None] = {"here": ""}

    def inside(asked: Tenant, address: str) -> str | None:
        seen.append((asked.name, address))
        return answers["here"]

    with answering(
        {"/status": (200, '{"ok": 1}'), "/queue": (200, '{"queue_running": [1], "queue_pending": []}')}
    ) as url:
        probe = {"kind": "answer", "url": f"{url}/status", "key": "ok"}
        other = tenant(ready=probe, busy=({"kind": "comfyui", "url": f"{url}/queue"},))
        asker = probes.Probes("/run/netns/none", inside=inside)
        assert asker.ready(other) == "" and asker.busy(other, HERE) == ["1 prompts running"]
        assert seen == [("engine", "127.0.0.1")] * 2
        for where, why in ((None, "none of its containers has that address"), ("/proc/0/ns/net", "cannot")):
            answers["here"] = where
            assert why in asker.ready(other)
            assert why in asker.busy(other, HERE)[0]
            assert asker.busy(other, []) == [], "who is not on the card is not at work"
        with pytest.raises(SovereignError, match="/run/netns/none"):
            asker.ready(replace(other, engine="agent"))
