# SPDX-License-Identifier: MIT
"""The parts of tools/lab that decide something: the archive, the networks, the counts, the packages."""

from __future__ import annotations

import ipaddress
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))

from labkit import depot, engine, gate, host, say, scenario

DEB822 = "Types: deb\nURIs: http://archive.example/debian\nSuites: bookworm\n"
ONE_LINE = "# deb http://old.example/debian bookworm main\ndeb [arch=amd64] https://mirror.example/ubuntu/ noble main\n"


def apt(folder: Path, files: dict[str, str]) -> Path:
    """An apt settings folder with these files."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "distribution", "mirror"),
    [
        ({"sources.list.d/debian.sources": DEB822}, "debian", "http://archive.example/debian"),
        ({"sources.list": ONE_LINE}, "ubuntu", "https://mirror.example/ubuntu"),
        (
            {
                "sources.list.d/debian.sources": "URIs: mirror+file:///etc/apt/mirrors/debian.list\n",
                "mirrors/debian.list": "https://cloud.example/debian\n",
            },
            "debian",
            "https://cloud.example/debian",
        ),
    ],
)
def test_the_archive_is_the_hosts_own(tmp_path: Path, files: dict[str, str], distribution: str, mirror: str) -> None:
    assert host.find_mirror(apt(tmp_path, files), distribution) == mirror


def test_an_archive_in_a_comment_does_not_count(tmp_path: Path) -> None:
    with pytest.raises(say.Failed, match="No debian archive"):
        host.find_mirror(apt(tmp_path, {"sources.list": ONE_LINE}), "debian")


def test_another_system_is_refused(tmp_path: Path) -> None:
    release = tmp_path / "os-release"
    release.write_text('ID=fedora\nPRETTY_NAME="Fedora 43"\n')
    with pytest.raises(say.Failed, match="Fedora 43"):
        host.read_host(release, tmp_path)


@pytest.mark.parametrize(
    ("taken", "refused"),
    [("203.0.113.80/32", True), ("198.51.100.0/24", False), ("203.0.112.0/23", True), ("2001:db8::/32", False)],
)
def test_a_network_in_use_is_refused(taken: str, refused: bool) -> None:
    networks = [ipaddress.ip_network(taken)]
    if refused:
        with pytest.raises(say.Failed, match=r"molecule/lab/vars\.yml"):
            host.refuse_overlap({"internet v4": "203.0.113.0/24"}, networks)
    else:
        host.refuse_overlap({"internet v4": "203.0.113.0/24"}, networks)


class Commands(say.Run):
    """A run that notes what it would do, and does nothing."""

    def __init__(self) -> None:
        self.done: list[list[str]] = []

    def note(self, text: str) -> None:
        pass

    def command(self, argv: Any, **_words: Any) -> None:
        self.done.append([str(word) for word in argv])


def test_a_bridge_that_a_killed_engine_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "mushishi-lan/bridge").mkdir(parents=True)
    (tmp_path / "mushishi-lan/brif").mkdir()
    (tmp_path / "mushishi-inet").mkdir()
    run = Commands()
    host.remove_left_bridges(run, ["mushishi-lan", "mushishi-inet", "mushishi-tailn"], tmp_path)
    assert run.done == [["ip", "link", "delete", "mushishi-lan", "type", "bridge"]], "what is no bridge is left alone"


def test_a_bridge_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mushishi-lan/bridge").mkdir(parents=True)
    (tmp_path / "mushishi-lan/brif/veth1").mkdir(parents=True)
    run = Commands()
    with pytest.raises(say.Failed, match=r"mushishi-lan carries 1 .*veth1.*tools/lab down"):
        host.remove_left_bridges(run, ["mushishi-lan"], tmp_path)
    assert run.done == []


def test_the_bridges_of_the_lab_have_names_that_linux_takes() -> None:
    networks = yaml.safe_load((ROOT / "molecule/lab/vars.yml").read_text())["lab_networks"]
    names = [network["bridge"] for network in networks.values()]
    assert len(set(names)) == len(names) and all(name.startswith("mushishi-") and len(name) <= 15 for name in names)


def test_every_role_with_packages_is_in_the_depot() -> None:
    debian, ubuntu = depot.role_packages("debian"), depot.role_packages("ubuntu")
    assert {"docker-cli", "caddy", "nftables", "cmake", "python3-venv"} <= set(debian)
    assert "docker-compose-v2" in ubuntu and "docker-cli" not in ubuntu


def test_every_lock_is_in_the_depot() -> None:
    names = {str(path.relative_to(ROOT / "roles")) for path in depot.role_locks()}
    assert {"base/files/uv.txt", "gateway/files/requirements.txt", "admission/files/requirements.txt"} <= names
    assert [path.name for path in depot.role_locks(sources=True)] == ["source.txt"]


def test_a_missing_result_is_a_failure(tmp_path: Path) -> None:
    assert gate.count(tmp_path / "none.xml") == (0, 1)


def test_results_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "r.xml"
    path.write_text('<testsuites><testsuite tests="7" failures="1" errors="1" skipped="2"/></testsuites>')
    assert gate.count(path) == (3, 2)


def test_clock() -> None:
    assert (say.clock(5.9), say.clock(75), say.clock(3601)) == ("0:05", "1:15", "60:01")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("│ TASK [mushishi.sovereign.base : Install uv] *****", "mushishi.sovereign.base : Install uv"),
        ("RUNNING HANDLER [x : Restart] ***", "x : Restart"),
        ("ok: [hub] => (item=210 s, [17/206] Building CXX object a.o)", "[17/206] Building CXX object a.o"),
        ("ok: [hub] => (item=nvidia)", None),
    ],
)
def test_progress_is_seen(line: str, what: str | None) -> None:
    found = scenario.TASK.search(line)
    assert (found.group("what") if found else None) == what


def test_the_phases_are_told_with_their_times(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(say, "LOGS", tmp_path)
    clock = iter([0.0, 1.0, 66.0, 66.0, 70.0, 75.0, 75.0])
    monkeypatch.setattr(say.time, "monotonic", lambda: next(clock, 75.0))
    run = say.Run("test", 3)
    run.elapsed = lambda: "0:00"  # type: ignore[method-assign]  # asks the clock
    with run.phase("Build"):
        pass
    with pytest.raises(say.Failed), run.phase("Break"):
        raise say.Failed("no")
    assert run.phases().splitlines()[0] == "    1:05  Build"
    assert "Break" in run.phases(), "one that failed is told too"


@pytest.mark.parametrize(("state", "runs"), [("S", True), ("R", True), ("Z", False)])
def test_an_engine_that_ended_and_was_not_asked_for_has_ended(
    monkeypatch: pytest.MonkeyPatch, state: str, runs: bool
) -> None:
    monkeypatch.setattr(engine.Path, "read_text", lambda _self: f"7 (docker (x) d) {state} 1 7 7 0")
    assert engine._runs(7) is runs


def test_an_engine_that_is_gone_does_not_run() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert not engine._runs(child.pid)
