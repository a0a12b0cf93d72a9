# SPDX-License-Identifier: MIT
"""One request as raw bytes, one answer within bounds: what no HTTP library would send must be sent here, too."""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from dataclasses import dataclass

MAX_HEAD = 64 * 1024
MAX_BODY = 1024 * 1024


@dataclass(frozen=True)
class Reply:
    """What came back. ``status`` is 0 when no answer came; ``error`` then says why.

    ``closed``: the connection ended without an answer. ``silent``: nothing came in time. Else the name of an errno, or
    ``no HTTP`` for an answer that is none. A header that came twice is there once, with its last value.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    ms: float
    error: str = ""


def exchange(host: str, port: int, request: bytes, timeout: float = 30.0, patience: float | None = None) -> Reply:
    """Send the bytes, read one answer. Raises nothing for what the other side does.

    ``patience``: seconds after which an unanswered request is ended by closing our half of the connection, so that a
    server that waits for more of a broken one says what it says to such an end.
    """
    began = time.monotonic()
    try:
        with socket.create_connection((host, port), timeout=min(timeout, 10.0)) as connection:
            _send(connection, request, timeout)
            return _read(connection, request.startswith(b"HEAD "), began, timeout, patience)
    except OSError as error:
        return Reply(0, {}, b"", _since(began), _name(error))


def _since(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 1)


def _name(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "silent"
    if isinstance(error, (ConnectionResetError, BrokenPipeError)):
        return "closed"
    return errno.errorcode.get(error.errno or 0, type(error).__name__)


def _send(connection: socket.socket, request: bytes, timeout: float) -> None:
    connection.settimeout(timeout)
    # A server that has refused already closes while we still write; its answer can be read all the same.
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        connection.sendall(request)


def _read(connection: socket.socket, no_body: bool, began: float, timeout: float, patience: float | None) -> Reply:
    data, ended, error = b"", False, ""
    deadline = began + timeout
    while not ended and not _complete(data, no_body) and len(data) <= MAX_HEAD + MAX_BODY:
        left = deadline - time.monotonic()
        if left <= 0:
            error = "silent"
            break
        connection.settimeout(min(left, patience) if patience and not data else left)
        try:
            piece = connection.recv(65536)
        except TimeoutError:
            if patience and not data:
                patience = None
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_WR)
            continue
        except (ConnectionResetError, BrokenPipeError):
            piece = b""
        data += piece
        ended = not piece
    return _reply(data, _since(began), error or "closed")


def _split(data: bytes) -> tuple[int, dict[str, str], bytes] | None:
    """Status, headers and what follows them; None while the head is not whole. Interim answers (1xx) are skipped."""
    while True:
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        words = first.split(" ", 2)
        if not first.startswith("HTTP/") or len(words) < 2 or not words[1].isdigit():
            return 0, {}, data
        status = int(words[1])
        if status // 100 == 1 and status != 101:
            data = rest
            continue
        pairs = (line.partition(":") for line in lines)
        return status, {name.strip().lower(): value.strip() for name, _colon, value in pairs}, rest


def _complete(data: bytes, no_body: bool) -> bool:
    found = _split(data)
    if found is None:
        return len(data) > MAX_HEAD
    status, headers, rest = found
    if no_body or status in (101, 204, 304):
        return True
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return rest.endswith(b"0\r\n\r\n")
    length = headers.get("content-length", "")
    return length.isdigit() and len(rest) >= int(length)


def _chunks(data: bytes) -> bytes:
    """A chunked body as far as it came."""
    out = b""
    while True:
        size, _end, data = data.partition(b"\r\n")
        try:
            count = int(size.partition(b";")[0], 16)
        except ValueError:
            return out
        if count <= 0:
            return out
        out, data = out + data[:count], data[count + 2 :]


def _reply(data: bytes, ms: float, error: str) -> Reply:
    found = _split(data)
    if found is None:
        return Reply(0, {}, data[:1000], ms, "no HTTP" if data.strip() else error)
    status, headers, rest = found
    if status == 0:
        return Reply(0, {}, data[:1000], ms, "no HTTP")
    length = headers.get("content-length", "")
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = _chunks(rest)
    else:
        body = rest[: int(length)] if length.isdigit() else rest
    return Reply(status, headers, body[:MAX_BODY], ms)
