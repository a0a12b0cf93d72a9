# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""Many systemd units brought to what is wanted. Whether a unit has read its files is seen from times, not remembered.

A unit runs with old settings when it started before one of its files got its present content, whoever wrote that and
whether or not the run that wrote it came to its end. All times are seconds since 1970 on the machine's clock.
"""

from __future__ import annotations

import glob
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ansible_collections.mushishi.sovereign.plugins.module_utils._diff import Differences
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError

# Runs a program: argument list in; exit status, standard output and standard error out.
Runner = Callable[[Sequence[str]], "tuple[int, str, str]"]

# The kernel stamps files with the time of its last clock tick, at most 10 ms old (100 ticks in a second).
TICK_SECONDS = 0.02
# A program that cannot work ends within this time after its start: it reads its settings first. Looked at this often.
SETTLE_SECONDS = 1.0
POLL_SECONDS = 0.2

_UNIT_FOLDER = "/etc/systemd/system"
# Written anew by generators at each daemon-reload, with what is on the disk elsewhere.
_GENERATED = "/run/"
_RUNNING = ("active", "reloading", "refreshing", "activating")
# It has ended and waits to be started again: systemd counts that as activating.
_CRASHED = ("auto-restart", "auto-restart-queued")
# States of a unit file in which there is nothing to enable.
_NOT_TO_ENABLE = ("static", "alias", "indirect", "generated", "transient")
_PROPERTIES = (
    "Id",
    "LoadState",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "FragmentPath",
    "DropInPaths",
    "NeedDaemonReload",
    "ExecMainStartTimestamp",
    "ExecMainStartTimestampMonotonic",
    "InactiveExitTimestamp",
    "InactiveExitTimestampMonotonic",
    "StateChangeTimestamp",
    "StateChangeTimestampMonotonic",
    "NRestarts",
    "Result",
    "ReloadResult",
    "LogNamespace",
)
_NAME = re.compile(r"[A-Za-z0-9:_.\\@-]+\.(service|socket|target|timer|path|mount|slice)")


@dataclass(frozen=True)
class Wanted:
    """A unit as the task wants it."""

    name: str
    files: tuple[str, ...] = ()
    state: str = "started"
    enabled: bool = True
    reload: bool = False
    owned: bool = True


@dataclass(frozen=True)
class Clock:
    """Seconds by which the machine's clock is ahead of the monotonic one, now."""

    offset: float

    @classmethod
    def read(cls) -> Clock:
        """The clocks of this machine."""
        return cls(time.time() - time.monotonic())


@dataclass(frozen=True)
class Status:
    """A unit as systemd shows it."""

    properties: Mapping[str, str]
    clock: Clock

    def __getitem__(self, name: str) -> str:
        return self.properties.get(name, "")

    @property
    def found(self) -> bool:
        """Whether there is such a unit."""
        return self["LoadState"] not in ("not-found", "")

    @property
    def at_work(self) -> bool:
        """Whether there is something to stop: it runs, is about to, or will be started again after its failure."""
        return self["ActiveState"] in _RUNNING

    @property
    def running(self) -> bool:
        """Whether it runs or is about to. A unit between two crashes does not."""
        return self.at_work and self["SubState"] not in _CRASHED

    @property
    def state(self) -> str:
        """Its state in words."""
        return f"activating ({self['SubState']})" if self.at_work and not self.running else self["ActiveState"]

    def _moment(self, name: str) -> float | None:
        """When it was, as the earlier of two readings: what the clock said then, and what the monotonic clock says now.

        The first is wrong after the clock was set back, the second after the machine slept. The earlier one restarts a
        unit once too often at worst.
        """
        monotonic = self[f"{name}Monotonic"]
        if not monotonic.isdigit() or int(monotonic) == 0:
            return None
        converted = int(monotonic) / 1e6 + self.clock.offset
        recorded = parse_timestamp(self[name])
        return converted if recorded is None else min(converted, recorded)

    def read_its_files(self, *, reload: bool) -> float:
        """When the unit read its files last, 0 when that cannot be told.

        ``reload``: a reload counts, too. One that failed has read nothing for certain.
        """
        started = self._moment("ExecMainStartTimestamp") or self._moment("InactiveExitTimestamp") or 0.0
        if not reload:
            return started
        if self["ReloadResult"] not in ("success", ""):
            return 0.0
        return max(started, self._moment("StateChangeTimestamp") or 0.0)


