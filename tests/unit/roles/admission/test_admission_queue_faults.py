# SPDX-License-Identifier: MIT
"""What goes wrong around the queue: clients that hang up, answers that are none, other rules, threads that die."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import pytest
import queue_history
from admission import app, drain, journal, lines
from admission.answer import packed
from admission.journal import Job
from admission_standin import chunk, completion, event
from queue_inside import PATIENCE, Engine, Gate, away, good, inside, is_probe, rules, said


# --- a client that hangs up ------------------------------------------------------------------------------------------
def test_clients_that_hang_up_while_their_job_is_looked_at(tmp_path: Path) -> None:
    async def live() -> None:
        async with inside(tmp_path, away) as one:
            for wish in ("respond-async", "wait=0"):
                gone = asyncio.Event()
                before = len(one.log)
                gate = Gate(one.journal.read)
                await one.until(gate.reached.is_set)
                clients = [asyncio.create_task(one.chat(prefer=wish, gone=gone)) for _ in range(5)]
                await one.until(lambda: one.journal.read._todo.qsize() >= 5)
                gone.set()
                await asyncio.gather(*clients)
                gate.open()
                assert {line["code"] for line in one.log[before:] if line["event"] == "request"} == {"client_gone"}
                url = await one.taken()
                assert await one.state(url) == "queued"
            assert len(one.queue._drainer.lines.known) == 12, "what was taken in is there, whoever waits for it"

    asyncio.run(live())


def test_a_job_is_cancelled_while_its_answer_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "GROUP", 1)

    async def live() -> None:
        async with inside(tmp_path, away) as one:
            url = await one.taken()
            first = Gate(one.journal.write)
            await one.until(first.reached.is_set)
            deleting = asyncio.create_task(one.ask("DELETE", url))
            await one.until(lambda: one.journal.write._todo.qsize() >= 1)
            second = Gate(one.journal.write)
            one.engine = good
            one.queue.engine("private", up=True)
            await one.until(lambda: one.seen and one.journal.write._todo.qsize() >= 4)  # its beginning, and its answer
            first.open()
            await one.until(lambda: not one.queue._drainer.lines.known)
            await asyncio.sleep(0)
            second.open()
            heard = await deleting
            assert heard.json["status"] == "cancelled"
            other = await one.taken("another")
            await one.until(lambda: not one.queue._drainer.lines.known)
            assert (await one.state(url), await one.state(other)) == ("cancelled", "completed")

    asyncio.run(live())


# --- a thread that dies ----------------------------------------------------------------------------------------------
DYING = """
import sys
import queue_history
one = queue_history.opened(__import__("pathlib").Path(sys.argv[1]))
one.accept(queue_history.new(1)).result(5)
def end(_db):
    raise SystemExit
