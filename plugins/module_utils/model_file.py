# SPDX-License-Identifier: MIT
"""Large model files: verify them once, remember that, and fetch missing ones with resume and visible progress."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError

# Bytes read at once: large enough that a 20 GB file is read at disk speed, small enough to report often.
CHUNK_BYTES = 4 * 1024 * 1024

# Seconds between two updates of the status file.
STATUS_SECONDS = 1.0

# Seconds to wait before the first new attempt after a broken transfer; doubled each time, at most 30.
FIRST_PAUSE_SECONDS = 1.0

_SHA256 = re.compile(r"^[0-9a-f]{64}$")


class Response(Protocol):
    """The part of an HTTP or file response that is needed here."""

    def read(self, size: int, /) -> bytes:
        """Returns at most ``size`` bytes, nothing at the end."""

    def close(self) -> None:
        """Ends the transfer."""


@dataclass(frozen=True)
class Transfer:
    """An opened source: where it really begins, how many bytes the whole file has (None when not told), and what tells
    this content of the source from another (empty when nothing does)."""

    response: Response
    offset: int
    total: int | None
    validator: str = ""


# Opens a source at a byte offset, on condition that it is still the one with this validator (empty: no condition).
# Raises OSError when that fails; ``offset`` of the result is 0 when the source cannot resume, or is another one.
Opener = Callable[[int, str], Transfer]


@dataclass(frozen=True)
class Wanted:
    """What the task asks for. Sizes in bytes; ``sha256`` in lower-case hex."""

    path: str
    source: str | None
    sha256: str | None
    size_bytes: int | None
    record_dir: str
    reserve_bytes: int
    attempts: int


@dataclass(frozen=True)
class Stamp:
    """What identifies an unchanged file without reading it. Times in nanoseconds."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


@dataclass(frozen=True)
class Plan:
    """What is to be done. ``verified`` is V(remembered), V(now), V(not asked) or V(to be fetched).

    ``resume_from``: bytes of an earlier transfer that are kept.
    """

    exists: bool
    size_bytes: int | None
    verified: str
    resume_from: int


def check_wanted(wanted: Wanted) -> None:
    """Refuses options that cannot be meant.

    Raises:
        SovereignError: a malformed hash, or a source without a hash.
    """
    thing = f"model file {wanted.path}"
    if wanted.sha256 is not None and not _SHA256.match(wanted.sha256):
        raise SovereignError(
            thing,
            f"sha256 {wanted.sha256!r} is not 64 hex digits",
            "Give the SHA-256 that the publisher of the file states.",
        )
    if wanted.source is not None and wanted.sha256 is None:
        raise SovereignError(
            thing,
            "it has a source but no sha256",
            "Give the sha256, so that what arrives can be told from what was meant.",
        )
    if wanted.size_bytes is not None and wanted.size_bytes <= 0:
        raise SovereignError(thing, f"size_bytes is {wanted.size_bytes}", "Give the size of the file in bytes.")


def stamp_of(path: str) -> Stamp | None:
    """The stamp of the regular file behind ``path`` (links are followed); None when there is nothing.

    Raises:
        SovereignError: something else than a regular file is there.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(status.st_mode):
        raise SovereignError(
            f"model file {path}", "it is not a regular file", "Move away what is there, or give another path."
        )
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def record_path(record_dir: str, path: str) -> str:
    """Where the verification of the file ``path`` is remembered: outside the model folder, which users may write."""
    return os.path.join(record_dir, hashlib.sha256(path.encode("utf-8")).hexdigest()[:32] + ".json")


def remembered(wanted: Wanted, stamp: Stamp) -> bool:
    """Whether exactly this file was verified against exactly this hash before."""
    try:
        with open(record_path(wanted.record_dir, wanted.path), encoding="utf-8") as stream:
            record = json.load(stream)
    except (OSError, ValueError):
        return False
    return bool(record == {"path": wanted.path, "sha256": wanted.sha256, "stamp": asdict(stamp)})


def remember(wanted: Wanted, stamp: Stamp) -> None:
    """Notes that the file was verified. The record is written whole or not at all."""
    os.makedirs(wanted.record_dir, mode=0o700, exist_ok=True)
    _write_json(
        record_path(wanted.record_dir, wanted.path),
        {"path": wanted.path, "sha256": wanted.sha256, "stamp": asdict(stamp)},
    )


def free_bytes(path: str) -> int:
    """Bytes that root may still write on the file system that ``path`` is, or will be, on."""
    folder = os.path.dirname(path)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def read_chunks(response: Response) -> Iterator[bytes]:
    """Yields what ``response`` gives until its end."""
    while chunk := response.read(CHUNK_BYTES):
        yield chunk


def human(count: float) -> str:
    """A byte count for people, in decimal units: ``human(19_300_000_000)`` is ``19.3 GB``."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def progress_line(done: int, total: int | None, rate: float) -> str:
    """One line about a transfer: ``3.1 GB of 19.0 GB (16 %), 112.0 MB/s, 142 s left``. ``rate`` in bytes per second."""
    line = human(done)
    if total:
        line += f" of {human(total)} ({100 * done // total} %)"
    if rate > 0:
        line += f", {human(rate)}/s"
        if total and total > done:
            line += f", {(total - done) / rate:.0f} s left"
    return line