@dataclass
class Outcome:
    """What was done, or would be. Names of units in the order in which it happened."""

    enabled: list[str] = field(default_factory=list)
    disabled: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    restarted: list[str] = field(default_factory=list)
    reloaded: list[str] = field(default_factory=list)
    daemon_reloaded: bool = False
    differences: Differences = field(default_factory=Differences)
    notes: list[str] = field(default_factory=list)

    def result(self) -> dict[str, Any]:
        """The module's result."""
        return {
            "changed": self.differences.changed,
            "diff": self.differences.diff("systemd units"),
            "enabled": self.enabled,
            "disabled": self.disabled,
            "started": self.started,
            "stopped": self.stopped,
            "restarted": self.restarted,
            "reloaded": self.reloaded,
            "daemon_reloaded": self.daemon_reloaded,
            "notes": self.notes,
        }


def units_from(raw: Sequence[Mapping[str, Any]]) -> list[Wanted]:
    """Checks the units of a task.

    Raises:
        SovereignError: a name that is no full name of a unit or stands twice, or a file whose path is not absolute.
    """
    units: list[Wanted] = []
    for item in raw:
        name = item["name"]
        thing = f"unit {name}"
        if not _NAME.fullmatch(name):
            raise SovereignError(thing, "that is no full name of a unit", "Write it with its suffix: x.service.")
        if any(unit.name == name for unit in units):
            raise SovereignError(thing, "it is named twice", "Say once what it shall be like.")
        for path in item["files"]:
            if not os.path.isabs(path):
                raise SovereignError(thing, f"{path!r} in files is not absolute", "Give the full path.")
        units.append(Wanted(name, tuple(item["files"]), item["state"], item["enabled"], item["reload"], item["owned"]))
    return units


def parse_timestamp(text: str) -> float | None:
    """Seconds since 1970 from ``Mon 2026-11-23 10:00:00.123456 UTC``; None for anything else."""
    match = re.fullmatch(r"(?:\w+ )?(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}) UTC", text)
    if match is None:
        return None
    return datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC).timestamp()


def parse_show(text: str) -> list[dict[str, str]]:
    """The blocks of properties that ``systemctl show`` prints, one for each unit, in the order they were asked for."""
    blocks = []
    for block in text.strip("\n").split("\n\n"):
        pairs = (line.partition("=") for line in block.splitlines())
        blocks.append({name: value for name, separator, value in pairs if separator})
    return blocks


def drop_in_folders(name: str) -> list[str]:
    """Folders of the administrator's drop-ins for a unit; ``a-b.service`` reads those in ``a-.service.d``, too."""
    stem, _unused, suffix = name.rpartition(".")
    parts = stem.split("-")
    prefixes = ["-".join(parts[:count]) + "-" for count in range(1, len(parts))]
    return [f"{_UNIT_FOLDER}/{prefix}.{suffix}.d" for prefix in prefixes] + [f"{_UNIT_FOLDER}/{name}.d"]


def files_of(wanted: Wanted, status: Status) -> tuple[list[str], list[str]]:
    """The files that the unit reads, and those among them that the task names by a plain path and that are missing."""
    own = [status["FragmentPath"], *status["DropInPaths"].split()]
    paths = [path for path in own if path and not path.startswith(_GENERATED)]
    # A drop-in that was taken away is seen by its folder alone.
    paths += [path for path in drop_in_folders(wanted.name) if os.path.isdir(path)]
    missing = []
    for path in wanted.files:
        if glob.has_magic(path):
            paths += sorted(glob.glob(path))
        elif os.path.lexists(path):
            paths.append(path)
        else:
            missing.append(path)
    return paths, missing


def written(path: str) -> float:
    """When the file got its present content and attributes; of a link, the later of its own time and its target's.

    The change time is used: unlike the modification time nobody can set it, and a file that is renamed into its place
    gets it then.
    """
    try:
        own = os.lstat(path).st_ctime
        return max(own, os.stat(path).st_ctime)
    except FileNotFoundError:
        return 0.0


