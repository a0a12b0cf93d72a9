# SPDX-License-Identifier: MIT
"""What LiteLLM's streams (1.108.5) say of their beginning and of their end is true.

A stream that ends without saying why is a broken one. LiteLLM ends it with ``finish_reason: "stop"`` of its own and
``[DONE]`` (``CustomStreamWrapper._finalize_completed_stream``), so that half an answer of an engine that went away in
good order looks whole. Here it takes the way of a connection that broke: before the first content the next link
answers, after it the client gets an error event and no ``[DONE]``.

Nobody is named before he has said something. LiteLLM sends the headers, which name who answers, together with the
first event, and that one often holds a role and no word; when the stream broke after it, the next link answered under
the name of the first. Here events without content wait for the first that has some, so that the name is of who said it.
"""

from __future__ import annotations

from collections import deque
from typing import Any

#: What is used of LiteLLM's stream class. They are no public interface, so each is looked for at the start.
METHODS = ("_finalize_completed_stream", "_log_stream_failure_and_raise", "aclose", "__anext__")
#: Wordless events that may wait. An engine sends one or two; one that sends no end of them is passed on as it is.
MOST_WAITING = 64
#: Where a piece of an answer can stand in a delta (OpenAI's chat completions, and what vLLM and llama.cpp add).
CONTENT = ("content", "reasoning_content", "reasoning", "refusal", "tool_calls", "function_call", "audio")


class Changed(RuntimeError):
    """LiteLLM's stream class is not the one that this was written for."""


def says_something(chunk: Any) -> bool:
    """Whether an event has a piece of the answer in it, or the reason of its end. What is no event of a chat counts."""
    choices = getattr(chunk, "choices", None)
    if not isinstance(choices, list):
        return True
    for choice in choices:
        delta = getattr(choice, "delta", None)
        if delta is None or getattr(choice, "finish_reason", None) is not None:
            return True
        if any(getattr(delta, name, None) for name in CONTENT):
            return True
    return False


def install(wrapper: type[Any], broken: type[Exception]) -> None:
    """Make ``wrapper`` (LiteLLM's stream class) raise ``broken`` where it would make an end up.

    Raises :class:`Changed` when the class lacks what is used of it.
    """
    missing = [name for name in METHODS if not callable(getattr(wrapper, name, None))]
    if missing:
        raise Changed(f"LiteLLM's {wrapper.__name__} has no {', '.join(missing)}: read its streaming code again")
    finalize = wrapper._finalize_completed_stream

    async def finalize_what_has_an_end(self: Any, cache_hit: bool) -> Any:
        if not self.sent_last_chunk and self.received_finish_reason is None and self.intermittent_finish_reason is None:
            await self.aclose()
            self._log_stream_failure_and_raise(broken("the stream ended without a finish_reason"))
        return await finalize(self, cache_hit=cache_hit)

    wrapper._finalize_completed_stream = finalize_what_has_an_end
    following = wrapper.__anext__

    async def next_with_a_name(self: Any) -> Any:
        state = self.__dict__
        if state.get("_mushishi_begun"):
            waiting: deque[Any] = state["_mushishi_waiting"]
            if waiting:
                return waiting.popleft()
            if state.get("_mushishi_ended"):
                raise StopAsyncIteration
            return await following(self)
        waiting = state.setdefault("_mushishi_waiting", deque())
        while not state.get("_mushishi_begun"):
            try:
                chunk = await following(self)
            except StopAsyncIteration:
                state["_mushishi_ended"] = state["_mushishi_begun"] = True
                break
            waiting.append(chunk)
            state["_mushishi_begun"] = says_something(chunk) or len(waiting) > MOST_WAITING
        if not waiting:
            raise StopAsyncIteration
        return waiting.popleft()

    wrapper.__anext__ = next_with_a_name
