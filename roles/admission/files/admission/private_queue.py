# SPDX-License-Identifier: MIT
"""The private queue as the application sees it: take a request, wait for its answer, look, cancel.

What a client is promised is on disk before it hears of it (`journal`); who is next is decided in memory (`lines`); the
worker is `drain`. Bodies of waiting requests are on disk alone, but for the few small ones that are next.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

from admission import journal as on_disk
from admission import upstream, waiting
from admission.answer import Voice, packed
from admission.config import Config, Queue, Rule
from admission.drain import Drainer
from admission.errors import Refusal
from admission.journal import Bounds, Ended, Job, Journal, JournalError, KeyReusedError, NewJob, QueueFullError
from admission.log import Log
from admission.routes import voice_again
from admission.tell import Figures, Line, Waits, modes_of, tell

INTAKE = 4
"""Bodies of requests that go to the queue untried which are read at the same time."""
LARGE = 256 * 1024
LARGE_AT_ONCE = 4
"""Answers larger than LARGE that are in memory at the same time, to be given out."""
LOOK_SECONDS = 1.0
TELL_SECONDS = 5.0
SWEEP_SECONDS = 30.0
Result = TypeVar("Result")


class PrivateQueue:
    """Opened before the service listens; `run` serves it. live: how many requests that did not wait are at work."""

    def __init__(
        self,
        config: Config,
        settings: Queue,
        salts: Mapping[str, str | None],
        gateway: upstream.Gateway,
        live: Callable[[], int],
        log: Log,
    ) -> None:
        self.settings = settings
        bounds = Bounds(
            settings.jobs, settings.bytes, settings.free_bytes, settings.expiry_seconds, settings.retention_seconds
        )
        # Of every profile: what was taken in is answered, even if the chain no longer ends in the queue.
        self._rules: Mapping[str, Rule] = config.rules.profiles
        self._journal = Journal(Path(settings.directory), bounds)
        self._drainer = Drainer(
            settings, self._rules, salts, self._journal, gateway, config.limits.max_response_bytes,
            live, self._has_ended, log,
        )  # fmt: skip
        self._log = log
        self._intake = asyncio.Semaphore(INTAKE)
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)
        self._intake_seconds = config.limits.body_seconds
        self._bells: dict[str, asyncio.Event] = {}
        self._ringing: Counter[str] = Counter()
        self._closing = asyncio.Event()
        self._outcomes: Counter[tuple[str, str]] = Counter()
        self._waits = {profile: Waits() for profile, rule in self._rules.items() if rule.terminal == "queue"}
        self._counters: Counter[str] = Counter(accepted_total=0, refused_total=0)
        self._tasks: list[asyncio.Task[None]] = []
        self._changes = -1
        self.held = 0

    # ---- life
    async def start(self) -> None:
        """Read what waits and begin to work. Raises JournalError."""
        jobs, strangers = await self._waiting()
        for job in jobs:
            self._drainer.lines.remember(job, time.monotonic())
        self._log.event("queue_open", waiting=len(jobs), without_profile=strangers or None)
        self._tasks = [
            asyncio.create_task(self._drainer.run()),
            asyncio.create_task(self._often(self._look, LOOK_SECONDS)),
            asyncio.create_task(self._often(self._sweep, SWEEP_SECONDS)),
            asyncio.create_task(self._often(self._tell, TELL_SECONDS)),
        ]

    def close_doors(self) -> None:
        """The service ends: who waits is told at once where the answer will be."""
        self._closing.set()
        for bell in self._bells.values():
            bell.set()

    async def stop(self) -> None:
        """End the worker; what it was at waits for the next start."""
        self.close_doors()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._journal.close)

    async def _often(self, what: Callable[[], Awaitable[None]], seconds: float) -> None:
        while True:
            try:
                await what()
            except (JournalError, OSError) as error:
                reason = str(error) if isinstance(error, JournalError) else on_disk.cause_of(error)
                self._log.event("queue_fault", reason=reason)
            except Exception as error:  # noqa: BLE001 - the clock goes on
                self._log.fault(error)
            await asyncio.sleep(seconds)

    async def _waiting(self) -> tuple[list[Job], int]:
        """The jobs that wait, and how many more do whose profile is gone: nobody could answer them; they expire."""
        found = await self._reading(on_disk.waiting)
        jobs = [job for job in found if job.profile in self._rules]
        return jobs, len(found) - len(jobs)

    async def _reading(self, operation: Callable[..., Result]) -> Result:
        return await asyncio.wrap_future(self._journal.read(operation))

    async def _writing(self, future: Future[Result]) -> Result:
        return await asyncio.wrap_future(future)

    # ---- what happens by the clock
    async def _look(self) -> None:
        """Has the administrator done something? He writes to the same file."""
        changes = await self._writing(self._journal.changes())
        if changes == self._changes:
            return
        self._drainer.lines.ordered = await self._reading(lambda db: on_disk.order_of(db, "drain"))
        before = list(self._drainer.lines.known.values())  # what is taken in meanwhile is not in what is read now
        there = {job.id: job for job in (await self._waiting())[0]}
        for job in [job for job in before if job.id not in there]:
            now = await self._reading(lambda db, name=job.id: on_disk.find(db, name))
            if now is None or now.state not in ("completed", "failed"):  # else it is the worker's, who counts it
                self._drainer.drop(job, now.state if now else "gone")
        for job in there.values():
            self._drainer.add(job)
        self._drainer.wake()
        self._changes = changes  # only now: what a fault broke off is looked at again

    async def _sweep(self) -> None:
        for name in await self._writing(self._journal.sweep()):
            job = self._drainer.lines.known.get(name)
            if job is not None:
                self._drainer.drop(job, "expired")
        await self._writing(self._journal.tidy())

    async def _tell(self) -> None:
        if self.settings.told is not None:
            await asyncio.to_thread(tell, Path(self.settings.told), self.figures())

    def figures(self) -> Figures:
        """What may be told."""
        now = self._journal.clock()
        lines = []
        for profile, rule in sorted(self._rules.items()):
            there = self._drainer.lines.lines.get(profile) or []
            if not there and rule.terminal != "queue":
                continue
            oldest = max(0.0, now - there[0].accepted) if there else 0.0
            lines.append(Line(profile, len(there), oldest, self._drainer.engines[profile].up, modes_of(rule)))
        work = self._drainer.work
        counters = {
            **self._counters,
            "attempts_total": work.attempts,
            "probes_total": work.probes,
            "unstored_total": work.unstored,
        }
        return Figures(now, tuple(lines), dict(self._outcomes), self._waits, counters, self.held)

    def _has_ended(self, job: Job, state: str) -> None:
        """The worker, the clock or somebody else ended a job: count it, and wake who waits."""
        if state != "gone":
            self._outcomes[(job.profile, state)] += 1
        if state == "completed":
            self._waits.setdefault(job.profile, Waits()).add(self._journal.clock() - job.accepted)
        bell = self._bells.get(job.id)
        if bell is not None:
            bell.set()

    # ---- what the application asks
    def engine(self, profile: str, *, up: bool) -> None:
        """What a live request has found."""
        self._drainer.engine(profile, up=up)

    def away(self, profile: str) -> bool:
        """Whether the worker knows that nothing would answer: somebody waits, so that it asks again and again."""
        engine, lines = self._drainer.engines[profile], self._drainer.lines
        return engine.up is False and bool(lines.heads((profile,), time.monotonic()))

    def wake(self) -> None:
        """A live request has ended: there may be a slot."""
        self._drainer.wake()

    @asynccontextmanager
    async def intake(self, profile: str) -> AsyncIterator[None]:
        """A place to read the body of a request that is not tried first. Raises Refusal (429)."""
        try:
            async with asyncio.timeout(self._intake_seconds):
                await self._intake.acquire()
        except TimeoutError:
            raise Refusal(
                429,
                "too_many_requests",
                f"Profile '{profile}' sends more requests at once than the private queue can take in",
                type="rate_limit_error",
                headers={"retry-after": "5"},
                reason="intake",
            ) from None
        try:
            yield
        finally:
            self._intake.release()

    async def known(self, profile: str, key: bytes, fingerprint: bytes) -> Job | None:
        """The job that an idempotency key means. Raises Refusal (422)."""
        try:
            return await self._reading(lambda db: on_disk.find_key(db, profile, key, fingerprint))
        except KeyReusedError:
            raise waiting.key_reused() from None
        except JournalError as error:
            raise waiting.broken(str(error)) from None

    async def accept(
        self, profile: str, route: str, body: bytes, voice: Voice, fingerprint: bytes, key: bytes | None
    ) -> Job:
        """Take a request; when this returns, it is on disk. Raises Refusal (422, 503), and then nothing is kept."""
        plain, stream, usage = await asyncio.to_thread(_without_stream, body)
        kept = packed({"state": voice.kept(), "usage": usage})
        new = NewJob(secrets.token_urlsafe(32), profile, route, stream, plain, kept, fingerprint, key)
        try:
            job = await self._writing(self._journal.accept(new))
        except QueueFullError as error:
            self._counters["refused_total"] += 1
            raise waiting.full(str(error)) from None
        except KeyReusedError:
            raise waiting.key_reused() from None
        except JournalError as error:
            self._counters["refused_total"] += 1
            self._log.event("queue_fault", reason=str(error))
            raise waiting.broken(str(error)) from None
        if job.id == new.id:
            self._counters["accepted_total"] += 1
            self._drainer.add(job)
        return job

    def hold_seconds(self, profile: str, wait: float | None) -> float:
        """How long this client is held: as it wishes, as the policy says, and not at all when too many are."""
        if self.held >= self.settings.waiters or self._closing.is_set():
            return 0.0
        return min(self._rules[profile].wait if wait is None else wait, self.settings.max_wait_seconds)

    async def ended(self, job: Job, seconds: float) -> bool:
        """Wait for the end of a job; whether there is something new to see (an end, or the service's own)."""
        if job.id not in self._drainer.lines.known or self._closing.is_set():
            return True
        bell = self._bells.setdefault(job.id, asyncio.Event())
        self._ringing[job.id] += 1
        try:
            async with asyncio.timeout(seconds):
                await bell.wait()
        except TimeoutError:
            return False
        finally:
            self._ringing[job.id] -= 1
            if not self._ringing[job.id]:
                del self._ringing[job.id], self._bells[job.id]
        return True

    async def look(self, job_id: str, profile: str) -> Job:
        """The job as it is now. Raises Refusal: 404 for every other profile."""
        with self._stays(job_id):
            job = await self._reading(lambda db: on_disk.find(db, job_id, profile))
        if job is None:
            raise waiting.unknown()
        return job

    def place(self, job: Job) -> tuple[int | None, float | None]:
        """Its position in its line, and the seconds until its answer, where they are known."""
        return self._drainer.lines.position(job.id), self._drainer.eta(job)

    def still_queued(self, job: Job) -> Refusal:
        """What a client hears whose time is over."""
        position, eta = self.place(job)
        return waiting.still_queued(job, position or 1, eta)

    def described(self, job: Job) -> dict[str, object]:
        """The job as its owner sees it."""
        position, eta = self.place(job) if job.waits else (None, None)
        return waiting.described(job, running=self._drainer.running(job.id), position=position, eta=eta)

    @asynccontextmanager
    async def answer(self, job: Job) -> AsyncIterator[bytes]:
        """The stored answer or error of a job that has one, while it is given out. Raises Refusal."""
        with self._stays(job.id):
            size = await self._reading(lambda db: on_disk.result_size(db, job.id))
        if size > LARGE:
            async with self._large:
                yield await self._stored(job)
        else:
            yield await self._stored(job)

    @contextmanager
    def _stays(self, job_id: str) -> Iterator[None]:
        """What fails here is no loss: the job is on disk. Raises Refusal (503)."""
        try:
            yield
        except JournalError as error:
            self._log.event("queue_fault", reason=str(error))
            raise waiting.unread(job_id, str(error)) from None

    async def _stored(self, job: Job) -> bytes:
        with self._stays(job.id):
            raw = await self._reading(lambda db: on_disk.result_of(db, job.id))
        if raw is None:
            raise waiting.unknown()
        return raw

    async def voice(self, job: Job) -> tuple[Voice, bool]:
        """How its answer is said, and whether a stream ends with the numbers. Raises Refusal."""
        with self._stays(job.id):
            raw = await self._reading(lambda db: on_disk.voice_of(db, job.id))
        if raw is None:
            raise waiting.unknown()
        kept = json.loads(raw)
        return voice_again(job.route, kept["state"], job.profile), bool(kept["usage"])

    async def fetched(self, job: Job) -> None:
        """Its answer was given out to the end: the request is wiped."""
        if job.fetched is None:
            try:
                await self._writing(self._journal.fetched(job.id))
            except JournalError as error:
                self._log.event("queue_fault", reason=str(error), job=job.seq)

    async def cancel(self, job: Job) -> Job:
        """End a job that waits, or forget one that has ended. Raises Refusal."""
        with self._stays(job.id):
            if job.waits and await self._writing(self._journal.finish(job.id, Ended("cancelled"), wipe=True)):
                self._drainer.drop(job, "cancelled")
                return await self.look(job.id, job.profile)
            await self._writing(self._journal.write(on_disk.remove(job.id)))
        return job


def _without_stream(body: bytes) -> tuple[bytes, bool, bool]:
    """The body for the worker, which never streams; whether the client streams, and wants the numbers at the end."""
    document = json.loads(body)
    stream = bool(document.pop("stream", False))
    options = document.pop("stream_options", None) or {}
    return (packed(document) if stream or options else body), stream, bool(options.get("include_usage"))
