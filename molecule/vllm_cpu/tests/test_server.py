# SPDX-License-Identifier: MIT
"""A real vLLM with the role's flags: it answers, it queues, it counts as our probes read it, and it ends in time."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import probes
from conftest import on_the_card, tenant
from vllm_cpu import server

#: Tokens of an answer that takes long enough to be looked at while it is written.
LONG = 800


@contextmanager
def asked(port: int, times: int, tokens: int) -> Iterator[list[Future[server.Reply]]]:
    """So many questions at once in the background; each is answered at the end, or the test fails."""
    body = server.question("nemotron", tokens)
    with ThreadPoolExecutor(times) as pool:
        futures = [pool.submit(server.ask, port, "/v1/chat/completions", body) for _ in range(times)]
        yield futures
        assert [future.result().body["usage"]["completion_tokens"] for future in futures] == [tokens] * times


def counts(port: int) -> dict[str, float]:
    """Requests that run and wait, straight from its metrics."""
    text = server.ask(port, "/metrics").text
    return {what: float(number) for what, number in probes._VLLM.findall(text)}


def test_it_has_its_own_name_and_no_other(agent: server.Server) -> None:
    """A wrong mode is a missing model, never a worse answer (decision 010)."""
    assert [entry["id"] for entry in server.ask(agent.port, "/v1/models").body["data"]] == ["nemotron"]
    for name in ("nemotron-forensic", "coder", ""):
        reply = server.ask(agent.port, "/v1/chat/completions", server.question(name or "nemotron-x", 1))
        assert reply.status == 404, name


def test_a_completion_is_real_and_repeats(agent: server.Server) -> None:
    answers = [server.ask(agent.port, "/v1/chat/completions", server.question("nemotron", 24)) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 200]
    bodies = [answer.body for answer in answers]
    assert [body["usage"]["completion_tokens"] for body in bodies] == [24, 24]
    assert {body["choices"][0]["finish_reason"] for body in bodies} == {"length"}
    said = [json.dumps(body["choices"][0]["message"], sort_keys=True) for body in bodies]
    assert said[0] == said[1]
    # The parser of thoughts is at work: what the model has not closed is a thought, not an answer.
    assert bodies[0]["choices"][0]["message"]["reasoning"]


def test_another_question_has_another_answer(agent: server.Server) -> None:
    """The test above would pass with a canned answer; this one would not."""
    told = set()
    for word in ("one", "two", "three", "four"):
        body = server.question("nemotron", 16, messages=[{"role": "user", "content": word * 9}], logprobs=True)
        reply = server.ask(agent.port, "/v1/chat/completions", body).body
        told.add(json.dumps([entry["logprob"] for entry in reply["choices"][0]["logprobs"]["content"]]))
    assert len(told) == 4


def test_a_stream_comes_in_pieces(agent: server.Server) -> None:
    body = server.question("nemotron", 24, stream=True, stream_options={"include_usage": True})
    reply = server.ask(agent.port, "/v1/chat/completions", body)
    assert reply.status == 200 and reply.pieces[-1] == "[DONE]"
    pieces = [json.loads(piece) for piece in reply.pieces[:-1]]
    assert pieces[-1]["usage"]["completion_tokens"] == 24
    assert len([piece for piece in pieces if piece["choices"]]) >= 8
    assert {piece["model"] for piece in pieces} == {"nemotron"}


def test_a_prompt_beyond_the_stated_length_is_refused(agent: server.Server) -> None:
    body = server.question("nemotron", 1, messages=[{"role": "user", "content": "x" * 32768}])
    reply = server.ask(agent.port, "/v1/chat/completions", body)
    assert reply.status == 400 and "32768" in reply.text
    assert server.ask(agent.port, "/v1/chat/completions", server.question("nemotron", 1)).status == 200


def test_no_more_than_the_stated_number_runs_at_once(agent: server.Server) -> None:
    """--max-num-seqs=2: of five, two run and three wait, and all five are answered in full."""
    with asked(agent.port, 5, LONG) as answers:
        seen: list[dict[str, float]] = []
        while not seen or not all(answer.done() for answer in answers):
            seen.append(counts(agent.port))
            time.sleep(0.05)
    assert max(each["running"] for each in seen) == 2
    assert max(each["waiting"] for each in seen) == 3


def test_our_probes_read_it(agent: server.Server) -> None:
    """Idle, ready; busy with what runs and what waits, in words; idle again. Loaded is not busy."""
    engine, asks = tenant(agent.port, "nemotron"), probes.Probes("")
    there = on_the_card(engine)
    assert asks.ready(engine) == "" and asks.busy(engine, there) == []
    with asked(agent.port, 4, LONG):
        until = time.monotonic() + 60
        told: set[str] = set()
        while time.monotonic() < until and not {"2 requests running", "2 requests waiting"} <= told:
            told |= set(asks.busy(engine, there))
        assert {"2 requests running", "2 requests waiting"} <= told, told
    until = time.monotonic() + 10
    while asks.busy(engine, there) and time.monotonic() < until:
        time.sleep(0.05)
    assert asks.busy(engine, there) == [] and asks.ready(engine) == ""


def test_our_probes_believe_no_other(agent: server.Server) -> None:
    asks = probes.Probes("")
    assert "404" in asks.ready(tenant(agent.port, "coder"))
    nobody = tenant(server.free_port(), "nemotron")
    assert "refused" in asks.ready(nobody)
    assert asks.busy(nobody, on_the_card(nobody)) != [] and asks.busy(nobody, []) == []