class Status:
    """The status file: one JSON object, replaced whole, so that a reader never sees half of it.

    ``notes``: what a person should read afterwards, one sentence each.
    """

    def __init__(self, path: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.notes: list[str] = []
        self._path = path
        self._clock = clock
        self._started = clock()
        self._last = -STATUS_SECONDS
        self._begun_with: int | None = None

    def report(self, state: str, done: int, total: int | None, message: str = "", *, always: bool = False) -> None:
        """Writes the status, at most once per second unless ``always``. ``done`` and ``total`` in bytes."""
        if self._path is None:
            return
        elapsed = self._clock() - self._started
        if not always and elapsed - self._last < STATUS_SECONDS:
            return
        self._last = elapsed
        if self._begun_with is None:
            self._begun_with = done
        rate = (done - self._begun_with) / elapsed if elapsed > 0 else 0.0
        _write_json(
            self._path,
            {
                "state": state,
                "pid": os.getpid(),
                "elapsed": round(elapsed),
                "bytes": done,
                "total": total,
                "message": message or progress_line(done, total, rate),
            },
        )


def sha256_of(path: str, status: Status) -> str:
    """The SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    done = 0
    with open(path, "rb") as stream:
        total = os.fstat(stream.fileno()).st_size
        for chunk in read_chunks(stream):
            digest.update(chunk)
            done += len(chunk)
            status.report("verifying", done, total)
    return digest.hexdigest()


def make_plan(wanted: Wanted, status: Status) -> Plan:
    """Looks at the machine and decides; changes nothing.

    Raises:
        SovereignError: the file is there but is not the one that was meant, it is missing and has no source, or the
            disk is too small for it.
    """
    check_wanted(wanted)
    thing = f"model file {wanted.path}"
    stamp = stamp_of(wanted.path)
    if stamp is not None:
        if wanted.size_bytes is not None and stamp.size != wanted.size_bytes:
            raise SovereignError(
                thing,
                f"it has {stamp.size} bytes, expected {wanted.size_bytes}",
                "Correct size_bytes and sha256, or move the file away to have it fetched again.",
            )
        if wanted.sha256 is None:
            return Plan(True, stamp.size, "not asked", 0)
        if remembered(wanted, stamp):
            return Plan(True, stamp.size, "remembered", 0)
        found = sha256_of(wanted.path, status)
        if found != wanted.sha256:
            raise SovereignError(
                thing,
                f"its sha256 is {found}, expected {wanted.sha256}",
                "Correct the sha256, or move the file away to have it fetched again.",
            )
        return Plan(True, stamp.size, "now", 0)
    if wanted.source is None:
        raise SovereignError(
            thing,
            "it is missing and no source is given",
            "Put the file there, or give url (or src) with sha256 and size_bytes.",
        )
    resume_from = _partial_size(wanted)
    size = _size_to_come(wanted)
    if size is not None:
        free = free_bytes(wanted.path)
        needed = max(0, size - resume_from) + wanted.reserve_bytes
        if free < needed:
            raise SovereignError(
                thing,
                f"{human(free)} are free on its disk, {human(needed)} are needed "
                f"(with a reserve of {human(wanted.reserve_bytes)})",
                "Free some space, or give a path on a larger disk.",
            )
    return Plan(False, size, "to be fetched", resume_from)


def fetch(wanted: Wanted, open_at: Opener, status: Status, pause: Callable[[float], None] = time.sleep) -> int:
    """Brings the file to ``<path>.part``, verifies it, and gives it its name. Returns the bytes that were transferred.

    A broken transfer is resumed where it ended, in this run and in the next one. When what was put together from two
    transfers is not what was meant, the source may have changed between them: everything is fetched anew, once.

    Raises:
        SovereignError: the source cannot be read, or what it gives is not what was meant.
    """
    os.makedirs(os.path.dirname(wanted.path), mode=0o755, exist_ok=True)
    with _alone(wanted, status):
        if os.path.exists(wanted.path):
            return _taken_from_another_run(wanted, status)
        transferred = 0
        while True:
            resumed = _partial_size(wanted)
            transferred += _complete(wanted, open_at, status, pause)
            problem = _wrong(wanted, status)
            if problem is None:
                break
            _forget_partial(wanted)
            if not resumed:
                raise problem
            _note(
                status,
                wanted,
                f"what was put together from an earlier transfer ({human(resumed)}) and this one is not the file that"
                " was meant; it is fetched anew from the beginning.",
            )
        part = wanted.path + ".part"
        # Before it gets its name: a run that is killed in between leaves nothing that looks finished and is not.
        os.chmod(part, 0o644)
        os.rename(part, wanted.path)
        _forget_partial(wanted)
        return transferred


@contextlib.contextmanager
def _alone(wanted: Wanted, status: Status) -> Iterator[None]:
    """One transfer of a file at a time: what a killed run left running is waited for. The kernel frees this lock."""
    os.makedirs(wanted.record_dir, mode=0o700, exist_ok=True)
    path = record_path(wanted.record_dir, wanted.path).removesuffix(".json") + ".lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            size = _partial_size(wanted)
            status.report("waiting", size, wanted.size_bytes, "another transfer of this file runs", always=True)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _taken_from_another_run(wanted: Wanted, status: Status) -> int:
    """The file came while this run waited. Returns 0, the bytes that this run transferred.

    Raises:
        SovereignError: it is not the one that was meant.
    """
    plan = make_plan(wanted, status)
    if not plan.exists:
        raise SovereignError(f"model file {wanted.path}", "it came and went while this run waited", "Run again.")
    return 0


def _complete(wanted: Wanted, open_at: Opener, status: Status, pause: Callable[[float], None]) -> int:
    """Fetches until the partial file is as long as its source, over as many attempts as bring something."""
    transferred = 0
    failures = 0
    while True:
        before = transferred
        try:
            return transferred + _one_attempt(wanted, open_at, status)
        except _Broken as error:
            transferred += error.transferred
            failures = 1 if transferred > before else failures + 1
            if failures >= wanted.attempts:
                raise SovereignError(
                    f"model file {wanted.path}",
                    f"{shown_source(wanted.source)} broke off {failures} times ({error}), "
                    f"{human(_partial_size(wanted))} are kept",
                    "Look at the network and run again: it goes on where it ended.",
                ) from None
            wait = min(30.0, FIRST_PAUSE_SECONDS * 2 ** (failures - 1))
            status.report(
                "waiting",
                _partial_size(wanted),
                wanted.size_bytes,
                f"broken off ({error}), again in {wait:.0f} s",
                always=True,
            )
            pause(wait)


def _wrong(wanted: Wanted, status: Status) -> SovereignError | None:
    """What is wrong with the partial file, now that it is complete; None when it is what was meant."""
    part = wanted.path + ".part"
    size = os.stat(part).st_size
    if wanted.size_bytes is not None and size != wanted.size_bytes:
        return SovereignError(
            f"model file {wanted.path}",
            f"{shown_source(wanted.source)} gave {size} bytes, expected {wanted.size_bytes}",
            "Correct size_bytes and sha256, or the source. Nothing was kept.",
        )
    found = sha256_of(part, status)
    if found != wanted.sha256:
        return SovereignError(
            f"model file {wanted.path}",
            f"what {shown_source(wanted.source)} gave has the sha256 {found}, expected {wanted.sha256}",
            "Correct the sha256, or the source. Nothing was kept.",
        )
    return None


def _note(status: Status, wanted: Wanted, sentence: str) -> None:
    """Keeps a sentence for the result, and shows it while the work goes on."""
    text = f"model file {wanted.path}: {sentence}"
    if text not in status.notes:
        status.notes.append(text)
    status.report("fetching", _partial_size(wanted), wanted.size_bytes, sentence, always=True)


class _Broken(Exception):
    """A transfer ended early after ``transferred`` bytes."""

    def __init__(self, reason: str, transferred: int) -> None:
        super().__init__(reason)
        self.transferred = transferred


def _one_attempt(wanted: Wanted, open_at: Opener, status: Status) -> int:
    """Appends to the partial file until the source ends. Returns the bytes that arrived."""
    done = _partial_size(wanted)
    if wanted.size_bytes is not None and done >= wanted.size_bytes:
        return 0
    try:
        transfer = open_at(done, _validator(wanted) if done else "")
    except OSError as error:
        raise _Broken(str(error), 0) from error
    arrived = 0
    try:
        if transfer.offset != done:
            _note(
                status,
                wanted,
                f"{shown_source(wanted.source)} has changed or cannot go on in the middle; {human(done)} of an earlier"
                " transfer are given up, it begins anew.",
            )
            done = transfer.offset
        if done == 0:
            _begin_partial(wanted, transfer.validator)
        with open(wanted.path + ".part", "ab") as stream:
            total = transfer.total if transfer.total is not None else wanted.size_bytes
            status.report("fetching", done, total, always=True)
            for chunk in read_chunks(transfer.response):
                stream.write(chunk)
                arrived += len(chunk)
                done += len(chunk)
                status.report("fetching", done, total)
                if wanted.size_bytes is not None and done > wanted.size_bytes:
                    return arrived
            stream.flush()
            os.fsync(stream.fileno())
    except (OSError, ValueError) as error:
        raise _Broken(str(error), arrived) from error
    finally:
        transfer.response.close()
    if total is not None and done < total:
        raise _Broken(f"the source ended after {human(done)} of {human(total)}", arrived)
    return arrived


def _begin_partial(wanted: Wanted, validator: str) -> None:
    """An empty partial file, and beside it what it is a part of. The old part goes first, so that the two never mix."""
    _forget_partial(wanted)
    record = {"source": wanted.source, "sha256": wanted.sha256, "validator": validator}
    _write_json(wanted.path + ".part.json", record)
    with open(wanted.path + ".part", "xb"):
        pass


def shown_source(source: str | None) -> str:
    """A source as people may read it: without user, password and query, which often hold a token."""
    if source is None or local_source(source) is not None:
        return str(source)
    try:
        parts = urlsplit(source)
    except ValueError:
        return "(no address)"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def local_source(source: str) -> str | None:
    """The path behind a source on this machine; None for one on the network."""
    if source.startswith("file://"):
        return source.removeprefix("file://")
    return source if source.startswith("/") else None


def _size_to_come(wanted: Wanted) -> int | None:
    """Bytes that the missing file will have; None when only its server knows.

    Raises:
        SovereignError: a source on this machine is not there, or has another size than was said.
    """
    path = local_source(wanted.source) if wanted.source is not None else None
    if path is None:
        return wanted.size_bytes
    stamp = stamp_of(path)
    if stamp is None:
        raise SovereignError(
            f"model file {wanted.path}", f"its source {path} is missing", "Put it there, or give another source."
        )
    if wanted.size_bytes is not None and stamp.size != wanted.size_bytes:
        raise SovereignError(
            f"model file {wanted.path}",
            f"its source {path} has {stamp.size} bytes, expected {wanted.size_bytes}",
            "Correct size_bytes and sha256, or the source.",
        )
    return stamp.size


def _partial_record(wanted: Wanted) -> dict[str, Any]:
    """What is known about the partial file; empty when it is no part of the same source and hash."""
    try:
        with open(wanted.path + ".part.json", encoding="utf-8") as stream:
            record: dict[str, Any] = json.load(stream)
        same = record.get("source") == wanted.source and record.get("sha256") == wanted.sha256
    except (AttributeError, OSError, ValueError):
        return {}
    return record if same else {}


def _partial_size(wanted: Wanted) -> int:
    """Bytes of an earlier transfer of the same source and hash that can be gone on with."""
    try:
        return os.stat(wanted.path + ".part").st_size if _partial_record(wanted) else 0
    except OSError:
        return 0


def _validator(wanted: Wanted) -> str:
    """What told the source's content when the partial file was begun; empty when nothing did."""
    return str(_partial_record(wanted).get("validator") or "")


def _forget_partial(wanted: Wanted) -> None:
    for path in (wanted.path + ".part", wanted.path + ".part.json"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _write_json(path: str, value: dict[str, Any]) -> None:
    temporary = f"{path}.{os.getpid()}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    # 0600, because a source can hold a token.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        json.dump(value, stream, sort_keys=True)
        stream.write("\n")
    os.rename(temporary, path)
