# SPDX-License-Identifier: MIT
"""The private queue on disk: SQLite, one writer, and every promise synced before it is made.

Write-ahead log with ``synchronous=FULL``: a commit that has returned survives a kill and a loss of power. Several
operations that wait at the same time share one commit, and one sync. What is deleted is overwritten with zeros.
"""

from __future__ import annotations

import hashlib
import os
import queue
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

FILE = "queue.db"
VERSION = 1
BUSY_SECONDS = 10
WAL_BYTES = 64 * 1024 * 1024
"""The log is cut down to this after a checkpoint."""
TABLES = ("jobs", "requests", "results", "orders")
GROUP = 64
"""Operations that share one commit, at most."""
DIED = 70
"""Status with which the process ends when a thread does (EX_SOFTWARE of sysexits.h)."""

State = Literal["queued", "completed", "failed", "cancelled", "expired"]
Result = TypeVar("Result")
Operation = Callable[[sqlite3.Connection], Any]

_SCHEMA = """
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    profile TEXT NOT NULL,
    route TEXT NOT NULL,
    stream INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'completed', 'failed', 'cancelled', 'expired')),
    accepted REAL NOT NULL,
    ended REAL,
    fetched REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    size INTEGER NOT NULL,
    key BLOB,
    print BLOB NOT NULL,
    backend TEXT,
    status INTEGER
);
CREATE UNIQUE INDEX jobs_key ON jobs (profile, key) WHERE key IS NOT NULL;
CREATE INDEX jobs_state ON jobs (state, seq);
CREATE TABLE requests (seq INTEGER PRIMARY KEY, body BLOB NOT NULL, voice BLOB NOT NULL);
CREATE TABLE results (seq INTEGER PRIMARY KEY, digest BLOB NOT NULL, body BLOB NOT NULL);
CREATE TABLE orders (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""


class JournalError(Exception):
    """The disk or the file does not do what it must; the text is a class of cause without content."""


class QueueFullError(Exception):
    """A job cannot be taken: the text says which bound it meets."""


class KeyReusedError(Exception):
    """An idempotency key came a second time, with another request."""


@dataclass(frozen=True)
class Bounds:
    """What the queue may hold. Sizes in bytes, times in seconds."""

    jobs: int
    bytes: int
    free_bytes: int
    expiry: float
    retention: float


@dataclass(frozen=True)
class NewJob:
    """A request that shall wait.

    key: digest of its idempotency key; print: digest of the request, against which a retry is held: kept with a key
    alone.
    """

    id: str
    profile: str
    route: str
    stream: bool
    body: bytes
    voice: bytes
    print: bytes
    key: bytes | None = None


@dataclass(frozen=True)
class Job:
    """What is known of a job, without its content."""

    seq: int
    id: str
    profile: str
    route: str
    stream: bool
    state: State
    accepted: float
    ended: float | None
    fetched: float | None
    attempts: int
    size: int
    backend: str | None
    status: int | None

    @property
    def waits(self) -> bool:
        """Whether it has no answer yet."""
        return self.state == "queued"


_COLUMNS = "seq, id, profile, route, stream, state, accepted, ended, fetched, attempts, size, backend, status"


def _job(row: Sequence[Any]) -> Job:
    seq, name, profile, route, stream, *rest = row
    return Job(seq, name, profile, route, bool(stream), *rest)


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection to a journal that exists, or (unless read_only) is made. Raises sqlite3.Error."""
    mode = "rw" if read_only else "rwc"
    uri = f"{path.resolve().as_uri()}?mode={mode}"
    # The connection is handed from the thread that opens it to the one that uses it, never shared.
    db = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        for line in ("secure_delete = ON", "temp_store = MEMORY", "cache_size = -2000", "mmap_size = 0"):
            db.execute(f"PRAGMA {line}").close()
        if read_only:
            db.execute("PRAGMA query_only = ON")
        else:
            _prepare(db)
        found = db.execute("PRAGMA user_version").fetchone()[0]
        if found != VERSION:
            raise JournalError(f"is of version {found}, this program knows {VERSION}")
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # takes effect in a new file alone
    if db.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise JournalError("cannot have a write-ahead log there")
    db.execute("PRAGMA synchronous = FULL")
    db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
    if db.execute("PRAGMA user_version").fetchone()[0] == 0:
        statements = [part for part in _SCHEMA.split(";") if part.strip()]
        db.execute("BEGIN IMMEDIATE")
        for statement in [*statements, f"PRAGMA user_version = {VERSION}"]:
            db.execute(statement)
        db.execute("COMMIT")


