# SPDX-License-Identifier: MIT
"""The private queue over HTTP: the real service as a process, a gateway that is told to be away, and kills."""

from __future__ import annotations

import json
import random
import resource
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from admission import journal
from admission_standin import KEYS
from queue_service import Machine, machine, question

AWAY = {"status": 500}
NOW = {"prefer": "wait=0"}
ASYNC = {"prefer": "respond-async"}


@pytest.fixture
def away(tmp_path: Path) -> Iterator[Machine]:
    """Admission runs, and no engine answers."""
    with machine(tmp_path) as made:
        made.start_gateway(**AWAY)
        made.start()
        yield made


def job_of(answer: httpx.Response) -> str:
    """The URL of the job that a 503 speaks of."""
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (503, "queued", "server_error")
    assert answer.headers["location"] == error["job"] == answer.headers["x-sovereign-job"]
    assert error["job"] in error["message"]
    return str(error["job"])


def data_of(text: str) -> list[str]:
    return [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]


def content_of(text: str) -> str:
    *chunks, end = data_of(text)
    assert end == "[DONE]"
    return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in json.loads(chunk)["choices"])


def later(call: Any) -> tuple[threading.Thread, list[Any]]:
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(call()))
    thread.start()
    return thread, got


# --- what a client hears ---------------------------------------------------------------------------------------------
def test_time_is_over_and_the_job_stays(away: Machine) -> None:
    began = time.monotonic()
    answer = away.ask("hello", headers={"prefer": "wait=1"})
    assert 1 <= time.monotonic() - began < 30, "not the 60 s of the profile"
    url = job_of(answer)
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["x-should-retry"] == "false", "an SDK must not make a second job of it"
    seen = away.get(url)
    assert (seen.status_code, seen.json()["status"], seen.json()["position"]) == (200, "queued", 1)
    assert int(seen.headers["retry-after"]) > 0
    away.tell(status=200)
    away.settled()
    seen = away.get(url)
    assert seen.json()["status"] == "completed"
    assert seen.json()["response"]["choices"][0]["message"]["content"] == "answer to hello"
    assert seen.json()["response"]["model"] == "private"
    assert [one["prompt"] for one in away.served()] == ["hello"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_comes_back_in_time(away: Machine, stream: bool) -> None:
    thread, got = later(lambda: away.ask("hello", stream=stream))
    until = time.monotonic() + 60
    while not away.jobs() and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(1.2)
    away.tell(status=200)
    thread.join()
    (answer,) = got
    assert answer.status_code == 200
    assert answer.headers["x-sovereign-backend" if not stream else "x-sovereign-job"]
    assert int(answer.headers["x-sovereign-queued"]) >= (0 if stream else 1)
    if stream:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.text.startswith(": keep-alive\n\n")
        assert content_of(answer.text) == "answer to hello"
    else:
        assert answer.json()["choices"][0]["message"]["content"] == "answer to hello"
    assert len(away.served()) == 1


def test_a_stream_that_has_begun_ends_with_the_jobs_url(away: Machine) -> None:
    answer = away.ask("hello", stream=True, headers={"prefer": "wait=1"})
    assert answer.status_code == 200
    (last,) = data_of(answer.text)
    error = json.loads(last)["error"]
    assert error["code"] == "queued"
    assert away.get(error["job"]).json()["status"] == "queued"
    assert "[DONE]" not in answer.text


def test_respond_async(away: Machine) -> None:
    away.tell(status=200)
    answer = away.ask("hello", headers=ASYNC)
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "respond-async"
    assert answer.headers["location"] == answer.json()["url"]
    away.settled()
    assert away.get(answer.headers["location"]).json()["response"]["object"] == "chat.completion"


@pytest.mark.parametrize(
    ("path", "document", "read"),
    [
        ("/v1/completions", {"prompt": "hello"}, lambda one: one["choices"][0]["text"]),
        ("/v1/responses", {"input": "hello"}, lambda one: one["output"][0]["content"][0]["text"]),
        (
            "/v1/messages",
            {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 9},
            lambda one: one["content"][0]["text"],
        ),
    ],
)
def test_every_route_waits_in_its_own_words(away: Machine, path: str, document: dict[str, Any], read: Any) -> None:
    client = away.client()
    refused = client.post(path, json=document, headers=NOW)
    assert refused.status_code == 503
    url = refused.json()["error"]["job"]
    streams = [later(lambda: away.client().post(path, json={**document, "stream": True})) for _ in range(2)]
    time.sleep(0.6)
    away.tell(status=200)
    away.settled()
    assert read(client.get(url).json()["response"]) == "answer to hello"
    for thread, got in streams:
        thread.join()
        assert "answer to hello" in got[0].text
        end = {"/v1/completions": "[DONE]", "/v1/responses": "response.completed", "/v1/messages": "message_stop"}
        assert end[path] in got[0].text


def test_what_the_engine_refuses_is_refused_later_too(away: Machine) -> None:
    url = job_of(away.ask("hello", headers=NOW))
    thread, got = later(lambda: away.ask("again"))
    time.sleep(0.4)
    # The probe must be answered, so it is the engine that is asked first.
    away.tell(status=200)
    away.settled()
    thread.join()
    assert got[0].status_code == 200
    away.tell(status=400, text="maximum context length")
    waits = away.ask("long", headers=ASYNC).headers["location"]
    away.settled()
    seen = away.get(waits).json()
    assert (seen["status"], seen["error"]["error"]["code"]) == ("failed", "context_length_exceeded")
    assert away.get(url).json()["status"] == "completed"


def test_profiles_without_a_queue_are_as_before(away: Machine) -> None:
    answer = away.ask("hello", "client", headers={"prefer": "respond-async", "idempotency-key": "k"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
    assert away.jobs() == []


# --- whose it is -----------------------------------------------------------------------------------------------------
def test_another_profiles_key_finds_nothing(away: Machine) -> None:
    url = job_of(away.ask("hello", headers=NOW))
    for profile in ("client", "coding"):
        client = away.client(profile)
        for method in ("GET", "DELETE"):
            other = client.request(method, url)
            none = client.request(method, "/v1/queue/" + "A" * 43)
            assert other.status_code == none.status_code == 404
            assert other.json() == none.json()
    with httpx.Client(base_url=f"http://127.0.0.1:{away.port}") as nobody:
        assert nobody.get(url).status_code == 401
        assert nobody.get(url, headers={"x-api-key": KEYS["private"]}).status_code == 200
        assert nobody.post(url, headers={"x-api-key": KEYS["private"]}).status_code == 405
    assert len(url.rpartition("/")[2]) == 43
    client = away.client()
    for wrong in ("/v1/queue/1", "/v1/queue/", url[:-1], url + "A", url.lower() + "?x", "/v1/queue/../" + url[10:]):
        assert client.get(wrong).status_code == 404, wrong
    assert away.get(url).json()["status"] == "queued"


def test_cancel(away: Machine) -> None:
    url = job_of(away.ask("hello", headers=NOW))
    thread, got = later(lambda: away.ask("held"))
    time.sleep(0.5)
    client = away.client()
    held = client.get("/v1/queue/" + away.jobs()[1].id).json()["url"]
    assert client.delete(held).json()["status"] == "cancelled"
    thread.join()
    assert (got[0].status_code, got[0].json()["error"]["code"]) == (409, "job_cancelled")
    assert client.delete(url).json()["status"] == "cancelled"
    away.tell(status=200)
    time.sleep(1)
    assert away.served() == []
    assert client.delete(url).status_code == 200
    assert client.get(url).status_code == 404, "what has ended is forgotten"
    raw = b"".join(path.read_bytes() for path in away.data.iterdir() if not path.name.endswith("-wal"))
    assert b"hello" not in raw


# --- once ------------------------------------------------------------------------------------------------------------
def test_a_retry_with_a_key_is_the_same_job(away: Machine) -> None:
    key = {"idempotency-key": "a-key", **NOW}
    url = job_of(away.ask("hello", headers=key))
    assert job_of(away.ask("hello", headers=key)) == url
    assert away.ask("hello", headers={"idempotency-key": "a-key", **ASYNC}).headers["location"] == url
    other = away.ask("another", headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert len(away.jobs()) == 1
    away.tell(status=200)
    away.settled()
    answer = away.ask("hello", headers=key)
    assert (answer.status_code, answer.headers["x-sovereign-job"]) == (200, url)
    assert answer.json()["choices"][0]["message"]["content"] == "answer to hello"
    assert len(away.served()) == 1
    assert away.ask("hello", headers={"idempotency-key": "\x7f"}).status_code == 400
    both = [("idempotency-key", "a"), ("idempotency-key", "b")]
    assert away.ask("hello", headers=both).status_code == 400


def test_two_at_once_with_one_key_are_one_job(away: Machine) -> None:
    with ThreadPoolExecutor(8) as pool:
        key = {"idempotency-key": "same", **NOW}
        urls = {job_of(answer) for answer in pool.map(lambda _: away.ask("hello", headers=key), range(8))}
    assert len(urls) == len(away.jobs()) == 1


def test_what_is_fetched_is_wiped(away: Machine) -> None:
    url = job_of(away.ask("a secret word", headers=NOW))
    away.tell(status=200)
    (job,) = away.settled()
    assert job.fetched is None
    assert away.get(url).status_code == 200
    until = time.monotonic() + 10
    while away.jobs()[0].fetched is None and time.monotonic() < until:
        time.sleep(0.05)
    away.stop()  # empties the log
    raw = b"".join(path.read_bytes() for path in away.data.iterdir())
    assert b'"content":"a secret word"' not in raw
    assert b"answer to a secret word" in raw, "control: the answer is kept, and the search sees it"


# --- bounds ----------------------------------------------------------------------------------------------------------
def test_a_full_queue_refuses_before_it_accepts(tmp_path: Path) -> None:
    with machine(tmp_path, jobs=2) as full:
        full.start_gateway(**AWAY)
        full.start()
        for text in ("one", "two"):
            job_of(full.ask(text, headers=NOW))
        for headers in (NOW, ASYNC):
            answer = full.ask("three", headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "queue_full")
        assert len(full.jobs()) == 2


def test_a_full_disk_refuses_before_it_accepts(tmp_path: Path) -> None:
    with machine(tmp_path, free_bytes=1 << 60) as full:
        full.start_gateway(**AWAY)
        full.start()
        answer = full.ask("one")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "queue_full")
        assert "disk" in answer.json()["error"]["message"]
        assert full.jobs() == []


def test_a_disk_that_cannot_be_written(away: Machine) -> None:
    """The kernel refuses to let the file grow: a clear error, nothing by half, and afterwards all goes on."""
    small = job_of(away.ask("small", headers=NOW))
    assert away.service is not None
    resource.prlimit(away.service.pid, resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
    answer = away.ask("x" * 5_000_000, headers=NOW)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "queue_failed")
    assert "was not kept" in answer.json()["error"]["message"]
    assert len(away.jobs()) == 1
    resource.prlimit(away.service.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    large = job_of(away.ask("x" * 5_000_000, headers=NOW))
    away.tell(status=200)
    away.settled()
    assert {away.get(url).json()["status"] for url in (small, large)} == {"completed"}


def test_expiry(tmp_path: Path) -> None:
    with machine(tmp_path, expiry_seconds=1) as short:
        short.start_gateway(**AWAY)
        short.start()
        url = job_of(short.ask("hello", headers=NOW))
        time.sleep(1.2)
        short.stop()
        short.start()  # the clock's rounds begin at once
        until = time.monotonic() + 10
        while short.get(url).json()["status"] != "expired" and time.monotonic() < until:
            time.sleep(0.1)
        assert short.get(url).json()["status"] == "expired"
        assert short.settled()[0].state == "expired"


def test_malformed_requests_never_become_jobs(away: Machine) -> None:
    client = away.client()
    kind = {"content-type": "application/json", **ASYNC}
    for raw in (
        b"{",
        b"[]",
        b'{"messages":[]}',
        b'{"messages":[{"role":"user","content":"x"}],"api_base":"http://x"}',
    ):
        assert client.post("/v1/chat/completions", content=raw, headers=kind).status_code == 400
    wrong = client.post("/v1/chat/completions", json=question("x"), headers={"authorization": "Bearer no", **ASYNC})
    assert wrong.status_code == 401
    assert away.jobs() == []


def memory(pid: int) -> int:
    """Resident memory at its highest, MiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM")) // 1024


@pytest.mark.nightly
@pytest.mark.parametrize(("number", "size"), [(24, 4_000_000), (12, 20_000_000)])
def test_many_large_requests_wait_on_disk(tmp_path: Path, number: int, size: int) -> None:
    """Bodies of 4 and of 20 MB (the most that is taken) wait for their answer; slow clients hold half a request."""
    with machine(tmp_path, wait=110) as large:
        large.start_gateway(**AWAY)
        large.start()
        assert large.service is not None
        before = memory(large.service.pid)
        slow = []
        for _ in range(3):
            one = socket.create_connection(("127.0.0.1", large.port))
            one.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                b"authorization: Bearer " + KEYS["private"].encode() + b"\r\ncontent-length: 1000\r\n\r\n{"
            )
            slow.append(one)
        with ThreadPoolExecutor(number) as pool:
            waits = [pool.submit(large.ask, f"{at}:" + "x" * size) for at in range(number)]
            until = time.monotonic() + 100
            while len(large.jobs()) < number and time.monotonic() < until:
                time.sleep(0.1)
            assert len(large.jobs()) == number
            peak = memory(large.service.pid)
            sys.stderr.write(f"{number} of {size / 1e6:.0f} MB: {before} MiB before, {peak} MiB at most\n")
            large.tell(status=200)
            answers = [one.result() for one in waits]
        assert {answer.status_code for answer in answers} == {200}
        assert peak - before < 125 * size / 1e6, "eight at work and four taken in, each some copies; not all of them"
        for one in slow:
            one.settimeout(90)
            assert one.recv(64).startswith(b"HTTP/1.1 408 "), "half a request is told that it came too late"
            one.close()


def half(port: int, *, body: bool) -> socket.socket:
    """A client that sends half a head, or a whole one and the beginning of its body."""
    one = socket.create_connection(("127.0.0.1", port), 20)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    rest = b"authorization: Bearer " + KEYS["private"].encode() + b"\r\ncontent-length: 1000\r\n\r\n{"
    one.sendall(head + rest if body else head)
    return one


def test_slow_clients_are_told_or_closed_and_become_no_jobs(tmp_path: Path) -> None:
    """More of them than there are places: they feed a byte now and then, and none holds a place beyond the bounds."""
    with machine(tmp_path, limits={"body_seconds": 1, "header_seconds": 1}) as slow:
        slow.start_gateway(**AWAY)
        slow.start()
        bodies, heads = ([half(slow.port, body=body) for _ in range(30)] for body in (True, False))
        began, said = time.monotonic(), dict.fromkeys(bodies + heads, b"")
        ended: dict[socket.socket, float] = {}
        while len(ended) < len(said) and time.monotonic() - began < 30:
            for one in [one for one in said if one not in ended]:
                try:
                    one.send(b" " if one in bodies else b"x")
                    one.settimeout(0.001)
                    piece = one.recv(4096)
                except TimeoutError:
                    continue
                except OSError:
                    piece = b""
                said[one] += piece
                if not piece:
                    ended[one] = time.monotonic() - began
        assert len(ended) == len(said), "nobody holds a connection for as long as he likes"
        assert {said[one].split(b" ")[1] for one in bodies} <= {b"408", b"429"}
        assert sum(said[one].startswith(b"HTTP/1.1 408") for one in bodies) >= 8, "those that had a slot"
        assert {said[one] for one in heads} == {b""}
        assert max(ended[one] for one in heads) < 6
        assert slow.jobs() == []
        job_of(slow.ask("afterwards", headers=NOW))


@pytest.mark.nightly
def test_ten_thousand_jobs_deep(tmp_path: Path) -> None:
    """Stated answers, bounded memory, nothing lost by a kill, and each job its own answer in the end."""
    number = 10_000
    texts = [f"deep-{at}" for at in range(number)]
    with machine(tmp_path, jobs=number, slots=4) as deep:
        bounds = journal.Bounds(number, 8 << 30, 0, 1e9, 1e9)
        filling = journal.Journal(deep.data, bounds)
        taken = []
        for text in texts:
            body = json.dumps(question(text)).encode()
            mark = journal.digest(text.encode())
            name, voice = f"{text:-<43}", b'{"state":{},"usage":false}'
            new = journal.NewJob(name, "private", "/v1/chat/completions", False, body, voice, mark, mark)
            taken.append(filling.accept(new))
        assert all(one.result().waits for one in taken)
        filling.close()
        deep.start_gateway(**AWAY)
        for _ in range(2):
            began = time.monotonic()
            deep.start()
            seen = deep.get(f"/v1/queue/{texts[-1]:-<43}").json()
            assert (seen["status"], seen["position"]) == ("queued", number)
            took = time.monotonic() - began
            full = deep.ask("one more", headers=NOW)
            assert (full.status_code, full.json()["error"]["code"]) == (503, "queue_full")
            assert f"{number} jobs wait, and {number} may" in full.json()["error"]["message"]
            assert deep.service is not None
            peak = memory(deep.service.pid)
            sys.stderr.write(f"{number} deep: answers after {took:.1f} s, {peak} MiB at most\n")
            assert peak < 150 and took < 30
            deep.kill()
        deep.start()
        deep.tell(status=200, seconds=0)
        jobs = deep.settled(900)
        assert len(jobs) == number and {job.state for job in jobs} == {"completed"}
        assert all(answer == f"answer to {text}" for text, answer in stored(deep, set(texts)).values())
        places = [one["prompt"] for one in deep.served()]
        assert sorted(set(places)) == sorted(texts)
        assert all(abs(int(text.partition("-")[2]) - at) <= 50 for at, text in enumerate(places)), "in order"
        assert deep.service is not None and memory(deep.service.pid) < 200


def waiters(many: Machine, number: int) -> list[httpx.Response]:
    """So many clients at once that wait for their answer, which comes when all of them do."""
    with ThreadPoolExecutor(number) as pool:
        asked = [pool.submit(many.ask, f"w{at}", stream=bool(at % 2)) for at in range(number)]
        until = time.monotonic() + 120
        while len(many.jobs()) < number and time.monotonic() < until:
            time.sleep(0.2)
        many.tell(status=200, seconds=0.001)
        return [one.result() for one in asked]


@pytest.mark.parametrize("number", [60, pytest.param(500, marks=pytest.mark.nightly)])
def test_many_waiters(tmp_path: Path, number: int) -> None:
    with machine(tmp_path, wait=110, waiters=number) as many:
        many.start_gateway(**AWAY)
        many.start()
        answers = waiters(many, number)
        assert Counter(answer.status_code for answer in answers) == {200: number}
        said = [
            content_of(one.text) if at % 2 else one.json()["choices"][0]["message"]["content"]
            for at, one in enumerate(answers)
        ]
        assert said == [f"answer to w{at}" for at in range(number)]
        assert len(many.served()) == number
        assert many.service is not None
        assert memory(many.service.pid) < 400


# --- order, and live requests ----------------------------------------------------------------------------------------
def test_two_hundred_are_answered_once_in_order(away: Machine) -> None:
    urls = [away.ask(f"q{at}", stream=False, headers=NOW if at % 2 else ASYNC) for at in range(200)]
    assert [one.status_code for one in urls] == [503 if at % 2 else 202 for at in range(200)]
    assert away.served() == []
    away.tell(status=200, slots=1, seconds=0.001)
    away.settled()
    prompts = [one["prompt"] for one in away.served()]
    assert sorted(prompts) == sorted(f"q{at}" for at in range(200)), "each exactly once"
    places = {prompt: at for at, prompt in enumerate(prompts)}
    assert all(abs(places[f"q{at}"] - at) <= 3 for at in range(200)), "in order, but for the slots that work at once"
    for at, one in enumerate(urls):
        seen = away.get(one.headers["location"]).json()
        assert seen["response"]["choices"][0]["message"]["content"] == f"answer to q{at}"


def test_live_requests_go_first(tmp_path: Path) -> None:
    with machine(tmp_path, slots=2) as busy:
        busy.start_gateway(**AWAY)
        busy.start()
        for at in range(30):
            busy.ask(f"q{at}", headers=ASYNC)
        busy.tell(status=200, seconds=0.3, slots=2)
        time.sleep(1)
        assert busy.ask("live").status_code == 200
        assert sum(job.waits for job in busy.jobs()) > 5, "it was not behind the others"
        busy.tell(status=200, seconds=0.001)
        busy.settled()


# --- kills -----------------------------------------------------------------------------------------------------------
def kills(folder: Path, number: int, seed: int) -> None:
    """SIGKILL to admission (with its worker) and to the gateway at random moments, while clients ask."""
    chance = random.Random(seed)  # noqa: S311 - a test's draw
    with machine(folder, wait=1) as mortal:
        mortal.start_gateway(**AWAY)
        mortal.start()
        accepted: dict[str, str] = {}
        answered: dict[str, str] = {}
        texts: set[str] = set()
        stop = threading.Event()

        def client(which: int) -> None:
            at = 0
            while not stop.is_set():
                at += 1
                text = f"{which}-{at}"
                texts.add(text)
                headers = {"idempotency-key": text, **(ASYNC if at % 3 else NOW)}
                for _ in range(200):  # until it is promised: the same key, so that it is the same job
                    try:
                        got = mortal.ask(text, stream=at % 2 == 0, headers=headers)
                    except httpx.HTTPError:
                        time.sleep(0.02)
                        continue
                    if got.status_code in (202, 503) and "location" in got.headers:
                        accepted[text] = got.headers["location"]
                        break
                    if got.status_code == 200:
                        plain = at % 2 or not got.headers["content-type"].startswith("text/event-stream")
                        said = got.json()["choices"][0]["message"]["content"] if plain else content_of(got.text)
                        answered[text] = said
                        break
                    time.sleep(0.02)
                time.sleep(0.01)

        threads = [threading.Thread(target=client, args=(which,)) for which in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(number):
            time.sleep(chance.uniform(0.02, 0.6))
            if chance.random() < 0.7:
                mortal.kill()
                mortal.start()
            else:
                mortal.kill_gateway()
                mortal.start_gateway(**chance.choice((AWAY, {"status": 200, "seconds": 0.02})))
            mortal.tell(**chance.choice((AWAY, {"status": 200, "seconds": 0.02})))
        stop.set()
        for thread in threads:
            thread.join()
        mortal.start_gateway(status=200, seconds=0.001)
        mortal.tell(status=200, seconds=0.001)
        jobs = mortal.settled(120)
        assert len(accepted) > 5
        assert {job.state for job in jobs} == {"completed"}
        there = stored(mortal, texts)
        assert all(answer == f"answer to {text}" for text, answer in there.values()), "each its own answer"
        for text, url in accepted.items():
            assert there[url.rpartition("/")[2]][0] == text, "accepted and lost"
            seen = mortal.get(url).json()
            assert seen["response"]["choices"][0]["message"]["content"] == f"answer to {text}"
        assert answered == {text: f"answer to {text}" for text in answered}, "what a client heard is whole"


def stored(mortal: Machine, texts: set[str]) -> dict[str, tuple[str, str]]:
    """What each job asked (known by its key) and what is stored for it, by its name."""
    by_key = {journal.digest(text.encode()): text for text in texts}
    db = journal.connect(mortal.data / journal.FILE, read_only=True)
    jobs = db.execute("SELECT id, key, print FROM jobs").fetchall()
    answers = db.execute("SELECT id, body FROM results LEFT JOIN jobs USING (seq)").fetchall()
    db.close()
    assert len({row[2] for row in jobs}) == len(jobs), "two jobs of one request"
    assert sorted(row[0] for row in answers) == sorted(row[0] for row in jobs), "one answer for each job, none besides"
    said = {name: json.loads(body)["choices"][0]["message"]["content"] for name, body in answers}
    return {name: (by_key[key], said[name]) for name, key, _print in jobs}


def test_killed_at_random_moments(tmp_path: Path) -> None:
    kills(tmp_path, 8, 1)


@pytest.mark.nightly
def test_killed_at_a_hundred_random_moments(tmp_path: Path) -> None:
    kills(tmp_path, 100, int(time.time()))


def test_held_connections_end_at_once_when_the_service_does(away: Machine) -> None:
    """An update of the machine must not wait for those who wait, and they are told where their answer will be."""
    thread, got = later(lambda: away.ask("held", headers={"prefer": "wait=60"}))
    until = time.monotonic() + 10
    while not away.jobs() and time.monotonic() < until:
        time.sleep(0.05)
    began = time.monotonic()
    away.stop()
    thread.join()
    assert time.monotonic() - began < 30, "not the 60 s for which it asked to be held"
    url = job_of(got[0])
    away.start()
    away.tell(status=200)
    away.settled()
    assert away.get(url).json()["status"] == "completed"


# --- what is told ----------------------------------------------------------------------------------------------------
def test_no_word_of_it_is_anywhere_else(away: Machine) -> None:
    word = "mushimark-of-the-queue"
    url = job_of(away.ask(word, headers={"idempotency-key": f"{word}-key", **NOW}))
    away.ask(word, stream=True, headers={"prefer": "wait=1"})
    away.tell(status=200)
    away.settled()
    away.get(url)
    until = time.monotonic() + 15
    while not (away.told / "queue.prom").is_file() and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(5.5)  # the files are written anew
    told = {path.name: path.read_text() for path in away.told.iterdir()}
    assert set(told) == {"queue.json", "queue.prom"}
    assert 'mushishi_queue_ended_total{profile="private",state="completed"} 2' in told["queue.prom"]
    name = url.rpartition("/")[2]
    for text in (*told.values(), away.log.read_text()):
        assert word not in text and name not in text and "answer to" not in text
    db = (away.data / "queue.db").read_bytes() + (away.data / "queue.db-wal").read_bytes()
    assert word.encode() in db, "control: the queue's own file has it"
    assert f"{word}-key".encode() not in db, "a client's key is kept as a digest"
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in away.data.iterdir()}
    assert set(modes.values()) == {"0o600"}, modes
