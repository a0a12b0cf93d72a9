# SPDX-License-Identifier: MIT
"""The queue's parts, each by itself: what a client may say, what is told, who is next, the administrator's tool."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import queue_history
from admission import journal, queuectl, tell, waiting
from admission.answer import ChatVoice, chunks_of
from admission.config import Config
from admission.errors import Refusal
from admission.journal import Ended, Job
from admission.lines import LONGEST_PAUSE, Lines, pause_after
from admission.routes import job_of, voice_again
from admission.tell import Figures, Line, Waits
from admission.waiting import Wishes, wishes
from admission_standin import RULES
from pydantic import ValidationError


def job(seq: int, profile: str = "private", accepted: float = 0.0) -> Job:
    return Job(seq, f"j{seq}", profile, "/v1/chat/completions", False, "queued", accepted, None, None, 0, 1, None, None)


# --- what a client may say -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("values", "wait", "respond_async"),
    [
        ([], None, False),
        ([""], None, False),
        (["wait=5"], 5, False),
        (['Wait="5"'], 5, False),
        (["respond-async, wait=10"], 10, True),
        (["respond-async", "wait=10; a=b"], 10, True),
        (["handling=lenient, wait=1, wait=9"], 1, False),
        (["wait=-1"], None, False),
        (["wait=1e9, wait=x, wait"], None, False),
        (["respond-asynchronously"], None, False),
    ],
)
def test_preferences(values: list[str], wait: float | None, respond_async: bool) -> None:
    found = wishes([(b"prefer", value.encode()) for value in values])
    assert (found.wait, found.respond_async) == (wait, respond_async)


@pytest.mark.parametrize("value", [b"x" * 256, b"a b", b"\xc3\xa4", b"\x00"])
def test_a_bad_key_is_refused(value: bytes) -> None:
    with pytest.raises(Refusal) as raised:
        wishes([(b"idempotency-key", value)])
    assert (raised.value.status, raised.value.code) == (400, "invalid_idempotency_key")


def test_an_empty_key_is_none_and_a_key_is_a_digest() -> None:
    assert wishes([(b"idempotency-key", b"")]) == Wishes()
    assert wishes([(b"idempotency-key", b" a ")]).key == journal.digest(b"a")


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (b"/v1/queue/" + b"a" * 43, "a" * 43),
        (b"/v1/queue/" + b"-" * 43, "-" * 43),
        (b"/v1/queue/" + b"a" * 42, None),
        (b"/v1/queue/" + b"a" * 44, None),
        (b"/v1/queue/" + b"a" * 42 + b"/", None),
        (b"/v1/queue/" + b"a" * 42 + b"\n", None),
        (b"/v1/queue", None),
        (b"//v1/queue/" + b"a" * 43, None),
    ],
)
def test_the_name_of_a_job(path: bytes, found: str | None) -> None:
    assert job_of(path) == found


@pytest.mark.parametrize(("eta", "seconds"), [(None, 30), (0.0, 1), (4.2, 5), (1e9, 3600)])
def test_when_to_ask_again(eta: float | None, seconds: int) -> None:
    assert waiting.retry_after(eta) == seconds
    refusal = waiting.still_queued(job(1), 1, eta)
    assert refusal.headers["retry-after"] == str(seconds)


def test_a_stored_refusal_is_the_same_later() -> None:
    first = Refusal(400, "context_length_exceeded", "too long", param="messages")
    again = waiting.stored_refusal(waiting.packed_refusal(first))
    assert (again.status, again.payload()) == (400, first.payload())


# --- a whole answer as a stream --------------------------------------------------------------------------------------
ANSWER: dict[str, Any] = {
    "id": "c1",
    "object": "chat.completion",
    "created": 7,
    "model": "private",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "let me see",
                "reasoning_content": "hm",
                "refusal": None,
                "tool_calls": [
                    {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                    {"id": "b", "type": "function", "function": {"name": "g", "arguments": '{"x":1}'}},
                ],
            },
            "finish_reason": "tool_calls",
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
}


@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_says_what_the_answer_says(usage: bool) -> None:
    chunks = list(chunks_of(ANSWER, usage=usage))
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk["id"] for chunk in chunks} == {"c1"}
    said = chunks[0]["choices"][0]["delta"]
    assert (said["content"], said["reasoning_content"]) == ("let me see", "hm")
    assert [(call["index"], call["function"]["name"]) for call in said["tool_calls"]] == [(0, "f"), (1, "g")]
    assert chunks[1]["choices"][0]["finish_reason"] == "tool_calls"
    assert [chunk for chunk in chunks if "usage" in chunk] == ([chunks[2]] if usage else [])


@pytest.mark.parametrize(
    ("route", "kept"),
    [
        ("/v1/chat/completions", {}),
        ("/v1/messages", {"id": "msg_1", "thinking": True, "stops": []}),
        ("/v1/responses", {"id": "resp_1", "object": "response", "model": "private"}),
    ],
)
def test_every_voice_says_it_again(route: str, kept: dict[str, Any]) -> None:
    whole = json.dumps(voice_again(route, kept, "private").whole(json.loads(json.dumps(ANSWER))))
    voice = voice_again(route, kept, "private")
    stream = b"".join(voice.chunk(chunk) for chunk in chunks_of(ANSWER, usage=True)) + voice.done()
    for word in ("let me see", '"g"', "hm"):
        assert word in whole and word.encode() in stream
    if kept:
        assert kept["id"] in whole and kept["id"].encode() in stream
        assert voice.kept() == kept
    assert ChatVoice("private").kept() == {}


# --- who is next -----------------------------------------------------------------------------------------------------
def test_pauses_grow_and_end() -> None:
    assert [pause_after(number) for number in range(3)] == [0, 0, 0]
    assert pause_after(3) == 8
    assert pause_after(1000) == LONGEST_PAUSE


def test_the_age_cap_and_the_administrators_order() -> None:
    lines = Lines(slots=2, age_cap=100)
    up = {"private": True, "other": True}.__getitem__
    for one in (job(1, "private", 0), job(2, "other", 90)):
        lines.add(one)
    assert lines.next(up, busy=0, live=2, now=0, wall=50) is None, "live requests have the slots"
    assert lines.next(up, busy=0, live=2, now=0, wall=150) == job(1, "private", 0), "too old to yield"
    assert lines.next(up, busy=1, live=2, now=0, wall=150) is None, "but one at a time"
    lines.ordered = 1
    assert lines.next(up, busy=1, live=2, now=0, wall=50) == job(1, "private", 0), "ordered: all slots"
    lines.at_work.add("j1")
    assert lines.next(up, busy=1, live=2, now=0, wall=50) is None
    assert lines.next(up, busy=1, live=0, now=0, wall=50) == job(2, "other", 90)


def test_a_job_that_fails_steps_aside() -> None:
    lines = Lines(slots=1, age_cap=1e9)
    lines.add(job(1))
    lines.add(job(2))
    for _ in range(2):
        lines.failed("j1", 0.0)
        assert lines.next(lambda _p: True, 0, 0, 0.0, 0.0) == job(1), "the engine's fault, it seems"
    lines.failed("j1", 0.0)
    assert lines.next(lambda _p: True, 0, 0, 0.0, 0.0) == job(2)
    assert lines.wakes(0.0) == 8
    assert lines.next(lambda _p: True, 0, 0, 9.0, 0.0) == job(1)
    lines.failed("j2", 0.0, aside=True)
    assert lines.paused["j2"] == 8


def test_a_job_that_was_begun_very_often_does_not_begin_first_again() -> None:
    lines = Lines(slots=1, age_cap=1e9)
    for seq, attempts in ((1, 6), (2, 5)):
        lines.remember(replace(job(seq), attempts=attempts), 0.0)
    assert lines.next(lambda _p: True, 0, 0, 0.0, 0.0) == replace(job(2), attempts=5)
    assert lines.next(lambda _p: True, 0, 0, 65.0, 0.0) == replace(job(1), attempts=6)


# --- what is told ----------------------------------------------------------------------------------------------------
def figures(waiting: int, up: bool | None, modes: tuple[str, ...] = ("agent",)) -> Figures:
    waits = Waits()
    for seconds in (0.5, 70, 1e6):
        waits.add(seconds)
    line = Line("private", waiting, 250.0, up, modes)
    return Figures(5.0, (line,), {("private", "completed"): 3}, {"private": waits}, {"accepted_total": 4}, 1)


@pytest.mark.parametrize(
    ("waiting", "up", "modes", "text"),
    [
        (2, False, ("agent",), "2 private requests waiting 4 min; `sovereignctl mode switch agent` would serve them"),
        (1, False, ("agent",), "1 private request waiting 4 min; `sovereignctl mode switch agent` would serve them"),
        (2, True, ("agent",), "2 private requests waiting 4 min"),
        (2, False, (), "2 private requests waiting 4 min"),
        (0, False, ("agent",), ""),
    ],
)
def test_the_notice(waiting: int, up: bool, modes: tuple[str, ...], text: str) -> None:
    (line,) = tell.notice(figures(waiting, up, modes))["lines"]  # type: ignore[misc]  # one line
    assert line["text"] == text


def test_the_metrics(tmp_path: Path) -> None:
    tell.tell(tmp_path, figures(2, None))
    text = (tmp_path / tell.METRICS).read_text()
    for line in (
        'mushishi_queue_depth{profile="private"} 2',
        'mushishi_queue_ended_total{profile="private",state="completed"} 3',
        'mushishi_queue_wait_seconds_bucket{profile="private",le="1"} 1',
        'mushishi_queue_wait_seconds_bucket{profile="private",le="300"} 2',
        'mushishi_queue_wait_seconds_bucket{profile="private",le="+Inf"} 3',
        'mushishi_queue_wait_seconds_count{profile="private"} 3',
        "mushishi_queue_accepted_total 4",
    ):
        assert line in text.splitlines()
    assert sorted(path.name for path in tmp_path.iterdir()) == [tell.NOTICE, tell.METRICS]
    kinds = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(kinds) == len(set(kinds)), "each series is described once"


# --- the administrator's tool ----------------------------------------------------------------------------------------
@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration, and a queue with two jobs that wait and one that was answered."""
    data = tmp_path / "data"
    data.mkdir()
    one = queue_history.opened(data)
    for number in (1, 2, 3):
        one.accept(queue_history.new(number)).result()
    one.finish("job-1", queue_history.done(1), wipe=False).result()
    one.close()
    path = tmp_path / "config.json"
    settings = {
        "listen": {"host": "127.0.0.1", "port": 0},
        "upstream": {"url": "http://127.0.0.1:1"},
        "rules": RULES,
        "queue": {"directory": str(data)},
    }
    path.write_text(json.dumps(settings))
    return path


