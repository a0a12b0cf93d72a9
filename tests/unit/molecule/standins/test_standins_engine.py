# SPDX-License-Identifier: MIT
from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import Reply, eventually
from standins import engine, records

MARKER = "MARK-private-9b2e4410fe"
Ask = Callable[..., Reply]


@pytest.fixture
def running() -> Iterator[engine.Engine]:
    options = engine.Options(
        names=("nemotron", "second"),
        host="127.0.0.1",
        port=0,
        max_model_len=64,
        first=0.0,
        each=0.0,
    )
    made = engine.Engine(options)
    made.open()
    yield made
    made.listener.shut()


@pytest.fixture
def ask(running: engine.Engine) -> Ask:
    def call(method: str, path: str, body: Any = None, **headers: str) -> Reply:
        connection = http.client.HTTPConnection(
            "127.0.0.1", running.listener.port, timeout=10
        )
        try:
            connection.request(
                method, path, None if body is None else json.dumps(body), headers
            )
            reply = connection.getresponse()
            return Reply(
                reply.status,
                {k.lower(): v for k, v in reply.headers.items()},
                reply.read(),
            )
        finally:
            connection.close()

    return call


def _chat(prompt: str = "hello", **more: Any) -> dict[str, Any]:
    return {
        "model": "nemotron",
        "messages": [{"role": "user", "content": prompt}],
        **more,
    }


def test_chat_plain_and_streamed_agree_and_ignore_sampling(ask: Ask) -> None:
    plain = ask("POST", "/v1/chat/completions", _chat(MARKER))
    body = plain.json()
    text = body["choices"][0]["message"]["content"]
    assert (
        plain.status == 200
        and text.startswith("[stand-in nemotron] ")
        and MARKER not in text
    )
    again = ask(
        "POST",
        "/v1/chat/completions",
        _chat(MARKER, temperature=1.5, top_p=0.1, seed=3, model="second"),
    ).json()
    assert again["choices"] == body["choices"] and again["model"] == "nemotron", (
        "vLLM echoes the first served name"
    )
    events = ask(
        "POST",
        "/v1/chat/completions",
        _chat(MARKER, stream=True, stream_options={"include_usage": True}),
    ).events()
    assert (
        "".join(e["choices"][0]["delta"].get("content", "") for e in events[:-2])
        == text
    )
    assert events[-2]["usage"] == body["usage"] and events[-1] == "[DONE]"


def test_completions_plain_and_streamed(ask: Ask) -> None:
    request = {"model": "nemotron", "prompt": "once", "max_tokens": 4}
    body = ask("POST", "/v1/completions", request).json()
    assert (
        body["object"] == "text_completion" and body["usage"]["completion_tokens"] == 4
    )
    events = ask("POST", "/v1/completions", {**request, "stream": True}).events()
    assert (
        "".join(e["choices"][0]["text"] for e in events[:-1])
        == body["choices"][0]["text"]
    )


def test_the_other_routes(ask: Ask) -> None:
    assert [m["id"] for m in ask("GET", "/v1/models").json()["data"]] == [
        "nemotron",
        "second",
    ]
    assert ask("GET", "/v1/models").json()["data"][0]["max_model_len"] == 64
    assert (ask("GET", "/health").status, ask("GET", "/health").body) == (200, b"")
    assert ask("GET", "/version").json() == {"version": "0.33.0"} and ask(
        "GET", "/load"
    ).json() == {"server_load": 0}
    tokens = ask(
        "POST", "/tokenize", {"model": "nemotron", "prompt": "two words"}
    ).json()
    assert (
        tokens["count"] == 2
        and len(tokens["tokens"]) == 2
        and tokens["max_model_len"] == 64
    )
    assert ask("POST", "/detokenize", {"tokens": [1, 2]}).json() == {
        "prompt": "token1 token2"
    }
    assert (
        ask("GET", "/v1/chat/completions").status == 405
        and ask("GET", "/nowhere").status == 404
    )


