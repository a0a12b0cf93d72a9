# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""One run at a time: who changes a machine, and whether that run can still be alive.

The record lies on the machine that is changed, in ``/run``: a reboot of that machine frees it. Whether its owner lives
is asked where the owner runs, on the controller. Between the two stands a token: a lock is taken over only while it is
still the one that was judged.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import platform
import secrets
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError

# Inode of the first PID namespace of every Linux kernel (PROC_PID_INIT_INO in include/linux/proc_ns.h).
_FIRST_PID_NAMESPACE = "pid:[4026531836]"
_SHAPE = 1


@dataclass(frozen=True)
class Owner:
    """A run of ansible-playbook.

    ``controller``: host name of where it runs; ``machine``: that machine's own number; ``kernel``: one boot and one PID
    namespace of it, within which PIDs can be compared; ``started``: the process's start time as its kernel gives it
    (clock ticks since boot), empty where that cannot be read.
    """

    controller: str
    machine: str
    kernel: str
    pid: int
    started: str
    user: str
    playbook: str


@dataclass(frozen=True)
class Record:
    """The lock as it stands: which one (``token``), whose, since when and when last refreshed (Unix seconds)."""

    token: str
    owner: Owner
    since: float
    refreshed: float


@dataclass(frozen=True)
class Outcome:
    """What became of a request. ``record`` is the lock that stands, ``before`` the one that stood."""

    verdict: str
    record: Record | None
    before: Record | None


# ---- on the controller


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def process_start(pid: int, proc: str = "/proc") -> str:
    """Start time of a process that lives, as text; empty when there is none, or only its remains (a zombie)."""
    # The name in brackets may hold anything, brackets and blanks too; what follows the last one has fixed places.
    fields = _read(f"{proc}/{pid}/stat").rpartition(")")[2].split()
    if len(fields) < 20 or fields[0] in ("Z", "X"):
        return ""
    return fields[19]


def this_run(pid: int, playbook: str, proc: str = "/proc") -> Owner:
    """The run whose ansible-playbook has this PID here."""
    name = platform.node() or "unknown"
    boot = _read(f"{proc}/sys/kernel/random/boot_id").strip()
    try:
        namespace = os.readlink(f"{proc}/self/ns/pid")
    except OSError:
        namespace = ""
    # Without /proc (a Mac) the network card's number tells machines apart, and a PID alone has to do.
    kernel = f"{boot} {namespace}" if boot and namespace else f"{name} {uuid.getnode():x}"
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return Owner(
        name, _read("/etc/machine-id").strip() or name, kernel, pid, process_start(pid, proc), user, playbook
    )