def run(config: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[dict[str, Any]], str]:
    status = queuectl.main(["--config", str(config), *words, "--json"])
    out = capsys.readouterr()
    return status, json.loads(out.out)["jobs"] if out.out else [], out.err


def test_list_and_show_have_no_content(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, jobs, _err = run(config, capsys, "list")
    assert (status, [one["state"] for one in jobs]) == (0, ["completed", "queued", "queued"])
    assert [one["position"] for one in jobs] == [None, 1, 2]
    assert len(run(config, capsys, "list", "--waiting")[1]) == 2
    assert run(config, capsys, "show", "2")[1] == [{**jobs[1], "age_seconds": pytest.approx(jobs[1]["age_seconds"], 1)}]
    assert queuectl.main(["--config", str(config), "list"]) == 0
    text = capsys.readouterr().out + json.dumps(jobs)
    assert "body-" not in text and "answer-" not in text
    assert "private" in text


def test_cancel(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, jobs, _err = run(config, capsys, "cancel", "2", "job-3")
    assert (status, {one["state"] for one in jobs}) == (0, {"cancelled"})
    raw = (config.parent / "data" / journal.FILE).read_bytes()
    assert b"body-2-" * 6 not in raw and b"answer-1-" * 6 in raw
    status, jobs, err = run(config, capsys, "cancel", "1")
    assert (status, jobs) == (2, []) and "completed already" in err
    status, _jobs, err = run(config, capsys, "show", "99")
    assert status == 2 and "'99'" in err


def test_drain_watches(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config, capsys, "drain", "--wait", "0")[0] == 1
    db = sqlite3.connect(config.parent / "data" / journal.FILE)
    assert db.execute("SELECT value FROM orders WHERE name = 'drain'").fetchone() == (3,)
    db.close()
    run(config, capsys, "cancel", "2", "3")
    assert run(config, capsys, "drain", "--wait", "5")[:2] == (0, [])


def test_a_queue_that_is_not_there(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (config.parent / "data" / journal.FILE).unlink()
    status, _jobs, err = run(config, capsys, "list")
    assert status == 2 and "is not there" in err
    document = json.loads(config.read_text())
    del document["queue"]
    config.write_text(json.dumps(document))
    assert "names no queue" in run(config, capsys, "list")[2]


# --- the file --------------------------------------------------------------------------------------------------------
def test_a_file_of_another_version_is_left_alone(tmp_path: Path) -> None:
    queue_history.opened(tmp_path).close()
    db = sqlite3.connect(tmp_path / journal.FILE)
    db.execute("PRAGMA user_version = 9")
    db.close()
    with pytest.raises(journal.JournalError, match="version 9"):
        queue_history.opened(tmp_path)


def test_a_torn_answer_is_never_given_out(tmp_path: Path) -> None:
    one = queue_history.opened(tmp_path)
    one.accept(queue_history.new(1)).result()
    one.finish("job-1", Ended("completed", b"whole"), wipe=False).result()
    one.write(lambda db: db.execute("UPDATE results SET body = x'00'")).result()
    with pytest.raises(journal.JournalError, match="not what was stored"):
        one.read(lambda db: journal.result_of(db, "job-1")).result()
    one.close()


@pytest.mark.parametrize("change", [{"directory": "relative"}, {"slots": 0}, {"wipe_request": "never"}, {"more": 1}])
def test_settings_that_cannot_be(tmp_path: Path, change: dict[str, Any]) -> None:
    document = {
        "listen": {"host": "127.0.0.1", "port": 0},
        "upstream": {"url": "http://127.0.0.1:1"},
        "rules": RULES,
        "queue": {"directory": str(tmp_path), **change},
    }
    with pytest.raises(ValidationError):
        Config.model_validate(document)