def test_vllms_errors(ask: Ask) -> None:
    reply = ask(
        "POST", "/v1/chat/completions", {**_chat(), "model": "nemotron-forensic"}
    )
    assert reply.status == 404
    assert reply.json() == {
        "error": {
            "message": "The model `nemotron-forensic` does not exist.",
            "type": "NotFoundError",
            "param": "model",
            "code": 404,
        }
    }
    reply = ask("POST", "/v1/chat/completions", _chat("word " * 80))
    assert (
        reply.status == 400
        and "maximum context length is 64 tokens" in reply.json()["error"]["message"]
    )
    assert ask("POST", "/v1/chat/completions", {"model": "nemotron"}).status == 400
    assert (
        ask("POST", "/v1/chat/completions", _chat("word " * 50)).json()["usage"][
            "total_tokens"
        ]
        <= 64
    )


def test_metrics_have_vllms_names_and_move(ask: Ask, running: engine.Engine) -> None:
    ask("POST", "/v1/chat/completions", _chat())
    deadline = time.monotonic() + 5
    while running.metrics.running and time.monotonic() < deadline:
        time.sleep(0.01)
    text = ask("GET", "/metrics").body.decode()
    label = '{engine="0",model_name="nemotron"'
    for line in (
        f"vllm:num_requests_running{label}}} 0.0",
        f"vllm:num_requests_waiting{label}}} 0.0",
        f'vllm:num_requests_waiting_by_reason{label},reason="capacity"}} 0.0',
        f"vllm:kv_cache_usage_perc{label}}} 0.0",
        f'vllm:engine_sleep_state{label},sleep_state="awake"}} 1.0',
        f'vllm:request_success_total{label},finished_reason="stop"}} 1.0',
        f"vllm:time_to_first_token_seconds_count{label}}} 1.0",
        f"vllm:inter_token_latency_seconds_count{label}}} 1.0",
        f"vllm:e2e_request_latency_seconds_count{label}}} 1.0",
        f"vllm:prefix_cache_hits_total{label}}} 0.0",
    ):
        assert line in text.splitlines()
    assert (
        "vllm:prefix_cache_queries_total" in text and "vllm:cache_config_info" in text
    )


def test_hang_keeps_health_green_until_it_is_lifted(
    ask: Ask, running: engine.Engine
) -> None:
    running.set_fault("hang")
    ended: list[str] = []

    def call() -> None:
        with pytest.raises((OSError, http.client.HTTPException)):
            ask("POST", "/v1/chat/completions", _chat(MARKER))
        ended.append("reset")

    thread = threading.Thread(target=call)
    thread.start()
    assert (
        eventually(lambda: records.find(running.recorder.records(), MARKER))["count"]
        == 1
    )
    assert ask("GET", "/health").status == 200 and not ended
    assert (
        'vllm:num_requests_running{engine="0",model_name="nemotron"} 1.0'
        in ask("GET", "/metrics").body.decode()
    )
    running.set_fault("ok")
    thread.join(5)
    assert ended and ask("POST", "/v1/chat/completions", _chat()).status == 200


def test_500_and_unhealthy(ask: Ask, running: engine.Engine) -> None:
    running.set_fault("500")
    reply = ask("POST", "/v1/chat/completions", _chat())
    assert (
        reply.status == 500 and reply.json()["error"]["type"] == "InternalServerError"
    )
    assert ask("GET", "/health").status == 200
    running.set_fault("unhealthy")
    assert (
        ask("GET", "/health").status == 503
        and ask("POST", "/v1/chat/completions", _chat()).status == 500
    )


def test_short_ends_in_good_order_and_says_no_reason(ask: Ask, running: engine.Engine) -> None:
    for pieces in (0, 2):
        running.set_fault(f"short={pieces}")
        reply = ask("POST", "/v1/chat/completions", _chat(stream=True))
        said = [json.loads(line[6:]) for line in reply.body.decode().splitlines() if line.startswith("data: ")]
        assert sum(bool(event["choices"][0]["delta"].get("content")) for event in said) == pieces
        assert not any(event["choices"][0]["finish_reason"] for event in said) and b"[DONE]" not in reply.body
    running.set_fault("ok")
    assert b"[DONE]" in ask("POST", "/v1/chat/completions", _chat(stream=True)).body, "control"


def test_cut_slow_and_refuse(ask: Ask, running: engine.Engine) -> None:
    running.set_fault("cut=2")
    with pytest.raises(http.client.IncompleteRead) as cut:
        ask("POST", "/v1/chat/completions", _chat(stream=True))
    assert b"[DONE]" not in cut.value.partial
    running.set_fault("slow-first-token=0.4")
    began = time.monotonic()
    assert (
        ask("POST", "/v1/chat/completions", _chat()).status == 200
        and time.monotonic() - began >= 0.4
    )
    running.set_fault("refuse")
    with pytest.raises(ConnectionRefusedError):
        ask("GET", "/health")
    running.set_fault("ok")
    assert ask("GET", "/health").status == 200


