# SPDX-License-Identifier: MIT
"""Admission with its rules, a stand-in gateway that records every byte it gets, and real servers for both."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import uvicorn
from admission.app import Admission
from admission.config import Config
from admission.keys import KeyRing
from admission.log import Log
from admission.server import server_for
from admission.upstream import Gateway

GATEWAY_KEY = "gateway-key-for-tests-0123456789"
KEYS = {"private": "key-private-0123456789", "client": "key-client-0123456789", "coding": "key-coding-0123456789"}

Answer = Callable[[dict[str, Any], Callable[..., Awaitable[None]]], Awaitable[None]]


def link(backend: str, mode: str | None, model: str) -> dict[str, Any]:
    return {"backend": backend, "mode": mode, "model": model}


def rule(profile: str, terminal: str, *links: dict[str, Any]) -> dict[str, Any]:
    return {
        "tier": "T1",
        "group": profile,
        "terminal": terminal,
        "links": list(links),
        "context_length": 32768,
        "timeout": 5,
    }


RULES: dict[str, Any] = {
    "version": 1,
    "profiles": {
        "private": rule("private", "queue", link("gpu", "agent", "nemotron"), link("cpu", None, "nemotron-cpu")),
        "client": rule("client", "error", link("gpu-forensic", "forensic", "nemotron-forensic")),
        "coding": rule("coding", "error", link("gpu-coder", "coding", "coder"), link("cpu-coder", None, "coder-cpu")),
    },
}


def config_for(url: str, **limits: float) -> Config:
    bounds = {"write_seconds": 2, "body_seconds": 2, "header_seconds": 1, "drain_seconds": 1, **limits}
    listen = {"host": "127.0.0.1", "port": 0}
    return Config.model_validate({"listen": listen, "upstream": {"url": url}, "rules": RULES, "limits": bounds})


def ring() -> KeyRing:
    return KeyRing(tuple((hashlib.sha256(key.encode()).digest(), profile) for profile, key in KEYS.items()))


def chunk(text: str, finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "internal-name", "choices": [choice]}


def event(document: object) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def completion(text: str = "hello") -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "provider_specific_fields": {"x": 1}}
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "internal-name",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


@dataclass
class Recorded:
    """One request as the stand-in gateway got it."""

    path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.body)
        return document


@dataclass
class StandInGateway:
    """Speaks the gateway's protocol, answers as told, and records every request."""

    seen: list[Recorded] = field(default_factory=list)
    status: int = 200
    reply: object = None
    model_id: str | None = "private/gpu"
    events: list[bytes] | None = None
    cut: bool = False
    delay: float = 0.0
    gap: float = 0.0
    cancelled: threading.Event = field(default_factory=threading.Event)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.seen.append(Recorded(scope["raw_path"], scope["query_string"], list(scope["headers"]), body))
        watcher = asyncio.create_task(self._watch(receive))
        try:
            await self._answer(json.loads(body), send)
        finally:
            watcher.cancel()

    async def _watch(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.cancelled.set()

    async def _answer(self, request: dict[str, Any], send: Any) -> None:
        await asyncio.sleep(self.delay)
        headers = [(b"set-cookie", b"a=b"), (b"x-internal", b"secret")]
        if self.model_id:
            headers.append((b"x-litellm-model-id", self.model_id.encode()))
        kind = b"text/event-stream" if request.get("stream") and self.status == 200 else b"application/json"
        headers.append((b"content-type", kind))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        if kind == b"text/event-stream":
            pieces = self.events
            if pieces is None:
                pieces = [event(chunk("hel")), event(chunk("lo", "stop")), b"data: [DONE]\n\n"]
            for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                await asyncio.sleep(self.gap)
            if self.cut:
                raise ConnectionResetError("cut on purpose")
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        reply = completion() if self.reply is None else self.reply
        raw = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        await send({"type": "http.response.body", "body": raw, "more_body": False})


@dataclass
class Service:
    """Admission and its stand-in gateway."""

    gateway: StandInGateway
    lines: list[str]
    app: Admission
    url: str = "http://admission"

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request through the application itself, without a socket."""

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url=self.url) as client:
                return await client.request(method, path, **options)

        return asyncio.run(ask())

    def chat(self, document: object, profile: str = "private", **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {KEYS[profile]}", **options.pop("headers", {})}
        return self.call("POST", options.pop("path", "/v1/chat/completions"), json=document, headers=headers, **options)

    def raw(self, body: bytes, profile: str = "private", **headers: str) -> httpx.Response:
        head = {"authorization": f"Bearer {KEYS[profile]}", "content-type": "application/json"}
        head.update({name.replace("_", "-"): value for name, value in headers.items()})
        return self.call("POST", "/v1/chat/completions", content=body, headers=head)

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


@pytest.fixture
def service() -> Service:
    """Admission whose gateway is the stand-in, both inside this process."""
    gateway = StandInGateway()
    lines: list[str] = []
    config = config_for("http://127.0.0.1:1")
    upstream = Gateway(config.upstream.url, GATEWAY_KEY, transport=httpx.ASGITransport(gateway))
    return Service(gateway, lines, Admission(config, ring(), GATEWAY_KEY, upstream, Log(lines.append)))


class Running:
    """A uvicorn server in a thread."""

    def __init__(self, server: uvicorn.Server) -> None:
        self._server = server
        self._thread = threading.Thread(target=server.run, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 10
        while not server.started:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise RuntimeError("the test server did not start")
            time.sleep(0.01)
        self.port: int = server.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(10)


@pytest.fixture
def run_server() -> Iterator[Callable[[uvicorn.Server], Running]]:
    """Start servers; all are stopped after the test."""
    running: list[Running] = []

    def start(server: uvicorn.Server) -> Running:
        running.append(Running(server))
        return running[-1]

    yield start
    for one in reversed(running):
        one.stop()


Live = Callable[..., Service]


@pytest.fixture
def live(run_server: Callable[[uvicorn.Server], Running]) -> Live:
    """Admission and the stand-in gateway as real servers on 127.0.0.1; keyword arguments are limits."""

    def start(**limits: float) -> Service:
        gateway = StandInGateway()
        plain = uvicorn.Config(gateway, port=0, log_config=None, lifespan="off", access_log=False)
        upstream = run_server(uvicorn.Server(plain))
        config = config_for(f"http://127.0.0.1:{upstream.port}", **limits)
        lines: list[str] = []
        app = Admission(config, ring(), GATEWAY_KEY, Gateway(config.upstream.url, GATEWAY_KEY), Log(lines.append))
        own = run_server(server_for(app, config))
        return Service(gateway, lines, app, f"http://127.0.0.1:{own.port}")

    return start
