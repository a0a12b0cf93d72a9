# SPDX-License-Identifier: MIT
"""The brake: a change of the firewall that nobody confirms in a new connection is undone by itself.

One file, standard library alone: the role ``firewall`` puts it on the machine. Before a change everything that it could
touch is copied byte for byte, a timer of systemd is started, and then the change is made. Whoever made it comes again
in a new connection and says that it works. If nobody does, the timer puts back what was there; it needs no controller.
After a reboot in between a unit does, before any rule is loaded. What was undone is remembered, so that it can be told.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

UNIT = "mushishi-firewall-rollback"
DOCKER_UNIT = "mushishi-docker-user.service"
GUARD_UNIT = "mushishi-guard.service"
#: As `iptables -S` prints it where Docker filters.
DOCKER_CHAIN = "-N DOCKER-USER"
#: What UFW reads and may write. The first four are what a change of ours touches; UFW itself writes the others, too.
UFW_FILES = ("default/ufw", "ufw/ufw.conf", "ufw/user.rules", "ufw/user6.rules", "ufw/after.rules", "ufw/after6.rules")
UFW_INIT = "/lib/ufw/ufw-init"
#: The lines of the guard's rules that say what the doors are. Nothing else of the guard is ever put back: it guards.
BEGIN, END = "    # doors: begin\n", "    # doors: end\n"
NO_DOORS = f"{BEGIN}    chain doors_input {{\n    }}\n    chain doors_forward {{\n    }}\n{END}"
FAMILIES = {"iptables": "ufw", "ip6tables": "ufw6"}
#: Tried again by systemd: everything but success and "undone as far as it can be" (EXIT_LEFT).
EXIT_PROBLEM, EXIT_UNDONE, EXIT_UNFINISHED, EXIT_LEFT = 1, 3, 4, 5
#: So often what could not be put back is tried again, before the rest is called done and said.
TRIES = 3
# No login is deeper than this below its sshd.
_DEEPEST = 64
# While somebody else is to confirm it, the machine is asked this often whether he has.
_LOOK_SECONDS = 0.5
# Who makes a change holds the lock until it is made, so that nothing is undone in the middle of it. One that hangs is
# not waited for any longer than this; it looks before each further step whether its change still stands.
HANGS_SECONDS = 120.0
# A timer fires within a second of its time.
_GRACE_SECONDS = 2
# The timer and what it starts need some time, too.
_OVERDUE_SECONDS = 300

# Runs a program: argument list and standard input in; exit status, standard output and standard error out.
Runner = Callable[[Sequence[str], str], "tuple[int, str, str]"]
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "LANG": "C"}


class NotArmed(Exception):
    """There is nothing to confirm, or it cannot be armed; the message says why."""


class Undone(Exception):
    """The change that was to be confirmed has been undone; the message says when and why."""


class Unfinished(Exception):
    """The change should have been undone and is not, or not wholly; the message says what is left."""


class OldConnection(Exception):
    """Who confirms came by the connection that was there before the change, which proves nothing."""


@dataclass(frozen=True)
class Places:
    """Where things lie; tests have others."""

    state: Path = Path("/var/lib/mushishi-firewall")
    lock: Path = Path("/run/mushishi-firewall.lock")
    etc: Path = Path("/etc")
    boot: Path = Path("/proc/sys/kernel/random/boot_id")
    switches: Path = Path("/proc/sys")

    @property
    def files(self) -> list[Path]:
        """Everything that is put back byte for byte."""
        return [*(self.etc / name for name in UFW_FILES), self.doors]

    @property
    def doors(self) -> Path:
        """The list of doors; DOCKER-USER's rules are made of it."""
        return self.etc / "mushishi/doors.json"

    @property
    def guard(self) -> Path:
        """The guard's rules on the host."""
        return self.etc / "mushishi/guard/host.nft"

    @property
    def pending(self) -> Path:
        """What was there before a change that waits for its confirmation."""
        return self.state / "pending"

    @property
    def before(self) -> Path:
        """What was there before the first change of all."""
        return self.state / "before"

    @property
    def mark(self) -> Path:
        """Says that a change waits. Written last, taken away first."""
        return self.pending / "armed.json"

    @property
    def undone(self) -> Path:
        """The last change that was undone."""
        return self.state / "undone.json"


