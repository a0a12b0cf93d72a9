# SPDX-License-Identifier: MIT
"""A stream that ends without a reason is broken, not finished; and who has said nothing is not named."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import mushishi_gateway_stream as stream
import pytest


class Broken(Exception):
    """What a connection that broke raises."""


def wrapper_class() -> type[Any]:
    """A class with what is used of LiteLLM's own (1.108.5): at its end it makes up a reason when it got none."""

    class Wrapper:
        def __init__(
            self,
            received: str | None = None,
            intermittent: str | None = None,
            sent: bool = False,
            events: Sequence[Any] = (),
        ) -> None:
            self.received_finish_reason, self.intermittent_finish_reason = received, intermittent
            self.sent_last_chunk, self.closed = sent, False
            self.events, self.read = iter(events), 0

        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> Any:
            self.read += 1
            for event in self.events:
                if isinstance(event, Exception):
                    raise event
                return event
            raise StopAsyncIteration

        async def aclose(self) -> None:
            self.closed = True

        def _log_stream_failure_and_raise(self, error: Exception) -> None:
            assert self.closed, "the engine's connection is closed first"
            raise error

        async def _finalize_completed_stream(self, cache_hit: bool) -> str:
            return self.received_finish_reason or self.intermittent_finish_reason or "stop"

    return Wrapper


def end_of(wrapper: Any) -> Any:
    return asyncio.run(wrapper._finalize_completed_stream(cache_hit=False))


def test_control_litellm_makes_an_end_up() -> None:
    assert end_of(wrapper_class()()) == "stop"


def test_no_reason_is_a_broken_stream() -> None:
    wrapper = wrapper_class()
    stream.install(wrapper, Broken)
    with pytest.raises(Broken, match="without a finish_reason"):
        end_of(wrapper())


@pytest.mark.parametrize("given", [{"received": "length"}, {"intermittent": "stop"}, {"sent": True}])
def test_an_end_that_was_said_stays(given: dict[str, Any]) -> None:
    wrapper = wrapper_class()
    stream.install(wrapper, Broken)
    assert end_of(wrapper(**given)) == (given.get("received") or "stop")


@pytest.mark.parametrize("name", stream.METHODS)
def test_another_litellm_is_refused(name: str) -> None:
    wrapper = wrapper_class()
    delattr(wrapper, name)
    with pytest.raises(stream.Changed, match=name):
        stream.install(wrapper, Broken)


def event(finish_reason: str | None = None, **delta: Any) -> Any:
    """An event of a chat."""
    return SimpleNamespace(choices=[SimpleNamespace(finish_reason=finish_reason, delta=SimpleNamespace(**delta))])


ROLE, WORD, END = event(role="assistant", content=""), event(content="yes"), event("stop")
TOOL, THOUGHT = event(tool_calls=[{"index": 0}]), event(reasoning_content="hm")
USAGE = SimpleNamespace(choices=[], usage={"total_tokens": 3})


def stream_of(*events: Any, mended: bool = True) -> Any:
    wrapper = wrapper_class()
    if mended:
        stream.install(wrapper, Broken)
    return wrapper(events=events)


def first_of(wrapper: Any) -> Any:
    return asyncio.run(wrapper.__anext__())


def test_control_litellm_gives_an_event_without_a_word() -> None:
    assert first_of(stream_of(ROLE, Broken(), mended=False)) is ROLE


def test_who_breaks_off_before_a_word_is_not_named() -> None:
    """The failure comes in place of the first event, when the headers were not sent yet."""
    with pytest.raises(Broken):
        first_of(stream_of(ROLE, ROLE, Broken("gone")))


@pytest.mark.parametrize("piece", [WORD, TOOL, THOUGHT, END], ids=["a word", "a tool", "a thought", "an end"])
def test_all_comes_in_order_once_something_was_said(piece: Any) -> None:
    async def everything(wrapper: Any) -> list[Any]:
        return [each async for each in wrapper]

    events = [ROLE, ROLE, piece, ROLE, USAGE, END]
    wrapper = stream_of(*events)
    assert asyncio.run(everything(wrapper)) == events
    assert asyncio.run(everything(stream_of(ROLE))) == [ROLE], "a stream without a word is no other than it was"
    assert asyncio.run(everything(stream_of())) == []


def test_nothing_more_is_read_than_is_needed() -> None:
    wrapper = stream_of(WORD, ROLE, END)
    assert (first_of(wrapper), wrapper.read) == (WORD, 1)
    assert (first_of(wrapper), wrapper.read) == (ROLE, 2)


def test_a_break_after_a_word_is_told_after_it() -> None:
    wrapper = stream_of(ROLE, WORD, Broken("gone"))
    assert [first_of(wrapper), first_of(wrapper)] == [ROLE, WORD]
    with pytest.raises(Broken):
        first_of(wrapper)


def test_no_end_of_wordless_events_is_passed_on() -> None:
    wrapper = stream_of(*[ROLE] * 1000)
    assert first_of(wrapper) is ROLE and wrapper.read == stream.MOST_WAITING + 1


@pytest.mark.parametrize("chunk", [object(), SimpleNamespace(choices=None), event("stop", role="x")])
def test_what_is_no_event_of_a_chat_counts(chunk: Any) -> None:
    assert stream.says_something(chunk)
    assert not stream.says_something(USAGE) and not stream.says_something(ROLE)
