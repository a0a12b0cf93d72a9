# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""What a switch leaves on disk, so that whoever comes after a crash knows: the lock, the intent, the last good mode.

Every write is whole or not at all and is on the disk before the next step: a temporary file, fsync, rename, fsync of
the folder. The lock is the kernel's (flock), so that a killed holder leaves none.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.mushishi.sovereign.plugins.module_utils import _files
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError

HISTORY_LINES = 500


@dataclass(frozen=True)
class Places:
    """Where it lies."""

    state: Path = Path("/var/lib/mushishi-gpu")
    lock: Path = Path("/run/mushishi-gpu.lock")
    #: What a switch is about at the moment, for whoever watches.
    progress: Path = Path("/run/mushishi-gpu.progress.json")

    @property
    def intent(self) -> Path:
        """A switch that has not come to its end."""
        return self.state / "intent.json"

    @property
    def good(self) -> Path:
        """The last mode that was committed."""
        return self.state / "good.json"

    @property
    def proofs(self) -> Path:
        """Which engines may sleep, and why others may not."""
        return self.state / "sleep.json"

    @property
    def history(self) -> Path:
        """Every switch that came to an end, one line each."""
        return self.state / "history.jsonl"


@dataclass
class Intent:
    """A switch under way: from the last good mode to another one. Times are Unix seconds."""

    origin: str
    target: str
    phase: str
    began: float
    #: Tenants whose door was shut, and that were stopped: what a recovery has to know.
    closed: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    #: Phase → seconds, of the phases that are over.
    seconds: dict[str, float] = field(default_factory=dict)
    why: str = ""
    #: Tenant → the most that it was seen to hold, in MiB.
    peaks: dict[str, int] = field(default_factory=dict)
    #: The same of the tenants of the mode before, until they went.
    origin_peaks: dict[str, int] = field(default_factory=dict)


#: Everybody may read what is told here; whoever switches owns it.
_ACCESS = _files.Access(0o644, "", "", None, None)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise SovereignError(
            f"file {path}", "it is not what a switch writes", "Look at it, move it away, then switch again."
        )
    return found


class Journal:
    """The three files. Every method raises SovereignError, naming the file, when the disk does not do it."""

    def __init__(self, places: Places | None = None) -> None:
        self._places = places or Places()

    def good(self) -> str | None:
        """The last good mode; None before the first."""
        found = _read(self._places.good)
        return None if found is None else str(found.get("mode"))

    def since(self) -> float | None:
        """Since when it is good, in Unix time."""
        found = (_read(self._places.good) or {}).get("since")
        return float(found) if isinstance(found, (int, float)) else None

    def intent(self) -> Intent | None:
        """The switch that has not come to its end, if there is one."""
        found = _read(self._places.intent)
        try:
            return None if found is None else Intent(**found)
        except TypeError:
            raise SovereignError(
                f"file {self._places.intent}", "it is not what a switch writes", "Move it away, then switch again."
            ) from None

    def note(self, intent: Intent) -> None:
        """Say what comes next, before it comes."""
        self._keep(self._places.intent, json.dumps(asdict(intent), sort_keys=True) + "\n")

    def proofs(self) -> str:
        """What is known of engines that sleep; empty before the first."""
        try:
            return self._places.proofs.read_text(encoding="utf-8")
        except (OSError, ValueError):
            # Nothing known: nobody sleeps until it is proven anew.
            return ""

    def prove(self, text: str) -> None:
        """Keep it."""
        self._keep(self._places.proofs, text)

    def commit(self, mode: str) -> None:
        """This mode is good: it serves."""
        self._keep(self._places.good, json.dumps({"mode": mode, "since": time.time()}) + "\n")

    def end(self, intent: Intent, outcome: str) -> None:
        """The switch is over; its line goes into the history, and the intent away. The last lines are kept."""
        line = json.dumps({**asdict(intent), "ended": time.time(), "outcome": outcome}, sort_keys=True)
        try:
            before = self._places.history.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            before = []
        self._keep(self._places.history, "\n".join([*before[1 - HISTORY_LINES :], line]) + "\n")
        try:
            self._places.intent.unlink(missing_ok=True)
            _files.sync_folder(str(self._places.state))
        except OSError as error:
            raise self._broken(self._places.intent, error) from None

    def history(self) -> list[dict[str, Any]]:
        """Every switch that is remembered, the oldest first; a line that cannot be read is left out."""
        try:
            lines = self._places.history.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict):
                    found.append(entry)
        return found

    def _keep(self, path: Path, text: str) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            _files.write_whole(str(path), text.encode(), _ACCESS, f"file {path}")
        except OSError as error:
            raise self._broken(path, error) from None

    @staticmethod
    def _broken(path: Path, error: OSError) -> SovereignError:
        return SovereignError(f"file {path}", f"it cannot be written ({error.strerror})", "Make room or mend the disk.")


@contextlib.contextmanager
def locked(
    places: Places,
    who: str,
    *,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[None]:
    """One switch at a time; waits so many seconds for another one.

    Raises:
        SovereignError: somebody else holds the lock still; who, as they wrote it.
    """
    deadline = clock() + seconds
    try:
        stream = open(places.lock, "a+", encoding="utf-8")  # noqa: SIM115 - closed below
    except OSError as error:
        raise SovereignError(f"lock {places.lock}", f"it cannot be opened ({error.strerror})", "Run as root.") from None
    with stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if clock() >= deadline:
                    stream.seek(0)
                    raise SovereignError(
                        "the card's modes",
                        f"another switch is under way: {stream.read().strip() or 'it has not said which'}",
                        "Wait for its end: sovereignctl mode status.",
                    ) from None
                pause(0.2)
        stream.seek(0)
        stream.truncate()
        stream.write(f"{who} (pid {os.getpid()})\n")
        stream.flush()
        yield


def holder(places: Places, locks: Path = Path("/proc/locks")) -> str | None:
    """Who switches now, as they wrote it; None when nobody does. Looks without taking the lock for a moment."""
    try:
        about = places.lock.stat()
        listed = locks.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    where = f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}"
    if not any("FLOCK" in line and where in line.split() for line in listed.splitlines()):
        return None
    return places.lock.read_text(encoding="utf-8", errors="replace").strip() or "somebody"
