# SPDX-License-Identifier: MIT
"""Sending vectors and judging what came back, over real sockets."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils.audit import requests_run
from ansible_collections.mushishi.sovereign.plugins.module_utils.audit.http1_client import Reply, exchange
from ansible_collections.mushishi.sovereign.plugins.module_utils.audit.vectors import (
    LOCAL,
    REFUSE,
    VECTORS,
    Vector,
)

ID = {"x-request-id": "0123456789abcdef"}
BACKENDS = ("gpu", "cpu")


@contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that does this with each connection; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def loop() -> None:
            while True:
                try:
                    connection, _peer = server.accept()
                except OSError:
                    return
                with connection:
                    answer(connection)

        thread = threading.Thread(target=loop, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def saying(data: bytes) -> Callable[[socket.socket], None]:
    """Read something, say this, close."""

    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(data)

    return answer


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ANSWERS = {
    "by length": (b"HTTP/1.1 404 Not Found\r\nX-A: 1\r\nContent-Length: 2\r\n\r\nhi", 404, b"hi", ""),
    "in chunks": (CHUNKED + b"2\r\nhi\r\n1;x\r\n!\r\n0\r\n\r\n", 200, b"hi!", ""),
    "before another one": (b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n\r\n", 404, b"hi", ""),
    "to the end": (b"HTTP/1.1 400 Bad Request\r\n\r\nbad", 400, b"bad", ""),
    "after an interim one": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", 204, b"", ""),
    "no HTTP": (b"SSH-2.0-x\r\n\r\n", 0, b"SSH-2.0-x\r\n\r\n", "no HTTP"),
    "half a head": (b"HTTP/1.1 200", 0, b"HTTP/1.1 200", "no HTTP"),
    "nothing": (b"", 0, b"", "closed"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_one_answer(case: str) -> None:
    data, status, body, error = ANSWERS[case]
    with serving(saying(data)) as port:
        reply = exchange("127.0.0.1", port, b"GET / HTTP/1.1\r\n\r\n", 5)
    assert (reply.status, reply.body, reply.error if not reply.status else "") == (status, body, error)
    assert 0 <= reply.ms < 5000


def test_a_server_that_never_answers() -> None:
    with serving(lambda connection: time.sleep(1)) as port:
        assert exchange("127.0.0.1", port, b"GET / HTTP/1.1\r\n\r\n", 0.2).error == "silent"


def test_a_server_that_waits_for_the_rest_is_told_that_there_is_none() -> None:
    def patient(connection: socket.socket) -> None:
        while connection.recv(65536):
            pass
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    with serving(patient) as port:
        assert exchange("127.0.0.1", port, b"POST / HT", 5, patience=0.1).status == 400
        assert exchange("127.0.0.1", port, b"POST / HT", 0.3).error == "silent", "without patience nobody tells it"


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert exchange("127.0.0.1", port, b"x", 2).error == "ECONNREFUSED"


def test_an_endless_answer_ends() -> None:
    def endless(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                connection.sendall(b"x" * 65536)
        except OSError:
            return

    with serving(endless) as port:
        reply = exchange("127.0.0.1", port, b"GET / HTTP/1.1\r\n\r\n", 10)
    assert reply.status == 200 and len(reply.body) <= 1024 * 1024


def reply(status: int, code: str = "", headers: dict[str, str] | None = None, body: bytes | None = None) -> Reply:
    """An answer, OpenAI-shaped when it has a code."""
    error = json.dumps({"error": {"message": "m", "code": code}}).encode() if code else b""
    return Reply(status, headers or {}, error if body is None else body, 1.0, "")


MUST, MAY = Vector("a: b", "plain"), Vector("a: c", "plain", expect=LOCAL)
RAW = Vector("a: d", "plain", raw=b"x")
GROQ = {"x-litellm-model-id": "private/groq"}
GPU = {**ID, "x-sovereign-backend": "gpu"}
JUDGED = {
    "refused by admission": (MUST, reply(400, "invalid_request", ID), "refused", "admission"),
    "refused by the ingress": (MUST, reply(404, "route_not_found"), "refused", "ingress"),
    "refused by a server": (MUST, reply(400, body=b"Invalid HTTP request received."), "refused", "http"),
    "refused although it may pass": (MAY, reply(400, "model_not_allowed", ID), "refused", "admission"),
    "answered although it must not": (MUST, reply(200, headers=GPU), "leaked", "admission"),
    "let through although it must not": (MUST, reply(503, "no_local_engine", ID), "leaked", "admission"),
    "rejected by the engine alone": (MUST, reply(400, "engine_rejected_request", ID), "leaked", "admission"),
    "a fault of LiteLLM's": (MUST, reply(500, "500"), "leaked", "gateway"),
    "answered here": (MAY, reply(200, headers=GPU), "holds", "admission"),
    "answered by a cloud": (MAY, reply(200, headers=GROQ), "leaked", "gateway"),
    "answered by nobody knows whom": (MAY, reply(200, headers=ID, body=b"{}"), "leaked", "admission"),
    "its own models": (MAY, reply(200, headers=ID, body=b'{"data":[{"id":"private"}]}'), "holds", "admission"),
    "others' models": (MAY, reply(200, headers=ID, body=b'{"data":[{"id":"x"}]}'), "leaked", "admission"),
    "nothing answers, nothing leaves": (MAY, reply(503, "no_local_engine", ID), "holds", "admission"),
    "kept": (MAY, reply(202, headers=ID, body=b"{}"), "holds", "admission"),
    "gateway and admission disagree": (MAY, reply(502, "gateway_misconfigured", ID), "not tested", "admission"),
    "the plane is down": (MUST, reply(502, "plane_unreachable"), "not tested", "ingress"),
    "too many": (MUST, reply(429, "too_many_requests", ID), "not tested", "admission"),
    "broken on its way": (RAW, reply(502, "plane_unreachable"), "refused", "ingress"),
    "closed": (MUST, Reply(0, {}, b"", 1.0, "closed"), "refused", "closed"),
    "closed, and it should have been answered": (MAY, Reply(0, {}, b"", 1.0, "closed"), "not tested", "closed"),
    "nobody there": (MUST, Reply(0, {}, b"", 1.0, "ECONNREFUSED"), "not tested", "nobody"),
    "an empty answer": (MUST, reply(200), "refused", "gateway"),
}  # fmt: skip


@pytest.mark.parametrize("case", JUDGED)
def test_judged(case: str) -> None:
    vector, answer, outcome, layer = JUDGED[case]
    assert requests_run.judge(vector, answer, "private", BACKENDS)[0] == outcome
    assert requests_run.layer_of(answer) == layer


def test_an_error_in_another_shape_has_a_code() -> None:
    anthropic = b'{"type":"error","error":{"type":"invalid_request_error","message":"m"}}'
    assert requests_run.code_of(reply(400, body=anthropic)) == "invalid_request_error"
    assert {requests_run.code_of(reply(400, body=odd)) for odd in (b"[1]", b'{"error":"x"}', b"")} == {""}


def test_all_with_all_keys_become_rows() -> None:
    refusal = b'{"error":{"code":"invalid_request"}}'
    head = b"HTTP/1.1 400 Bad Request\r\nX-Request-Id: 0123456789abcdef\r\nContent-Length: %d\r\n\r\n" % len(refusal)
    few = [vector for vector in VECTORS if vector.family == "tools"][:5]
    with serving(saying(head + refusal)) as port:
        keys = {"private": "k", "client": "l"}
        rows = requests_run.run_requests(("127.0.0.1", port), keys, vectors=few, parallel=2)
    assert [row.path for row in rows] == [vector.name for vector in few] * 2
    assert {(row.kind, row.outcome) for row in rows} == {("request", "refused")}
    assert {row.source.split()[1] for row in rows} == {"private", "client"}
    assert all(row.ms is not None and "admission" in row.detail for row in rows)


def test_what_an_attack_left_in_the_queue_is_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []

    def exchanged(_host: str, _port: int, request: bytes, *_more: object) -> Reply:
        sent.append(request)
        return Reply(503, {"location": "/v1/queue/a-Job_1"} if len(sent) == 1 else {}, b"{}", 1.0)

    monkeypatch.setattr(requests_run, "exchange", exchanged)
    fill = requests_run.Fill("mk", "private", "the-key", "h:1")
    plain = next(vector for vector in VECTORS if vector.expect == LOCAL)
    requests_run.send("h", 1, plain, fill, 5)
    assert sent[0].count(b"Prefer: wait=0\r\n") == 1
    assert sent[1].startswith(b"DELETE /v1/queue/a-Job_1 HTTP/1.1\r\n") and b"Bearer the-key" in sent[1]
    requests_run.send("h", 1, plain, fill, 5)
    assert len(sent) == 3, "without a job there is nothing to take out"


def test_markers_differ_and_the_order_stays() -> None:
    with serving(saying(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")) as port:
        few = list(VECTORS[5:9])
        results = requests_run.run("127.0.0.1", port, "private", "k", vectors=few, begin="mkx")
    assert [result.marker for result in results] == [requests_run.marker_of("mkx", number) for number in range(5, 9)]


def test_chosen() -> None:
    assert len(requests_run.chosen()) == len(VECTORS)
    assert {vector.family for vector in requests_run.chosen(["query", "mcp"])} == {"query", "mcp"}
    name = VECTORS[0].name
    assert [vector.name for vector in requests_run.chosen(names=[name])] == [name]
    assert name not in [vector.name for vector in requests_run.chosen(without=[name])]
    assert any(vector.expect == REFUSE for vector in requests_run.chosen(["poisoning"]))