def newest_since(paths: Iterable[str], moment: float) -> str | None:
    """The path that was written last, when that was not clearly before ``moment``."""
    latest = max(((written(path), path) for path in paths), default=(0.0, ""))
    return latest[1] if latest[0] + TICK_SECONDS > moment else None


def date_back(paths: Iterable[str], now: float) -> list[str]:
    """Gives the paths whose change time lies in the future the time of now, and returns those.

    The clock was ahead when they were written. Until it has caught up, every start would be before that. Nothing but
    the change time is touched; a start may follow at once.
    """
    early = sorted({path for path in paths if written(path) > now})
    for path in early:
        for one in dict.fromkeys((path, os.path.realpath(path))):
            status = os.lstat(one)
            if os.path.islink(one):
                os.lchown(one, status.st_uid, status.st_gid)
            else:
                os.chmod(one, status.st_mode & 0o7777)
    if early:
        # A start within the tick of the kernel that stamped them would count as one before.
        time.sleep(2 * TICK_SECONDS)
    return early


def install_links(text: str, name: str) -> list[str]:
    """The links that enabling makes for a unit file with this text. Names with specifiers are left out."""
    links = []
    section = ""
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("["):
            section = line
        key, separator, value = line.partition("=")
        kind = {"WantedBy": "wants", "RequiredBy": "requires", "UpheldBy": "upholds"}.get(key.strip())
        if section == "[Install]" and separator and kind:
            links += [f"{_UNIT_FOLDER}/{target}.{kind}/{name}" for target in value.split() if "%" not in target]
    return links


def is_enabled(wanted: Wanted, status: Status) -> bool:
    """Whether the unit starts with the machine: systemd says so, and every link is there that its file asks for."""
    if status["UnitFileState"] != "enabled":
        return status["UnitFileState"] in _NOT_TO_ENABLE
    try:
        with open(status["FragmentPath"], encoding="utf-8") as stream:
            text = stream.read()
    except (OSError, UnicodeDecodeError):
        return True
    # A unit without a target is enabled by an alias or a drop-in: systemd's word is all there is.
    return all(os.path.lexists(link) for link in install_links(text, wanted.name))


class Manager:
    """systemd on this machine."""

    def __init__(self, run: Runner) -> None:
        self._run = run

    def show(self, units: Sequence[Wanted]) -> dict[str, Status]:
        """The state of the units, by name, with one call.

        Raises:
            SovereignError: systemd does not answer.
        """
        names = [unit.name for unit in units]
        command = ["systemctl", "show", "--timestamp=us+utc", f"--property={','.join(_PROPERTIES)}", "--", *names]
        status, out, err = self._run(command)
        blocks = parse_show(out)
        if status != 0 or len(blocks) != len(names):
            raise SovereignError(
                "systemd", f"systemctl show failed: {err.strip() or status}", "Is the machine run by systemd?"
            )
        clock = Clock.read()
        return {name: Status(block, clock) for name, block in zip(names, blocks, strict=True)}

    def call(self, *words: str) -> None:
        """Runs ``systemctl`` for the manager itself or for the files of units.

        Raises:
            SovereignError: it failed.
        """
        status, out, err = self._run(["systemctl", "--no-ask-password", *words])
        if status != 0:
            raise SovereignError(
                f"systemctl {' '.join(words)}", (err or out).strip() or str(status), "Look at the journal."
            )

    def act(self, verb: str, unit: Wanted) -> None:
        """Starts, stops, restarts or reloads a unit and waits for the end of that.

        Raises:
            SovereignError: it failed; the message has the unit's result and its last words.
        """
        status, out, err = self._run(["systemctl", "--no-ask-password", verb, "--", unit.name])
        if status != 0:
            raise self.failure(unit, f"systemctl {verb} failed: {(err or out).strip().splitlines()[:1]}")

    def failure(self, unit: Wanted, what: str) -> SovereignError:
        """An error with what systemd knows about the unit's end, and its last 20 journal lines."""
        now = self.show([unit])[unit.name]
        namespace = [f"--namespace={now['LogNamespace']}"] if now["LogNamespace"] else []
        command = ["journalctl", "--no-pager", "--quiet", "--lines=20", "--output=short-iso", *namespace]
        _status, out, _err = self._run([*command, f"--unit={unit.name}"])
        state = f"it is {now['ActiveState']} ({now['SubState']}), result {now['Result']}"
        return SovereignError(
            f"unit {unit.name}", f"{what}; {state}. Its last lines:\n{out.rstrip()}\n", "Put that right and run again."
        )


