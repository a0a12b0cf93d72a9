# SPDX-License-Identifier: MIT
"""The worker of the private queue: finds out whether an engine is back, and serves the oldest job with idle slots.

At least once, and one answer: a job is tried as often as an engine dies on it, and what is stored is stored in one
transaction that only the first answer wins. "Back" is a real completion: a live request's, a job's, or one token.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from admission import journal as on_disk
from admission import outcome, upstream
from admission.answer import packed
from admission.config import Queue, Rule
from admission.errors import Refusal
from admission.journal import Ended, Job, Journal, JournalError
from admission.lines import PATIENT_TIMEOUTS, Lines
from admission.log import Log
from admission.routes import voice_again
from admission.waiting import packed_refusal

PROBE_SECONDS = 120.0
FAULT_PAUSE = 1.0
STORE_PAUSE = 30.0
"""After an answer could not be stored, the job is left alone for so long; so is reading ahead, after it failed."""
SMOOTH = 0.2
SMALL = 64 * 1024
"""Bodies of this size are read before their turn."""
READ_AHEAD = "read ahead"
FINAL = ("context_length_exceeded", "engine_rejected_request")
"""What an engine says about the request itself: asking again would not help."""


@dataclass
class Engine:
    """What is known of the engines behind a profile. up: None until somebody has tried."""

    up: bool | None = None
    probed: float = float("-inf")
    probing: bool = False


@dataclass(frozen=True)
class Found:
    """A real answer to a job."""

    document: dict[str, Any]
    backend: str


@dataclass
class Work:
    """The worker's own figures, for the estimate and the metrics."""

    seconds: float | None = None
    """What a job takes, smoothed."""
    attempts: int = 0
    probes: int = 0
    unstored: int = 0
    outcomes: dict[tuple[str, str], int] = field(default_factory=dict)