getattr(one, sys.argv[2])(end, alone=sys.argv[3] == "alone").result(5)
"""


@pytest.mark.parametrize(("thread", "how"), [("read", "-"), ("write", "-"), ("write", "alone")])
def test_a_thread_that_dies_ends_the_process(tmp_path: Path, thread: str, how: str) -> None:
    here, files = Path(queue_history.__file__).parent, Path(journal.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", DYING, str(tmp_path), thread, how],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": f"{files}:{here}"}, timeout=60,
    )  # fmt: skip
    assert done.returncode == journal.DIED
    assert f"journal-{thread}" in done.stderr and "SystemExit" in done.stderr
    assert [row[1] for row in queue_history.dump(tmp_path)["jobs"]] [:1] == ["job-1"], "what was accepted is there"


# --- the worker ------------------------------------------------------------------------------------------------------
def test_a_job_that_ends_as_it_begins_gives_its_slot_back(tmp_path: Path) -> None:
    async def live() -> None:
        async with inside(tmp_path, away, slots=2) as one:
            drainer = one.queue._drainer
            urls = [await one.taken(str(at)) for at in range(4)]
            one.queue.engine("private", up=True)
            drainer._step()  # two begin, and both are over before either has had its first turn
            begun = list(drainer.lines.at_work)
            assert len(begun) == 2
            for name in begun:
                drainer.drop(drainer.lines.known[name], "cancelled")
            one.engine = good
            await one.until(lambda: len(one.seen) == 2 and not drainer.lines.known)
            assert sorted([await one.state(url) for url in urls]) == ["completed", "completed", "queued", "queued"]
            assert not drainer.lines.at_work and not drainer._tasks

    asyncio.run(live())


def half_a_pair(request: dict[str, Any]) -> httpx.Response:
    """A tool is called with a text that ends in the middle of a sign."""
    if is_probe(request):
        return good(request)
    answer = completion()
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":"\\ud83d"}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    answer["choices"][0] = {"index": 0, "finish_reason": "tool_calls", "message": message}
    return said(answer)


@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_half_a_sign_is_passed_on(tmp_path: Path, path: str, queued: bool) -> None:
    async def live() -> None:
        async with inside(tmp_path, half_a_pair) as one:
            document = {"input": "hello"} if path == "/v1/responses" else None
            if queued:
                url = await one.taken(path=path, document=document)
                await one.until(lambda: not one.queue._drainer.lines.known)
                heard = await one.ask("GET", url)
                answer = heard.json["response"]
            else:
                heard = await one.chat(path=path, document=document)
                answer = heard.json
            assert heard.status == 200
            assert "\ud83d" in json.dumps(answer, ensure_ascii=False).replace("\\ud83d", "\ud83d")
            assert len(one.seen) == 1

    asyncio.run(live())


def broken_disk(name: str) -> Callable[[Any, str], Any]:
    """A disk that cannot read what belongs to one job."""

    def read(db: Any, job_id: str) -> Any:
        if job_id == name:
            raise sqlite3.OperationalError("disk I/O error")
        return REQUEST_OF(db, job_id)

    return read


REQUEST_OF = journal.request_of


@pytest.mark.parametrize("fault", ["answer", "program", "disk"])
def test_a_job_that_cannot_be_served_does_not_stop_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    async def live() -> None:
        async with inside(tmp_path, away, slots=1) as one:
            drainer = one.queue._drainer
            urls = [await one.taken(str(at)) for at in range(3)]
            bad = urls[0].rpartition("/")[2]
            if fault == "disk":
                monkeypatch.setattr(journal, "request_of", broken_disk(bad))
            elif fault == "program":
                monkeypatch.setattr(drainer, "_said", failing_for(bad, drainer._said, ZeroDivisionError()))
            else:  # what could never be said is as good as no answer
                monkeypatch.setattr(drain, "packed", unsayable)
            one.engine = lambda request: said(completion("no" if "'0'" in str(request["messages"]) else "yes"))
            await one.until(lambda: list(drainer.lines.known) == [bad])
            await asyncio.sleep(0.5)
            assert [await one.state(url) for url in urls] == ["queued", "completed", "completed"]
            assert drainer.lines.paused[bad] > time.monotonic() + 5
            assert sum("'0'" in str(request["messages"]) for request in one.seen) <= 1
            assert sum(line["event"] in ("fault", "queue_fault", "queue_attempt") for line in one.log) <= 3

    asyncio.run(live())


def failing_for(name: str, plain: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    """A step of the worker that fails for one job."""

    async def step(job: Job, *more: Any) -> Any:
        if job.id == name:
            raise error
        return await plain(job, *more)

    return step


def unsayable(document: Any) -> bytes:
    """JSON of everything but of one answer."""
    if "'no'" in str(document):
        raise ValueError("cannot be said")
    return packed(document)


def test_a_fault_of_the_workers_own_step_is_not_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "FAULT_PAUSE", 0.05)

    async def live() -> None:
        async with inside(tmp_path, good) as one:
            drainer, plain = one.queue._drainer, one.queue._drainer._step
            monkeypatch.setattr(drainer, "_step", lambda: 1 / 0)
            url = await one.taken()
            await one.until(lambda: any(line.get("type") == "ZeroDivisionError" for line in one.log))
            await asyncio.sleep(0.2)
            assert len([line for line in one.log if line["event"] == "fault"]) < 8, "with a pause"
            monkeypatch.setattr(drainer, "_step", plain)
            await one.until(lambda: not drainer.lines.known)
            assert await one.state(url) == "completed"

    asyncio.run(live())


# --- other rules than those with which a job was taken in ------------------------------------------------------------
def test_what_was_taken_in_is_answered_when_the_chain_has_no_queue_any_more(tmp_path: Path) -> None:
    async def live() -> None:
        async with inside(tmp_path, away) as one:
            url = await one.taken()
        async with inside(tmp_path, away, rules=rules(private="error")) as one:
            refused = await one.chat()
            assert (refused.status, refused.json["error"]["code"]) == (503, "engine_unavailable")
            assert await one.state(url) == "queued"
            assert [line.profile for line in one.queue.figures().lines] == ["private"]
            one.engine = good
            await one.until(lambda: not one.queue._drainer.lines.known)
            assert await one.state(url) == "completed"
            assert one.queue.figures().lines == ()

    asyncio.run(live())


def test_the_job_of_a_profile_that_is_gone_stops_nobody_and_expires(tmp_path: Path) -> None:
    other = rules(coding="queue")
    del other["profiles"]["private"]

    async def live() -> None:
        async with inside(tmp_path, away, rules=rules(coding="queue")) as one:
            left, url = await one.taken("a word to be wiped"), await one.taken(profile="coding")
        async with inside(tmp_path, good, rules=other) as one:
            (opened,) = [line for line in one.log if line["event"] == "queue_open"]
            assert (opened["waiting"], opened["without_profile"]) == (1, 1)
            await one.until(lambda: one.seen)
            await one.until(lambda: not one.queue._drainer.lines.known)
            assert (await one.ask("GET", url, profile="coding")).json["status"] == "completed"
            assert await one.state(left) == "queued"
            db = journal.connect(tmp_path / journal.FILE)  # somebody else writes: all jobs are looked at again
            journal.commit(db, [journal.give_order("drain", 9)])
            db.close()
            await one.until(lambda: one.queue._drainer.lines.ordered == 9)
            again = await one.taken(profile="coding")
            await one.until(lambda: not one.queue._drainer.lines.known)
            assert (await one.ask("GET", again, profile="coding")).json["status"] == "completed"
        async with inside(tmp_path, good, rules=rules(private="error"), expiry_seconds=0.01) as one:
            await asyncio.sleep(0.3)
            assert await one.state(left) == "expired"

    asyncio.run(live())
    raw = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"a word to be wiped" not in raw, "its request is wiped, though no chain ends in the queue"


def test_no_file_is_made_where_no_chain_ends_in_the_queue(tmp_path: Path) -> None:
    async def live() -> None:
        async with inside(tmp_path, away, rules=rules(private="error")) as one:
            assert one.app._queue is None
            assert (await one.chat()).status == 503

    asyncio.run(live())
    assert list(tmp_path.iterdir()) == []


# --- time ------------------------------------------------------------------------------------------------------------
def quick(timeout: float) -> dict[str, Any]:
    """Rules whose chains have only so many seconds."""
    found = rules()
    found["profiles"]["private"]["timeout"] = timeout
    return found


def never_for(word: str, status: int = 0) -> Engine:
    """An engine that answers everything but one prompt, on which it works for ever, or until the gateway gives up."""

    async def answer(request: dict[str, Any]) -> httpx.Response:
        if word in str(request["messages"]):
            if status:
                return said({"error": {"message": "Timeout", "type": "x", "param": None, "code": str(status)}}, status)
            await asyncio.sleep(PATIENCE)
        return good(request)

    return answer


@pytest.mark.parametrize("status", [0, 408, 504])
def test_an_answer_that_never_comes_in_time_fails_and_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(lines, "pause_after", lambda _failures: 0.1)

    async def live() -> None:
        async with inside(tmp_path, never_for("endless", status), slots=1, rules=quick(0.3)) as one:
            slow, fast = await one.taken("endless"), await one.taken("short")
            await one.until(lambda: not one.queue._drainer.lines.known)
            assert (await one.state(slow), await one.state(fast)) == ("failed", "completed")
            error = (await one.ask("GET", slow)).json["error"]["error"]
            assert error["code"] == "answer_too_slow" and "0 seconds, 3 times" in error["message"]
            assert [str(request["messages"]).count("endless") for request in one.seen] == [1, 0, 1, 1]
            assert one.queue._drainer.engines["private"].up, "it answers others"
            assert not one.queue._drainer.lines.late

    asyncio.run(live())


def test_an_engine_that_hangs_fails_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "pause_after", lambda _failures: 0.05)

    async def live() -> None:
        async with inside(tmp_path, good, slots=1, rules=quick(0.1)) as one:
            one.queue.engine("private", up=True)
            one.engine = never_for("")
            url = await one.taken()

            def tried() -> bool:  # each time somebody finds it well, and it hangs again
                if one.queue._drainer.engines["private"].up is False:
                    one.queue.engine("private", up=True)
                return len(one.seen) >= 6

            await one.until(tried)
            assert await one.state(url) in ("queued", "running")
            one.engine = good
            await one.until(lambda: not one.queue._drainer.lines.known)
            assert await one.state(url) == "completed"

    asyncio.run(live())


# --- a disk that cannot be read --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("method", "reads"),
    [("GET", "find"), ("GET", "result_size"), ("GET", "result_of"), ("GET", "voice_of"), ("DELETE", "remove")],
)
def test_a_job_that_cannot_be_read_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, reads: str
) -> None:
    def fails(*_arguments: Any) -> Any:
        raise sqlite3.OperationalError("disk I/O error: a secret word")

    async def live() -> None:
        async with inside(tmp_path, good) as one:
            url = await one.taken(more={"stream": True})
            await one.until(lambda: not one.queue._drainer.lines.known)
            with monkeypatch.context() as patch:
                patch.setattr(journal, reads, fails if reads != "remove" else lambda _id: fails)
                heard = await one.ask(method, url)
            error = heard.json["error"]
            assert (heard.status, error["code"], error["job"]) == (503, "job_unreadable", url)
            assert "The job stays" in error["message"] and heard.headers["location"] == url
            assert "not kept" not in error["message"] and "secret" not in error["message"] + str(one.lines)
            assert (await one.ask("GET", url)).json["response"]["choices"][0]["message"]["content"] == "hello"

    asyncio.run(live())


@pytest.mark.parametrize("reads", ["find", "voice_of"])
def test_a_stream_that_waits_hears_that_its_job_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: str
) -> None:
    def fails(*_arguments: Any) -> Any:
        raise sqlite3.OperationalError

    async def live() -> None:
        async with inside(tmp_path, away) as one:
            asked = asyncio.create_task(one.chat(more={"stream": True}, prefer="wait=1"))
            await asyncio.sleep(0.4)
            monkeypatch.setattr(journal, reads, fails)
            heard = await asked
            assert heard.status == 200 and heard.body.startswith(b": keep-alive")
            (event,) = [line for line in heard.body.split(b"\n") if line.startswith(b"data: ")]
            error = json.loads(event.removeprefix(b"data: "))["error"]
            assert error["code"] == ("job_unreadable" if reads == "find" else "queued") and error["job"]
            assert not [line for line in one.log if line["event"] == "fault"]

    asyncio.run(live())


# --- a client's patience ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("wait", [0, 1])
def test_patience_ends_though_an_engine_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait: int) -> None:
    monkeypatch.setattr(app, "TRY_SECONDS", 0.5)

    async def live() -> None:
        async with inside(tmp_path, never_for("endless"), rules=quick(PATIENCE), slots=1) as one:
            began = time.monotonic()
            heard = await one.chat("endless", prefer=f"wait={wait}")
            assert (wait or 0.5) <= time.monotonic() - began < wait + 2
            assert (heard.status, heard.json["error"]["code"]) == (503, "queued")
            assert await one.state(heard.headers["location"]) in ("queued", "running")
            assert one.queue._drainer.engines["private"].up is not False, "an impatient client says nothing of it"
            answered = await one.chat("short", prefer=f"wait={wait}")
            assert answered.status == 200, "control: an engine that answers in time is heard"

    asyncio.run(live())


def test_a_stream_that_has_begun_is_not_cut(tmp_path: Path) -> None:
    async def slowly(request: dict[str, Any]) -> httpx.Response:
        async def pieces() -> AsyncIterator[bytes]:
            for text, finish in (("a", None), ("b", None), ("c", "stop")):
                yield event(chunk(text, finish))
                await asyncio.sleep(0.6)
            yield b"data: [DONE]\n\n"

        return good(request) if is_probe(request) else httpx.Response(200, content=pieces())

    async def live() -> None:
        async with inside(tmp_path, slowly, rules=quick(5)) as one:
            heard = await one.chat(more={"stream": True}, prefer="wait=1")
            assert heard.status == 200 and heard.body.endswith(b"data: [DONE]\n\n")
            assert one.queue._drainer.lines.known == {}

    asyncio.run(live())


def test_nothing_is_tried_while_the_worker_knows_that_nothing_answers(tmp_path: Path) -> None:
    async def live() -> None:
        async with inside(tmp_path, away) as one:
            first = await one.chat(prefer="wait=0")
            assert first.status == 503 and len(one.seen) == 1
            second = await one.chat(prefer="wait=0")
            assert second.status == 503 and second.json["error"]["job"] != first.json["error"]["job"]
            assert len(one.seen) == 1, "it was not tried"
            one.engine = good
            await one.until(lambda: not one.queue._drainer.lines.known)
            one.engine = away
            one.queue.engine("private", up=False)
            assert (await one.chat(prefer="wait=0")).status == 503
            assert len(one.seen) == 4, "nobody waited, so nobody knew: it was tried"

    asyncio.run(live())


# --- keys, and what stays of a request -------------------------------------------------------------------------------
@pytest.mark.parametrize("end", ["cancelled", "expired"])
def test_a_job_that_is_over_lets_go_of_its_key(tmp_path: Path, end: str) -> None:
    async def live() -> None:
        async with inside(tmp_path, away) as one:
            url = await one.taken("wrong", idempotency_key="k")
            assert (await one.chat("right", idempotency_key="k", prefer="wait=0")).status == 422, "control: it holds it"
            if end == "cancelled":
                await one.ask("DELETE", url)
            else:
                ended = journal.finish(url.rpartition("/")[2], journal.Ended("expired"), 1.0, wipe=True)
                await asyncio.wrap_future(one.journal.write(ended))
            other = await one.taken("right", idempotency_key="k")
            assert other != url
            assert await one.taken("right", idempotency_key="k") == other

    asyncio.run(live())


def test_a_file_from_before_lets_go_too(tmp_path: Path) -> None:
    """Jobs that were cancelled by an older program still have their key."""
    one = queue_history.opened(tmp_path)
    old = one.accept(queue_history.new(1, key=b"k" * 32)).result()
    one.finish(old.id, journal.Ended("cancelled"), wipe=True).result()
    one.write(lambda db: db.execute("UPDATE jobs SET key = ?, print = x'01'", (b"k" * 32,)).rowcount).result()
    assert one.accept(queue_history.new(2, key=b"k" * 32)).result().id == "job-2"
    one.close()


def test_what_stays_of_a_request(tmp_path: Path) -> None:
    """Plain and stream, with a key and without: what the file still says of each, once it was fetched or cancelled."""
    folder, rest = tmp_path, {}

    async def live() -> None:
        async with inside(folder, good) as one:
            more = {"instructions": "a secret order"}
            for name, stream, key in (("plain", False, "k1"), ("stream", True, ""), ("cancelled", False, "k2")):
                one.engine = away if name == "cancelled" else good
                one.queue.engine("private", up=name != "cancelled")
                headers = {"idempotency_key": key} if key else {}
                document = {"input": f"word of {name}", "stream": stream, **more}
                url = await one.taken(path="/v1/responses", document=document, **headers)
                if name == "cancelled":
                    await one.ask("DELETE", url)
                else:
                    await one.until(lambda: not one.queue._drainer.lines.known)
                    for _ in range(2):
                        answer = (await one.ask("GET", url)).json["response"]
                        assert answer["instructions"] == "a secret order"
                rest[name] = url.rpartition("/")[2]

    asyncio.run(live())
    db = journal.connect(folder / journal.FILE)
    found = {
        name: db.execute(
            "SELECT length(print), key IS NOT NULL, body, instr(voice, 'a secret order') > 0"
            " FROM jobs LEFT JOIN requests USING (seq) WHERE id = ?",
            (job,),
        ).fetchone()
        for name, job in rest.items()
    }
    db.close()
    assert found == {"plain": (32, 1, None, None), "stream": (0, 0, b"", 1), "cancelled": (0, 0, None, None)}
    assert b"word of" not in (folder / journal.FILE).read_bytes()


# --- what is counted, and what is held in memory ---------------------------------------------------------------------
def test_an_answer_is_counted_once_whoever_sees_it_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def live() -> None:
        async with inside(tmp_path, good) as one:
            plain, told = one.journal.finish, Future[bool]()

            def finish(*what: Any, **how: Any) -> Future[bool]:
                plain(*what, **how).result()  # it is on disk, and the worker does not know yet
                return told

            monkeypatch.setattr(one.journal, "finish", finish)
            url = await one.taken()
            async with asyncio.timeout(PATIENCE):
                while await one.state(url) != "completed":  # noqa: ASYNC110 - as its owner sees it
                    await asyncio.sleep(0.01)
            one.queue._changes = -1  # somebody else has written to the file
            await one.queue._look()
            told.set_result(True)
            await one.until(lambda: not one.queue._drainer.lines.known)
            assert one.queue.figures().outcomes == {("private", "completed"): 1}

    asyncio.run(live())


def test_a_job_cancelled_from_outside_is_counted_and_broken_off(tmp_path: Path) -> None:
    async def live() -> None:
        async with inside(tmp_path, never_for("endless")) as one:
            url = await one.taken("endless")
            await one.until(lambda: one.seen)
            db = journal.connect(tmp_path / journal.FILE)
            name = url.rpartition("/")[2]
            journal.commit(db, [journal.finish(name, journal.Ended("cancelled"), 1.0, wipe=True)])
            db.close()
            await one.until(lambda: not one.queue._drainer.lines.at_work)
            assert one.queue.figures().outcomes == {("private", "cancelled"): 1}
            assert (await one.ask("DELETE", url)).status == 200
            assert one.queue.figures().outcomes == {("private", "cancelled"): 1}

    asyncio.run(live())


def test_answers_that_wait_for_the_disk_are_no_more_than_the_slots(tmp_path: Path) -> None:
    async def live() -> None:
        async with inside(tmp_path, away, slots=2) as one:
            urls = [await one.taken(str(at)) for at in range(12)]
            gate = Gate(one.journal.write)
            await one.until(gate.reached.is_set)
            one.engine = good
            one.queue.engine("private", up=True)
            await one.until(lambda: len(one.seen) >= 4)
            await asyncio.sleep(0.4)
            assert len(one.seen) == 4, "two whose answers wait, and two more that were begun meanwhile"
            gate.open()
            await one.until(lambda: not one.queue._drainer.lines.known)
            assert {await one.state(url) for url in urls} == {"completed"} and len(one.seen) == 12

    asyncio.run(live())


def test_a_look_that_the_disk_broke_off_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, calls = journal.waiting, []

    def fails_once(db: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise sqlite3.OperationalError
        return plain(db)

    async def live() -> None:
        async with inside(tmp_path, away) as one:
            url = await one.taken()
            monkeypatch.setattr(journal, "waiting", fails_once)
            db = journal.connect(tmp_path / journal.FILE)
            journal.commit(db, [journal.finish(url.rpartition("/")[2], journal.Ended("cancelled"), 1.0, wipe=True)])
            db.close()
            await one.until(lambda: not one.queue._drainer.lines.known)
            assert one.queue.figures().outcomes == {("private", "cancelled"): 1} and len(calls) == 2

    asyncio.run(live())
