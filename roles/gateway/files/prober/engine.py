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
MOST = 4 * 1024 * 1024

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
_SAMPLE = re.compile(r"^([a-z_:]+)(\{[^}]*\})? (\S+)", re.MULTILINE)


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
    head, separator, body = raw.partition(b"\r\n\r\n")
    if not separator:
        return False
    length = re.search(rb"(?im)^content-length: *(\d+)", head)
    if length:
        return len(body) >= int(length[1])
    return bool(re.search(rb"(?im)^transfer-encoding: *chunked", head)) and body.endswith(b"\r\n0\r\n\r\n")


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
    """An answer up to its end, and no more than anybody could need."""
    raw = b""
    while len(raw) < MOST and not whole(raw):
        piece = await reader.read(65536)
        if not piece:
            break
        raw += piece
    return raw


def steps(text: str) -> dict[str, str]:
    """The samples of vLLM's /metrics that move with each step of the engine core, by name and labels."""
    return {f"{name}{labels}": value for name, labels, value in _SAMPLE.findall(text) if name in STEPS}


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
