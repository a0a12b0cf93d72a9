# SPDX-License-Identifier: MIT
"""As much of HTTP/1.1 (RFC 9112) as the stand-ins need, on a recording connection."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from .markers import inflate
from .net import Connection

MAX_HEAD = 256 * 1024
"""Bytes of request line and headers."""
MAX_BODY = 512 * 1024 * 1024
"""Bytes of a body: a stand-in refuses nothing that a test may send."""

METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"}
)


class NotHttp(Exception):
    """What came is no HTTP request, or ended in the middle of one."""


@dataclass(frozen=True)
class Request:
    """A request; `body` is de-chunked and, where the standard library can, de-compressed."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    codings: tuple[str, ...] = field(default=())

    def header(self, name: str) -> str:
        """The first value of a header, empty when absent."""
        return next(
            (value for key, value in self.headers if key.lower() == name.lower()), ""
        )

    @property
    def path(self) -> str:
        """The target without query, and without scheme and host when the client sent the absolute form."""
        target = self.target.partition("?")[0]
        if "://" in target:
            target = "/" + target.partition("://")[2].partition("/")[2]
        return target

    def json(self) -> dict[str, Any]:
        """The body as a JSON object. Raises ValueError when it is none."""
        value = json.loads(self.body or b"null")
        if not isinstance(value, dict):
            raise ValueError("the body is no JSON object")  # noqa: TRY004  # the data are wrong, not the call
        return value


class RequestReader:
    """Takes one request after the other from a connection."""

    def __init__(
        self, recv: Callable[[], bytes], send: Callable[[bytes], bool]
    ) -> None:
        self._recv, self._send = recv, send
        self._buffer = b""
        self._ended = False

    def next(self) -> Request | None:
        """The next request, None at a clean end. Raises NotHttp; the bytes are recorded all the same."""
        head = self._head()
        if head is None:
            return None
        lines = head.decode("utf-8", "surrogateescape").split("\r\n")
        words = lines[0].split(" ")
        if (
            len(words) != 3
            or words[0] not in METHODS
            or not words[2].startswith("HTTP/1.")
        ):
            raise NotHttp(f"no request line: {lines[0][:80]!r}")
        headers = []
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon:
                raise NotHttp(f"no header: {line[:80]!r}")
            headers.append((name, value.strip()))
        lower = {name.lower(): value for name, value in headers}
        if lower.get("expect", "").lower() == "100-continue":
            self._send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "chunked" in lower.get("transfer-encoding", "").lower():
            body = self._chunked()
        else:
            length = lower.get("content-length", "0")
            if not length.isdigit() or int(length) > MAX_BODY:
                raise NotHttp(f"content-length {length!r}")
            body = self._exactly(int(length))
        codings = tuple(
            c.strip().lower()
            for c in lower.get("content-encoding", "").split(",")
            if c.strip()
        )
        return Request(
            words[0], words[1], tuple(headers), decode_body(body, codings), codings
        )

    def _fill(self) -> bool:
        data = self._recv()
        self._buffer += data
        self._ended = self._ended or not data
        return bool(data)

    def _head(self) -> bytes | None:
        while b"\r\n\r\n" not in self._buffer:
            first = self._buffer.lstrip(b"\r\n")[:1]
            if first and not first.isupper():
                raise NotHttp("does not begin with a method")
            if len(self._buffer) > MAX_HEAD or not self._fill():
                if self._buffer.strip():
                    raise NotHttp("ended within the headers")
                return None
        head, _, self._buffer = self._buffer.lstrip(b"\r\n").partition(b"\r\n\r\n")
        return head

    def _exactly(self, count: int) -> bytes:
        parts = [self._buffer]
        have = len(self._buffer)
        while have < count:
            self._buffer = b""
            if not self._fill():
                raise NotHttp("ended within the body")
            parts.append(self._buffer)
            have += len(self._buffer)
        whole = b"".join(parts)
        self._buffer = whole[count:]
        return whole[:count]

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if len(self._buffer) > MAX_HEAD or not self._fill():
                raise NotHttp("ended within a chunked body")
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _chunked(self) -> bytes:
        parts: list[bytes] = []
        while True:
            size_text = self._line().partition(b";")[0].strip()
            try:
                size = int(size_text, 16)
            except ValueError:
                raise NotHttp(f"chunk size {size_text[:20]!r}") from None
            if not 0 <= size <= MAX_BODY:
                raise NotHttp(f"chunk size {size}")
            if size == 0:
                break
            parts.append(self._exactly(size))
            self._line()
        while self._line():
            pass
        return b"".join(parts)


def decode_body(body: bytes, codings: tuple[str, ...]) -> bytes:
    """Take content codings off, last first; what cannot be opened stays as it is."""
    for coding in reversed(codings):
        if coding in ("gzip", "x-gzip"):
            body = inflate(body, 31) or body
        elif coding == "deflate":
            body = inflate(body, 15) or inflate(body, -15) or body
        elif coding != "identity":
            break
    return body


def record_request(connection: Connection, request: Request, answered: str) -> None:
    """Put the parsed request into the records; `answered` says who treats it."""
    connection.recorder.add(
        "request",
        conn=connection.number,
        method=request.method,
        target=request.target,
        headers=[list(pair) for pair in request.headers],
        body=request.body,
        codings=list(request.codings),
        answered=answered,
    )


Headers = tuple[tuple[str, str], ...]


def head(status: int, headers: Headers) -> bytes:
    """Status line and headers."""
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "Unknown"
    lines = [
        f"HTTP/1.1 {status} {reason}",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def response(
    status: int,
    body: bytes,
    content_type: str = "application/json",
    extra: Headers = (),
    with_body: bool = True,
) -> bytes:
    """A whole response; `with_body` false for an answer to HEAD."""
    headers = (
        ("content-type", content_type),
        ("content-length", str(len(body))),
        *extra,
    )
    return head(status, headers) + (body if with_body else b"")


def json_response(status: int, value: object, extra: Headers = ()) -> bytes:
    """A whole response with a JSON body."""
    return response(status, json.dumps(value, ensure_ascii=False).encode(), extra=extra)


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; the empty one ends it."""
    return b"%x\r\n%s\r\n" % (len(data), data)
