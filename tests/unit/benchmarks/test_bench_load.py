# SPDX-License-Identifier: MIT
"""The load generator against the engine stand-in and against servers that misbehave."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from benchkit.load import Client, Crowd, Question, Sample, Target, Watch, in_turn
from standins import engine


@pytest.fixture
def running() -> Iterator[engine.Engine]:
    made = engine.Engine(engine.Options(names=("nemotron",), host="127.0.0.1", port=0, first=0.05, each=0.002))
    made.open()
    yield made
    made.listener.shut()


def target(port: int, model: str = "nemotron") -> Target:
    return Target("engine", "127.0.0.1", port, model)


def ask(port: int, question: Question, model: str = "nemotron", patience: float = 10) -> Sample:
    async def once() -> Sample:
        client = Client(target(port, model))
        try:
            return await client.ask(question, patience)
        finally:
            client.close()

    return asyncio.run(once())


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_timed(running: engine.Engine, stream: bool) -> None:
    sample = ask(running.listener.port, Question(8, stream))
    assert sample.good
    assert sample.status == 200
    assert 0.05 <= sample.first <= sample.whole
    if stream:
        # The engine says its role at once; that is no piece of content.
        assert sample.whole - sample.first >= 0.01
    else:
        assert sample.tokens == 8


@pytest.mark.parametrize(
    ("fault", "status", "error"),
    [
        ("500", 500, "500: "),
        ("404", 404, "404: "),
        ("cut=2", 0, ""),
        ("drop", 0, "IncompleteRead"),
        ("refuse", 0, "Refused"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_is_a_sample_with_an_error(
    running: engine.Engine, fault: str, status: int, error: str, stream: bool
) -> None:
    running.set_fault(fault)
    sample = ask(running.listener.port, Question(8, stream))
    assert not sample.good
    assert sample.status == status
    assert error in sample.error


def test_a_hang_ends_with_the_time_allowed(running: engine.Engine) -> None:
    running.set_fault("hang")
    assert "TimeoutError" in ask(running.listener.port, Question(8, stream=True), patience=0.3).error
    running.set_fault("ok")


def test_a_crowd_asks_at_the_same_time_and_counts(running: engine.Engine) -> None:
    async def go() -> list[Sample]:
        crowd = Crowd(target(running.listener.port), 5)
        try:
            return await crowd.block(Question(2, stream=False), 12)
        finally:
            crowd.close()

    samples = asyncio.run(go())
    assert len(samples) == 12
    assert all(sample.good for sample in samples)
    begun = sorted(sample.began for sample in samples)
    assert begun[4] - begun[0] < 0.04, "five are on their way before the first is answered"


def test_targets_are_asked_in_turn_and_the_order_changes(running: engine.Engine) -> None:
    one = Target("one", "127.0.0.1", running.listener.port, "nemotron")
    two = Target("two", "127.0.0.1", running.listener.port, "nemotron")
    told: list[int] = []
    found = asyncio.run(in_turn([one, two], Question(1, stream=False), 2, 3, 4, told.append))
    assert [len(block) for blocks in found.values() for block in blocks] == [4] * 6
    assert told == [1, 2, 3]
    firsts = [min(block[0].began for block in (found["one"][at], found["two"][at])) for at in range(3)]
    assert [found["one"][at][0].began == firsts[at] for at in range(3)] == [True, False, True]


def test_a_connection_is_kept(running: engine.Engine) -> None:
    async def go() -> None:
        client = Client(target(running.listener.port))
        for _ in range(3):
            assert (await client.ask(Question(1, stream=True))).good
        client.close()

    asyncio.run(go())
    assert sum(1 for record in running.recorder.records() if record.get("kind") == "request") in (0, 3)
    assert len({record["conn"] for record in running.recorder.records() if "conn" in record}) == 1


def served(answer: bytes, then: Callable[[socket.socket], None] = lambda _: None) -> int:
    """A server that sends these bytes to whoever comes, once; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)
                then(connection)

    threading.Thread(target=serve, daemon=True).start()
    return int(listener.getsockname()[1])


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
CONTENT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (HEAD + b"\r\n" + CONTENT + DONE, ""),
        (HEAD + b"\r\n" + CONTENT, "no end mark"),
        (HEAD + b"\r\n" + DONE, "no end mark"),
        (HEAD + b"\r\n" + CONTENT + b'data: {"error":{"message":"x"}}\n\n' + DONE, "error event"),
        (HEAD + b"\r\n" + b'data: {"error":{"message":"x"}}\n\n', "error event"),
        (HEAD + b"content-length: 500\r\n\r\n" + CONTENT, "Broken"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\ndata:\r\n", "IncompleteRead"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n", "ValueError"),
        (b"SSH-2.0-x\r\n\r\n", "no status line"),
    ],
)
def test_only_a_whole_stream_is_good(answer: bytes, error: str) -> None:
    sample = ask(served(answer), Question(4, stream=True))
    assert (sample.error == "") is (error == "")
    assert error in sample.error


def test_events_may_be_torn_anywhere() -> None:
    whole = CONTENT + DONE
    for cut in range(len(whole)):
        watch = Watch(stream=True)
        watch.take(whole[:cut])
        watch.take(whole[cut:])
        assert watch.whole()


def test_who_answered_is_read_from_either_plane() -> None:
    body = b'{"choices":[],"usage":{"completion_tokens":3}}'
    for header, backend in ((b"x-sovereign-backend: gpu", "gpu"), (b"X-LiteLLM-Model-Id: personal/cpu", "cpu")):
        answer = b"HTTP/1.1 200 OK\r\n" + header + b"\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        sample = ask(served(answer), Question(4, stream=False))
        assert (sample.good, sample.backend, sample.tokens) == (True, backend, 3)


def test_a_key_is_never_shown() -> None:
    assert "secret" not in repr(Target("x", "127.0.0.1", 1, "m", key="secret"))
