# SPDX-License-Identifier: MIT
"""Any history of a queue, with kills and power cuts in it, against a model that cannot lose anything."""

from __future__ import annotations

import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import hypothesis.strategies as st
from admission import journal
from admission.journal import Bounds, Ended, Job, KeyReusedError, NewJob, QueueFullError, commit
from admission.lines import Lines
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from queue_disk import Disk, after_power_cut, watched

BOUNDS = Bounds(jobs=6, bytes=1 << 30, free_bytes=0, expiry=50, retention=100)
PROFILES = ("private", "other")
KEYS = (None, None, None, b"a" * 32, b"b" * 32)


@dataclass
class Known:
    """What the model knows of a job."""

    profile: str
    body: bytes
    key: bytes | None
    accepted: float
    state: str = "queued"
    ended: float = 0.0
    result: bytes | None = None
    wiped: bool = False


class Queue(RuleBasedStateMachine):
    """The journal beside its model. Each operation is committed before the model hears of it."""

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(prefix="queue-model-"))
        self.folder, self.base, self.lives = self.home / "life-0", self.home / "base-0", 0
        self.folder.mkdir()
        self.jobs: dict[str, Known] = {}
        self.order: list[str] = []
        self.now, self.made = 1000.0, 0
        self.given: dict[str, set[bytes]] = {}

    @initialize()
    def begin(self) -> None:
        journal.connect(self.folder / journal.FILE).close()
        self._open()

    def _open(self) -> None:
        shutil.copytree(self.folder, self.base)
        self.disk = Disk(self.folder)
        self.watching = watched(self.disk)
        self.watching.__enter__()
        self.db = journal.connect(self.folder / journal.FILE)

    def _close(self) -> None:
        self.db.close()
        self.watching.__exit__(None, None, None)

    def teardown(self) -> None:
        self._close()
        shutil.rmtree(self.home)

    def _do(self, operation: journal.Operation) -> object:
        (result,) = commit(self.db, [operation])
        if isinstance(result, Exception):
            raise result
        return result

    # ---- what happens
    @rule(profile=st.sampled_from(PROFILES), key=st.sampled_from(KEYS), size=st.sampled_from((1, 300, 20_000)))
    def accept(self, profile: str, key: bytes | None, size: int) -> None:
        self.made += 1
        body = (f"{self.made}:".encode() * size)[:size]
        print_ = journal.digest(body[:1] if size == 1 else body)
        new = NewJob(f"job-{self.made}", profile, "/v1/chat/completions", False, body, b"{}", print_, key)
        holder = next(
            (name for name, one in self.jobs.items() if key and (one.profile, one.key) == (profile, key)), None
        )
        waiting = [name for name in self.order if self.jobs[name].state == "queued"]
        try:
            job = self._do(journal.accept(new, BOUNDS, self.folder, self.now))
        except KeyReusedError:
            assert holder is not None and self.jobs[holder].state not in ("cancelled", "expired")
            return
        except QueueFullError:
            assert len(waiting) >= BOUNDS.jobs
            return
        assert isinstance(job, Job)
        if job.id != new.id:
            assert job.id == holder and self.jobs[holder].state not in ("cancelled", "expired")
            return
        assert len(waiting) < BOUNDS.jobs
        if holder is not None:
            self.jobs[holder].key = None
        self.jobs[job.id] = Known(profile, body, key, self.now)
        self.order.append(job.id)

    @precondition(lambda self: self.jobs)
    @rule(
        at=st.integers(0, 20),
        ended=st.sampled_from(("completed", "failed", "cancelled")),
        wipe=st.booleans(),
        twice=st.booleans(),
    )
    def finish(self, at: int, ended: journal.State, wipe: bool, twice: bool) -> None:
        name = self.order[at % len(self.order)]
        known = self.jobs[name]
        for answer in (b"first", b"second") if twice else (b"first",):
            body = b"" if ended == "cancelled" else answer + name.encode()
            stored = self._do(journal.finish(name, Ended(ended, body), self.now, wipe=wipe))
            assert stored == (known.state == "queued"), "an answer is stored once, and only for a job that waits"
            if stored:
                known.state, known.ended, known.result = ended, self.now, body or None
                known.wiped = wipe or not body

    @precondition(lambda self: self.jobs)
    @rule(at=st.integers(0, 20))
    def fetch(self, at: int) -> None:
        name = self.order[at % len(self.order)]
        self._do(journal.fetched(name, self.now))
        self.jobs[name].wiped = self.jobs[name].wiped or self.jobs[name].state != "queued"

    @rule(seconds=st.sampled_from((1.0, 30.0, 60.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self._do(journal.sweep(BOUNDS, self.now))
        for name in list(self.order):
            known = self.jobs[name]
            if known.state == "queued" and known.accepted < self.now - BOUNDS.expiry:
                known.state, known.ended, known.wiped = "expired", self.now, True
            elif known.state != "queued" and known.ended < self.now - BOUNDS.retention:
                del self.jobs[name]
                self.order.remove(name)

    @rule()
    def tidy(self) -> None:
        journal.tidy(self.db)

    @rule(seed=st.integers(0, 2**16), power=st.booleans())
    def crash(self, seed: int, power: bool) -> None:
        """SIGKILL: what was written is there. Power: of what was not synced, anything may be."""
        self.lives += 1
        folder, chance = self.home / f"life-{self.lives}", random.Random(seed)  # noqa: S311 - a test's draw
        if power:
            keep = lambda _at: chance.choice((0, 1, 1 << 30))  # noqa: E731 - a draw
            after_power_cut(self.base, self.disk.ops, self.folder, folder, keep)
        else:
            folder.mkdir()
            for path in self.folder.iterdir():
                if not path.name.endswith("-shm"):  # memory of the process that is gone
                    shutil.copy(path, folder)
        self._close()
        self.folder, self.base = folder, self.home / f"base-{self.lives}"
        self._open()

    # ---- what always holds
    @invariant()
    def everything_is_as_promised(self) -> None:
        if not hasattr(self, "db"):
            return
        found = {job.id: job for job in journal.every(self.db)}
        assert set(found) == set(self.jobs), "no job lost, none made up"
        assert [name for name in found if found[name].waits] == [
            name for name in self.order if self.jobs[name].state == "queued"
        ], "in order"
        for name, known in self.jobs.items():
            assert (found[name].state, found[name].profile) == (known.state, known.profile)
            assert journal.request_of(self.db, name) == (known.body if known.state == "queued" else None)
            assert journal.result_of(self.db, name) == known.result
            row = self.db.execute("SELECT body FROM requests WHERE seq = ?", (found[name].seq,)).fetchone()
            assert not (row and row[0]) if known.wiped else row[0] == known.body
            other = next(one for one in PROFILES if one != known.profile)
            assert journal.find(self.db, name, other) is None


Queue.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestQueue = Queue.TestCase


class Order(RuleBasedStateMachine):
    """Who is next: first come, first served within a profile, and never more at once than there are slots."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = Lines(slots=3, age_cap=100)
        self.now, self.seq, self.live = 0.0, 0, 0
        self.busy: list[Job] = []
        self.begun: dict[str, list[int]] = {profile: [] for profile in PROFILES}
        self.up = dict.fromkeys(PROFILES, True)

    def _up(self, profile: str) -> bool:
        return self.up[profile]

    @rule(profile=st.sampled_from(PROFILES))
    def arrive(self, profile: str) -> None:
        self.seq += 1
        job = Job(self.seq, str(self.seq), profile, "r", False, "queued", self.now, None, None, 0, 1, None, None)
        self.lines.add(job)
        self.lines.add(job)

    @rule()
    def start(self) -> None:
        waiting = [
            job for job in self.lines.known.values() if job.id not in self.lines.at_work and self.up[job.profile]
        ]
        job = self.lines.next(self._up, len(self.busy), self.live, self.now, self.now)
        ready = [one for one in waiting if self.lines.paused.get(one.id, 0) <= self.now]
        if job is None:
            old = any(self.now - one.accepted > 100 for one in ready)
            assert not ready or len(self.busy) >= (1 if old and self.live >= 3 else 3 - self.live)
            return
        assert len(self.busy) < 3 and self.up[job.profile]
        assert len(self.busy) + self.live < 3 or self.now - job.accepted > 100, "live requests go first"
        assert all(job.seq <= one.seq for one in ready if one.profile == job.profile), "first come, first served"
        self.lines.at_work.add(job.id)
        self.busy.append(job)

    @precondition(lambda self: self.busy)
    @rule(at=st.integers(0, 5), answered=st.booleans())
    def end(self, at: int, answered: bool) -> None:
        job = self.busy.pop(at % len(self.busy))
        self.lines.at_work.discard(job.id)
        if answered:
            self.lines.drop(job.id)
            self.lines.drop(job.id)
        else:
            self.lines.failed(job.id, self.now)

    @rule(seconds=st.sampled_from((1.0, 50.0, 400.0)), live=st.integers(0, 4), profile=st.sampled_from(PROFILES))
    def change(self, seconds: float, live: int, profile: str) -> None:
        self.now, self.live = self.now + seconds, live
        self.up[profile] = not self.up[profile]

    @invariant()
    def places_are_in_order(self) -> None:
        for profile, line in self.lines.lines.items():
            assert [job.seq for job in line] == sorted(job.seq for job in line)
            assert [self.lines.position(job.id) for job in line] == list(range(1, len(line) + 1))
            assert all(job.profile == profile for job in line)


Order.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestOrder = Order.TestCase
