# SPDX-License-Identifier: MIT
"""Admission with its queue inside this process and loop: engines that answer as a function says, clients that hang up.

What a client's connection does is said here message by message, so that a test chooses the moment at which it ends.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from admission.app import Admission
from admission.config import Config
from admission.journal import Journal
from admission.log import Log
from admission.private_queue import PrivateQueue
from admission.upstream import Gateway
from admission_standin import GATEWAY_KEY, KEYS, RULES, completion, ring

PATIENCE = 10.0
Engine = Callable[[dict[str, Any]], Awaitable[httpx.Response] | httpx.Response]


def said(document: object, status: int = 200) -> httpx.Response:
    """An answer of the gateway."""
    return httpx.Response(status, content=json.dumps(document).encode())


def good(_request: dict[str, Any]) -> httpx.Response:
    """An engine that is there."""
    return said(completion())


def away(_request: dict[str, Any]) -> httpx.Response:
    """No engine is there."""
    return said({"error": {"message": "Connection error", "type": "x", "param": None, "code": "500"}}, 500)


def is_probe(request: dict[str, Any]) -> bool:
    """Whether it is the one token that the worker asks for."""
    return request.get("max_tokens") == 1


def rules(**profiles: str) -> dict[str, Any]:
    """The rules with other terminal words: ``rules(private="error")``."""
    found = copy.deepcopy(RULES)
    for profile, terminal in profiles.items():
        found["profiles"][profile]["terminal"] = terminal
    return found


@dataclass
class Heard:
    """What a client has heard."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


@dataclass
class Inside:
    """A running service. engine: what the gateway does, and may be changed at any time."""

    app: Admission
    lines: list[str]
    engine: Engine
    seen: list[dict[str, Any]] = field(default_factory=list)

    async def gateway(self, request: httpx.Request) -> httpx.Response:
        """The transport of admission's client."""
        document = json.loads(request.content)
        if not is_probe(document):
            self.seen.append(document)
        answer = self.engine(document)
        found = await answer if inspect.isawaitable(answer) else answer
        group = document["model"]
        found.headers["x-litellm-model-id"] = f"{group}/{RULES['profiles'][group]['links'][0]['backend']}"
        return found

    @property
    def queue(self) -> PrivateQueue:
        """The queue."""
        assert self.app._queue is not None
        return self.app._queue

    @property
    def journal(self) -> Journal:
        """Its file."""
        return self.queue._journal

    @property
    def log(self) -> list[dict[str, Any]]:
        """What was logged."""
        return [json.loads(line) for line in self.lines]

    async def ask(
        self,
        method: str,
        path: str,
        document: object = None,
        *,
        profile: str = "private",
        gone: asyncio.Event | None = None,
        **headers: str,
    ) -> Heard:
        """One request; gone: the client hangs up when it is set. What it had heard until then."""
        raw = b"" if document is None else json.dumps(document).encode()
        head = {"authorization": f"Bearer {KEYS[profile]}", "content-type": "application/json"}
        head |= {"content-length": str(len(raw))} | {name.replace("_", "-"): value for name, value in headers.items()}
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in head.items()],
        }  # fmt: skip
        heard, over, first = Heard(), gone or asyncio.Event(), [True]

        async def receive() -> dict[str, Any]:
            if first:
                first.clear()
                return {"type": "http.request", "body": raw, "more_body": False}
            await over.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if over.is_set():
                return
            if message["type"] == "http.response.start":
                heard.status = message["status"]
                heard.headers = {name.decode(): value.decode() for name, value in message["headers"]}
                return
            heard.body += message["body"]
            if not message.get("more_body"):
                over.set()

        async with asyncio.timeout(PATIENCE):
            await self.app(scope, receive, send)
        return heard

    async def chat(self, text: str = "hello", *, path: str = "/v1/chat/completions", **options: Any) -> Heard:
        """A request that may wait."""
        document = options.pop("document", None) or {"messages": [{"role": "user", "content": text}]}
        document |= {"max_tokens": 9} if path == "/v1/messages" else {}
        return await self.ask("POST", path, document | options.pop("more", {}), **options)

    async def taken(self, text: str = "hello", **options: Any) -> str:
        """A request that is taken in at once; the job's URL."""
        heard = await self.chat(text, prefer="respond-async", **options)
        assert heard.status == 202, heard
        return heard.headers["location"]

    async def state(self, url: str) -> str:
        """What a job's owner sees."""
        heard = await self.ask("GET", url)
        return str(heard.json["status"]) if heard.status == 200 else str(heard.status)

    async def until(self, what: Callable[[], Any], seconds: float = PATIENCE) -> None:
        """Wait until it is so."""
        async with asyncio.timeout(seconds):
            while not what():  # noqa: ASYNC110 - what it waits for is seen, not told
                await asyncio.sleep(0.005)


def settings_for(folder: Path, rules: dict[str, Any], limits: dict[str, Any], queue: dict[str, Any]) -> Config:
    """Admission's settings, with a queue below the folder."""
    own = {"directory": str(folder), "free_bytes": 0, "probe_seconds": 0.05, "keep_alive_seconds": 0.05, **queue}
    return Config.model_validate(
        {
            "listen": {"host": "127.0.0.1", "port": 0},
            "upstream": {"url": "http://127.0.0.1:1"},
            "rules": rules,
            "limits": {"drain_seconds": 0.1, "body_seconds": 2, **limits},
            "queue": own,
        }
    )


@asynccontextmanager
async def inside(
    folder: Path,
    engine: Engine,
    *,
    rules: dict[str, Any] = RULES,
    limits: dict[str, Any] | None = None,
    **queue: Any,
) -> AsyncIterator[Inside]:
    """The service from its start to its end."""
    config = settings_for(folder, rules, limits or {}, queue)
    lines: list[str] = []
    transport = httpx.MockTransport(lambda request: made.gateway(request))
    gateway = Gateway(config.upstream.url, GATEWAY_KEY, transport=transport)
    made = Inside(Admission(config, ring(), GATEWAY_KEY, gateway, Log(lines.append)), lines, engine)
    told: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    heard: asyncio.Queue[Any] = asyncio.Queue()
    life = asyncio.create_task(made.app({"type": "lifespan"}, told.get, heard.put))
    try:
        await told.put({"type": "lifespan.startup"})
        async with asyncio.timeout(PATIENCE):
            await heard.get()
        yield made
    finally:
        await told.put({"type": "lifespan.shutdown"})
        async with asyncio.timeout(PATIENCE):
            await life


class Gate:
    """One of the journal's threads waits here, before whatever it is given from now on, until this is opened."""

    def __init__(self, thread: Callable[..., Any]) -> None:
        self.reached, self._open = threading.Event(), threading.Event()
        thread(self._wait, alone=True)

    def _wait(self, _db: object) -> None:
        self.reached.set()
        self._open.wait(PATIENCE)

    def open(self) -> None:
        """Let it go on."""
        self._open.set()
