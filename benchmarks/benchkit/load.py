# SPDX-License-Identifier: MIT
"""The load generator: chat requests over kept connections, with the moments of the first piece and of the last byte.

Standard library only. A connection can be opened in another network namespace, so that one process, with one clock and
the same code, asks the engine directly and through the whole way in turn.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

CLONE_NEWNET = 0x40000000
#: Longest wait for one whole answer, seconds.
TIMEOUT = 120.0
#: Longest line of a head or of an event stream, bytes.
LIMIT = 1 << 20
#: As much of a broken answer is told, bytes.
KEPT = 200


@dataclass(frozen=True)
class Target:
    """Whom to ask: the address of a chat completions endpoint, the model, a key, and the namespace to ask from."""

    name: str
    host: str
    port: int
    model: str
    key: str = field(default="", repr=False)
    path: str = "/v1/chat/completions"
    #: Path of a network namespace, empty for the own one.
    namespace: str = ""
    #: Further headers.
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Question:
    """What is asked: words of the prompt, most tokens of the answer, streamed or plain."""

    max_tokens: int
    stream: bool
    prompt: str = "Say something about a house by a lake, in plain words."

    def body(self, model: str) -> bytes:
        """The JSON body of the request."""
        said: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": self.prompt}],
            "max_tokens": self.max_tokens,
        }
        if self.stream:
            said["stream"] = True
        return json.dumps(said).encode()


@dataclass(frozen=True)
class Sample:
    """One answer. Times in seconds; ``began`` on the monotonic clock; ``first`` is the first piece of content.

    ``backend`` is who answered, as the way says (empty from an engine); ``error`` is empty for a whole answer.
    """

    target: str
    status: int
    first: float
    whole: float
    began: float
    backend: str = ""
    error: str = ""
    #: Tokens of a plain answer, as its usage says.
    tokens: int = 0

    @property
    def good(self) -> bool:
        """A whole answer with status 200."""
        return self.status == 200 and not self.error


class Broken(Exception):
    """The answer is not one: cut, or no HTTP."""


def socket_in(namespace: str, family: int) -> socket.socket:
    """A TCP socket of a network namespace (a path), or of the own one. Raises OSError; needs root for another one.

    A socket stays in the namespace in which it was made, whatever its process does afterwards.
    """
    if not namespace:
        return socket.socket(family, socket.SOCK_STREAM)
    setns = ctypes.CDLL(None, use_errno=True).setns
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        other = os.open(namespace, os.O_RDONLY)
        try:
            if setns(other, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
        finally:
            os.close(other)
        try:
            return socket.socket(family, socket.SOCK_STREAM)
        finally:
            # Going on in a stranger's namespace would send traffic where it does not belong.
            if setns(own, CLONE_NEWNET) != 0:
                os._exit(70)
    finally:
        os.close(own)


class Client:
    """One kept connection to one target; opened when it is needed, and anew after a broken answer."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, question: Question, patience: float = TIMEOUT) -> Sample:
        """Ask once. Never raises for what the other side does: a failure is a sample with an error."""
        began = time.monotonic()
        body = question.body(self.target.model)
        try:
            async with asyncio.timeout(patience):
                status, first, backend, error, tokens = await self._ask(body, question.stream)
        except (OSError, Broken, ValueError, asyncio.IncompleteReadError, TimeoutError) as failure:
            self.close()
            took = time.monotonic() - began
            return Sample(self.target.name, 0, took, took, began, error=f"{type(failure).__name__}: {failure}"[:200])
        ended = time.monotonic()
        return Sample(self.target.name, status, (first or ended) - began, ended - began, began, backend, error, tokens)

    def close(self) -> None:
        """Drop the connection."""
        if self._streams:
            self._streams[1].close()
        self._streams = None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams and (self._streams[0].at_eof() or self._streams[1].is_closing()):
            self.close()
        if self._streams is None:
            made = socket_in(self.target.namespace, socket.AF_INET6 if ":" in self.target.host else socket.AF_INET)
            try:
                made.setblocking(False)
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await asyncio.get_running_loop().sock_connect(made, (self.target.host, self.target.port))
                self._streams = await asyncio.open_connection(sock=made, limit=LIMIT)
            except BaseException:
                made.close()
                raise
        return self._streams

    async def _ask(self, body: bytes, stream: bool) -> tuple[int, float | None, str, str, int]:
        """Status, moment of the first piece of content, who answered, error, tokens."""
        reader, writer = await self._open()
        host = f"[{self.target.host}]" if ":" in self.target.host else self.target.host
        lines = [
            f"POST {self.target.path} HTTP/1.1",
            f"Host: {host}:{self.target.port}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        ]
        if self.target.key:
            lines.append(f"Authorization: Bearer {self.target.key}")
        lines += [f"{name}: {value}" for name, value in self.target.headers]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        status, headers = await read_head(reader)
        watch = Watch(stream and status == 200)
        await read_body(reader, headers, watch.take)
        if headers.get("connection", "").lower() == "close":
            self.close()
        backend = headers.get("x-sovereign-backend") or headers.get("x-litellm-model-id", "").partition("/")[2]
        error = "" if status == 200 and watch.whole() else watch.problem(status)
        return status, watch.first, backend, error, watch.tokens


class Watch:
    """Looks at the pieces of an answer as they come: when content began, whether it ended as it should."""

    def __init__(self, stream: bool) -> None:
        self._stream = stream
        self._rest = b""
        self._kept = bytearray()
        self._done = self._error = False
        self.first: float | None = None
        self.tokens = 0

    def take(self, piece: bytes) -> None:
        """One piece, in order."""
        if not self._stream:
            if self.first is None and piece:
                self.first = time.monotonic()
            if len(self._kept) < LIMIT:
                self._kept += piece
            return
        if len(self._kept) < KEPT:
            self._kept += piece
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip())

    def _event(self, data: bytes) -> None:
        if data == b"[DONE]":
            self._done = True
        elif self.first is None:
            event = json.loads(data)
            self._error = self._error or "error" in event
            choices = event.get("choices") or [{}]
            if (choices[0].get("delta") or {}).get("content"):
                self.first = time.monotonic()
        elif data.startswith((b'{"error"', b'{"type":"error"')):
            self._error = True

    def whole(self) -> bool:
        """Did the answer end as an answer does?"""
        if self._stream:
            return self._done and not self._error and self.first is not None
        try:
            answer = json.loads(self._kept)
        except ValueError:
            return False
        self.tokens = int((answer.get("usage") or {}).get("completion_tokens") or 0)
        return "choices" in answer

    def problem(self, status: int) -> str:
        """What is wrong with it, in a few words."""
        if self._stream:
            status_or = "error event" if self._error else "no end mark"
            return f"{status_or}: {bytes(self._kept[:KEPT]).decode('utf-8', 'replace')}"
        return f"{status}: {bytes(self._kept[:KEPT]).decode('utf-8', 'replace')}"


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and headers (names in lower case). Raises Broken, IncompleteReadError."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise Broken("a head without an end") from error
    first, *rest = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    words = first.split(" ")
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
        raise Broken(f"no status line: {first[:60]!r}")
    headers = (line.partition(":") for line in rest)
    return int(words[1]), {name.strip().lower(): value.strip() for name, _, value in headers}


