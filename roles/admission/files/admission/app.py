# SPDX-License-Identifier: MIT
"""The ASGI application: an exact table of routes, and the way of one request through the checks to the gateway."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx

from admission import outcome, schema, sse, strictjson, upstream, waiting
from admission.answer import KEEP_ALIVE, ChatVoice, Voice, chunks_of, packed
from admission.config import Config, Queue, Rule
from admission.errors import ClientGoneError, Refusal, bad_field
from admission.exchange import Exchange, Receive, Scope, Send
from admission.journal import FILE, Job, digest
from admission.keys import KeyRing, authenticate, cache_salt
from admission.log import Log
from admission.media import Shelf
from admission.private_queue import PrivateQueue
from admission.routes import JOB_PATH, JOB_ROUTES, ROUTES, Read, Route, job_of
from admission.translate_messages import error_payload
from admission.waiting import Wishes, wishes

Done = TypeVar("Done")
_CLIENT_GONE = 499
TRY_SECONDS = 60.0
"""How long a client that will not be held (``Prefer: wait=0``) waits for the engine that is asked at once."""
_STREAM = {"content-type": "text/event-stream; charset=utf-8"}


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
    job: Job | None = None
    queued: float | None = None

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
    print: bytes = b""
    """Digest of what the client sent, by which a retry is known."""


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
        self._queue: PrivateQueue | None = None
        if config.queue is not None and _queues(config, config.queue):
            self._queue = PrivateQueue(config, config.queue, self._salts, gateway, self._busy.total, log)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(Exchange(scope, receive, send, self._config.limits))

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        if self._queue is not None:
            await self._queue.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if self._queue is not None:
            await self._queue.stop()
        await self._gateway.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, exchange: Exchange) -> None:
        route = ROUTES.get(exchange.path)
        name = f"{route.method} {exchange.path.decode()}" if route else "-"
        if route is None and job_of(exchange.path) is not None:
            route = JOB_ROUTES.get(exchange.method, JOB_ROUTES["GET"])
            name = f"{route.method} {JOB_PATH}{{id}}"
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
            job=trace.job.seq if trace.job else None,
            queued=trace.queued,
            ms=trace.since_start(),
            first_ms=trace.first_ms,
            bytes_in=exchange.bytes_in,
            bytes_out=exchange.bytes_out,
        )

    async def _route(self, exchange: Exchange, trace: Trace, route: Route | None) -> None:
        if route is None:
            raise Refusal(404, "unknown_route", "There is no such route here")
        if exchange.method != route.method:
            methods = ", ".join(JOB_ROUTES) if route.job else route.method
            allow = {"allow": methods}
            raise Refusal(405, "method_not_allowed", f"This route takes {methods} only", headers=allow)
        if exchange.path == b"/healthz":
            await exchange.answer_json({"status": "answering"}, {})
            return
        profile = trace.profile = authenticate(exchange.headers, self._keys, own_header=route.anthropic or route.job)
        if route.job:
            await self._job(exchange, trace, profile)
        elif route.read is None:
            await exchange.answer_json(models_of(profile), _about(trace))
        elif self._queue is not None and self._config.rules.profiles[profile].terminal == "queue":
            asked = wishes(exchange.headers)
            trace.job = await self._answered_or_taken(exchange, trace, profile, route.read, asked)
            if trace.job is not None:
                given = await self._unless_gone(exchange, self._hold(exchange, trace, self._queue, trace.job, asked))
                if given:
                    await self._queue.fetched(trace.job)
        else:
            with self._slot(profile):
                call = await self._admit(exchange, profile, route.read)
                await self._unless_gone(exchange, self._perform(exchange, trace, call, call.rule.timeout))

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
            if self._queue is not None:
                self._queue.wake()

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
        fingerprint = digest(exchange.path + b"\0" + raw) if rule.terminal == "queue" else b""
        return Call(profile, rule, bool(request.stream), body, voice, fingerprint)

    async def _unless_gone(self, exchange: Exchange, doing: Coroutine[None, None, Done]) -> Done:
        """Do it; when the client goes away first, cancel it, which closes the connection to the gateway."""
        work = asyncio.create_task(doing)
        gone = asyncio.create_task(exchange.disconnected())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ClientGoneError
            return work.result()
        finally:
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    # ---- the private queue
    async def _answered_or_taken(
        self, exchange: Exchange, trace: Trace, profile: str, read: Read, asked: Wishes
    ) -> Job | None:
        """Answer the request at once, or take it into the queue; its body is in memory only as long as this lasts."""
        queue = self._queue
        if queue is None:
            raise TypeError("no queue")
        if self._busy[profile] < self._config.limits.concurrent_requests:
            with self._slot(profile):
                call = await self._admit(exchange, profile, read)
                known = await queue.known(profile, asked.key, call.print) if asked.key else None
                if known is not None:
                    return known
                untried = asked.respond_async or queue.away(profile)
                if not untried and await self._tried(exchange, trace, call, queue, asked):
                    return None
                return await self._take(exchange, queue, call, asked)
        async with queue.intake(profile):  # every slot is taken: it waits for one in the queue
            return await self._take(exchange, queue, await self._admit(exchange, profile, read), asked)

    async def _tried(
        self, exchange: Exchange, trace: Trace, call: Call, queue: PrivateQueue, asked: Wishes
    ) -> bool:
        """Whether an engine answered the request (with whatever answer), while the client's patience lasts.

        Raises Refusal.
        """
        patience = call.rule.timeout if asked.wait is None else min(asked.wait or TRY_SECONDS, call.rule.timeout)
        try:
            await self._unless_gone(exchange, self._perform(exchange, trace, call, patience))
        except Refusal as refusal:
            if refusal.code != outcome.NOTHING_LOCAL:
                raise
            late = refusal.reason == outcome.TIMEOUT and patience < call.rule.timeout  # says nothing of the engine
            if not late and not outcome.too_long_for_now(refusal):
                queue.engine(call.profile, up=False)
            trace.backend, trace.reason = None, refusal.reason
            return False
        if trace.code is None:
            queue.engine(call.profile, up=True)
        return True

    async def _take(self, exchange: Exchange, queue: PrivateQueue, call: Call, asked: Wishes) -> Job:
        route = exchange.path.decode()
        return await queue.accept(call.profile, route, call.body, call.voice, call.print, asked.key)

    async def _hold(self, exchange: Exchange, trace: Trace, queue: PrivateQueue, job: Job, asked: Wishes) -> bool:
        """What the client hears of its job: at once that it was taken, or its answer, or that it still waits.

        Whether the answer was given out, to its end.
        """
        if asked.respond_async:
            trace.code = "accepted"
            job = await queue.look(job.id, job.profile)
            head = {"location": waiting.url_of(job), **asked.applied(0), **_about(trace)}
            await exchange.answer(202, json.dumps(queue.described(job)).encode(), head)
            return False
        seconds = queue.hold_seconds(job.profile, asked.wait)
        queue.held += 1
        try:
            await self._wait_for(exchange, trace, queue, job, seconds, asked.applied(seconds))
        finally:
            queue.held -= 1
        try:
            job = await queue.look(job.id, job.profile)
            trace.queued = round((job.ended or time.time()) - job.accepted, 1)
            await self._give(exchange, trace, queue, job, asked.applied(seconds))
            return True
        except Refusal as refusal:
            if exchange.status is None:
                raise
            trace.code, trace.reason = refusal.code, refusal.reason
            try:
                voice, _usage = await queue.voice(job)
            except Refusal:  # its words went with it, or cannot be read
                voice = ChatVoice(job.profile)
            await exchange.write(voice.failed(refusal))
            await exchange.end()
            return False

    @staticmethod
    async def _wait_for(
        exchange: Exchange, trace: Trace, queue: PrivateQueue, job: Job, seconds: float, applied: dict[str, str]
    ) -> None:
        """Hold the connection; a stream hears a comment now and then, so that nobody on the way gives it up."""
        until = exchange.received + seconds
        step = queue.settings.keep_alive_seconds if job.stream else seconds
        while not await queue.ended(job, min(step, max(0.0, until - time.monotonic()))):
            if time.monotonic() >= until:
                return
            if exchange.status is None:
                trace.queued = round(time.time() - job.accepted, 1)
                await exchange.start(200, {**_STREAM, **applied, **_about(trace)})
            await exchange.write(KEEP_ALIVE)

    async def _give(
        self, exchange: Exchange, trace: Trace, queue: PrivateQueue, job: Job, applied: dict[str, str]
    ) -> None:
        """The job's answer, to a client that asked for nothing else. Raises Refusal when there is none."""
        if job.waits:
            raise queue.still_queued(job)
        if job.state in ("cancelled", "expired"):
            raise waiting.ended_without(job.state)
        async with queue.answer(job) as raw:
            if job.state == "failed":
                raise waiting.stored_refusal(raw)
            trace.backend = job.backend
            trace.first_ms = trace.since_start()
            if job.stream:
                if exchange.status is None:
                    await exchange.start(200, {**_STREAM, **applied, **_about(trace)})
                voice, usage = await queue.voice(job)
                for chunk in chunks_of(json.loads(raw), usage=usage):
                    await exchange.write(voice.chunk(chunk))
                await exchange.write(voice.done())
                await exchange.end()
            else:
                await exchange.answer(200, raw, {**applied, **_about(trace)})

    async def _job(self, exchange: Exchange, trace: Trace, profile: str) -> None:
        """GET and DELETE of one job; for another profile's key it does not exist."""
        job_id = job_of(exchange.path)
        if self._queue is None or job_id is None:
            raise waiting.unknown()
        job = trace.job = await self._queue.look(job_id, profile)
        if exchange.method == "DELETE":
            job = await self._queue.cancel(job)
            about = {**self._queue.described(job), "deleted": True}
            await exchange.answer_json(about, _about(trace))
            return
        about = self._queue.described(job)
        if job.state not in ("completed", "failed"):
            head = {"retry-after": str(waiting.retry_after(self._queue.place(job)[1]))} if job.waits else {}
            await exchange.answer_json(about, {**head, **_about(trace)})
            return
        async with self._queue.answer(job) as raw:
            if job.state == "failed":
                body = waiting.with_answer(about, "error", json.dumps(waiting.stored_refusal(raw).payload()).encode())
            elif job.stream:
                voice, _usage = await self._queue.voice(job)
                body = waiting.with_answer(about, "response", packed(voice.whole(json.loads(raw))))
            else:
                body = waiting.with_answer(about, "response", raw)
            await exchange.answer(200, body, _about(trace))
        await self._queue.fetched(job)

    def close_doors(self) -> None:
        """The service ends: no connection is held any longer."""
        if self._queue is not None:
            self._queue.close_doors()

    # ---- one request to the gateway
    async def _perform(self, exchange: Exchange, trace: Trace, call: Call, seconds: float) -> None:
        """Pass it on; seconds: until the answer begins."""
        try:
            async with asyncio.timeout(seconds) as clock, self._gateway.complete(call.body) as response:
                if response.status_code != 200:
                    raw = await upstream.whole(response, self._config.limits.max_response_bytes)
                    raise outcome.refusal_for(call.profile, call.rule, outcome.read_error(response.status_code, raw))
                trace.backend = outcome.backend_of(response.headers, call.profile, call.rule)
                if call.stream:
                    await self._relay(exchange, trace, call, response, clock)
                else:
                    await self._whole(exchange, trace, call, response, clock)
        except TimeoutError:
            raise outcome.nothing_local(call.profile, call.rule, outcome.TIMEOUT) from None
        except upstream.GatewayError as error:
            raise outcome.nothing_local(call.profile, call.rule, str(error)) from None

    async def _whole(
        self, exchange: Exchange, trace: Trace, call: Call, response: httpx.Response, clock: asyncio.Timeout
    ) -> None:
        raw = await upstream.whole(response, self._config.limits.max_response_bytes)
        clock.reschedule(None)
        document = outcome.completion(raw)
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
            await exchange.start(200, {**_STREAM, **_about(trace)})
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


def _queues(config: Config, settings: Queue) -> bool:
    """Whether a chain ends in the queue, or did once: what its file holds is answered, wiped and forgotten in time."""
    ends = any(rule.terminal == "queue" for rule in config.rules.profiles.values())
    return ends or (Path(settings.directory) / FILE).exists()


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
    if trace.job:
        about["x-sovereign-job"] = waiting.url_of(trace.job)
    if trace.queued is not None:
        about["x-sovereign-queued"] = f"{trace.queued:.0f}"
    return about


def _chunk(data: bytes) -> dict[str, object]:
    chunk = json.loads(data)
    if not isinstance(chunk, dict):
        raise ValueError  # noqa: TRY004 - what json.loads raises for a bad chunk, too
    return chunk
