# SPDX-License-Identifier: MIT
"""Who is next: the jobs that wait, and the choice among them. No I/O; the journal is the truth, this is its index."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice

from admission.journal import Job

PATIENT_FAILURES = 3
"""So often a job is tried again at once when its engine comes back; then it steps aside."""
PATIENT_TIMEOUTS = 3
"""So often a job may take all the time that its chain has, while its engine answers others; then it has failed."""
SUSPECT_ATTEMPTS = 6
LONGEST_PAUSE = 300.0


def pause_after(failures: int) -> float:
    """Seconds for which a job that engines failed on lets others go first."""
    return 0.0 if failures < PATIENT_FAILURES else min(LONGEST_PAUSE, 2.0 ** min(failures, 20))


@dataclass
class Lines:
    """One line for each profile, oldest first, and what is at work."""

    slots: int
    age_cap: float
    lines: dict[str, list[Job]] = field(default_factory=dict)
    at_work: set[str] = field(default_factory=set)
    paused: dict[str, float] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    late: dict[str, int] = field(default_factory=dict)
    """Jobs whose answer was not there in time though their engine answers others, and how often."""
    ordered: int = 0
    """Jobs up to this number do not yield: the administrator has asked for them."""
    known: dict[str, Job] = field(default_factory=dict)

    def add(self, job: Job) -> None:
        """A job begins to wait."""
        if job.id not in self.known:
            self.known[job.id] = job
            bisect.insort(self.lines.setdefault(job.profile, []), job, key=lambda one: one.seq)

    def remember(self, job: Job, now: float) -> None:
        """A job that waited before the start. One that was begun very often may have ended the service: it pauses."""
        self.add(job)
        if job.attempts >= SUSPECT_ATTEMPTS:
            self.failures[job.id] = job.attempts
            self.paused[job.id] = now + pause_after(job.attempts)

    def drop(self, job_id: str) -> bool:
        """A job waits no longer. Whether it did until now: who hears True counts its end."""
        job = self.known.pop(job_id, None)
        self.paused.pop(job_id, None)
        self.failures.pop(job_id, None)
        self.late.pop(job_id, None)
        if job is not None:
            del self.lines[job.profile][self._at(job)]
        return job is not None

    def _at(self, job: Job) -> int:
        return bisect.bisect_left(self.lines[job.profile], job.seq, key=lambda one: one.seq)

    def position(self, job_id: str) -> int | None:
        """Its place in its profile's line, from 1."""
        job = self.known.get(job_id)
        return None if job is None else self._at(job) + 1

    def failed(self, job_id: str, now: float, *, aside: bool = False) -> None:
        """An engine did not answer it. aside: no return of an engine will help soon, so others go first at once."""
        if job_id in self.known:
            self.failures[job_id] = max(self.failures.get(job_id, 0) + 1, PATIENT_FAILURES if aside else 0)
            self.paused[job_id] = now + pause_after(self.failures[job_id])

    def too_late(self, job_id: str, now: float) -> bool:
        """It took all its time, and its engine is well. Whether that was once too often."""
        self.failed(job_id, now, aside=True)
        self.late[job_id] = self.late.get(job_id, 0) + 1
        return self.late[job_id] >= PATIENT_TIMEOUTS

    def heads(self, profiles: Iterable[str], now: float) -> list[Job]:
        """The next job of each of these profiles: the first that is not at work and does not pause."""
        found = []
        for profile in profiles:
            for job in self.lines.get(profile, ()):
                if job.id not in self.at_work and self.paused.get(job.id, 0.0) <= now:
                    found.append(job)
                    break
        return found

    def upcoming(self, up: Callable[[str], bool], count: int, now: float) -> list[Job]:
        """The jobs that will most likely be next."""
        found: list[Job] = []
        for profile in self.lines:
            if up(profile):
                own = (job for job in self.lines[profile] if job.id not in self.at_work)
                found += islice((job for job in own if self.paused.get(job.id, 0.0) <= now), count)
        return sorted(found, key=lambda job: job.seq)[:count]

    def next(self, up: Callable[[str], bool], busy: int, live: int, now: float, wall: float) -> Job | None:
        """The job to begin now, if any. busy: jobs that an engine works at; live: requests that did not wait.

        now: the monotonic clock, for pauses; wall: the time of day, for ages.
        """
        heads = self.heads((profile for profile in self.lines if up(profile)), now)
        old = [job for job in heads if wall - job.accepted > self.age_cap]
        asked = [job for job in heads if job.seq <= self.ordered]
        if asked and busy < self.slots:
            return min(asked, key=lambda job: job.seq)
        if old and busy < max(1, self.slots - live):
            return min(old, key=lambda job: job.seq)
        if heads and busy + live < self.slots:
            return min(heads, key=lambda job: job.seq)
        return None

    def wakes(self, now: float) -> float | None:
        """Seconds until the first pause ends."""
        ends = [end - now for end in self.paused.values() if end > now]
        return min(ends) if ends else None
