# SPDX-License-Identifier: MIT
"""A stream that ends without saying why is a broken one.

LiteLLM ends such a stream with ``finish_reason: "stop"`` of its own and ``[DONE]``, so that half an answer of an engine
that went away in good order looks whole (its ``CustomStreamWrapper._finalize_completed_stream``, 1.108.5). Here it
takes the way of a connection that broke: before the first content the next link answers, after it the client gets an
error event and no ``[DONE]``.
"""

from __future__ import annotations

from typing import Any

#: What is used of LiteLLM's stream class. They are no public interface, so each is looked for at the start.
METHODS = ("_finalize_completed_stream", "_log_stream_failure_and_raise", "aclose")


class Changed(RuntimeError):
    """LiteLLM's stream class is not the one that this was written for."""


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
