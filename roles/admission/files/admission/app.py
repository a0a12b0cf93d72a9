# SPDX-License-Identifier: MIT
"""The ASGI application: an exact table of routes, and the way of one request through the checks to the gateway."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from admission import outcome, schema, sse, strictjson, upstream
from admission.answer import Voice
from admission.config import Config, Rule
from admission.errors import ClientGoneError, Refusal, bad_field
from admission.exchange import Exchange, Receive, Scope, Send
from admission.keys import KeyRing, authenticate, cache_salt
from admission.log import Log
from admission.media import Shelf
from admission.routes import ROUTES, Read, Route
from admission.translate_messages import error_payload

_CLIENT_GONE = 499


@dataclass
class Trace:
    """What the log line of a request says besides the exchange's own figures."""

    id: str
    route: str
    started: float
    profile: str | None = None
    backend: str | None = None
    code: str | None = None
    reason: str | None = None
    first_ms: float | None = None

    def since_start(self) -> float:
        """Milliseconds since the request began."""
        return round((time.monotonic() - self.started) * 1000, 1)


@dataclass(frozen=True)
class Call:
    """A request that passed every check."""

    profile: str
    rule: Rule
    stream: bool
    body: bytes
    voice: Voice


class Admission:
    """The service as an ASGI application."""

    def __init__(self, config: Config, keys: KeyRing, gateway_key: str, gateway: upstream.Gateway, log: Log) -> None:
        self._config = config
        self._keys = keys
        self._gateway = gateway
        self._log = log
        self._busy: Counter[str] = Counter()
        self._salts = {
            profile: cache_salt(gateway_key, profile) if config.cache_salt else None
            for profile in config.rules.profiles
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(Exchange(scope, receive, send, self._config.limits))

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._gateway.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, exchange: Exchange) -> None:
        route = ROUTES.get(exchange.path)
        name = f"{route.method} {exchange.path.decode()}" if route else "-"
        trace = Trace(secrets.token_hex(8), name, time.monotonic())
        try:
            try:
                await self._route(exchange, trace, route)
            except Refusal as refusal:
                trace.code, trace.reason, trace.backend = refusal.code, refusal.reason, None
                await self._refuse(exchange, refusal, trace, route)
        except ClientGoneError:
            trace.code = "client_gone"
        except Exception as error:  # noqa: BLE001 - the last line of defence: a fault is logged and answered
            self._log.fault(error)
            trace.code = "internal_error"
            if exchange.status is None:
                fault = Refusal(500, "internal_error", "A fault inside admission; see its log", type="server_error")
                await self._refuse(exchange, fault, trace, route)
        finally:
            self._report(exchange, trace)

    async def _refuse(self, exchange: Exchange, refusal: Refusal, trace: Trace, route: Route | None) -> None:
        if route and refusal.code == outcome.TOO_LONG:
            refusal.param = route.long
        payload = error_payload(refusal, trace.id) if route and route.anthropic else refusal.payload()
        await exchange.refuse(refusal, payload, _about(trace))

    def _report(self, exchange: Exchange, trace: Trace) -> None:
        self._log.event(
            "request",
            id=trace.id,
            profile=trace.profile,
            route=trace.route,
            status=_CLIENT_GONE if trace.code == "client_gone" else exchange.status,
            code=trace.code,
            reason=trace.reason,
            backend=trace.backend,
            ms=trace.since_start(),
            first_ms=trace.first_ms,
            bytes_in=exchange.bytes_in,
            bytes_out=exchange.bytes_out,
        )

    async def _route(self, exchange: Exchange, trace: Trace, route: Route | None) -> None:
        if route is None:
            raise Refusal(404, "unknown_route", "There is no such route here")
        if exchange.method != route.method:
            allow = {"allow": route.method}
            raise Refusal(405, "method_not_allowed", f"This route takes {route.method} only", headers=allow)
        if exchange.path == b"/healthz":
            await exchange.answer_json({"status": "answering"}, {})
            return
        profile = trace.profile = authenticate(exchange.headers, self._keys, own_header=route.anthropic)
        if route.read is None:
            await exchange.answer_json(models_of(profile), _about(trace))
            return
        with self._slot(profile):
            call = await self._admit(exchange, profile, route.read)
            await self._unless_gone(exchange, trace, call)

    @contextmanager
    def _slot(self, profile: str) -> Iterator[None]:
        if self._busy[profile] >= self._config.limits.concurrent_requests:
            raise Refusal(
                429,
                "too_many_requests",
                f"Profile '{profile}' already has {self._busy[profile]} requests in progress",
                type="rate_limit_error",
                headers={"retry-after": "1"},
                reason="concurrency",
            )
        self._busy[profile] += 1
        try:
            yield
        finally:
            self._busy[profile] -= 1

    async def _admit(self, exchange: Exchange, profile: str, read: Read) -> Call:
        limits = self._config.limits
        raw = await exchange.body()
        try:
            document = strictjson.parse(raw, max_depth=limits.max_depth, max_tokens=limits.max_tokens)
        except strictjson.StrictJSONError as error:
            refusal = bad_field(None, str(error))
            refusal.reason = str(error)
            raise refusal from None
        folder = self._config.media.get(profile)
        if folder is not None and b"file:" in raw:  # files are read beside the loop: a slow disk delays nobody else
            shelf = Shelf(Path(folder), limits.max_body_bytes - len(raw))
            request, voice = await asyncio.to_thread(read, document, profile, shelf)
        else:
            request, voice = read(document, profile, None)
        rule = self._config.rules.profiles[profile]
        body = schema.build(request, rule.group, self._salts[profile])
        return Call(profile, rule, bool(request.stream), body, voice)

    async def _unless_gone(self, exchange: Exchange, trace: Trace, call: Call) -> None:
        """Run the call; when the client goes away first, cancel it, which closes the connection to the gateway."""
        work = asyncio.create_task(self._perform(exchange, trace, call))
        gone = asyncio.create_task(exchange.disconnected())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ClientGoneError
            work.result()
        finally:
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _perform(self, exchange: Exchange, trace: Trace, call: Call) -> None:
        # The one place where "nothing local answers" is decided: a durable queue would take the call over here.
        try:
            async with asyncio.timeout(call.rule.timeout) as clock, self._gateway.complete(call.body) as response:
                if response.status_code != 200:
                    raw = await upstream.whole(response, self._config.limits.max_response_bytes)
                    raise outcome.refusal_for(call.profile, call.rule, outcome.read_error(response.status_code, raw))
                trace.backend = outcome.backend_of(response.headers, call.profile, call.rule)
                if call.stream:
                    await self._relay(exchange, trace, call, response, clock)
                else:
                    await self._whole(exchange, trace, call, response, clock)
        except TimeoutError:
            raise outcome.nothing_local(call.profile, call.rule, "timeout") from None
        except upstream.GatewayError as error:
            raise outcome.nothing_local(call.profile, call.rule, str(error)) from None

    async def _whole(
        self, exchange: Exchange, trace: Trace, call: Call, response: httpx.Response, clock: asyncio.Timeout
    ) -> None:
        raw = await upstream.whole(response, self._config.limits.max_response_bytes)
        clock.reschedule(None)
        document = _completion(raw)
        try:
            said = call.voice.whole(document) if document is not None else None
        except ValueError:
            said = None
        if said is None:
            raise outcome.nothing_local(call.profile, call.rule, "answer is no completion")
        trace.first_ms = trace.since_start()
        await exchange.answer_json(said, _about(trace))

    async def _relay(
        self, exchange: Exchange, trace: Trace, call: Call, response: httpx.Response, clock: asyncio.Timeout
    ) -> None:
        async with (
            aclosing(upstream.pieces(response)) as pieces,
            aclosing(sse.events(pieces, self._config.limits.max_event_bytes)) as stream,
        ):
            first = await self._first_event(stream, call)
            clock.reschedule(None)
            trace.first_ms = trace.since_start()
            await exchange.start(200, {"content-type": "text/event-stream; charset=utf-8", **_about(trace)})
            await exchange.write(first)
            try:
                await self._rest(exchange, call, stream)
            except Refusal as refusal:
                trace.code, trace.reason = refusal.code, refusal.reason
                await exchange.write(call.voice.failed(refusal))
            await exchange.end()

    async def _first_event(self, stream: AsyncIterator[bytes | None], call: Call) -> bytes:
        """What the first chunk says: until it is here, an error can still be an HTTP error."""
        try:
            async for data in stream:
                if data is None:
                    continue
                chunk = _chunk(data)
                if "error" in chunk:
                    error = outcome.read_error_event(chunk["error"])
                    raise outcome.refusal_for(call.profile, call.rule, error)
                return call.voice.chunk(chunk)
        except (sse.EventTooLargeError, ValueError):
            raise outcome.nothing_local(call.profile, call.rule, "answer is no event stream") from None
        raise outcome.nothing_local(call.profile, call.rule, "empty answer")

    async def _rest(self, exchange: Exchange, call: Call, stream: AsyncIterator[bytes | None]) -> None:
        """Relay what follows, one event at a time, to its end; raises Refusal when there is none.

        The gateway's own end mark ends the answer; none is ever made up.
        """
        try:
            while True:
                async with asyncio.timeout(self._config.limits.stream_idle_seconds):
                    data = await anext(stream)
                if data == sse.DONE:
                    await exchange.write(call.voice.done())
                    return
                if data is None:
                    await exchange.write(call.voice.idle())
                    continue
                chunk = _chunk(data)
                if "error" in chunk:
                    raise outcome.interrupted(f"gateway answered {outcome.read_error_event(chunk['error']).status}")
                said = call.voice.chunk(chunk)
                if said:
                    await exchange.write(said)
        except StopAsyncIteration:
            raise outcome.interrupted("no end mark") from None
        except TimeoutError:
            raise outcome.interrupted("gateway silent") from None
        except upstream.GatewayError as error:
            raise outcome.interrupted(str(error)) from None
        except (sse.EventTooLargeError, ValueError):
            raise outcome.interrupted("broken event") from None


def models_of(profile: str) -> dict[str, object]:
    """OpenAI's model list with the one name that this key may use."""
    model = {"id": profile, "object": "model", "created": 0, "owned_by": "mushishi.sovereign"}
    return {"object": "list", "data": [model]}


def _about(trace: Trace) -> dict[str, str]:
    about = {"x-request-id": trace.id}
    if trace.profile:
        about["x-sovereign-profile"] = trace.profile
    if trace.backend:
        about["x-sovereign-backend"] = trace.backend
    return about


def _chunk(data: bytes) -> dict[str, object]:
    chunk = json.loads(data)
    if not isinstance(chunk, dict):
        raise ValueError  # noqa: TRY004 - what json.loads raises for a bad chunk, too
    return chunk


def _completion(raw: bytes) -> dict[str, object] | None:
    try:
        document = json.loads(raw)
    except ValueError:
        return None
    if not isinstance(document, dict) or not isinstance(document.get("choices"), list):
        return None
    return document
