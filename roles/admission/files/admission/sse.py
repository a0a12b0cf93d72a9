# SPDX-License-Identifier: MIT
"""Server-sent events, taken apart as they arrive."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

DONE = b"[DONE]"


class EventTooLargeError(Exception):
    """An event is larger than the bound."""


class Splitter:
    """Turns pieces of bytes into events: the joined ``data:`` lines of one event, or None for a comment.

    Other fields (event, id, retry) do not exist in this protocol and are left out. A line end is LF or CRLF. What
    stands after the last empty line is no event: a stream that was cut must not pass as whole.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max = max_bytes
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes | None]:
        """The events that the piece completes."""
        events: list[bytes | None] = []
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in (ended.removesuffix(b"\r") for ended in lines):
            if not line:
                if self._data:
                    events.append(b"\n".join(self._data))
                    self._data = []
            elif line.startswith(b":"):
                events.append(None)
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
        if len(self._rest) + sum(map(len, self._data)) > self._max:
            raise EventTooLargeError
        return events


async def events(pieces: AsyncIterator[bytes], max_bytes: int) -> AsyncGenerator[bytes | None, None]:
    """The events of a response body."""
    splitter = Splitter(max_bytes)
    async for piece in pieces:
        for event in splitter.feed(piece):
            yield event