def test_404_and_drop(ask: Ask, running: engine.Engine) -> None:
    running.set_fault("404")
    missing = ask("POST", "/v1/chat/completions", _chat())
    assert (missing.status, missing.json()["error"]["type"]) == (404, "NotFoundError")
    running.set_fault("drop")
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        ask("POST", "/v1/chat/completions", _chat())
    assert ask("GET", "/health").status == 200
    running.set_fault("ok")
    assert ask("POST", "/v1/chat/completions", _chat()).status == 200


def test_speed_is_shown_and_set(ask: Ask, running: engine.Engine) -> None:
    speed = running.verbs()["speed"]
    assert speed({}) == {"first_ms": 0.0, "token_ms": 0.0}
    assert speed({"first_ms": 120, "token_ms": 10}) == {"first_ms": 120.0, "token_ms": 10.0}
    began = time.monotonic()
    assert ask("POST", "/v1/chat/completions", _chat(max_tokens=4)).status == 200
    assert time.monotonic() - began >= 0.15
    with pytest.raises(ValueError, match="speed"):
        speed({"first_ms": -1, "token_ms": 0})


def test_an_unknown_fault_is_refused(running: engine.Engine) -> None:
    with pytest.raises(ValueError, match="known: ok, hang"):
        running.set_fault("sulk")


def test_the_key_guards_v1_only() -> None:
    made = engine.Engine(
        engine.Options(names=("n",), host="127.0.0.1", port=0, keys=("k1", "k2"))
    )
    made.open()
    connection = http.client.HTTPConnection("127.0.0.1", made.listener.port)
    seen = []
    for path, key in (
        ("/v1/models", ""),
        ("/v1/models", "bad"),
        ("/v1/models", "k2"),
        ("/metrics", ""),
    ):
        connection.request(
            "GET", path, headers={"Authorization": f"Bearer {key}"} if key else {}
        )
        reply = connection.getresponse()
        reply.read()
        seen.append(reply.status)
    connection.close()
    made.listener.shut()
    assert seen == [401, 401, 200, 200]


def test_vllms_command_line_is_understood() -> None:
    words = (
        "serve /models/nemotron-nvfp4 --served-model-name nemotron other --host 0.0.0.0 --port=8123 -tp 2"
        " --max-model-len 32K --kv-cache-dtype fp8 --enable-prefix-caching --limit-mm-per-prompt"
    )
    options = engine.parse_options(
        [*words.split(), '{"audio":1}', "--api-key", "a", "b"], {"STANDIN_TTFT_MS": "5"}
    )
    assert (
        options.names == ("nemotron", "other")
        and options.port == 8123
        and options.keys == ("a", "b")
    )
    assert options.max_model_len == 32768 and options.first == 0.005
    assert engine.parse_options(["/m/x"], {}).names == ("/m/x",)
    assert engine.parse_options([], {"STANDIN_SERVED_MODEL_NAME": "a b"}).names == (
        "a",
        "b",
    )
    assert engine.parse_options(["--max-model-len", "-1"], {}).max_model_len == 32768
    with pytest.raises(ValueError, match="port"):
        engine.parse_options(["--port", "x"], {})


def _cache(ask: Ask) -> float:
    text = ask("GET", "/metrics").body.decode()
    return float(next(line for line in text.splitlines() if line.startswith("vllm:kv_cache_usage_perc")).split()[-1])


def _in_background(ask: Ask, prompt: str, ended: list[tuple[str, float]]) -> threading.Thread:
    def call() -> None:
        try:
            status = str(ask("POST", "/v1/chat/completions", _chat(prompt)).status)
        except (OSError, http.client.HTTPException):
            status = "reset"
        ended.append((status, time.monotonic()))

    thread = threading.Thread(target=call)
    thread.start()
    return thread


