# SPDX-License-Identifier: MIT
"""The gate in front of LiteLLM, in the same process: two routes, known keys, a body that is built anew.

LiteLLM has hundreds of routes, reads dozens of headers, prefers ``?model=`` to the body's own field, and answers 500 to
some requests that it refuses. Nothing of that is reached: what passes the rules goes on as a new request with four
headers and the body that was checked. LiteLLM's own checks (``mushishi_gateway_auth``) then do the same again.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any

import mushishi_gateway_stream
from mushishi_gateway_rules import DROPPED_FIELDS, Clients, Refusal, check_body, check_route, load_clients, profiles_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: EX_CONFIG of sysexits.h: the unit does not restart on it.
EXIT_CONFIG = 78

#: Answers "is the process up"; no key, no content.
LIVELINESS = ("GET", "/health/liveliness")

#: Most bytes of a request body: a prompt of the longest context, or a few images.
MAX_BODY = 32 * 1024 * 1024

#: Response headers that a client gets. LiteLLM's others name addresses, prices and keys.
PASSED_BACK = frozenset({b"content-type", b"content-length", b"cache-control", b"retry-after", b"x-litellm-model-id"})

#: What exports traces needs a package that is not installed. LiteLLM tries its import anew, in vain, at each request.
ABSENT = ("litellm.integrations.otel.logger",)

#: Allocations between two looks for garbage, and how many of those before older objects are looked at, too. Python's
#: own 700 (2,000 since 3.13) is for small programs: LiteLLM makes some thousand objects for each request.
GARBAGE = (50_000, 20, 100)

#: LiteLLM hands on what the last link said. A provider that refuses *our* key, or does not know the model, is no fault
#: of the client, whose key and model were checked before: bad gateway, and gateway time-out.
UPSTREAM_STATUS = {401: 502, 403: 502, 404: 502, 408: 504}


class Gate:
    """ASGI application that lets checked requests through to another one."""

    def __init__(self, app: App, clients: Clients, profiles: frozenset[str]) -> None:
        self._app = app
        self._clients = clients
        self._profiles = profiles

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection: start-up and shut-down pass, HTTP is checked, anything else is closed."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            try:
                await self._serve(scope, receive, send)
            except Refusal as refusal:
                await refuse(send, refusal)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        if (method, path) == LIVELINESS:
            await self._app(rebuilt(scope, b"", []), receive, plain(send))
            return
        completion = check_route(method, path, scope.get("query_string", b"").decode("latin-1"))
        key = bearer(scope["headers"])
        _unused, profile = self._clients.profile_of(key)
        body = await read_body(receive) if completion else b""
        if completion:
            request = parse(body)
            check_body(request, profile, self._profiles)
            sent = {name: value for name, value in request.items() if name not in DROPPED_FIELDS}
            body = json.dumps(sent, ensure_ascii=False).encode("utf-8", "replace")
        authorization = [(b"authorization", f"Bearer {key}".encode())]
        await self._app(rebuilt(scope, body, authorization), Replay(body, receive), plain(send))


class Replay:
    """Hands a body that was read already to the application, then waits for the client to leave."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        """The next message of the connection."""
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


def bearer(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The key of the one Authorization header, or nothing."""
    values = [value.decode("latin-1") for name, value in headers if name.lower() == b"authorization"]
    kind, _unused, key = (values[0] if len(values) == 1 else "").partition(" ")
    return key.strip() if kind.lower() == "bearer" else ""


async def read_body(receive: Receive) -> bytes:
    """The whole body. Raises :class:`Refusal`: 413 past :data:`MAX_BODY`, 400 when the client leaves before its end."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Refusal(400, "body_cut_off", "The request ended before its body did.")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY:
            raise Refusal(413, "body_too_large", f"A request may have {MAX_BODY} bytes. Send less.")
        if not message.get("more_body"):
            return b"".join(parts)


def parse(body: bytes) -> dict[str, object]:
    """The body as a JSON object. Raises :class:`Refusal` (400) for anything else, a name that comes twice included."""
    try:
        data = json.loads(body, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise Refusal(400, "not_json", "The body is not JSON, or holds a name twice.") from None
    if not isinstance(data, dict):
        raise Refusal(400, "not_json", "The body is a JSON object.")
    return data


def rebuilt(scope: Scope, body: bytes, headers: list[tuple[bytes, bytes]]) -> Scope:
    """A scope without query string, with no header of the client's but those given."""
    fixed = [(b"host", b"gateway"), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    keep = ("type", "asgi", "http_version", "method", "path", "raw_path", "scheme", "client", "server", "state")
    kept = {name: scope[name] for name in keep if name in scope}
    return {**kept, "root_path": "", "query_string": b"", "headers": [*fixed, *headers]}


def plain(send: Send) -> Send:
    """Send on, with a status that is about this gateway, without the headers that are nobody's business."""

    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [(name, value) for name, value in message.get("headers", []) if name.lower() in PASSED_BACK]
            status = UPSTREAM_STATUS.get(message["status"], message["status"])
            message = {**message, "status": status, "headers": headers}
        await send(message)

    return sender


async def refuse(send: Send, refusal: Refusal) -> None:
    """Answer in the form that OpenAI clients read."""
    kind = "authentication_error" if refusal.status == 401 else "invalid_request_error"
    error = {"message": refusal.message, "type": kind, "param": refusal.field, "code": refusal.code}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name comes twice")
    return result


def leave_out(modules: MutableMapping[str, Any]) -> None:
    """Let an import of :data:`ABSENT` fail at once; ``modules`` is ``sys.modules``."""
    modules.update(dict.fromkeys(ABSENT))


def settle(prices: MutableMapping[str, Any]) -> None:
    """Before the first request: make each of them cheaper.

    ``prices`` is LiteLLM's own table. Every price stands in the configuration, and its index over thousands of names is
    made anew at each request that has a price.
    """
    prices.clear()
    # What is there by now stays: it need not be looked through again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE)


def main() -> int:
    """Load LiteLLM and serve it behind the gate until told to stop."""
    parser = argparse.ArgumentParser(prog="mushishi_gateway_serve", description="Serve LiteLLM behind the gate.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    leave_out(sys.modules)
    # Imported here: the rules above must be testable where LiteLLM is not installed, and this takes seconds.
    import httpx
    import litellm
    import uvicorn
    import yaml
    from litellm import CustomStreamWrapper
    from litellm.proxy.proxy_server import app

    try:
        mushishi_gateway_stream.install(CustomStreamWrapper, httpx.RemoteProtocolError)
    except mushishi_gateway_stream.Changed as exc:
        print(f"gateway: {exc}", file=sys.stderr)
        return EXIT_CONFIG
    config = yaml.safe_load(Path(os.environ["MUSHISHI_GATEWAY_CONFIG"]).read_text(encoding="utf-8"))
    gate = Gate(app, load_clients(os.environ), profiles_of(config))
    settle(litellm.model_cost)
    uvicorn.run(
        gate,
        host=given.host,
        port=given.port,
        access_log=False,
        log_level="warning",
        server_header=False,
        date_header=False,
        ws="none",
        timeout_graceful_shutdown=10,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