async def read_body(reader: asyncio.StreamReader, headers: dict[str, str], take: Callable[[bytes], None]) -> None:
    """The body, handed on piece by piece as it comes. Raises Broken, IncompleteReadError, ValueError."""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            take((await reader.readexactly(size + 2))[:-2])
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
    elif "content-length" in headers:
        left = int(headers["content-length"])
        while left:
            piece = await reader.read(min(left, LIMIT))
            if not piece:
                raise Broken("cut in the middle of the body")
            left -= len(piece)
            take(piece)
    else:
        while piece := await reader.read(LIMIT):
            take(piece)


class Crowd:
    """A number of clients of one target that ask at the same time, again and again."""

    def __init__(self, target: Target, parallel: int) -> None:
        self.target = target
        self._clients = [Client(target) for _ in range(parallel)]

    async def block(self, question: Question, count: int) -> list[Sample]:
        """``count`` answers in all; as many requests are on their way at each moment as there are clients."""
        left = count
        samples: list[Sample] = []

        async def one(client: Client) -> None:
            nonlocal left
            while left > 0:
                left -= 1
                samples.append(await client.ask(question))

        await asyncio.gather(*(one(client) for client in self._clients))
        return samples

    def close(self) -> None:
        """Drop all connections."""
        for client in self._clients:
            client.close()


async def in_turn(
    targets: Sequence[Target],
    question: Question,
    parallel: int,
    blocks: int,
    block: int,
    tell: Callable[[int], None] = lambda _: None,
) -> dict[str, list[list[Sample]]]:
    """Ask the targets in turn: per target ``blocks`` lists of ``block`` samples, after a warm-up.

    The order changes from round to round, so that no target always comes after the same one. ``tell`` gets the number
    of finished rounds.
    """
    crowds = [Crowd(target, parallel) for target in targets]
    found: dict[str, list[list[Sample]]] = {target.name: [] for target in targets}
    try:
        for crowd in crowds:
            await crowd.block(question, parallel * 2)
        for number in range(blocks):
            for crowd in crowds if number % 2 == 0 else reversed(crowds):
                found[crowd.target.name].append(await crowd.block(question, block))
            tell(number + 1)
    finally:
        for crowd in crowds:
            crowd.close()
    return found