def _note(outcome: Outcome, name: str, before: str, after: str) -> None:
    outcome.differences.compare(name, before, after)


def plan_action(
    wanted: Wanted, status: Status, *, outdated: bool, pending: Collection[str], check_mode: bool
) -> tuple[str, str]:
    """What has to be done with a unit (``start``, ``stop``, ``restart``, ``reload`` or nothing) and why.

    Args:
        outdated: systemd had an older version of the unit's files loaded.
        pending: paths that an earlier task of a dry run would have written.

    Raises:
        SovereignError: a file that the unit needs is missing.
    """
    if wanted.state == "stopped":
        return ("stop", status.state) if status.at_work and wanted.owned else ("", "")
    paths, missing = files_of(wanted, status)
    if missing and not check_mode and wanted.owned:
        raise SovereignError(
            f"unit {wanted.name}",
            f"{', '.join(missing)} in its list of files does not exist",
            "Make it in a task before, or write it as a glob when it may be missing.",
        )
    if not status.running:
        return ("start", status.state or "absent") if wanted.owned else ("", "")
    again = "reload" if wanted.reload else "restart"
    if outdated:
        return again, "runs with an older version of its unit file"
    if check_mode:
        would = sorted(path for path in pending if path in paths or path in missing or _matches(path, wanted.files))
        if would:
            return again, f"runs since before {would[0]} was written"
    newest = newest_since(paths, status.read_its_files(reload=wanted.reload))
    return (again, f"runs since before {newest} was written") if newest else ("", "")


