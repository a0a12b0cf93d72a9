# SPDX-License-Identifier: MIT
"""One HTTP exchange over ASGI: a bounded body in, a response out, and what the log needs to know about both."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeAlias

from admission.answer import packed
from admission.config import Limits
from admission.errors import ClientGoneError, Refusal

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]

_CONTENT_TYPES = frozenset({b"application/json", b"application/json;charset=utf-8"})
_COMMON = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def check_body_headers(headers: Headers, max_bytes: int) -> None:
    """Only a plain JSON body of a bounded size; raises Refusal (400, 413 or 415)."""
    types = [value for name, value in headers if name == b"content-type"]
    if len(types) != 1 or types[0].replace(b" ", b"").replace(b'"', b"").lower() not in _CONTENT_TYPES:
        raise Refusal(415, "unsupported_media_type", "The content-type must be application/json (UTF-8)", reason="type")
    if any(name == b"content-encoding" for name, _unused in headers):
        raise Refusal(415, "unsupported_media_type", "The body must not have a content-encoding", reason="encoding")
    lengths = [value for name, value in headers if name == b"content-length"]
    if len(lengths) > 1 or (lengths and any(name == b"transfer-encoding" for name, _unused in headers)):
        raise Refusal(400, "ambiguous_length", "The body's length must be said once", reason="length")
    for name, value in headers:
        if name == b"content-length" and (not value.isdigit() or len(value) > 18 or int(value) > max_bytes):
            raise body_too_large(max_bytes)


def body_too_large(max_bytes: int) -> Refusal:
    """The body is larger than the bound."""
    return Refusal(413, "body_too_large", f"The request body is larger than {max_bytes} bytes", reason="body size")


class Exchange:
    """One request and its response."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits) -> None:
        self.method: str = scope["method"]
        self.path: bytes = scope.get("raw_path") or scope["path"].encode()
        self.headers: Headers = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
        self.status: int | None = None
        self.bytes_in = 0
        self.bytes_out = 0
        self._limits = limits
        self._receive = receive
        self._send = send
        self._body_read = False
        self.received = 0.0
        """When the body was there, on the monotonic clock."""

    async def body(self) -> bytes:
        """The whole body. Its size is counted as it arrives, whatever the headers say.

        Raises Refusal (408, 413) or ClientGoneError.
        """
        check_body_headers(self.headers, self._limits.max_body_bytes)
        collected = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while not self._body_read:
                    collected += await self._next_piece()
                    if len(collected) > self._limits.max_body_bytes:
                        raise body_too_large(self._limits.max_body_bytes)
        except TimeoutError:
            raise Refusal(408, "body_timeout", "The request body did not arrive in time", reason="slow body") from None
        self.received = time.monotonic()
        return bytes(collected)

    async def _next_piece(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        piece = bytes(message.get("body", b""))
        self.bytes_in += len(piece)
        self._body_read = not message.get("more_body", False)
        return piece

    async def disconnected(self) -> None:
        """Return when the client goes away (or the response is complete)."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _emit(self, message: MutableMapping[str, Any]) -> None:
        try:
            async with asyncio.timeout(self._limits.write_seconds):
                await self._send(message)
        except (TimeoutError, OSError):
            raise ClientGoneError from None

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the response's head."""
        self.status = status
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in {**_COMMON, **headers}.items()]
        await self._emit({"type": "http.response.start", "status": status, "headers": pairs})

    async def write(self, piece: bytes) -> None:
        """Send a piece of the response's body at once."""
        self.bytes_out += len(piece)
        await self._emit({"type": "http.response.body", "body": piece, "more_body": True})

    async def end(self) -> None:
        """End the response."""
        await self._emit({"type": "http.response.body", "body": b"", "more_body": False})

    async def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Send a whole JSON response.

        When the request's body was not read to its end, the connection is closed after the answer, but first the rest
        is read for a while and thrown away: a client that is still writing would meet a reset, not the answer.
        """
        unread = self.method == "POST" and not self._body_read
        head = {"content-type": "application/json", "content-length": str(len(body)), **headers}
        if unread:
            head["connection"] = "close"
        await self.start(status, head)
        await self.write(body)
        if unread:
            await self._drain()
        await self.end()

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(self._limits.drain_seconds):
                while not self._body_read and self.bytes_in < 2 * self._limits.max_body_bytes:
                    await self._next_piece()
        except (TimeoutError, ClientGoneError):
            return

    async def refuse(self, refusal: Refusal, payload: object, headers: Mapping[str, str]) -> None:
        """Send a refusal; payload: its words in the form of the route."""
        body = json.dumps(payload, ensure_ascii=False).encode()
        await self.answer(refusal.status, body, {**headers, **refusal.headers})

    async def answer_json(self, document: object, headers: Mapping[str, str]) -> None:
        """Send a 200 with a JSON document."""
        await self.answer(200, packed(document), headers)
