# SPDX-License-Identifier: MIT
"""Asking an engine: for one token, for a connection, for signs of work. Nothing here knows what is made of it."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

from prober.config import LLAMA_CPP, VLLM, Engine
from prober.judge import Outcome

CONNECT_SECONDS = 1.0
METRICS_SECONDS = 1.0
#: Bytes of an answer that are read at most, and of its head. vLLM's /metrics is some 100 KiB.
MOST = 512 * 1024
MOST_HEAD = 64 * 1024

#: What moves in vLLM's /metrics when its engine core takes a step, and only then: the cache fills while a long prompt
#: is read, tokens are counted when they are made. Requests waiting or running say only what came in.
STEPS = frozenset(
    {
        "vllm:kv_cache_usage_perc",
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
        "vllm:prefix_cache_queries_total",
        "vllm:iteration_tokens_total_count",
        "vllm:iteration_tokens_total_sum",
    }
)
_BEGINNINGS = tuple(STEPS)
_SAMPLE = re.compile(r"([a-z_:]+)(\{[^}\n]*\})? (\S+)")
# Twelve digits: more is no length, and thousands of them are more than int() takes.
_LENGTH = re.compile(rb"(?im)^content-length: *(\d{1,12})\s*$")
_CHUNKED = re.compile(rb"(?im)^transfer-encoding: *chunked")
_END_OF_HEAD = b"\r\n\r\n"
_LAST_CHUNK = b"\r\n0\r\n\r\n"


def request(engine: Engine, key: str) -> bytes:
    """A real completion, as small as there is one, over a connection of its own."""
    body: dict[str, object] = {
        "model": engine.model,
        "messages": [{"role": "user", "content": "."}],
        "max_tokens": 1,
        "temperature": 0,
        "stream": False,
    }
    if engine.kind == VLLM:
        # A cache of its own: what it reuses or leaves behind tells nobody anything.
        body["cache_salt"] = "prober"
    text = json.dumps(body).encode()
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        f"Host: {engine.host}:{engine.port}",
        "Connection: close",
        "Content-Type: application/json",
        f"Content-Length: {len(text)}",
    ]
    if engine.kind == LLAMA_CPP:
        lines.append(f"Authorization: Bearer {key}")
    return "\r\n".join([*lines, "", ""]).encode() + text


def whole(raw: bytes) -> bool:
    """Has an HTTP answer come to the end that its head announces? Without one only the connection's end tells."""
    head, separator, body = raw.partition(_END_OF_HEAD)
    if not separator:
        return False
    length, chunked = framing(head)
    return len(body) >= length if length is not None else chunked and body.endswith(_LAST_CHUNK)


def framing(head: bytes) -> tuple[int | None, bool]:
    """What a head says of its body: its length in bytes (None when it gives none), and whether it comes in chunks."""
    length = _LENGTH.search(head)
    return (int(length[1]) if length else None, bool(_CHUNKED.search(head)))


def read_answer(raw: bytes) -> tuple[Outcome, str]:
    """What a whole HTTP answer is: a completion, something else (with its status), or nothing whole."""
    head, separator, body = raw.partition(b"\r\n\r\n")
    status = re.match(rb"HTTP/1\.[01] (\d{3})\b", head)
    if not status or not separator:
        return Outcome.BROKEN, "the answer broke off"
    framed = re.search(rb"(?im)^(content-length|transfer-encoding):", head)
    if framed and not whole(raw):
        return Outcome.BROKEN, "the answer broke off"
    if status[1] == b"200" and b'"choices"' in body:
        return Outcome.SERVED, ""
    return Outcome.ANSWERED, status[1].decode()


async def complete(engine: Engine, key: str) -> tuple[Outcome, str]:
    """Ask for one token and wait for it without end: how long is right is for others to say."""
    outcome, streams = await _connect(engine)
    if streams is None:
        return outcome, ""
    reader, writer = streams
    try:
        writer.write(request(engine, key))
        return read_answer(await _read(reader))
    except OSError as exc:
        return Outcome.BROKEN, type(exc).__name__
    finally:
        writer.close()


async def knock(engine: Engine) -> Outcome:
    """Open a connection and close it."""
    outcome, streams = await _connect(engine)
    if streams is not None:
        streams[1].close()
    return outcome


async def _connect(engine: Engine) -> tuple[Outcome, tuple[asyncio.StreamReader, asyncio.StreamWriter] | None]:
    try:
        opening = asyncio.open_connection(engine.host, engine.port)
        return Outcome.SERVED, await asyncio.wait_for(opening, CONNECT_SECONDS)
    except ConnectionRefusedError:
        return Outcome.REFUSED, None
    except (TimeoutError, OSError):
        return Outcome.UNREACHABLE, None


async def _read(reader: asyncio.StreamReader) -> bytes:
    """An answer up to its end, and no more than anybody could need. Each byte is looked at once."""
    raw = bytearray()
    begins = -1  # where the body begins
    length: int | None = None
    chunked = False
    while len(raw) < MOST and (piece := await reader.read(65536)):
        searched = max(0, len(raw) - len(_END_OF_HEAD) + 1)
        raw += piece
        if begins < 0:
            found = raw.find(_END_OF_HEAD, searched)
            if (found if found >= 0 else len(raw)) > MOST_HEAD:
                break
            if found < 0:
                continue
            length, chunked = framing(bytes(raw[:found]))
            begins = found + len(_END_OF_HEAD)
        if len(raw) - begins >= length if length is not None else chunked and raw.endswith(_LAST_CHUNK):
            break
    return bytes(raw[:MOST])


def steps(text: str) -> dict[str, str]:
    """The samples of vLLM's /metrics that move with each step of the engine core, by name and labels."""
    found = {}
    # What follows the last line break may be half a line.
    for line in text[: text.rfind("\n") + 1].split("\n"):
        sample = _SAMPLE.match(line) if line.startswith(_BEGINNINGS) else None
        if sample and sample[1] in STEPS:
            found[f"{sample[1]}{sample[2] or ''}"] = sample[3]
    return found


async def metrics(engine: Engine) -> dict[str, str] | None:
    """vLLM's step counters; None when it does not say them."""
    try:
        return steps(await asyncio.wait_for(_metrics(engine), METRICS_SECONDS))
    except (TimeoutError, OSError):
        return None


async def _metrics(engine: Engine) -> str:
    reader, writer = await asyncio.open_connection(engine.host, engine.port)
    try:
        writer.write(
            f"GET /metrics HTTP/1.1\r\nHost: {engine.host}:{engine.port}\r\nConnection: close\r\n\r\n".encode()
        )
        return (await _read(reader)).decode("utf-8", "replace")
    finally:
        writer.close()


def unit_group(own: str, unit: str) -> str:
    """The control group of a unit that stands beside our own: ``own`` is the text of /proc/self/cgroup."""
    for line in own.splitlines():
        number, _controllers, path = line.split(":", 2)
        if number == "0":
            return f"{path.rsplit('/', 1)[0]}/{unit}"
    return f"/system.slice/{unit}"


def cpu_seconds(unit: str, root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float | None:
    """CPU time that a unit has used so far, in seconds; None where the system does not tell."""
    if not unit:
        return None
    try:
        group = unit_group(own.read_text(encoding="utf-8"), unit)
        text = (root / group.lstrip("/") / "cpu.stat").read_text(encoding="utf-8")
        return int(dict(line.split() for line in text.splitlines())["usage_usec"]) / 1e6
    except (OSError, ValueError, KeyError):
        return None