def _matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether a file that is not there yet will be found by one of the globs."""
    return any(glob.has_magic(pattern) and _glob_matches(path, pattern) for pattern in patterns)


def _glob_matches(path: str, pattern: str) -> bool:
    ours, theirs = path.split("/"), pattern.split("/")
    if len(ours) != len(theirs):
        return False
    words = ("".join({"*": "[^/]*", "?": "[^/]"}.get(sign, re.escape(sign)) for sign in part) for part in theirs)
    return all(re.fullmatch(word, part) for word, part in zip(words, ours, strict=True))


def _load(
    units: Sequence[Wanted], manager: Manager, outcome: Outcome, *, check_mode: bool
) -> tuple[dict[str, Status], set[str]]:
    """The state of all units after systemd has read their files, and the names of those it had old versions of."""
    shown = manager.show(units)
    outdated = {name for name, status in shown.items() if status["NeedDaemonReload"] == "yes"}
    unknown = {unit.name for unit in units if unit.owned and not shown[unit.name].found}
    # A file that came back while systemd still had the unit in memory is believed only after a reload (error EBUSY).
    unknown |= {unit.name for unit in units if unit.owned and shown[unit.name]["LoadState"] in ("error", "bad-setting")}
    if outdated or unknown:
        outcome.daemon_reloaded = bool(outdated)
        if outdated:
            _note(outcome, "unit files", "changed since systemd read them", "read")
        if not check_mode:
            manager.call("daemon-reload")
            shown = manager.show(units)
    return shown, outdated


def _enable(
    units: Sequence[Wanted], shown: Mapping[str, Status], manager: Manager, outcome: Outcome, check: bool
) -> None:
    for unit in units:
        status = shown[unit.name]
        if not unit.owned:
            continue
        if unit.enabled and not is_enabled(unit, status):
            outcome.enabled.append(unit.name)
            _note(outcome, f"{unit.name} at boot", status["UnitFileState"] or "absent", "enabled")
        elif not unit.enabled and status["UnitFileState"] in ("enabled", "enabled-runtime"):
            outcome.disabled.append(unit.name)
            _note(outcome, f"{unit.name} at boot", "enabled", "disabled")
    if not check and outcome.enabled:
        manager.call("enable", "--quiet", "--", *outcome.enabled)
    if not check and outcome.disabled:
        manager.call("disable", "--quiet", "--", *outcome.disabled)


def _refuse(units: Sequence[Wanted], shown: Mapping[str, Status], *, check_mode: bool) -> None:
    """Raises an error for a unit that cannot be had."""
    for unit in units:
        state = shown[unit.name]["LoadState"]
        unwanted = unit.state == "stopped" and not unit.enabled
        if not unit.owned or (state == "not-found" and (check_mode or unwanted)):
            continue
        if state not in ("loaded", "merged") and not (state == "masked" and unwanted):
            raise SovereignError(
                f"unit {unit.name}",
                f"systemd says that it is {state}",
                f"Look at: systemctl status {unit.name}; systemd-analyze verify {unit.name}",
            )


def ensure(
    units: Sequence[Wanted], manager: Manager, *, check_mode: bool, pending: Collection[str] = ()
) -> dict[str, Any]:
    """Brings every unit, in order, to what is wanted, and returns the module's result.

    Raises:
        SovereignError: a unit cannot be had, does not do what it is told, or does not stay up.
    """
    outcome = Outcome()
    if not units:
        return outcome.result()
    shown, outdated = _load(units, manager, outcome, check_mode=check_mode)
    _refuse(units, shown, check_mode=check_mode)
    _enable(units, shown, manager, outcome, check_mode)
    lists = {
        "start": outcome.started,
        "stop": outcome.stopped,
        "restart": outcome.restarted,
        "reload": outcome.reloaded,
    }
    after = {"start": "started", "stop": "stopped", "restart": "restarted", "reload": "reloaded"}
    acted = False
    begun: dict[str, str] = {}
    for unit in units:
        status = shown[unit.name]
        if acted:
            # What was done to a unit before it may have restarted or stopped this one, too.
            status = manager.show([unit])[unit.name]
        old = unit.name in outdated and status.read_its_files(reload=unit.reload) == shown[unit.name].read_its_files(
            reload=unit.reload
        )
        verb, why = plan_action(unit, status, outdated=old, pending=pending, check_mode=check_mode)
        if not verb:
            continue
        lists[verb].append(unit.name)
        _note(outcome, unit.name, why, after[verb])
        if not check_mode:
            if verb != "stop":
                _date_back(unit, status, outcome)
            if status["ActiveState"] == "failed" or (status.at_work and not status.running):
                # A unit that failed too often in a short time would refuse to start.
                manager.call("reset-failed", "--", unit.name)
            manager.act(verb, unit)
            acted = True
            if verb in ("start", "restart"):
                begun[unit.name] = manager.show([unit])[unit.name]["NRestarts"]
    if acted:
        _confirm(units, begun, manager)
    return outcome.result()


def _date_back(unit: Wanted, status: Status, outcome: Outcome) -> None:
    for path in date_back(files_of(unit, status)[0], time.time()):
        outcome.notes.append(
            f"unit {unit.name}: {path} was last changed in the future: the clock was ahead. Its change time is now; "
            "else the unit would be restarted in every run."
        )


def _confirm(units: Sequence[Wanted], begun: Mapping[str, str], manager: Manager) -> None:
    """Raises an error when a unit is not, or no longer, in the state that is wanted.

    ``begun``: how often systemd had restarted those by itself that were started just now. One wait for all of them.
    """
    end = time.monotonic() + (SETTLE_SECONDS if begun else 0)
    while True:
        last = time.monotonic() >= end
        shown = manager.show(units)
        for unit in units:
            status = shown[unit.name]
            up = status.running if unit.state == "started" else status.at_work
            if unit.owned and up != (unit.state == "started"):
                raise manager.failure(unit, f"it is not {unit.state} although it was told to be")
            if unit.name in begun and status["NRestarts"] != begun[unit.name]:
                raise manager.failure(unit, "it ended soon after its start and was started again by systemd")
        if last:
            return
        # Nothing is waited for but time: that nothing happens has no event.
        time.sleep(min(POLL_SECONDS, max(0.0, end - time.monotonic())))