def digest(content: bytes) -> bytes:
    """SHA-256."""
    return hashlib.sha256(content).digest()


# --- operations: each runs within a transaction, and either happens as a whole or not at all -------------------------
def find(db: sqlite3.Connection, job_id: str, profile: str | None = None) -> Job | None:
    """The job of that name; with a profile, only if it is its own."""
    row = db.execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (job_id,)).fetchone()  # noqa: S608 - a constant
    job = _job(row) if row else None
    return None if job is None or (profile is not None and job.profile != profile) else job


def find_key(db: sqlite3.Connection, profile: str, key: bytes, fingerprint: bytes) -> Job | None:
    """The job that a retry with this idempotency key means. Raises KeyReusedError when the request is another one.

    A job that was cancelled or has expired holds its key no longer.
    """
    row = db.execute(
        f"SELECT {_COLUMNS}, print FROM jobs WHERE profile = ? AND key = ?",  # noqa: S608 - a constant
        (profile, key),
    ).fetchone()
    if row is None:
        return None
    job = _job(row[:-1])
    if job.state in ("cancelled", "expired"):
        return None
    if row[-1] != fingerprint:
        raise KeyReusedError
    return job


def accept(new: NewJob, bounds: Bounds, folder: Path, now: float) -> Callable[[sqlite3.Connection], Job]:
    """Take a job, or find the one that its key means already. Raises QueueFullError, KeyReusedError."""

    def run(db: sqlite3.Connection) -> Job:
        if new.key is not None:
            known = find_key(db, new.profile, new.key, new.print)
            if known is not None:
                return known
            db.execute("UPDATE jobs SET key = NULL WHERE profile = ? AND key = ?", (new.profile, new.key))
        size = len(new.body) + len(new.voice)
        _has_room(db, size, bounds, folder)
        seq = db.execute(
            "INSERT INTO jobs (id, profile, route, stream, state, accepted, size, key, print)"
            " VALUES (?, ?, ?, ?, 'queued', ?, ?, ?, ?)",
            (new.id, new.profile, new.route, int(new.stream), now, size, new.key, new.print if new.key else b""),
        ).lastrowid
        db.execute("INSERT INTO requests (seq, body, voice) VALUES (?, ?, ?)", (seq, new.body, new.voice))
        job = find(db, new.id)
        if job is None:
            raise JournalError("a job is not there that was just written")
        return job

    return run


def _has_room(db: sqlite3.Connection, size: int, bounds: Bounds, folder: Path) -> None:
    waiting = db.execute("SELECT count(*) FROM jobs WHERE state = 'queued'").fetchone()[0]
    if waiting >= bounds.jobs:
        raise QueueFullError(f"{waiting} jobs wait, and {bounds.jobs} may")
    pages, free, page = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    used = (pages - free) * page
    if used + size > bounds.bytes:
        raise QueueFullError(f"it holds {used} bytes, and {bounds.bytes} may be held")
    disk = os.statvfs(folder)
    # A job is written twice: to the log, and from there to its place.
    if disk.f_bavail * disk.f_frsize - 2 * size < bounds.free_bytes:
        raise QueueFullError(f"the disk has less than {bounds.free_bytes} bytes free")


def begin(job_id: str) -> Callable[[sqlite3.Connection], None]:
    """An attempt begins. Nobody waits for this to be synced: it only counts."""

    def run(db: sqlite3.Connection) -> None:
        db.execute("UPDATE jobs SET attempts = attempts + 1 WHERE id = ? AND state = 'queued'", (job_id,))

    return run