class Drainer:
    """Serves jobs while `run` runs. live: how many requests that did not wait are at work now."""

    def __init__(
        self,
        settings: Queue,
        rules: Mapping[str, Rule],
        salts: Mapping[str, str | None],
        journal: Journal,
        gateway: upstream.Gateway,
        max_response_bytes: int,
        live: Callable[[], int],
        ended: Callable[[Job, str], None],
        log: Log,
    ) -> None:
        self.lines = Lines(settings.slots, settings.age_cap_seconds)
        self.engines = {profile: Engine() for profile in rules}
        self.work = Work()
        self._settings, self._rules, self._salts = settings, rules, salts
        self._journal, self._gateway, self._log = journal, gateway, log
        self._max_response_bytes, self._live, self._ended = max_response_bytes, live, ended
        self._working: set[str] = set()
        self._wake = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ready: dict[str, bytes] = {}
        self._no_read_ahead = float("-inf")

    # ---- what others tell it
    def wake(self) -> None:
        """Something has changed: look again."""
        self._wake.set()

    def add(self, job: Job) -> None:
        """A job begins to wait."""
        self.lines.add(job)
        self.wake()

    def drop(self, job: Job, state: str) -> None:
        """A job was ended by somebody else: its work is broken off, which closes the connection to the engine."""
        self._over(job, state)
        self._ready.pop(job.id, None)
        task = self._tasks.get(job.id)
        if task is not None:
            task.cancel()

    def engine(self, profile: str, *, up: bool) -> None:
        """A live request has found an engine, or none."""
        engine = self.engines[profile]
        if not up and engine.up is not False:  # requests that come often must not put the question off for ever
            engine.probed = time.monotonic()
        engine.up = up
        self.wake()

    def eta(self, job: Job) -> float | None:
        """Seconds until a job has its answer, from what was measured; None while nobody can tell."""
        position = self.lines.position(job.id)
        if position is None or self.work.seconds is None or not self.engines[job.profile].up:
            return None
        return self.work.seconds * -(-position // self._settings.slots)

    def running(self, job_id: str) -> bool:
        """Whether an engine works at it."""
        return job_id in self.lines.at_work

    # ---- the loop
    async def run(self) -> None:
        """Until it is cancelled; jobs that are at work then wait again."""
        try:
            while True:
                self._wake.clear()
                try:
                    pause = self._step()
                except Exception as error:  # noqa: BLE001 - whatever is wrong with one job, the others go on
                    self._log.fault(error)
                    await asyncio.sleep(FAULT_PAUSE)
                    continue
                try:
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                except TimeoutError:
                    continue
        finally:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _step(self) -> float | None:
        """Begin what can begin; seconds until there is something to do even if nothing happens."""
        now = time.monotonic()
        waits = [self.lines.wakes(now)]
        for profile, engine in self.engines.items():
            if engine.up or engine.probing or not self.lines.heads((profile,), now):
                continue
            due = engine.probed + self._settings.probe_seconds - now
            if due <= 0:
                engine.probing = True
                self._start(f"probe {profile}", self._probe(profile, engine))
            else:
                waits.append(due)
        # An answer that waits for the disk has no slot any more, but memory: there are no more of them than slots.
        while len(self.lines.at_work) < 2 * self._settings.slots:
            job = self.lines.next(self._up, len(self._working), self._live(), now, self._journal.clock())
            if job is None:
                break
            self._working.add(job.id)
            self.lines.at_work.add(job.id)
            self._start(job.id, self._serve(job))
        self._read_ahead(now)
        known = [wait for wait in waits if wait is not None]
        return min(known) if known else None

    def _read_ahead(self, now: float) -> None:
        """Have the bodies of the next jobs in memory, if they are small: a free slot then waits for no disk."""
        ahead = [job.id for job in self.lines.upcoming(self._up, self._settings.slots, now) if job.size <= SMALL]
        self._ready = {name: body for name, body in self._ready.items() if name in ahead}
        missing = [name for name in ahead if name not in self._ready]
        if missing and READ_AHEAD not in self._tasks and now >= self._no_read_ahead:
            self._start(READ_AHEAD, self._read(missing))

    async def _read(self, names: list[str]) -> None:
        bodies = await asyncio.wrap_future(
            self._journal.read(lambda db: [(name, on_disk.request_of(db, name)) for name in names])
        )
        for name, body in bodies:
            if name in self.lines.known and name not in self.lines.at_work:
                self._ready[name] = body or b""  # one that is gone is looked for once more in its turn

    def _up(self, profile: str) -> bool:
        return bool(self.engines[profile].up)

    def _start(self, name: str, work: Coroutine[None, None, None]) -> None:
        async def guarded() -> None:
            try:
                await work
            except asyncio.CancelledError:
                return
            except JournalError as error:
                self._log.event("queue_fault", reason=str(error))
                self._failed(name)
            except Exception as error:  # noqa: BLE001 - the worker outlives any single job
                self._log.fault(error)
                self._failed(name)

        def over(ended: asyncio.Task[None]) -> None:
            # Not in `guarded`: a task that is cancelled before its first step never gets there.
            work.close()
            if self._tasks.get(name) is ended:
                del self._tasks[name]
            self._working.discard(name)
            self.lines.at_work.discard(name)
            self.wake()

        task = self._tasks[name] = asyncio.create_task(guarded())
        task.add_done_callback(over)

    def _failed(self, name: str) -> None:
        """A fault of our own, or of the disk: others go first, and nothing is tried again at once."""
        if name == READ_AHEAD:
            self._no_read_ahead = time.monotonic() + STORE_PAUSE
        else:
            self.lines.failed(name, time.monotonic(), aside=True)

    # ---- one completion
    async def _complete(self, profile: str, body: bytes, seconds: float) -> Found:
        """A real completion of a local engine. Raises Refusal."""
        rule = self._rules[profile]
        try:
            async with asyncio.timeout(seconds), self._gateway.complete(body) as response:
                raw = await upstream.whole(response, self._max_response_bytes)
                if response.status_code != 200:
                    raise outcome.refusal_for(profile, rule, outcome.read_error(response.status_code, raw))
                backend = outcome.backend_of(response.headers, profile, rule)
        except TimeoutError:
            raise outcome.nothing_local(profile, rule, outcome.TIMEOUT) from None
        except upstream.GatewayError as error:
            raise outcome.nothing_local(profile, rule, str(error)) from None
        document = outcome.completion(raw)
        if document is None:
            raise outcome.nothing_local(profile, rule, "answer is no completion")
        return Found(outcome.clean(document, profile), backend)

    async def _probe(self, profile: str, engine: Engine) -> None:
        asked: dict[str, object] = {
            "model": self._rules[profile].group,
            "messages": [{"role": "user", "content": "."}],
            "max_tokens": 1,
        }
        if self._salts[profile] is not None:
            asked["cache_salt"] = self._salts[profile]
        self.work.probes += 1
        try:
            await self._complete(profile, packed(asked), min(PROBE_SECONDS, self._rules[profile].timeout))
        except Refusal:
            if engine.up is None:
                engine.up = False
        else:
            if not engine.up:
                self._log.event("engine_back", profile=profile)
            engine.up = True
        finally:
            engine.probing = False
            engine.probed = time.monotonic()

    async def _well(self, profile: str, engine: Engine) -> bool:
        """Whether the engine answers one token now: then it was the job that took so long. Nobody else is begun."""
        engine.up, engine.probing = None, True
        await self._probe(profile, engine)
        return self._up(profile)

    async def _serve(self, job: Job) -> None:
        began = time.monotonic()
        try:
            found = await self._answer_to(job)
        finally:
            # The slot is free for the next job while this one's answer is stored.
            self._working.discard(job.id)
            self.wake()
        if found is None:
            return
        ended = await self._said(job, found) if isinstance(found, Found) else self._refused(found)
        if ended is None:
            self.lines.failed(job.id, time.monotonic(), aside=True)
            return
        took = time.monotonic() - began
        if ended.state == "completed":
            known = self.work.seconds
            self.work.seconds = took if known is None else known + SMOOTH * (took - known)
        await self._store(job, ended)

    async def _answer_to(self, job: Job) -> Found | Refusal | None:
        """An answer, a final refusal; None when the job must be tried again, or waits no longer."""
        body = self._ready.pop(job.id, None)
        if not body:
            body = await asyncio.wrap_future(self._journal.read(lambda db: on_disk.request_of(db, job.id)))
        if body is None:
            self._over(job, "gone")
            return None
        self.work.attempts += 1
        self._journal.write(on_disk.begin(job.id))
        engine = self.engines[job.profile]
        try:
            found = await self._complete(job.profile, body, self._rules[job.profile].timeout)
        except Refusal as refusal:
            if refusal.code in FINAL:
                return refusal
            self._log.event("queue_attempt", profile=job.profile, job=job.seq, reason=refusal.reason)
            if refusal.reason in outcome.TIMEOUTS and await self._well(job.profile, engine):
                if self.lines.too_late(job.id, time.monotonic()):
                    return outcome.too_slow(job.profile, self._rules[job.profile], PATIENT_TIMEOUTS)
                return None
            long = outcome.too_long_for_now(refusal)
            self.lines.failed(job.id, time.monotonic(), aside=long)
            if not long:
                engine.up, engine.probed = False, time.monotonic()
            return None
        engine.up = True
        return found

    async def _said(self, job: Job, found: Found) -> Ended | None:
        """The answer as it is stored: in the route's words, or as a chat answer when it will be said as a stream."""
        kept = await asyncio.wrap_future(self._journal.read(lambda db: on_disk.voice_of(db, job.id)))
        if kept is None:
            return None
        state: dict[str, Any] = json.loads(kept)["state"]
        try:
            before = packed(found.document) if job.stream else b""
            said = packed(voice_again(job.route, state, job.profile).whole(found.document))
        except ValueError:
            self._log.event("queue_attempt", profile=job.profile, job=job.seq, reason="answer is no completion")
            return None
        return Ended("completed", before or said, 200, found.backend)

    @staticmethod
    def _refused(refusal: Refusal) -> Ended:
        return Ended("failed", packed_refusal(refusal), refusal.status)

    async def _store(self, job: Job, ended: Ended) -> None:
        wipe = self._settings.wipe_request == "answered"
        try:
            first = await asyncio.wrap_future(self._journal.finish(job.id, ended, wipe=wipe))
        except JournalError as error:
            self.work.unstored += 1
            self.lines.paused[job.id] = time.monotonic() + STORE_PAUSE
            self._log.event("queue_fault", reason=str(error), job=job.seq)
            return
        self._over(job, ended.state if first else "gone")
        if first:
            waited = round(self._journal.clock() - job.accepted, 1)
            self._log.event(
                "queue_end", profile=job.profile, job=job.seq, state=ended.state, backend=ended.backend, waited=waited
            )

    def _over(self, job: Job, state: str) -> None:
        """It waits no longer, and that is counted once, whoever sees it first."""
        if self.lines.drop(job.id):
            self._ended(job, state)
