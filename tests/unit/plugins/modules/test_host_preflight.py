# SPDX-License-Identifier: MIT
"""host_preflight: every problem at once, each with object, value and remedy; read from a recorded file tree."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils import _host
from ansible_collections.mushishi.sovereign.plugins.modules import host_preflight

# Recorded from Linux 6.1: sshd on 0.0.0.0:22, a program on 127.0.0.1:4000, an established connection, and on IPv6
# a listener on [::]:4001 and one on [fd7a:115c:a1e0::2]:4000.
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1001 1 0000000000000000 100 0
   1: 0100007F:0FA0 00000000:0000 0A 00000000:00000000 00:00000000 00000000   998        0 1002 1 0000000000000000 100 0
   2: 0100007F:0FA1 0100007F:E000 01 00000000:00000000 00:00000000 00000000   998        0 1003 1 0000000000000000 100 0
"""
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when
   0: 00000000000000000000000000000000:0FA1 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 1004 1 0 100 0 0 10
   1: 5C117AFD0000E0A10000000002000000:0FA0 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 1005 1 0 100 0 0 10
"""
GATEWAY = "mushishi-hybrid-gateway.service"


@pytest.fixture
def machine(tmp_path: Path) -> str:
    """The root of a recorded machine."""
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/net/tcp").write_text(TCP)
    (tmp_path / "proc/net/tcp6").write_text(TCP6)
    (tmp_path / "proc/meminfo").write_text("MemTotal:       16384000 kB\nMemFree:  1 kB\n")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text('ID=debian\nVERSION_ID="13"\n')
    processes = [
        (50, "sshd", 1001, "0::/system.slice/ssh.service\n"),
        (60, "python3", 1002, f"0::/system.slice/{GATEWAY}\n"),
        (70, "nginx", 1004, "12:pids:/x\n1:name=systemd:/docker/abc/system.slice/nginx.service\n"),
        (80, "nc", 1005, "0::/\n"),
    ]
    for pid, name, inode, cgroup in processes:
        folder = tmp_path / f"proc/{pid}"
        (folder / "fd").mkdir(parents=True)
        (folder / "comm").write_text(name + "\n")
        (folder / "cgroup").write_text(cgroup)
        os.symlink("/dev/null", folder / "fd/0")
        os.symlink(f"socket:[{inode}]", folder / "fd/3")
    return str(tmp_path)


def options(**change: Any) -> dict[str, Any]:
    """Options of the module as Ansible would fill them in."""
    empty: dict[str, Any] = {"ports": [], "memory_mib": 0, "disk": [], "disk_reserve_mib": 0, "files": []}
    return {**empty, "systems": [], "kernel": "", **change}


def port(address: str, number: int, unit: str = "", variable: str = "") -> dict[str, Any]:
    """One entry of ``ports``."""
    entry = {"name": "gateway", "address": address, "addresses": [], "port": number}
    return {**entry, "unit": unit, "variable": variable}


def test_reads_listeners(machine: str) -> None:
    assert [(item.address, item.port) for item in _host.read_listeners(machine)] == [
        ("0.0.0.0", 22),
        ("127.0.0.1", 4000),
        ("::", 4001),
        ("fd7a:115c:a1e0::2", 4000),
    ]


@pytest.mark.parametrize(
    ("entry", "seen"),
    [
        (port("127.0.0.1", 4000, GATEWAY), None),
        (port("127.0.0.1", 4000), f"python3 (process 60, {GATEWAY}) already listens on 127.0.0.1"),
        (port("127.0.0.1", 4000, "other.service"), f"python3 (process 60, {GATEWAY})"),
        (port("100.64.0.2", 4000), None),
        (port("0.0.0.0", 4000), "python3"),
        (port("100.64.0.2", 4001), "nginx (process 70, nginx.service) already listens on ::"),
        (port("fd7a:115c:a1e0::2", 4000), "nc (process 80, no systemd unit)"),
        (port("fd7a:115c:a1e0::3", 4000), None),
        (port("10.88.0.2", 22), "sshd (process 50, ssh.service) already listens on 0.0.0.0"),
        (port("::1", 22), None),
        (port("127.0.0.1", 57344), None),
    ],
)
def test_ports(machine: str, entry: dict[str, Any], seen: str | None) -> None:
    problems = host_preflight.find_problems(options(ports=[entry]), machine, "6.1.0")
    if seen is None:
        assert problems == []
    else:
        assert len(problems) == 1 and seen in problems[0] and str(entry["port"]) in problems[0]


def test_a_port_message_names_the_variable(machine: str) -> None:
    entry = port("127.0.0.1", 4000, "other.service", "gateway_hybrid_port")
    (problem,) = host_preflight.find_problems(options(ports=[entry]), machine, "6.1.0")
    assert problem.endswith("Stop it, or set gateway_hybrid_port to a free port.")


def test_a_holder_that_cannot_be_seen(machine: str) -> None:
    listeners = [_host.Listener("127.0.0.1", 4000, 9999)]
    entry = {**port("127.0.0.1", 4000, GATEWAY), "addresses": ["127.0.0.1"]}
    (problem,) = _host.judge_ports([entry], listeners, {})
    assert "a process that cannot be seen from here" in problem


@pytest.mark.parametrize(
    ("limit", "wanted", "fits"),
    [
        ("", 16000, True),
        ("", 16001, False),
        ("max", 16000, True),
        (str(8 << 30), 8192, True),
        (str(8 << 30), 8193, False),
    ],
)
def test_memory(machine: str, limit: str, wanted: int, fits: bool) -> None:
    if limit:
        Path(machine, "sys/fs/cgroup").mkdir(parents=True)
        Path(machine, "sys/fs/cgroup/memory.max").write_text(limit + "\n")
    problems = host_preflight.find_problems(options(memory_mib=wanted), machine, "6.1.0")
    assert (problems == []) is fits
    if not fits:
        assert f"{wanted} MiB are needed" in problems[0]


def test_disk_needs_on_one_file_system_add_up() -> None:
    one = _host.Space("/data", 1, 100 << 20)
    two = _host.Space("/var", 2, 10 << 20)
    assert _host.judge_disk([("/data/a", 60, one), ("/var/b", 10, two)]) == []
    (problem,) = _host.judge_disk([("/data/a", 60, one), ("/data/b", 41, one), ("/var/b", 10, two)])
    assert "/data has 100 MiB free, 101 MiB are needed for /data/a (60 MiB), /data/b (41 MiB)" in problem


def test_disk_looks_at_the_nearest_folder_and_leaves_out_what_is_there(machine: str) -> None:
    huge = 1 << 40
    need = {"path": "/etc/not/there/yet", "free_mib": huge, "unless": None, "name": ""}
    (problem,) = host_preflight.find_problems(options(disk=[need]), machine, "6.1.0")
    assert f"{machine}/etc has" in problem
    present = {**need, "unless": "/etc/os-release"}
    assert host_preflight.find_problems(options(disk=[present]), machine, "6.1.0") == []


@pytest.mark.parametrize(
    ("free", "reserve", "problem"),
    [
        (500, 0, ""),
        (499, 0, "has 499 MiB free, 500 MiB are needed for"),
        (599, 100, "has 599 MiB free, 600 MiB are needed for"),
        (600, 100, ""),
    ],
)
def test_a_full_disk_is_named_before_it_happens(
    machine: str, monkeypatch: pytest.MonkeyPatch, free: int, reserve: int, problem: str
) -> None:
    """What is there already does not count again; what comes adds up, with what must stay free."""
    counted = SimpleNamespace(f_bavail=free * 256, f_frsize=4096)
    monkeypatch.setattr(_host.os, "statvfs", lambda path: counted)
    disk = [
        {"path": "/opt/venv", "free_mib": 300, "unless": None, "name": "the environment"},
        {"path": "/var/image", "free_mib": 200, "unless": "/var/none", "name": ""},
        {"path": "/opt/there", "free_mib": 9999, "unless": "/etc/os-release", "name": "it"},
        {"path": "/opt/nothing", "free_mib": 0, "unless": None, "name": "nothing"},
    ]
    problems = host_preflight.find_problems(options(disk=disk, disk_reserve_mib=reserve), machine, "6.1.0")
    if not problem:
        assert problems == []
        return
    assert problem in problems[0]
    assert "the environment in /opt/venv (300 MiB), /var/image (200 MiB)" in problems[0]
    assert f"Free at least {500 + reserve - free} MiB there" in problems[0]
    assert "nothing" not in problems[0] and "/opt/there" not in problems[0]


def test_files(machine: str) -> None:
    wrong = {"path": "/etc/os-release", "sha256": "AB" * 32}
    missing = {"path": "/etc/none", "sha256": "00" * 32}
    right = {"path": "/proc/60/comm", "sha256": _host.hash_file(f"{machine}/proc/60/comm")}
    (problem,) = host_preflight.find_problems(options(files=[wrong, missing, right]), machine, "6.1.0")
    assert problem.startswith("file /etc/os-release: its SHA-256 is ") and "ab" * 32 in problem


@pytest.mark.parametrize(("version", "fits"), [("13", True), ("12", False)])
def test_systems(machine: str, version: str, fits: bool) -> None:
    systems = [{"id": "ubuntu", "version_id": "24.04"}, {"id": "debian", "version_id": version}]
    assert (host_preflight.find_problems(options(systems=systems), machine, "6.1.0") == []) is fits


@pytest.mark.parametrize(
    ("minimum", "release", "fits"),
    [("6.1", "6.1.0-28-amd64", True), ("6.8", "6.12.41+deb13", True), ("6.8", "5.15.0", False), ("", "x", True)],
)
def test_kernel(minimum: str, release: str, fits: bool) -> None:
    assert (_host.judge_kernel(minimum, release) == []) is fits


def test_the_module_fails_with_all_problems_at_once(run: Any) -> None:
    bad = {"memory_mib": 1 << 40, "kernel": "999", "systems": [{"id": "none", "version_id": "0"}]}
    result = run(host_preflight, **bad)
    assert result["failed"] and len(result["problems"]) == 3
    assert all(problem in result["msg"] for problem in result["problems"])
    kept = run(host_preflight, fail=False, **bad)
    assert not kept["failed"] and kept["problems"] == result["problems"] and not kept["changed"]


@pytest.mark.parametrize(
    ("entry", "message"), [({}, "no address is given"), ({"address": "localhost"}, "no IP address")]
)
def test_bad_options(run: Any, entry: dict[str, Any], message: str) -> None:
    result = run(host_preflight, ports=[{"name": "x", "port": 1, **entry}])
    assert result["failed"] and message in result["msg"]