def owner_is_dead(owner: Owner, here: Owner, proc: str = "/proc") -> bool | None:
    """Whether a lock's owner is gone, as seen from ``here``; None when that cannot be told from here."""
    if owner.kernel == here.kernel:
        if owner.started:
            return process_start(owner.pid, proc) != owner.started
        try:
            os.kill(owner.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass
        return False
    # The same machine after a reboot. Containers are left out: two of them may look alike in everything but the boot.
    first = [one.kernel.endswith(_FIRST_PID_NAMESPACE) for one in (owner, here)]
    if all(first) and (owner.machine, owner.controller) == (here.machine, here.controller):
        return True
    return None


# ---- on the machine that is changed


@contextlib.contextmanager
def _alone(path: str) -> Iterator[None]:
    """Nobody else looks at or changes the record meanwhile. The kernel frees this when a process dies."""
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, mode=0o755, exist_ok=True)
        # 0600, because whoever can open a file can also lock it.
        descriptor = os.open(f"{path}.guard", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SovereignError(
            f"lock {path}", f"its folder cannot be written ({error.strerror})", "Run as root and look at the folder."
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read(path: str) -> Record | None:
    """The record at ``path``; None when there is none, or nothing that this release has written."""
    try:
        data = json.loads(_read(path))
        if data["shape"] != _SHAPE:
            return None
        record = record_from(data)
        # A long step touches the file: it is part of the run, and lives.
        touched = os.stat(path).st_mtime
    except (KeyError, OSError, TypeError, ValueError):
        return None
    return Record(record.token, record.owner, record.since, max(record.refreshed, touched))


def _write(path: str, record: Record) -> None:
    # One fixed name: nobody else is here, and what a killed writer left is overwritten.
    temporary = f"{path}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        json.dump({"shape": _SHAPE, **asdict(record)}, stream, sort_keys=True)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(temporary, path)


def same_run(one: Owner, other: Owner) -> bool:
    """Whether two owners are one run. The playbook and the user say nothing about that."""
    return (one.kernel, one.pid, one.started) == (other.kernel, other.pid, other.started)


def judge(record: Record | None, me: Owner, now: float, lease: int, *, judged: str, takeover: bool) -> str:
    """What a run that asks for the lock gets.

    Args:
        record: the lock that stands.
        me: the run that asks.
        now: Unix seconds.
        lease: seconds after which another controller's lock lapses when nobody refreshed it. A lock of this controller
            never lapses: whether its owner lives can be seen.
        judged: token of the lock that may be taken over, because its owner is dead or because the operator says so.
        takeover: it is the operator who says so.

    Returns:
        V(taken), V(kept) (it is ours already), V(dead), V(ordered), V(lapsed), or V(refused).
    """
    if record is None:
        return "taken"
    if same_run(record.owner, me):
        return "kept"
    if judged and judged == record.token:
        return "ordered" if takeover else "dead"
    if record.owner.kernel != me.kernel and now - record.refreshed >= lease:
        return "lapsed"
    return "refused"


def hold(path: str, me: Owner, lease: int, *, judged: str, takeover: bool, look_only: bool) -> Outcome:
    """Takes or refreshes the lock at ``path``, or says who has it. ``look_only`` writes nothing at all.

    Raises:
        SovereignError: the folder of the lock cannot be written.
    """
    if look_only:
        before = read(path)
        return Outcome(judge(before, me, time.time(), lease, judged=judged, takeover=takeover), before, before)
    with _alone(path):
        before = read(path)
        now = time.time()
        verdict = judge(before, me, now, lease, judged=judged, takeover=takeover)
        if verdict == "refused":
            return Outcome(verdict, before, before)
        if verdict == "kept" and before is not None:
            record = Record(before.token, me, before.since, now)
        else:
            record = Record(secrets.token_hex(8), me, now, now)
        _write(path, record)
        return Outcome(verdict, record, before)


def keep(path: str, me: Owner, *, look_only: bool) -> Outcome:
    """Refreshes the lock that this run took before: V(kept), or V(lost) when it is not ours any more.

    A run that has the lock in check mode wrote none; V(looked) then.

    Raises:
        SovereignError: the folder of the lock cannot be written.
    """
    if look_only:
        before = read(path)
        lost = before is not None and not same_run(before.owner, me)
        return Outcome("lost" if lost else "looked", before, before)
    with _alone(path):
        before = read(path)
        if before is None or not same_run(before.owner, me):
            return Outcome("lost", before, before)
        record = Record(before.token, me, before.since, time.time())
        _write(path, record)
        return Outcome("kept", record, before)


def free(path: str, me: Owner, *, look_only: bool) -> Outcome:
    """Gives the lock back when it is ours. Another run's lock stays: it took ours over.

    Raises:
        SovereignError: the folder of the lock cannot be written.
    """
    if look_only:
        return Outcome("looked", read(path), read(path))
    with _alone(path):
        before = read(path)
        if before is None or not same_run(before.owner, me):
            return Outcome("free" if before is None else "not ours", before, before)
        os.unlink(path)
        return Outcome("freed", None, before)


# ---- words


def describe(record: Record, now: float) -> str:
    """Who holds a lock and since when: ``ansible-playbook site.yml of anna on laptop (process 4711), since …``."""
    owner = record.owner
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(record.since))
    return (
        f"ansible-playbook {owner.playbook} of {owner.user} on {owner.controller} (process {owner.pid}), "
        f"since {since}, {max(0, round((now - record.since) / 60))} min ago"
    )


def refusal(record: Record, now: float, lease: int, *, alive: bool) -> str:
    """The message for a run that is refused. ``alive``: the owner was seen alive, on this controller."""
    head = f"converge lock: another run changes this machine: {describe(record, now)}."
    if alive:
        return f"{head} Wait until it ends, or end process {record.owner.pid} and run again."
    lapses = time.strftime("%H:%M:%S UTC", time.gmtime(record.refreshed + lease))
    return (
        f"{head} Wait until it ends. If it is certain that it is dead, run again with -e converge_lock_takeover=true; "
        f"without a sign of life the lock lapses at {lapses}."
    )


def lost(record: Record | None, now: float) -> str:
    """The message for a run that no longer has the lock, or never took it."""
    head = "converge lock: this run does not have the lock that it should hold"
    if record is None:
        return (
            f"{head}. Another run took it over and has ended, or this one left out the task that takes it. Nothing "
            "more is changed. Run the whole playbook again."
        )
    return (
        f"{head}; it was taken over by {describe(record, now)}. Nothing more is changed. Wait until that run ends, and "
        "run again."
    )


def taken_over(outcome: Outcome, now: float) -> str:
    """What to say about a lock that was somebody else's before; empty when it was nobody's."""
    why = {"dead": "which is dead", "lapsed": "which gave no sign of life", "ordered": "as ordered"}
    if outcome.verdict not in why or outcome.before is None:
        return ""
    return f"The lock was taken over, {why[outcome.verdict]}: {describe(outcome.before, now)}."


def owner_from(data: dict[str, Any]) -> Owner:
    """The owner in a module's option or result."""
    return Owner(
        str(data["controller"]),
        str(data["machine"]),
        str(data["kernel"]),
        int(data["pid"]),
        str(data["started"]),
        str(data["user"]),
        str(data["playbook"]),
    )


def record_from(data: dict[str, Any]) -> Record:
    """The record in a module's result."""
    return Record(str(data["token"]), owner_from(data["owner"]), float(data["since"]), float(data["refreshed"]))