@dataclass(frozen=True)
class Ended:
    """How a job ended. body: the answer, or the error; empty when there is none."""

    state: State
    body: bytes = b""
    status: int | None = None
    backend: str | None = None


def finish(job_id: str, ended: Ended, now: float, *, wipe: bool) -> Callable[[sqlite3.Connection], bool]:
    """Store how a job ended, once: False when it has an end already. wipe: the request goes at once."""

    def run(db: sqlite3.Connection) -> bool:
        row = db.execute("SELECT seq FROM jobs WHERE id = ? AND state = 'queued'", (job_id,)).fetchone()
        if row is None:
            return False
        db.execute(
            "UPDATE jobs SET state = ?, ended = ?, status = ?, backend = ? WHERE seq = ?",
            (ended.state, now, ended.status, ended.backend, row[0]),
        )
        if ended.body:
            db.execute(
                "INSERT INTO results (seq, digest, body) VALUES (?, ?, ?)", (row[0], digest(ended.body), ended.body)
            )
        if wipe:
            _wipe(db, row[0])
        if not ended.body:
            db.execute("DELETE FROM requests WHERE seq = ?", row)
            db.execute("UPDATE jobs SET key = NULL, print = x'' WHERE seq = ?", row)
        return True

    return run


def fetched(job_id: str, now: float) -> Callable[[sqlite3.Connection], None]:
    """The answer was given out to its end: the request is wiped."""

    def run(db: sqlite3.Connection) -> None:
        row = db.execute("SELECT seq FROM jobs WHERE id = ? AND state <> 'queued'", (job_id,)).fetchone()
        if row:
            db.execute("UPDATE jobs SET fetched = coalesce(fetched, ?) WHERE seq = ?", (now, row[0]))
            _wipe(db, row[0])

    return run


def _wipe(db: sqlite3.Connection, seq: int) -> None:
    """The request goes. What a stream's answer is said with stays as long as the answer; a plain one needs nothing."""
    db.execute("DELETE FROM requests WHERE seq = (SELECT seq FROM jobs WHERE seq = ? AND NOT stream)", (seq,))
    db.execute("UPDATE requests SET body = x'' WHERE seq = ? AND length(body) > 0", (seq,))