@pytest.mark.parametrize("fault", ["hang", "sleep"])
def test_the_counters_of_a_stuck_core_stand_still(ask: Ask, running: engine.Engine, fault: str) -> None:
    ask("POST", "/v1/chat/completions", _chat())
    # The answer is whole before the engine has counted its end.
    eventually(lambda: {"count": _cache(ask) == 0.0})
    running.set_fault(fault)
    before = _cache(ask)
    ended: list[tuple[str, float]] = []
    threads = [_in_background(ask, MARKER, ended) for _ in range(2)]
    eventually(lambda: {"count": records.find(running.recorder.records(), MARKER)["count"] == 2})
    assert _cache(ask) == before and ask("GET", "/v1/models").status == 200 and not ended
    text = ask("GET", "/metrics").body.decode()
    assert ('running{engine="0",model_name="nemotron"} 0.0' in text) is (fault == "sleep")
    assert ('sleep_state="awake"} 0.0' in text) is (fault == "sleep")
    running.set_fault("ok")
    for thread in threads:
        thread.join(5)
    assert [status for status, _ in ended] == ["reset", "reset"] and ask("GET", "/health").status == 200


def test_a_dead_engine_answers_no_route(ask: Ask, running: engine.Engine) -> None:
    running.set_fault("hang-all")
    for path in ("/health", "/metrics", "/v1/models"):
        connection = http.client.HTTPConnection("127.0.0.1", running.listener.port, timeout=0.5)
        connection.request("GET", path)
        with pytest.raises(TimeoutError):
            connection.getresponse()
        connection.close()
    running.set_fault("ok")
    assert ask("GET", "/health").status == 200


def test_a_slow_prompt_keeps_nobody_else_waiting(ask: Ask, running: engine.Engine) -> None:
    running.set_fault("slow-prompt=1.5")
    ended: list[tuple[str, float]] = []
    began = time.monotonic()
    thread = _in_background(ask, f"{engine.SLOW_WORD} please", ended)
    eventually(lambda: records.find(running.recorder.records(), engine.SLOW_WORD))
    assert ask("POST", "/v1/chat/completions", _chat("short")).status == 200 and not ended
    thread.join(10)
    assert ended[0][0] == "200" and ended[0][1] - began >= 1.5


def test_a_slow_prompt_that_fills_every_step_shows_that_it_works(ask: Ask, running: engine.Engine) -> None:
    running.set_fault("slow-serial=1.5")
    ended: list[tuple[str, float]] = []
    slow = _in_background(ask, f"{engine.SLOW_WORD} please", ended)
    eventually(lambda: records.find(running.recorder.records(), engine.SLOW_WORD))
    short = _in_background(ask, "short", ended)
    first = _cache(ask)
    time.sleep(0.4)
    assert _cache(ask) > first and not ended, "the cache grows, and the short one waits in line"
    slow.join(10)
    short.join(10)
    assert [status for status, _ in ended] == ["200", "200"]


def test_it_sleeps_and_wakes_only_with_the_development_routes(ask: Ask) -> None:
    assert ask("POST", "/sleep?level=1&mode=wait").status == 404 == ask("GET", "/is_sleeping").status
    given = engine.parse_options(["m", "--enable-sleep-mode"], {"VLLM_SERVER_DEV_MODE": "1"})
    assert given.sleeps and not engine.parse_options(["m", "--enable-sleep-mode"], {}).sleeps
    assert not engine.parse_options(["m"], {"VLLM_SERVER_DEV_MODE": "1"}).sleeps


def test_a_sleeper_gives_its_memory_back_or_lies_about_it() -> None:
    made = engine.Engine(engine.Options(names=("n",), host="127.0.0.1", port=0, vram_mib=10_000, sleeps=True))
    made.open()
    try:

        def asked(method: str, path: str) -> Any:
            connection = http.client.HTTPConnection("127.0.0.1", made.listener.port, timeout=10)
            connection.request(method, path)
            reply = connection.getresponse()
            text = reply.read()
            connection.close()
            assert reply.status == 200, text
            return json.loads(text) if text else None

        assert asked("GET", "/is_sleeping") == {"is_sleeping": False}
        asked("POST", "/sleep?level=1&mode=wait")
        assert (asked("GET", "/is_sleeping"), made.hold.mib) == ({"is_sleeping": True}, 700)
        asked("POST", "/wake_up")
        assert (asked("GET", "/is_sleeping"), made.hold.mib) == ({"is_sleeping": False}, 10_000)
        made.verbs()["lies"]({"lies": 1})
        asked("POST", "/sleep?level=1&mode=wait")
        assert (asked("GET", "/is_sleeping"), made.hold.mib) == ({"is_sleeping": True}, 10_000)
    finally:
        made.listener.shut()