def run_program(argv: Sequence[str], text: str = "") -> tuple[int, str, str]:
    """Run a program in the C locale."""
    try:
        done = subprocess.run(
            list(argv), input=text, capture_output=True, text=True, timeout=60, check=False, env=ENVIRONMENT
        )
    except FileNotFoundError:
        return 127, "", f"{argv[0]} is not installed"
    return done.returncode, done.stdout, done.stderr


def ssh_connection(pid: int | None = None, proc: str = "/proc") -> str:
    """``SSH_CONNECTION`` (client, its port, server, its port) of the login above a process; empty without a login.

    Two logins over one connection have the same, and two connections never do. sudo sweeps the variable away, so that
    it is looked for upwards; this file stands alone on the machine, without the collection's own way to do that.
    """
    pid = os.getpid() if pid is None else pid
    for _step in range(_DEEPEST):
        try:
            pairs = Path(proc, str(pid), "environ").read_bytes().decode("utf-8", "replace").split("\0")
            # The name in brackets may hold anything; what follows the last one has fixed places.
            pid = int(Path(proc, str(pid), "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return ""
        found = [pair.partition("=")[2].split() for pair in pairs if pair.startswith("SSH_CONNECTION=")]
        if found and len(found[0]) == 4 and found[0][3].isdigit():
            return " ".join(found[0])
        if pid <= 0:
            return ""
    return ""


# ---- pure parts
def doors_of(rules: str | None) -> str:
    """The lines about doors in the guard's rules, marks included; those of no doors where there are none."""
    if rules is None or BEGIN not in rules or END not in rules:
        return NO_DOORS
    return BEGIN + rules.split(BEGIN, 1)[1].split(END, 1)[0] + END


def with_doors(rules: str, doors: str) -> str:
    """The guard's rules with other lines about doors; as they are where they have no place for them."""
    if BEGIN not in rules or END not in rules:
        return rules
    return rules.split(BEGIN, 1)[0] + doors + rules.split(END, 1)[1]


def purge(listing: str, prefix: str) -> str:
    """For ``iptables-restore --noflush``: take away every chain of UFW and each jump to one, in one step.

    UFW itself leaves its first chains behind, empty, and does not hang them in again when something has flushed the
    table: it says "reloaded", and filters nothing.
    """
    lines, chains = ["*filter"], []
    for line in listing.splitlines():
        words = line.split()
        if words[:1] == ["-N"] and words[1].startswith(f"{prefix}-"):
            chains.append(words[1])
        elif words[:1] == ["-A"] and not words[1].startswith(f"{prefix}-") and words[-1].startswith(f"{prefix}-"):
            lines.append(f"-D{line[2:]}")
    return "\n".join([*lines, *(f"-F {name}" for name in chains), *(f"-X {name}" for name in chains), "COMMIT", ""])


def policies_of(listing: str) -> dict[str, str]:
    """Built-in chain → policy, from ``iptables -S``."""
    words = [line.split() for line in listing.splitlines() if line.startswith("-P ")]
    return {chain: policy for _p, chain, policy in words}


def switches_of(text: str) -> list[str]:
    """The names in a file of sysctl, as paths below /proc/sys."""
    lines = [line.strip() for line in text.splitlines()]
    names = [line.partition("=")[0].strip() for line in lines if "=" in line and line[0] not in "#;"]
    # With a slash in it the name is a path already; else its dots are the slashes.
    return [name.lstrip("-") if "/" in name else name.lstrip("-").replace(".", "/") for name in names]


def date(moment: float) -> str:
    """A moment in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def told(record: Mapping[str, Any]) -> str:
    """What became of a change that was undone, in words."""
    why = (
        "the machine was restarted before it was confirmed"
        if record["cause"] == "reboot"
        else f"nobody confirmed it in a new connection within {record['seconds']} seconds"
    )
    problems = f" This could not be put back: {'; '.join(record['problems'])}." if record["problems"] else ""
    return f"the change of {record['reason']} was undone at {record['when']}, because {why}.{problems}"


# ---- snapshots
@dataclass
class Snapshot:
    """A folder in which files and the state of the kernel are kept as they were."""

    folder: Path
    index: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Snapshot:
        """One that was taken."""
        return cls(folder, json.loads((folder / "index.json").read_text(encoding="utf-8")))

    def content(self, path: Path) -> bytes | None:
        """What stood in a file; None when there was none."""
        entry = self.index["files"].get(str(path))
        return None if entry is None else (self.folder / entry["kept"]).read_bytes()

    def put_back(self, path: Path) -> None:
        """The file as it was: content, mode and owner; or none."""
        entry = self.index["files"].get(str(path))
        if entry is None:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, (self.folder / entry["kept"]).read_bytes(), entry["mode"], (entry["uid"], entry["gid"]))

    def same(self, path: Path) -> bool:
        """Whether a file is as it was."""
        entry = self.index["files"].get(str(path))
        if entry is None or not path.is_file():
            return entry is None and not path.exists()
        status = path.stat()
        return path.read_bytes() == self.content(path) and (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (
            entry["mode"],
            entry["uid"],
            entry["gid"],
        )


def write(path: Path, content: bytes, mode: int = 0o600, owner: tuple[int, int] = (0, 0)) -> None:
    """Write a file whole, and so that it lasts through a power cut."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchown(stream.fileno(), *owner)
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(folder: Path) -> None:
    """Make what was named in a folder last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _try_for(descriptor: int, seconds: float) -> None:
    """Take a lock that nobody else has, or leave it after a time."""
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                return
            time.sleep(_LOOK_SECONDS)
        else:
            return


class Brake:
    """The brake of this machine."""

    def __init__(self, places: Places | None = None, run: Runner = run_program) -> None:
        self._places = places or Places()
        self._run = run
        self._held = False

    @property
    def places(self) -> Places:
        """Where things lie."""
        return self._places

    @contextlib.contextmanager
    def alone(self, patience: float | None = None) -> Iterator[None]:
        """Nobody arms, confirms or undoes meanwhile: who comes second sees what the first has done.

        Who has it may take it again within. ``patience``: go on without it after so many seconds.
        """
        if self._held:
            yield
            return
        descriptor = os.open(self._places.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if patience is None:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            else:
                _try_for(descriptor, patience)
            self._held = True
            yield
        finally:
            self._held = False
            os.close(descriptor)

    # ---- what was there
    def take(self, folder: Path) -> Snapshot:
        """Copy everything; the folder gets its name when it is whole."""
        new = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(new, ignore_errors=True)  # mostly there is none; the next line fails if it stays
        new.mkdir(parents=True, mode=0o700)
        files: dict[str, Any] = {}
        for number, path in enumerate(self._places.files):
            try:
                content, status = path.read_bytes(), path.stat()
            except FileNotFoundError:
                continue
            write(new / str(number), content)
            files[str(path)] = {
                "kept": str(number),
                "mode": status.st_mode & 0o7777,
                "uid": status.st_uid,
                "gid": status.st_gid,
            }
        index = {
            "files": files,
            "kernel": self.kernel(),
            "switches": self.switches(),
            "docker": self.docker(),
            "guard": doors_of(self._guard_rules()),
        }
        write(new / "index.json", json.dumps(index, sort_keys=True).encode())
        shutil.rmtree(folder, ignore_errors=True)  # mostly there is none; the next line fails if it stays
        new.replace(folder)
        sync(folder.parent)
        return Snapshot(folder, index)

    def kernel(self) -> dict[str, Any]:
        """Of each family: whether UFW filters, and the policies. UFW sets them all, on and off."""
        found: dict[str, Any] = {}
        for program, prefix in FAMILIES.items():
            status, out, _err = self._run([program, "-S"], "")
            if status == 0:
                loaded = f"-N {prefix}-user-input" in out.splitlines()
                found[program] = {"loaded": loaded, "policies": policies_of(out)}
        return found

    def docker(self) -> list[str]:
        """The programs whose filter table has Docker's chains."""
        listings = {program: self._run([program, "-S"], "") for program in FAMILIES}
        return [
            program for program, (_status, out, _err) in listings.items() if DOCKER_CHAIN in out.splitlines()
        ]

    def switches(self) -> dict[str, str]:
        """The kernel's switches that UFW sets when it starts, as they are now."""
        found = {}
        with contextlib.suppress(OSError):
            for name in switches_of((self._places.etc / "ufw/sysctl.conf").read_text(encoding="utf-8")):
                with contextlib.suppress(OSError):
                    found[name] = (self._places.switches / name).read_text(encoding="ascii").strip()
        return found

    def _guard_rules(self) -> str | None:
        try:
            return self._places.guard.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    # ---- before a change
    def armed(self) -> dict[str, Any] | None:
        """The change that waits for its confirmation."""
        try:
            mark: dict[str, Any] = json.loads(self._places.mark.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return mark

    def last_undone(self) -> dict[str, Any] | None:
        """The last change that was undone, until a later one is confirmed."""
        try:
            record: dict[str, Any] = json.loads(self._places.undone.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record

    def arm(
        self, seconds: int, reason: str, *, remember: bool = False, leaving: bool = False, connection: str = ""
    ) -> str:
        """Copy what is there and start the timer; the token with which the change is confirmed.

        ``remember``: when this is the first change, keep what is there now, for the day on which all is taken away.
        ``leaving``: this is that day; once it is confirmed, what was kept is of no use any more.
        ``connection``: by which connection who changes it is here; by this one it cannot be confirmed.

        Raises:
            NotArmed: another change waits, or the timer cannot be started. Nothing was changed.
            Unfinished: an earlier one should have been undone, and cannot be.
        """
        with self.alone():
            self.settle()
            waiting = self.armed()
            if waiting is not None:
                left = max(0, int(waiting["deadline"] - time.time()))
                raise NotArmed(
                    f"the change of {waiting['reason']} waits for its confirmation or its end in {left} seconds. Wait "
                    "until it is undone, then run again"
                )
            self._places.state.mkdir(parents=True, exist_ok=True, mode=0o700)
            first = remember and not self._places.before.exists()
            self.take(self._places.pending)
            if first:
                # What is there now is what there was before anything of ours.
                shutil.copytree(self._places.pending, self._places.before)
                sync(self._places.state)
            now = time.time()
            mark = {
                "token": secrets.token_hex(16),
                "reason": reason,
                "seconds": seconds,
                "deadline": now + seconds,
                "boot": self._boot(),
                "first": first,
                "leaving": leaving,
                "connection": connection,
            }
            write(self._places.mark, json.dumps(mark, sort_keys=True).encode())
            # What an earlier change has left: a timer that ran out stays until it is stopped, and what it has started
            # may wait for its next try, which would then undo this change.
            self._run(["systemctl", "stop", f"{UNIT}.timer", f"{UNIT}.service"], "")
            timer = ["--timer-property=AccuracySec=1s", "--timer-property=RemainAfterElapse=no"]
            argv = ["systemd-run", f"--on-active={seconds}s", *timer, f"--unit={UNIT}.service"]
            status, _out, err = self._run(argv, "")
            if status != 0:
                self._forget(mark)
                raise NotArmed(f"the timer that undoes the change cannot be started: {err.strip()[:300]}")
        return str(mark["token"])

    def overdue(self) -> dict[str, Any] | None:
        """The change that should have been undone by now: its timer never came to be, or its undoing has failed."""
        mark = self.armed()
        if mark is None or (time.time() <= mark["deadline"] + _GRACE_SECONDS and mark["boot"] == self._boot()):
            return None
        return mark

    def settle(self) -> bool:
        """Undo what is overdue; whether something was.

        Raises:
            Unfinished: it cannot be undone.
        """
        with self.alone():
            if self.overdue() is None:
                return False
            for left in reversed(range(TRIES)):
                try:
                    self.roll_back()
                except Unfinished:
                    if not left:
                        raise
                else:
                    break
        return True

    def _boot(self) -> str:
        return self._places.boot.read_text(encoding="ascii").strip()

    def _forget(self, mark: Mapping[str, Any]) -> None:
        """The change is over, as if it had never been tried."""
        self._places.mark.unlink(missing_ok=True)
        shutil.rmtree(self._places.pending, ignore_errors=True)  # the mark decides, and it is gone
        if mark.get("first"):
            shutil.rmtree(self._places.before, ignore_errors=True)  # the mark decides, and it is gone

    # ---- after a change
    def confirm(self, token: str, connection: str = "") -> None:
        """The change works: whoever says so came in a new connection, or stands at the machine (``connection`` empty).

        Raises:
            Undone: it is too late.
            NotArmed: no such change waits.
            OldConnection: it is the connection from before the change. The change waits on.
        """
        with self.alone():
            mark, record = self.armed(), self.last_undone()
            if mark is None or mark["token"] != token:
                if record is not None and record["token"] == token:
                    raise Undone(told(record))
                raise NotArmed("no change with this token waits for a confirmation")
            if mark.get("tries"):
                raise Undone(f"the change of {mark['reason']} is being undone: nobody confirmed it in time.")
            if connection and connection == mark.get("connection"):
                raise OldConnection(
                    f"this is the connection that was there before the change ({connection}), which stays open "
                    "whatever the firewall does now. Confirm it in a new one, which shares nothing with it "
                    "(ssh -o ControlPath=none)"
                )
            self._places.mark.unlink()
            sync(self._places.pending)
            self._run(["systemctl", "stop", f"{UNIT}.timer"], "")
            shutil.rmtree(self._places.pending, ignore_errors=True)  # the mark decides, and it is gone
            if mark["leaving"]:
                shutil.rmtree(self._places.before, ignore_errors=True)  # the mark decides, and it is gone
            self._places.undone.unlink(missing_ok=True)

    def wait(self, token: str) -> None:
        """Until somebody has confirmed it, in a connection of his own.

        Raises:
            Undone: nobody has.
            Unfinished: its time is over, and it still waits.
        """
        while True:
            with self.alone():
                mark, record = self.armed(), self.last_undone()
            if mark is None or mark["token"] != token:
                break
            if time.time() > mark["deadline"] + _OVERDUE_SECONDS:
                raise Unfinished(
                    f"nobody has confirmed the change of {mark['reason']}, and it was not undone although its time is "
                    f"over. Look at: systemctl status {UNIT}.service"
                )
            time.sleep(_LOOK_SECONDS)
        if record is not None and record["token"] == token:
            raise Undone(told(record))

    def stands(self, token: str) -> bool:
        """Whether a change still waits for its confirmation: nobody has undone it."""
        mark = self.armed()
        return mark is not None and mark["token"] == token

    def roll_back(self, cause: str = "time") -> dict[str, Any] | None:
        """Put back what was there; the record of it. ``cause`` reboot: files alone, as no rule is loaded yet.

        Raises:
            Unfinished: something could not be put back; the mark stays, so that it is tried again. At the last try, and
                after a reboot, where there is one alone, the rest is told in the record instead.
        """
        with self.alone(HANGS_SECONDS):
            mark = self.armed()
            if mark is None:
                return None
            try:
                problems = self._put_back(Snapshot.read(self._places.pending), cause)
                tries = mark.get("tries", 0) + 1
                if problems and cause != "reboot" and tries < TRIES:
                    write(self._places.mark, json.dumps({**mark, "tries": tries}, sort_keys=True).encode())
                    raise Unfinished(f"this could not be put back yet: {'; '.join(problems)}")
                record = {**mark, "cause": cause, "when": date(time.time()), "problems": problems}
                write(self._places.undone, json.dumps(record, sort_keys=True).encode())
            except (OSError, ValueError, LookupError, TypeError, subprocess.TimeoutExpired) as error:
                raise Unfinished(
                    f"the change of {mark['reason']} cannot be undone: {error!r}. What was there before lies in "
                    f"{self._places.pending}. When the machine is as you want it: rm {self._places.mark}"
                ) from error
            self._forget(mark)
        return record

    def _put_back(self, snapshot: Snapshot, cause: str) -> list[str]:
        """Everything, whatever fails on the way; what could not be put back."""
        steps = [self._guard_back, self._files_back]
        if cause != "reboot":
            steps += [self._kernel_back, self._docker_back]
        problems: list[str] = []
        # UFW is loaded anew only when it was touched: a change of the guard's doors leaves it alone. One that was tried
        # before has its files back already.
        moved = not all(snapshot.same(path) for path in self._places.files[: len(UFW_FILES)])
        mark = self.armed() or {}
        if not (moved or mark.get("tries") or cause == "reboot" or self.kernel() != snapshot.index["kernel"]):
            steps.remove(self._kernel_back)
        for step in steps:
            try:
                problems += step(snapshot, cause)
            except (OSError, ValueError, subprocess.TimeoutExpired) as error:
                problems.append(str(error))
        return problems

    def _guard_back(self, snapshot: Snapshot, cause: str) -> list[str]:
        """The doors of the guard, and no other line of its rules: what is sovereign stays guarded by the newest."""
        rules = self._guard_rules()
        if rules is None or with_doors(rules, snapshot.index["guard"]) == rules:
            return []
        status = self._places.guard.stat()
        text = with_doors(rules, snapshot.index["guard"])
        write(self._places.guard, text.encode(), status.st_mode & 0o7777, (status.st_uid, status.st_gid))
        return [] if cause == "reboot" else self._said(["nft", "--file", str(self._places.guard)])

    def _files_back(self, snapshot: Snapshot, cause: str) -> list[str]:
        del cause
        for path in self._places.files:
            if not snapshot.same(path):
                snapshot.put_back(path)
        return []

    def _kernel_back(self, snapshot: Snapshot, cause: str) -> list[str]:
        del cause
        return self.load_ufw(snapshot)

    def load_ufw(self, snapshot: Snapshot) -> list[str]:
        """UFW's chains as its files say, or none; policies and switches as they were; what could not be done."""
        problems = []
        wanted: Mapping[str, Any] = snapshot.index["kernel"]
        for program, prefix in FAMILIES.items():
            status, out, _err = self._run([program, "-S"], "")
            if status == 0:
                problems += self._said([f"{program}-restore", "--noflush", "--wait", "10"], purge(out, prefix))
        if any(kernel["loaded"] for kernel in wanted.values()):
            problems += self._said([UFW_INIT, "start"])
        # Where Docker has come since, a closed FORWARD is its own, too, and it closes it when it starts, not before.
        since = set(self.docker()) - set(snapshot.index.get("docker", FAMILIES))
        for program, kernel in wanted.items():
            for chain, policy in kernel["policies"].items():
                shut = chain == "FORWARD" and program in since
                problems += self._said([program, "-P", chain, "DROP" if shut else policy])
        for name, value in snapshot.index["switches"].items():
            try:
                (self._places.switches / name).write_text(f"{value}\n", encoding="ascii")
            except FileNotFoundError:
                # A kernel that has come since, without IPv6: there is nothing to set.
                continue
            except OSError as error:
                problems.append(f"{name}: {error.strerror}")
        return problems

    def _docker_back(self, snapshot: Snapshot, cause: str) -> list[str]:
        """The unit reads the list of doors again, if it runs."""
        del snapshot, cause
        return self._said(["systemctl", "try-restart", DOCKER_UNIT])

    def _said(self, argv: Sequence[str], text: str = "") -> list[str]:
        status, out, err = self._run(argv, text)
        return [] if status == 0 else [f"{' '.join(argv)}: {(err or out).strip()[:200] or status}"]


def say(stream: TextIO, text: str) -> None:
    """One line."""
    stream.write(text + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """``roll-back`` (the timer), ``boot`` (after a restart), ``confirm TOKEN``, ``status``."""
    parser = argparse.ArgumentParser(description="The brake of the firewall.")
    words = parser.add_subparsers(dest="word", required=True)
    words.add_parser("roll-back", help="undo the change that waits, at once")
    words.add_parser("boot", help="undo it before any rule is loaded")
    words.add_parser("confirm", help="keep the change; in a new connection").add_argument("token")
    words.add_parser("status", help="what waits, and what was undone, as JSON")
    given = parser.parse_args(argv)
    brake = Brake()
    try:
        if given.word == "status":
            say(sys.stdout, json.dumps({"armed": brake.armed(), "undone": brake.last_undone()}, sort_keys=True))
            return 0
        if given.word == "confirm":
            brake.confirm(given.token, ssh_connection())
            return 0
        record = brake.roll_back("reboot" if given.word == "boot" else "time")
    except Undone as error:
        say(sys.stderr, str(error))
        return EXIT_UNDONE
    except Unfinished as error:
        say(sys.stderr, str(error))
        return EXIT_UNFINISHED
    except (NotArmed, OldConnection, OSError, ValueError) as error:
        say(sys.stderr, str(error))
        return EXIT_PROBLEM
    if record is None:
        say(sys.stdout, "no change waits")
        return 0
    say(sys.stderr, told(record))
    return EXIT_LEFT if record["problems"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