def remove(job_id: str) -> Callable[[sqlite3.Connection], None]:
    """Forget a job and everything of it."""

    def run(db: sqlite3.Connection) -> None:
        row = db.execute("SELECT seq FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if row:
            for table in ("requests", "results", "jobs"):
                db.execute(f"DELETE FROM {table} WHERE seq = ?", row)  # noqa: S608 - three names from here

    return run


def sweep(bounds: Bounds, now: float) -> Callable[[sqlite3.Connection], list[str]]:
    """End what has waited too long and forget what was kept long enough; the names of what has expired."""

    def run(db: sqlite3.Connection) -> list[str]:
        old = db.execute(
            "SELECT id FROM jobs WHERE state = 'queued' AND accepted < ?", (now - bounds.expiry,)
        ).fetchall()
        for row in old:
            finish(row[0], Ended("expired"), now, wipe=True)(db)
        gone = db.execute(
            "SELECT id FROM jobs WHERE state <> 'queued' AND ended < ?", (now - bounds.retention,)
        ).fetchall()
        for row in gone:
            remove(row[0])(db)
        return [row[0] for row in old]

    return run


def tidy(db: sqlite3.Connection) -> None:
    """Outside of a transaction: what is free goes back to the disk, and the log into the file."""
    for line in ("incremental_vacuum(2000)", "wal_checkpoint(TRUNCATE)"):
        db.execute(f"PRAGMA {line}").fetchall()


# --- reading ---------------------------------------------------------------------------------------------------------
def waiting(db: sqlite3.Connection) -> list[Job]:
    """Every job without an end, oldest first."""
    rows = db.execute(f"SELECT {_COLUMNS} FROM jobs WHERE state = 'queued' ORDER BY seq")  # noqa: S608 - a constant
    return [_job(row) for row in rows]


def every(db: sqlite3.Connection) -> list[Job]:
    """Every job that is still known, oldest first."""
    return [_job(row) for row in db.execute(f"SELECT {_COLUMNS} FROM jobs ORDER BY seq")]  # noqa: S608 - a constant


def request_of(db: sqlite3.Connection, job_id: str) -> bytes | None:
    """The body that the gateway gets; None when the job waits no longer."""
    row = db.execute(
        "SELECT body FROM requests JOIN jobs USING (seq) WHERE id = ? AND state = 'queued'", (job_id,)
    ).fetchone()
    return bytes(row[0]) if row else None


def voice_of(db: sqlite3.Connection, job_id: str) -> bytes | None:
    """What the answer is said with."""
    row = db.execute("SELECT voice FROM requests JOIN jobs USING (seq) WHERE id = ?", (job_id,)).fetchone()
    return bytes(row[0]) if row else None


def result_of(db: sqlite3.Connection, job_id: str) -> bytes | None:
    """The stored answer, or error. Raises JournalError when it is not what was stored."""
    row = db.execute("SELECT digest, body FROM results JOIN jobs USING (seq) WHERE id = ?", (job_id,)).fetchone()
    if row is None:
        return None
    if digest(row[1]) != row[0]:
        raise JournalError("a stored answer is not what was stored")
    return bytes(row[1])


def result_size(db: sqlite3.Connection, job_id: str) -> int:
    """Bytes of the stored answer; 0 when there is none."""
    row = db.execute("SELECT length(body) FROM results JOIN jobs USING (seq) WHERE id = ?", (job_id,)).fetchone()
    return int(row[0]) if row else 0


def order_of(db: sqlite3.Connection, name: str) -> int:
    """A standing order of the administrator; 0 when there is none."""
    row = db.execute("SELECT value FROM orders WHERE name = ?", (name,)).fetchone()
    return int(row[0]) if row else 0


def give_order(name: str, value: int) -> Callable[[sqlite3.Connection], None]:
    """Set a standing order."""

    def run(db: sqlite3.Connection) -> None:
        db.execute("INSERT OR REPLACE INTO orders (name, value) VALUES (?, ?)", (name, value))

    return run


# --- the two threads -------------------------------------------------------------------------------------------------
_EXPECTED = (QueueFullError, KeyReusedError)


def commit(db: sqlite3.Connection, operations: Sequence[Operation]) -> list[Any]:
    """Run operations in one transaction; what each returned, or the expected exception that it raised.

    Raises JournalError, and then none of them has happened.
    """
    results: list[Any] = []
    try:
        db.execute("BEGIN IMMEDIATE")
        for operation in operations:
            db.execute("SAVEPOINT one")
            try:
                results.append(operation(db))
            except _EXPECTED as error:
                db.execute("ROLLBACK TO one")
                results.append(error)
            db.execute("RELEASE one")
        db.execute("COMMIT")
    except (sqlite3.Error, OSError) as error:
        _roll_back(db)
        raise JournalError(cause_of(error)) from None
    except BaseException:
        _roll_back(db)
        raise
    return results


def _roll_back(db: sqlite3.Connection) -> None:
    try:
        if db.in_transaction:
            db.execute("ROLLBACK")
    except sqlite3.Error:
        return  # SQLite has rolled back by itself


def cause_of(error: Exception) -> str:
    """A class of cause, never a text that could quote something."""
    name = getattr(error, "sqlite_errorname", None)
    return str(name or getattr(error, "strerror", None) or type(error).__name__)


def end_process(name: str, error: BaseException) -> None:
    """A part without which nothing is served has died: end at once, so that systemd starts the service anew.

    As a kill does; what was accepted is on disk, and what was not committed was promised to nobody.
    """
    cause = type(error).__name__
    sys.stderr.write(f"admission: {name} has died ({cause}); the process ends, to be started anew. No job is lost.\n")
    sys.stderr.flush()
    os._exit(DIED)


@dataclass(frozen=True)
class _Item:
    operation: Operation
    future: Future[Any]
    alone: bool = False

    def run(self, db: sqlite3.Connection) -> None:
        try:
            self.future.set_result(self.operation(db))
        except sqlite3.Error as error:
            self.future.set_exception(JournalError(cause_of(error)))
        except Exception as error:  # noqa: BLE001 - the thread must live; the one who asked hears it
            self.future.set_exception(error)


class _Thread:
    """Runs what it is given, one after the other, in a thread of its own."""

    def __init__(self, name: str) -> None:
        self._todo: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._guarded, name=name, daemon=True)
        self._thread.start()

    def __call__(self, operation: Callable[[sqlite3.Connection], Result], *, alone: bool = False) -> Future[Result]:
        """Run it in the thread. alone: the writer runs it outside of any transaction."""
        future: Future[Result] = Future()
        # It runs from the start: nobody can cancel it, and who stops waiting only does not hear of it.
        future.set_running_or_notify_cancel()
        self._todo.put(_Item(operation, future, alone))
        return future

    def _guarded(self) -> None:
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001 - without its thread the journal answers nobody, ever again
            end_process(self._thread.name, error)

    def _run(self) -> None:
        while (first := self._todo.get()) is not None:
            group, ended = [first], False
            while len(group) < GROUP and not ended:
                try:
                    following = self._todo.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    ended = True
                else:
                    group.append(following)
            self._work(group)
            if ended:
                return

    def _work(self, group: list[_Item]) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        """Run what is left, and end."""
        self._todo.put(None)
        self._thread.join()


