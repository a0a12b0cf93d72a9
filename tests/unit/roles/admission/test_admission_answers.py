# SPDX-License-Identifier: MIT
"""What the client hears: errors of the chain, streams whole or cut, slow and vanished parties; over real sockets."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any

import httpx
import pytest
from admission.upstream import Gateway
from admission_standin import KEYS, Live, Service, chunk, completion, event

SECRET = "group 'private.cpu' at http://10.88.0.2:8001 said: canary-55aa"


def body(profile: str = "private", **fields: Any) -> dict[str, Any]:
    return {"model": profile, "messages": [{"role": "user", "content": "hi"}], **fields}


def wrapped(text: str, code: str = "500") -> dict[str, Any]:
    """An error in the shape in which LiteLLM wraps them."""
    return {"error": {"message": f"litellm.Error: {text} {SECRET}", "type": "x", "param": None, "code": code}}


def error_of(answer: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    assert "10.88" not in answer.text
    assert "canary" not in answer.text
    assert "private.cpu" not in answer.text
    assert "litellm" not in answer.text.lower()
    return error


# --- nothing local answers -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("status", [404, 408, 409, 425, 429, 500, 501, 502, 503, 504, 301, 204])
@pytest.mark.parametrize("stream", [False, True])
def test_queue_profile_without_engines(service: Service, status: int, stream: bool) -> None:
    service.gateway.status, service.gateway.reply = status, wrapped("Connection error")
    answer = service.chat(body(stream=stream))
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["type"]) == (503, "no_local_engine", "server_error")
    assert answer.headers["retry-after"] == "30"
    assert answer.headers["x-sovereign-profile"] == "private"
    assert answer.headers["x-request-id"] == service.log[-1]["id"]
    assert "keeps no queue" in error["message"]
    assert "'agent'" in error["message"]
    assert service.log[-1]["reason"] == f"gateway answered {status}"
    assert "canary" not in "".join(service.lines)


@pytest.mark.parametrize(("profile", "mode"), [("client", "forensic"), ("coding", "coding")])
@pytest.mark.parametrize("status", [404, 429, 500, 503])
def test_error_profile_names_its_mode(service: Service, profile: str, mode: str, status: int) -> None:
    service.gateway.status, service.gateway.reply = status, wrapped("Connection error")
    answer = service.chat(body(profile), profile)
    error = error_of(answer)
    assert (answer.status_code, error["code"]) == (503, "engine_unavailable")
    assert f"GPU mode '{mode}'" in error["message"]
    assert "no fallback" in error["message"]
    assert ("CPU engine" in error["message"]) == (profile == "coding")
    assert "retry-after" not in answer.headers
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    "text",
    [
        "ContextWindowExceededError: prompt is too long",
        "This model's maximum context length is 32768 tokens",
        "the request exceeds the available context size",
    ],
)
@pytest.mark.parametrize("profile", ["private", "client"])
def test_context_overflow_stays_a_400(service: Service, text: str, profile: str) -> None:
    service.gateway.status, service.gateway.reply = 400, wrapped(text, "400")
    error = error_of(answer := service.chat(body(profile), profile))
    assert (answer.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")
    assert "32768" in error["message"]


@pytest.mark.parametrize("profile", ["private", "coding"])
def test_prompt_too_long_for_the_link_that_is_left(service: Service, profile: str) -> None:
    """The first link is away, and only it might have taken the prompt: waiting can help, so it is no 400."""
    text = "Connection error. Fallback to x also failed: litellm.ContextWindowExceededError: maximum context length"
    service.gateway.status, service.gateway.reply = 500, wrapped(text)
    error = error_of(answer := service.chat(body(profile), profile))
    assert (answer.status_code, error["code"]) in [(503, "no_local_engine"), (503, "engine_unavailable")]
    assert error["message"].endswith("cannot take a prompt of this length.")


@pytest.mark.parametrize("status", [400, 413, 422])
def test_other_rejections_stay_a_400_without_their_text(service: Service, status: int) -> None:
    service.gateway.status, service.gateway.reply = status, wrapped("Unsupported parameter", str(status))
    answer = service.chat(body())
    assert (answer.status_code, error_of(answer)["code"]) == (400, "engine_rejected_request")


@pytest.mark.parametrize(
    ("status", "text"), [(401, "Invalid key"), (403, "No access"), (400, "Invalid model name passed in model=private")]
)
def test_a_gateway_that_refuses_us_is_our_fault(service: Service, status: int, text: str) -> None:
    service.gateway.status, service.gateway.reply = status, wrapped(text, str(status))
    answer = service.chat(body())
    assert (answer.status_code, error_of(answer)["code"]) == (502, "gateway_misconfigured")


@pytest.mark.parametrize("reply", [b"", b"<html>", b"[]", b"{}", b'{"error":{"message":"x"}}', b"\xff\xfe"])
def test_a_200_that_is_no_completion(service: Service, reply: bytes) -> None:
    service.gateway.reply = reply
    answer = service.chat(body())
    assert (answer.status_code, error_of(answer)["code"]) == (503, "no_local_engine")
    assert "x-sovereign-backend" not in answer.headers


def test_gateway_that_is_down(service: Service, live: Live) -> None:
    running = live()
    answer = httpx.post(
        f"{running.url}/v1/chat/completions", json=body(), headers={"authorization": f"Bearer {KEYS['private']}"}
    )
    assert answer.status_code == 200
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        service.app._gateway = Gateway(f"http://127.0.0.1:{closed.getsockname()[1]}", "x" * 20)
        answer = service.chat(body())
    assert (answer.status_code, error_of(answer)["code"]) == (503, "no_local_engine")
    assert service.log[-1]["reason"] == "gateway unreachable"


@pytest.mark.parametrize("model_id", ["private/groq", "client/gpu-forensic", "gpu", "private/", "0123abc"])
def test_answer_from_outside_the_chain_is_not_passed_on(service: Service, model_id: str) -> None:
    service.gateway.model_id = model_id
    answer = service.chat(body())
    assert (answer.status_code, error_of(answer)["code"]) == (502, "gateway_misconfigured")
    assert "hello" not in answer.text


def test_backend_of_a_later_link(service: Service) -> None:
    service.gateway.model_id = "private/cpu"
    assert service.chat(body()).headers["x-sovereign-backend"] == "cpu"
    service.gateway.model_id = None
    assert service.chat(body()).headers["x-sovereign-backend"] == "unknown"


# --- streams ---------------------------------------------------------------------------------------------------------
def data_of(text: str) -> list[str]:
    return [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]


def test_stream_to_its_end(service: Service) -> None:
    answer = service.chat(body(stream=True, stream_options={"include_usage": True}))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["x-sovereign-backend"] == "gpu"
    *chunks, end = data_of(answer.text)
    assert end == "[DONE]"
    parsed = [json.loads(one) for one in chunks]
    assert "".join(one["choices"][0]["delta"]["content"] for one in parsed) == "hello"
    assert {one["model"] for one in parsed} == {"private"}
    assert service.gateway.seen[0].json["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    "events",
    [
        [event(chunk("hel"))],
        [event(chunk("hel")), event(chunk("lo", "stop"))],
        [event(chunk("hel")), event(wrapped("died"))],
        [event(chunk("hel")), event(wrapped("died")), b"data: [DONE]\n\n"],
        [event(chunk("hel")), b"data: [DONE]"],
        [event(chunk("hel")), b"data: {not json\n\n", b"data: [DONE]\n\n"],
        [event(chunk("hel")), b"data: []\n\n", b"data: [DONE]\n\n"],
    ],
)
def test_stream_without_an_end_says_so(service: Service, events: list[bytes]) -> None:
    service.gateway.events = events
    answer = service.chat(body(stream=True))
    assert answer.status_code == 200
    *_, last = data_of(answer.text)
    assert json.loads(last)["error"]["code"] == "stream_interrupted"
    assert "[DONE]" not in answer.text
    assert "canary" not in answer.text
    assert service.log[-1]["code"] == "stream_interrupted"


@pytest.mark.parametrize(
    ("events", "status", "code"),
    [
        ([event(wrapped("refused"))], 503, "no_local_engine"),
        ([b": ping\n\n", event(wrapped("refused"))], 503, "no_local_engine"),
        ([event(wrapped("maximum context length", "400"))], 400, "context_length_exceeded"),
        ([event(wrapped("x", "401"))], 502, "gateway_misconfigured"),
        ([event({"error": "x"})], 503, "no_local_engine"),
        ([b"data: [DONE]\n\n"], 503, "no_local_engine"),
        ([b"data: {\n\n"], 503, "no_local_engine"),
        ([], 503, "no_local_engine"),
    ],
)
def test_error_before_the_first_chunk_is_an_http_error(
    service: Service, events: list[bytes], status: int, code: str
) -> None:
    service.gateway.events = events
    answer = service.chat(body(stream=True))
    assert (answer.status_code, error_of(answer)["code"]) == (status, code)


def test_events_split_anywhere_arrive_whole(service: Service) -> None:
    whole = (
        event(chunk("ä€")) + b": ping\r\n\r\n" + event(chunk("x", "stop")).replace(b"\n", b"\r\n") + b"data: [DONE]\n\n"
    )
    service.gateway.events = [whole[index : index + 1] for index in range(len(whole))]
    answer = service.chat(body(stream=True))
    assert "".join(json.loads(one)["choices"][0]["delta"]["content"] for one in data_of(answer.text)[:-1]) == "ä€x"
    assert ": keep-alive\n\n" in answer.text
    assert data_of(answer.text)[-1] == "[DONE]"


# --- over real sockets -----------------------------------------------------------------------------------------------
def post(running: Service, document: dict[str, Any], **options: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {KEYS['private']}"}
    return httpx.post(f"{running.url}/v1/chat/completions", json=document, headers=headers, timeout=20, **options)


def connect(running: Service) -> socket.socket:
    host, port = running.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def received(connection: socket.socket) -> bytes:
    """Everything until the other side closes (or resets)."""
    collected = b""
    try:
        while piece := connection.recv(65536):
            collected += piece
    except ConnectionError:
        return collected
    return collected


def eventually(condition: Any, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def last_line(running: Service, seconds: float = 10) -> dict[str, Any]:
    """The log line of the last request; it is written after the client has its answer."""
    assert eventually(lambda: bool(running.lines), seconds)
    return running.log[-1]


def test_real_servers_plain_and_streamed(live: Live) -> None:
    running = live()
    assert post(running, body()).json()["choices"][0]["message"]["content"] == "hello"
    assert data_of(post(running, body(stream=True)).text)[-1] == "[DONE]"
    assert len(running.gateway.seen) == 2
    assert eventually(lambda: len(running.lines) == 2)


def test_chunks_arrive_while_the_engine_still_writes(live: Live) -> None:
    running = live()
    running.gateway.gap = 1.0
    headers = {"authorization": f"Bearer {KEYS['private']}"}
    started = time.monotonic()
    with httpx.stream(
        "POST", f"{running.url}/v1/chat/completions", json=body(stream=True), headers=headers, timeout=20
    ) as answer:
        pieces = answer.iter_raw()
        first = next(pieces)
        assert time.monotonic() - started < 0.9
        assert b"hel" in first
        assert b"DONE" in b"".join(pieces)


def test_engine_cut_in_mid_stream(live: Live) -> None:
    running = live()
    running.gateway.events, running.gateway.cut = [event(chunk("hel"))], True
    text = post(running, body(stream=True)).text
    assert json.loads(data_of(text)[-1])["error"]["code"] == "stream_interrupted"
    assert "[DONE]" not in text


def test_silent_engine_in_mid_stream(live: Live) -> None:
    running = live(stream_idle_seconds=0.3)
    running.gateway.events, running.gateway.gap = [event(chunk("hel")), b"data: [DONE]\n\n"], 30
    text = post(running, body(stream=True)).text
    assert json.loads(data_of(text)[-1])["error"]["code"] == "stream_interrupted"
    assert last_line(running)["reason"] == "gateway silent"
    assert eventually(running.gateway.cancelled.is_set)


@pytest.mark.parametrize("stream", [False, True])
def test_slow_gateway_ends_at_the_chains_time(live: Live, stream: bool) -> None:
    running = live()
    running.gateway.delay = 60
    rules = running.app._config.rules.profiles
    rules["private"] = rules["private"].model_copy(update={"timeout": 0.5})
    started = time.monotonic()
    answer = post(running, body(stream=stream))
    assert time.monotonic() - started < 5
    assert (answer.status_code, error_of(answer)["code"]) == (503, "no_local_engine")
    assert last_line(running)["reason"] == "timeout"
    assert eventually(running.gateway.cancelled.is_set)


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_leaves_cancels_the_engine(live: Live, stream: bool) -> None:
    running = live()
    running.gateway.delay = 0 if stream else 60
    running.gateway.gap = 60
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{running.url}/v1/chat/completions",
            json=body(stream=stream),
            headers={"authorization": f"Bearer {KEYS['private']}"},
            timeout=0.5,
        )
    assert eventually(running.gateway.cancelled.is_set)
    line = last_line(running)
    assert (line["status"], line["code"]) == (499, "client_gone")


def test_concurrency_is_bounded_per_profile(live: Live) -> None:
    running = live(concurrent_requests=2)
    running.gateway.delay, running.gateway.model_id = 1.0, None
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(post(running, body()).status_code)) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert eventually(lambda: len(running.gateway.seen) == 2)
    third = post(running, body())
    assert (third.status_code, third.headers["retry-after"]) == (429, "1")
    other = httpx.post(
        f"{running.url}/v1/chat/completions",
        json=body("client"),
        headers={"authorization": f"Bearer {KEYS['client']}"},
        timeout=20,
    )
    assert other.status_code == 200
    for thread in threads:
        thread.join()
    assert statuses == [200, 200]
    running.gateway.delay = 0
    assert post(running, body()).status_code == 200


HEAD = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEYS['private']}\r\n"


def test_chunked_body_without_end_is_cut_at_the_bound(live: Live) -> None:
    running = live(max_body_bytes=100_000)
    with connect(running) as connection:
        connection.sendall(f"{HEAD}content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        try:
            for _ in range(1000):
                connection.sendall(b"1000\r\n" + b" " * 4096 + b"\r\n")
        except ConnectionError:
            pass
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"body_too_large" in answer
    assert running.gateway.seen == []
    assert last_line(running)["bytes_in"] < 1_000_000


def test_declared_length_beyond_the_bound_is_refused_at_once(live: Live) -> None:
    running = live()
    with connect(running) as connection:
        connection.sendall(f"{HEAD}content-type: application/json\r\ncontent-length: 99999999\r\n\r\n".encode())
        assert received(connection).startswith(b"HTTP/1.1 413 ")


def test_slow_body_ends(live: Live) -> None:
    running = live(body_seconds=0.4, drain_seconds=0.2)
    with connect(running) as connection:
        connection.sendall(f'{HEAD}content-type: application/json\r\ncontent-length: 100\r\n\r\n{{"a'.encode())
        assert received(connection).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("start", [b"", b"POST /v1/chat", HEAD.encode()])
def test_slow_head_ends(live: Live, start: bytes) -> None:
    running = live(header_seconds=0.4)
    with connect(running) as connection:
        connection.sendall(start)
        began = time.monotonic()
        assert received(connection) == b""
        assert time.monotonic() - began < 5


def test_client_that_does_not_read_is_dropped(live: Live) -> None:
    running = live(write_seconds=0.5)
    running.gateway.events = [event(chunk("x" * 100_000))] * 2000
    document = json.dumps(body(stream=True)).encode()
    with connect(running) as connection:
        head = f"{HEAD}content-type: application/json\r\ncontent-length: {len(document)}\r\n\r\n"
        connection.sendall(head.encode() + document)
        last_line(running, 20)
    assert last_line(running)["code"] == "client_gone"
    assert eventually(running.gateway.cancelled.is_set)


def test_connections_are_bounded(live: Live) -> None:
    running = live(connections=3, header_seconds=5)
    held = [connect(running) for _ in range(3)]
    time.sleep(0.2)
    began = time.monotonic()
    with connect(running) as extra:
        assert received(extra) == b""
    assert time.monotonic() - began < 3  # at once, not when a request's head is late
    for connection in held:
        connection.close()
    assert eventually(lambda: httpx.get(f"{running.url}/healthz").status_code == 200)


@pytest.mark.parametrize(
    "target",
    [
        "/v1/./chat/completions",
        "/v1/../v1/chat/completions",
        "http://203.0.113.9/v1/chat/completions",
        "/v1/chat%2fcompletions",
        "*",
        "/v1/chat/completions#x",
    ],
)
def test_targets_that_only_look_like_the_route(live: Live, target: str) -> None:
    running = live()
    document = json.dumps(body()).encode()
    with connect(running) as connection:
        connection.sendall(
            f"POST {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {KEYS['private']}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(document)}\r\n\r\n".encode()
            + document
        )
        status = received(connection).split(b" ")[1]
    assert status in (b"404", b"400")
    assert running.gateway.seen == []


def test_request_smuggling_shapes_are_refused(live: Live) -> None:
    running = live()
    for extra in (
        "content-length: 5\r\ncontent-length: 6\r\n",
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: xchunked\r\n",
        "content-length : 5\r\n",
    ):
        with connect(running) as connection:
            connection.sendall(f"{HEAD}content-type: application/json\r\n{extra}\r\nhello".encode())
            connection.shutdown(socket.SHUT_WR)
            assert b" 200 " not in received(connection)[:20]
    assert running.gateway.seen == []


def test_the_service_outlives_all_of_it(live: Live) -> None:
    running = live()
    for garbage in (b"\x00" * 100, b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
        with connect(running) as connection:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            received(connection)
    assert post(running, body()).json()["object"] == completion()["object"]
