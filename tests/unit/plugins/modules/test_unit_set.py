# SPDX-License-Identifier: MIT
"""unit_set: what runs has read the files that are there, and nothing is restarted without a reason."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import basic
from ansible_collections.mushishi.sovereign.plugins.module_utils import _unit_set
from ansible_collections.mushishi.sovereign.plugins.modules import unit_set


def stamp(moment: float) -> str:
    """A moment as ``systemctl show --timestamp=us+utc`` prints it."""
    return datetime.fromtimestamp(moment, UTC).strftime("%a %Y-%m-%d %H:%M:%S.%f UTC") if moment else ""


class Systemd:
    """A stand-in for systemctl and journalctl: units with a file in ``folder``, and every command that was run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.units: dict[str, dict[str, Any]] = {}
        self.commands: list[str] = []
        self.broken: set[str] = set()
        self.crashing: set[str] = set()
        self.later: dict[str, list[dict[str, str]]] = {}

    def add(self, name: str, **properties: Any) -> Path:
        """Adds a unit with a file; returns the path of that."""
        path = self.folder / name
        path.write_text("[Service]\nExecStart=/bin/true\n")
        self.units[name] = {
            "LoadState": "loaded",
            "ActiveState": "inactive",
            "UnitFileState": "disabled",
            "FragmentPath": str(path),
            "NeedDaemonReload": "no",
            "Result": "success",
            "ReloadResult": "success",
            **properties,
        }
        return path

    def run_for(self, name: str, seconds: float = 0.0, **properties: Any) -> None:
        """Makes a unit one that is enabled and has run for so long."""
        self.units[name].update({"ActiveState": "active", "UnitFileState": "enabled", **properties})
        self.began(name, time.time() - seconds)

    def began(
        self, name: str, moment: float, stamps: Sequence[str] = ("ExecMainStart", "InactiveExit", "StateChange")
    ) -> None:
        """Sets when the unit started, or was reloaded."""
        for kind in stamps:
            self.units[name][f"{kind}Timestamp"] = stamp(moment)
            monotonic = moment - time.time() + time.monotonic()
            self.units[name][f"{kind}TimestampMonotonic"] = str(int(monotonic * 1e6))

    def __call__(self, command: list[str]) -> tuple[int, str, str]:
        self.commands.append(" ".join(command))
        if command[0] == "journalctl":
            return 0, "the last words\n", ""
        words = [word for word in command[1:] if not word.startswith("--")]
        verb, names = words[0], words[1:]
        if verb == "show":
            return 0, "\n\n".join(self._shown(name) for name in names) + "\n", ""
        if verb == "daemon-reload":
            for unit in self.units.values():
                unit["NeedDaemonReload"] = "no"
                unit["LoadState"] = "loaded" if unit["LoadState"] == "error" else unit["LoadState"]
        for name in names:
            if f"{verb} {name}" in self.broken:
                self.units[name].update(ActiveState="failed", Result="exit-code")
                return 1, "", f"Job for {name} failed.\n"
            self._act(verb, name)
        return 0, "", ""

    def _shown(self, name: str) -> str:
        found = self.units.get(name, {"LoadState": "not-found", "ActiveState": "inactive"})
        if name in self.units and found["ActiveState"] != "inactive" and self.later.get(name):
            found.update(self.later[name].pop(0))
        return "\n".join(f"{key}={value}" for key, value in {"Id": name, **found}.items())

    def _act(self, verb: str, name: str) -> None:
        unit = self.units[name]
        if verb in ("enable", "disable"):
            unit["UnitFileState"] = f"{verb}d"
        elif verb in ("start", "restart"):
            if unit.get("SubState") == "auto-restart":
                return
            unit["ActiveState"] = "failed" if name in self.crashing else "active"
            self.began(name, time.time())
        elif verb == "stop":
            unit["ActiveState"] = "inactive"
        elif verb == "reload":
            self.began(name, time.time(), ["StateChange"])
            unit["ReloadResult"] = "success"

    @property
    def acts(self) -> list[str]:
        """What was done, without looking."""
        return [
            line.removeprefix("systemctl --no-ask-password ").replace("-- ", "").replace("--quiet ", "")
            for line in self.commands
            if " show " not in line and not line.startswith("journalctl")
        ]


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Systemd:
    """A stand-in for systemd, in the place of the commands that the module runs."""
    folder = tmp_path / "units"
    folder.mkdir()
    monkeypatch.setattr(_unit_set, "_UNIT_FOLDER", str(folder))
    monkeypatch.setattr(_unit_set, "SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(_unit_set, "POLL_SECONDS", 0.01)
    stand_in = Systemd(folder)
    monkeypatch.setattr(basic.AnsibleModule, "run_command", lambda _self, command, **_options: stand_in(command))
    return stand_in


def settle() -> None:
    """Waits until a file written now and a start stamped now are two ticks of the kernel's clock apart."""
    end = time.monotonic() + 2 * _unit_set.TICK_SECONDS
    while time.monotonic() < end:
        time.sleep(0.005)


def unit(name: str = "a.service", **options: Any) -> dict[str, Any]:
    return {"name": name, **options}


def test_enables_and_starts_once_in_the_order_of_the_list(run: Any, systemd: Systemd) -> None:
    for name in ("b.service", "a.service"):
        systemd.add(name)
    units = [unit("b.service"), unit("a.service")]
    predicted = run(unit_set, check=True, units=units)
    assert systemd.acts == []
    settle()
    first = run(unit_set, units=units)
    assert systemd.acts == ["enable b.service a.service", "start b.service", "start a.service"]
    assert first["enabled"] == first["started"] == ["b.service", "a.service"]
    assert predicted["diff"] == first["diff"] and predicted["changed"] and predicted["started"] == first["started"]
    systemd.commands.clear()
    second = run(unit_set, units=units)
    assert not second["changed"] and second["diff"]["after"] == {}
    assert len(systemd.commands) == 1, "one look at all units, nothing else"


def test_restarts_what_runs_since_before_a_file_was_written(run: Any, systemd: Systemd, tmp_path: Path) -> None:
    systemd.add("a.service")
    systemd.add("b.service")
    (tmp_path / "old.conf").write_text("x")
    settle()
    systemd.run_for("a.service")
    systemd.run_for("b.service")
    units = [unit(files=[str(tmp_path / "*.conf"), str(tmp_path / "none-*")]), unit("b.service")]
    assert not run(unit_set, units=units)["changed"]
    settle()
    (tmp_path / "new.conf").write_text("x")
    predicted = run(unit_set, check=True, units=units)
    assert systemd.acts == []
    settle()
    result = run(unit_set, units=units)
    assert result["restarted"] == ["a.service"] and systemd.acts == ["restart a.service"]
    assert result["diff"]["before"] == {"a.service": f"runs since before {tmp_path}/new.conf was written"}
    assert predicted["diff"] == result["diff"]
    assert not run(unit_set, units=units)["changed"]


def test_a_file_put_back_with_its_old_date_counts(run: Any, systemd: Systemd, tmp_path: Path) -> None:
    """The modification time can be set, the change time cannot."""
    systemd.add("a.service")
    settle()
    systemd.run_for("a.service")
    settle()
    conf = tmp_path / "a.conf"
    conf.write_text("x")
    os.utime(conf, (1, 1))
    assert run(unit_set, units=[unit(files=[str(conf)])])["restarted"] == ["a.service"]


def test_the_unit_file_and_drop_ins_count_always(run: Any, systemd: Systemd) -> None:
    systemd.add("a-b.service")
    folder = systemd.folder / "a-.service.d"
    folder.mkdir()
    (folder / "10.conf").write_text("[Service]\n")
    settle()
    systemd.run_for("a-b.service", DropInPaths=f"{folder}/10.conf")
    assert not run(unit_set, units=[unit("a-b.service")])["changed"]
    settle()
    (folder / "10.conf").write_text("[Service]\n# other\n")
    settle()
    assert run(unit_set, units=[unit("a-b.service")])["restarted"] == ["a-b.service"]
    settle()
    (folder / "10.conf").unlink()
    settle()
    systemd.units["a-b.service"]["DropInPaths"] = ""
    assert run(unit_set, units=[unit("a-b.service")])["restarted"] == ["a-b.service"], "its folder tells"
    assert not run(unit_set, units=[unit("a-b.service")])["changed"]


def test_what_a_generator_writes_does_not_count(run: Any, systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    systemd.add("a.service")
    settle()
    systemd.run_for("a.service")
    settle()
    generated = systemd.folder / "generated"
    generated.write_text("")
    systemd.units["a.service"]["DropInPaths"] = str(generated)
    assert run(unit_set, check=True, units=[unit()])["changed"], "control"
    monkeypatch.setattr(_unit_set, "_GENERATED", str(generated))
    assert not run(unit_set, units=[unit()])["changed"]


def test_a_link_counts_with_what_it_leads_to(run: Any, systemd: Systemd, tmp_path: Path) -> None:
    systemd.add("a.service")
    (tmp_path / "one").write_text("1")
    (tmp_path / "current").symlink_to("one")
    settle()
    systemd.run_for("a.service")
    units = [unit(files=[str(tmp_path / "current")])]
    assert not run(unit_set, units=units)["changed"]
    settle()
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to("one")
    settle()
    assert run(unit_set, units=units)["restarted"]
    settle()
    (tmp_path / "one").write_text("2")
    settle()
    assert run(unit_set, units=units)["restarted"]
    assert not run(unit_set, units=units)["changed"]


def test_reads_changed_unit_files_first_and_restarts_what_ran_with_the_old(run: Any, systemd: Systemd) -> None:
    """Also when the unit came up again by itself after its file was written, with the old one."""
    systemd.add("a.service")
    settle()
    systemd.run_for("a.service", NeedDaemonReload="yes")
    result = run(unit_set, units=[unit()])
    assert systemd.acts == ["daemon-reload", "restart a.service"]
    assert result["daemon_reloaded"] and result["restarted"] == ["a.service"]
    assert not run(unit_set, units=[unit()])["changed"]


def test_reload_instead_of_restart(run: Any, systemd: Systemd, tmp_path: Path) -> None:
    systemd.add("a.service")
    settle()
    systemd.run_for("a.service")
    settle()
    (tmp_path / "rules").write_text("x")
    settle()
    units = [unit(files=[str(tmp_path / "rules")], reload=True)]
    result = run(unit_set, units=units)
    assert result["reloaded"] == ["a.service"] and systemd.acts == ["reload a.service"]
    assert not run(unit_set, units=units)["changed"], "it was reloaded after the file was written"
    systemd.units["a.service"]["ReloadResult"] = "exit-code"
    assert run(unit_set, units=units)["reloaded"] == ["a.service"], "a reload that failed has read nothing"


def test_stop_and_disable(run: Any, systemd: Systemd) -> None:
    systemd.add("a.service")
    systemd.run_for("a.service")
    units = [unit(state="stopped", enabled=False), unit("never-there.service", state="stopped", enabled=False)]
    assert run(unit_set, check=True, units=units)["stopped"] == ["a.service"]
    result = run(unit_set, units=units)
    assert result["stopped"] == result["disabled"] == ["a.service"]
    assert not run(unit_set, units=units)["changed"]


def test_a_unit_of_another_role_is_only_brought_up_to_date(run: Any, systemd: Systemd, tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text("x")
    units = [unit(files=[str(rules), "/not/there"], reload=True, owned=False)]
    assert not run(unit_set, units=units)["changed"], "there is none"
    systemd.add("a.service")
    assert not run(unit_set, units=units)["changed"], "it does not run"
    settle()
    systemd.run_for("a.service", UnitFileState="disabled")
    assert not run(unit_set, units=units)["changed"]
    settle()
    rules.write_text("y")
    assert run(unit_set, units=units)["reloaded"] == ["a.service"]
    assert systemd.acts == ["reload a.service"]


def test_a_dry_run_knows_what_would_be_written(run: Any, systemd: Systemd, tmp_path: Path) -> None:
    systemd.add("a.service")
    (tmp_path / "is.conf").write_text("x")
    settle()
    systemd.run_for("a.service")
    units = [unit(files=[str(tmp_path / "*.conf"), str(tmp_path / "later")])]
    for pending, wanted in (("is.conf", True), ("new.conf", True), ("later", True), ("other", False)):
        result = run(unit_set, check=True, units=units, pending=[str(tmp_path / pending)])
        assert result["changed"] == wanted, pending
    real = run(unit_set, units=[unit(files=[str(tmp_path / "*.conf")])], pending=[str(tmp_path / "is.conf")])
    assert not real["changed"], "a real run looks for itself"


def test_a_unit_that_a_dry_run_would_make(run: Any, systemd: Systemd) -> None:
    assert run(unit_set, check=True, units=[unit()])["started"] == ["a.service"]
    result = run(unit_set, units=[unit()])
    assert result["failed"] and "systemd says that it is not-found" in result["msg"]
    assert "daemon-reload" in systemd.acts, "systemd was asked to look again"


def test_a_missing_file_is_named(run: Any, systemd: Systemd) -> None:
    systemd.add("a.service")
    result = run(unit_set, units=[unit(files=["/not/there"])])
    assert result["failed"] and "/not/there in its list of files does not exist" in result["msg"]


def test_a_failed_start_says_why(run: Any, systemd: Systemd) -> None:
    systemd.add("a.service", ActiveState="failed", UnitFileState="enabled", LogNamespace="sovereign")
    systemd.broken.add("start a.service")
    result = run(unit_set, units=[unit()])
    assert result["failed"]
    for words in ("unit a.service", "systemctl start failed", "result exit-code", "the last words"):
        assert words in result["msg"]
    assert systemd.acts[0] == "reset-failed a.service"
    asked = [command for command in systemd.commands if command.startswith("journalctl")]
    assert "--lines=20" in asked[0] and "--unit=a.service" in asked[0] and "--namespace=sovereign" in asked[0]


def test_a_unit_that_does_not_stay_up_is_found(run: Any, systemd: Systemd) -> None:
    systemd.add("a.service")
    systemd.crashing.add("a.service")
    result = run(unit_set, units=[unit()])
    assert result["failed"] and "it is not started although it was told to be" in result["msg"]


CRASHED = {"ActiveState": "activating", "SubState": "auto-restart", "Result": "exit-code"}


@pytest.mark.parametrize(
    ("later", "words"),
    [
        ([{}, {}, CRASHED], "it is not started although it was told to be; it is activating (auto-restart)"),
        ([{}, {}, {"ActiveState": "failed", "SubState": "failed"}], "it is not started although it was told to be"),
        ([{}, {}, {"NRestarts": "1"}], "it ended soon after its start and was started again by systemd"),
    ],
)
def test_a_unit_that_ends_soon_after_its_start_is_found(
    run: Any, systemd: Systemd, later: list[dict[str, str]], words: str
) -> None:
    """The first two looks find it alive."""
    systemd.add("a.service", NRestarts="0", SubState="running")
    systemd.add("b.service", NRestarts="0", SubState="running")
    systemd.later["a.service"] = [dict(entry) for entry in later]
    result = run(unit_set, units=[unit(), unit("b.service")])
    assert result["failed"] and words in result["msg"] and "the last words" in result["msg"]


def test_a_unit_between_two_crashes_does_not_run(run: Any, systemd: Systemd) -> None:
    systemd.add("a.service")
    settle()
    systemd.run_for("a.service", **CRASHED)
    predicted = run(unit_set, check=True, units=[unit()])
    assert predicted["started"] == ["a.service"]
    assert predicted["diff"]["before"] == {"a.service": "activating (auto-restart)"}
    assert run(unit_set, units=[unit(owned=False)])["changed"] is False
    again = run(unit_set, units=[unit()])
    assert again["failed"], "it crashes on"
    systemd.units["a.service"].update(CRASHED)
    assert run(unit_set, check=True, units=[unit(state="stopped")])["stopped"] == ["a.service"], "it would come again"


def test_a_file_from_the_future_restarts_once(
    run: Any, systemd: Systemd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock was ahead when the file was written; only the kernel sets a change time, so that is played here."""
    systemd.add("a.service")
    (tmp_path / "a.conf").write_text("x")
    (tmp_path / "link.conf").symlink_to("a.conf")
    first = {path: os.lstat(path).st_ctime_ns for path in tmp_path.glob("*.conf")}
    real = _unit_set.written

    def ahead(path: str) -> float:
        unchanged = any(os.lstat(one).st_ctime_ns == first.get(Path(one)) for one in (path, os.path.realpath(path)))
        return real(path) + 3600 * unchanged

    monkeypatch.setattr(_unit_set, "written", ahead)
    said: list[str] = []
    monkeypatch.setattr(basic.AnsibleModule, "warn", lambda _self, text: said.append(text))
    settle()
    systemd.run_for("a.service")
    units = [unit(files=[str(tmp_path / "*.conf")])]
    for _again in range(2):
        assert run(unit_set, check=True, units=units)["restarted"] == ["a.service"] and not said, "a dry run only looks"
    assert run(unit_set, units=units)["restarted"] == ["a.service"]
    assert len(said) == 2 and f"{tmp_path}/a.conf was last changed in the future" in said[0]
    assert not run(unit_set, units=units)["changed"]
    assert (tmp_path / "a.conf").read_text() == "x" and (tmp_path / "link.conf").is_symlink()


def test_a_masked_unit_is_refused_unless_it_shall_not_run(run: Any, systemd: Systemd) -> None:
    systemd.add("a.service", LoadState="masked", UnitFileState="masked")
    assert "systemd says that it is masked" in run(unit_set, units=[unit()])["msg"]
    assert not run(unit_set, units=[unit(state="stopped", enabled=False)])["changed"]


def test_a_unit_that_systemd_could_not_read_is_read_again(run: Any, systemd: Systemd) -> None:
    """As after a file that was taken away and came back while systemd had the unit in memory. Found by a killed run."""
    systemd.add("a.service", LoadState="error", ActiveState="failed")
    result = run(unit_set, units=[unit()])
    assert not result["failed"] and systemd.acts[0] == "daemon-reload" and result["started"] == ["a.service"]


def test_a_missing_link_of_an_enabled_unit_is_made(run: Any, systemd: Systemd) -> None:
    """systemd calls a unit enabled as soon as one of its links is there."""
    path = systemd.add("a.service", UnitFileState="enabled")
    path.write_text("[Unit]\nWantedBy=no.target\n[Install]\nWantedBy=one.target two.target\nRequiredBy=%i.target\n")
    settle()
    systemd.run_for("a.service")
    (systemd.folder / "one.target.wants").mkdir()
    (systemd.folder / "one.target.wants" / "a.service").symlink_to(path)
    assert run(unit_set, units=[unit()])["enabled"] == ["a.service"]
    (systemd.folder / "two.target.wants").mkdir()
    (systemd.folder / "two.target.wants" / "a.service").symlink_to(path)
    assert not run(unit_set, units=[unit()])["changed"]


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ([unit("a")], "no full name"),
        ([unit("--version.service --now")], "no full name"),
        ([unit(), unit()], "named twice"),
        ([unit(files=["relative"])], "not absolute"),
    ],
)
def test_refuses(run: Any, systemd: Systemd, units: list[dict[str, Any]], message: str) -> None:
    result = run(unit_set, units=units)
    assert result["failed"] and message in result["msg"] and systemd.commands == []


NOW = 1_800_000_000.0
BOOT = NOW - 5000


def shown(started: float, recorded: float | None = None) -> _unit_set.Status:
    """A unit that started at ``started`` by the monotonic clock, when the machine's clock said ``recorded``."""
    return _unit_set.Status(
        {
            "ExecMainStartTimestamp": stamp(started if recorded is None else recorded),
            "ExecMainStartTimestampMonotonic": str(int((started - BOOT) * 1e6)),
        },
        _unit_set.Clock(BOOT),
    )


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        (shown(NOW - 100), NOW - 100),
        # The clock was an hour fast when the unit started and was set back since.
        (shown(NOW - 100, NOW + 3500), NOW - 100),
        # The machine slept for an hour since: the monotonic clock did not run then.
        (shown(NOW - 100, NOW - 3700), NOW - 3700),
        (_unit_set.Status({"ExecMainStartTimestampMonotonic": "0"}, _unit_set.Clock(BOOT)), 0.0),
        (_unit_set.Status({}, _unit_set.Clock(BOOT)), 0.0),
    ],
)
def test_the_moment_of_a_start(status: _unit_set.Status, wanted: float) -> None:
    assert status.read_its_files(reload=False) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Mon 2026-11-23 22:30:46.542690 UTC", 1795473046.54269),
        ("2026-11-23 22:30:46.542690 UTC", 1795473046.54269),
        ("", None),
        ("n/a", None),
        ("Mon 2026-11-23 22:30:46 CET", None),
    ],
)
def test_timestamps(text: str, wanted: float | None) -> None:
    assert _unit_set.parse_timestamp(text) == (pytest.approx(wanted, abs=1e-6) if wanted else None)


def test_a_tick_of_the_kernel_is_no_doubt(tmp_path: Path) -> None:
    """A file written at the same tick as the start counts as newer, one a tick earlier does not."""
    path = tmp_path / "f"
    path.write_text("x")
    then = path.stat().st_ctime
    for distance, newer in ((-1, True), (0, True), (0.01, True), (0.03, False), (10, False)):
        assert (_unit_set.newest_since([str(path)], then + distance) is not None) == newer, distance
    assert _unit_set.newest_since([str(tmp_path / "gone")], NOW) is None


def test_globs_match_within_one_folder() -> None:
    cases = itertools.product(["/a/*.py"], [("/a/x.py", True), ("/a/b/x.py", False), ("/a/x.pyc", False)])
    for pattern, (path, wanted) in cases:
        assert _unit_set._glob_matches(path, pattern) == wanted