class Writer(_Thread):
    """The one writer: what waits together is committed together, and is told only then."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        super().__init__("journal-writer")

    def _work(self, group: list[_Item]) -> None:
        together = [one for one in group if not one.alone]
        if together:
            self._together(together)
        for one in group:
            if one.alone:
                one.run(self._db)

    def _together(self, group: list[_Item]) -> None:
        try:
            results = commit(self._db, [one.operation for one in group])
        except Exception as error:  # noqa: BLE001 - as above
            if len(group) > 1:  # one of them may be the cause
                for one in group:
                    self._together([one])
            else:
                group[0].future.set_exception(error)
            return
        for one, result in zip(group, results, strict=True):
            if isinstance(result, _EXPECTED):
                one.future.set_exception(result)
            else:
                one.future.set_result(result)


class Reader(_Thread):
    """Reads beside the writer, which never waits for it."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        super().__init__("journal-reader")

    def _work(self, group: list[_Item]) -> None:
        for one in group:
            one.run(self._db)


class Journal:
    """The queue's file with its writer and its reader."""

    def __init__(self, folder: Path, bounds: Bounds, clock: Callable[[], float] = time.time) -> None:
        self.folder, self.bounds, self.clock = folder, bounds, clock
        path = folder / FILE
        try:
            path.touch(mode=0o600)  # SQLite gives its log and its index the same mode
            path.chmod(0o600)
            self._writing = connect(path)
            self._reading = connect(path, read_only=True)
        except (sqlite3.Error, OSError) as error:
            raise JournalError(cause_of(error)) from None
        self.write = Writer(self._writing)
        self.read = Reader(self._reading)

    def accept(self, new: NewJob) -> Future[Job]:
        """Take a job; it is on disk when this is done."""
        return self.write(accept(new, self.bounds, self.folder, self.clock()))

    def finish(self, job_id: str, ended: Ended, *, wipe: bool) -> Future[bool]:
        """Store how it ended; False when it has an end already."""
        return self.write(finish(job_id, ended, self.clock(), wipe=wipe))

    def fetched(self, job_id: str) -> Future[None]:
        """Its answer was given out."""
        return self.write(fetched(job_id, self.clock()))

    def sweep(self) -> Future[list[str]]:
        """Expiry and retention."""
        return self.write(sweep(self.bounds, self.clock()))

    def changes(self) -> Future[int]:
        """A number that is another one after another process has written to the file."""
        return self.write(lambda db: int(db.execute("PRAGMA data_version").fetchone()[0]), alone=True)

    def tidy(self) -> Future[None]:
        """Empty the log, so that nothing wiped is left in it, and give free pages back."""
        return self.write(tidy, alone=True)

    def close(self) -> None:
        """End both threads; whatever they were given is done first."""
        self.write.stop()
        self.read.stop()
        self._reading.close()
        self._writing.close()
