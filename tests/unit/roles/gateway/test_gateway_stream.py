# SPDX-License-Identifier: MIT
"""A stream that ends without a reason is broken, not finished."""

from __future__ import annotations

import asyncio
from typing import Any

import mushishi_gateway_stream as stream
import pytest


class Broken(Exception):
    """What a connection that broke raises."""


def wrapper_class() -> type[Any]:
    """A class with what is used of LiteLLM's own (1.108.5): at its end it makes up a reason when it got none."""

    class Wrapper:
        def __init__(self, received: str | None = None, intermittent: str | None = None, sent: bool = False) -> None:
            self.received_finish_reason, self.intermittent_finish_reason = received, intermittent
            self.sent_last_chunk, self.closed = sent, False

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
