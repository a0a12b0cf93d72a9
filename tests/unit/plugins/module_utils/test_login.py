# SPDX-License-Identifier: MIT
"""The SSH login above a process: who, from where, to which port."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils._login import Login, connection_from, find_login

CONNECTION = "100.64.7.7 50000 100.64.0.2 22"
ME = Login("me", "100.64.7.7", 22)


@pytest.mark.parametrize(
    ("text", "connection"),
    [
        ("100.64.0.9 50000 100.64.0.1 22", ("100.64.0.9", 22)),
        ("fd7a::9 50000 fd7a::1 2222", ("fd7a::9", 2222)),
        ("::ffff:192.0.2.9 1 ::ffff:192.0.2.1 22", ("192.0.2.9", 22)),
        ("fe80::1%eth0 1 fe80::2%eth0 22", ("fe80::1", 22)),
        ("", None),
        ("UNKNOWN 65535 UNKNOWN 65535", None),
        ("1.2.3.4 1 2.3.4.5", None),
    ],
)
def test_reading(text: str, connection: tuple[str, int] | None) -> None:
    assert connection_from(text) == connection


def process(proc: Path, pid: int, parent: int, **environment: str) -> None:
    """A process as /proc shows it."""
    folder = proc / str(pid)
    folder.mkdir()
    (folder / "environ").write_bytes(b"\0".join(f"{name}={value}".encode() for name, value in environment.items()))
    (folder / "stat").write_text(f"{pid} (a ) b) S {parent} 1 1\n")


def test_past_sudo_and_nonsense(tmp_path: Path) -> None:
    process(tmp_path, 1, 0)
    process(tmp_path, 11, 1, SSH_CONNECTION=CONNECTION, LOGNAME="me", USER="me")
    process(tmp_path, 12, 11, SSH_CONNECTION="nonsense", LOGNAME="you")
    process(tmp_path, 13, 12, LOGNAME="root", SUDO_USER="me")
    assert find_login(13, str(tmp_path)) == ME


def test_a_link_local_address_keeps_its_interface(tmp_path: Path) -> None:
    """The same address may stand behind every interface; a question for its route would name any."""
    process(tmp_path, 1, 0)
    process(tmp_path, 7, 1, SSH_CONNECTION="fe80::1%eth0 50000 fe80::2%eth0 22", LOGNAME="me")
    assert find_login(7, str(tmp_path)) == Login("me", "fe80::1", 22, "eth0")
    process(tmp_path, 8, 1, SSH_CONNECTION=CONNECTION, LOGNAME="me")
    assert find_login(8, str(tmp_path)) == ME and ME.zone == ""


def test_sudo_that_keeps_the_variable(tmp_path: Path) -> None:
    process(tmp_path, 1, 0)
    process(tmp_path, 9, 1, SSH_CONNECTION=CONNECTION, LOGNAME="root", SUDO_USER="me")
    assert find_login(9, str(tmp_path)) == ME


def test_no_login(tmp_path: Path) -> None:
    process(tmp_path, 1, 0, PATH="/bin")
    process(tmp_path, 2, 1, LOGNAME="root")
    assert find_login(2, str(tmp_path)) is None and find_login(77, str(tmp_path)) is None


def test_a_loop_ends(tmp_path: Path) -> None:
    process(tmp_path, 5, 6)
    process(tmp_path, 6, 5)
    assert find_login(5, str(tmp_path)) is None


def test_in_earnest() -> None:
    """A real process with the variable above a real module's code."""
    code = (
        "import sys; sys.path[:0] = sys.argv[1].split(':')\n"
        "from ansible_collections.mushishi.sovereign.plugins.module_utils._login import find_login\n"
        "print(find_login())"
    )
    argv = ["env", "-i", f"SSH_CONNECTION={CONNECTION}", "LOGNAME=me", "sh", "-c"]
    inner = 'env -i "$0" -c "$1" "$2"; exit $?'
    done = subprocess.run(
        [*argv, inner, sys.executable, code, ":".join(sys.path)], capture_output=True, text=True, check=False
    )
    assert done.stdout == f"{ME}\n", done.stderr
