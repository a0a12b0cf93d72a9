# SPDX-License-Identifier: MIT
"""look: many questions, one step, nothing changed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils import _look
from ansible_collections.mushishi.sovereign.plugins.modules import look

# Recorded from dpkg 1.22, shortened: installed, removed with its settings kept, killed while it was configured, and one
# that is there for two architectures.
STATUS = """\
Package: nftables
Status: install ok installed
Version: 1.1.3-1

Package: gone
Status: deinstall ok config-files
Version: 1

Package: caddy
Status: install ok half-configured
Version: 2.6.2

Package: libc6
Status: install ok installed
Architecture: amd64

Package: libc6
Status: install ok unpacked
Architecture: i386
"""


def machine(root: Path, status: str, *updates: str) -> str:
    """The root of a machine with this status file of dpkg."""
    folder = root / "var/lib/dpkg/updates"
    folder.mkdir(parents=True)
    (root / "var/lib/dpkg/status").write_text(status)
    for name in updates:
        (folder / name).write_text("")
    return str(root)


def test_packages(tmp_path: Path) -> None:
    root = machine(tmp_path, STATUS)
    found = _look.packages(root, ["nftables", "gone", "caddy", "libc6", "never-heard-of"])
    assert found == {"missing_packages": ["gone", "caddy", "never-heard-of"], "dpkg_interrupted": True}


@pytest.mark.parametrize(("updates", "interrupted"), [(["0001"], True), (["tmp.i"], False), ([], False)])
def test_an_interrupted_dpkg_is_seen(tmp_path: Path, updates: list[str], interrupted: bool) -> None:
    root = machine(tmp_path, STATUS.split("\n\n", maxsplit=1)[0] + "\n", *updates)
    assert _look.packages(root, ["nftables"]) == {"missing_packages": [], "dpkg_interrupted": interrupted}


def test_a_machine_without_dpkg_has_no_package(tmp_path: Path) -> None:
    assert _look.packages(str(tmp_path), ["a"]) == {"missing_packages": ["a"], "dpkg_interrupted": False}


def test_paths_globs_contents_and_hashes(run: Any, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("text\n")
    (tmp_path / "link").symlink_to("f")
    (tmp_path / "broken").symlink_to("nowhere")
    names = ("f", "link", "broken", "none", ".")
    paths = {name: str(tmp_path / name) for name in names}
    result = run(
        look,
        check=True,
        paths=list(paths.values()),
        globs=[str(tmp_path / "[fl]*"), str(tmp_path / "x*")],
        contents=[paths["f"], paths["none"]],
        sha256=[paths["f"], paths["none"]],
    )
    assert not result["changed"]
    seen = {name: result["paths"][path] for name, path in paths.items()}
    assert seen["f"] == {"exists": True, "kind": "file", "link": False, "size": 5}
    assert seen["link"] == {"exists": True, "kind": "file", "link": True, "size": 5}
    assert seen["broken"] == {"exists": False, "kind": "absent", "link": True, "size": 0}
    assert seen["none"] == {"exists": False, "kind": "absent", "link": False, "size": 0}
    assert seen["."]["kind"] == "directory"
    assert result["globs"] == {str(tmp_path / "[fl]*"): [paths["f"], paths["link"]], str(tmp_path / "x*"): []}
    assert result["contents"] == {paths["f"]: "text\n", paths["none"]: None}
    assert result["sha256"] == {paths["f"]: hashlib.sha256(b"text\n").hexdigest(), paths["none"]: None}


def test_commands(run: Any) -> None:
    commands = [
        {"name": "yes", "argv": ["/bin/sh", "-c", "echo out; echo err >&2"]},
        {"name": "no", "argv": ["/bin/false"], "allowed": []},
        {"name": "none", "argv": ["/not/there"], "allowed": [127]},
    ]
    result = run(look, commands=commands)
    assert result["commands"]["yes"] == {"rc": 0, "stdout": "out", "stderr": "err"}
    assert result["commands"]["no"]["rc"] == 1
    assert result["commands"]["none"] == {"rc": 127, "stdout": "", "stderr": "/not/there: No such file or directory"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"commands": [{"name": "no", "argv": ["/bin/sh", "-c", "echo why; exit 3"]}]}, "ended with 3: why"),
        ({"commands": [{"name": "a", "argv": ["true"]}, {"name": "a", "argv": ["true"]}]}, "given twice"),
        ({"contents": ["/bin/sh"]}, "no text"),
        ({"contents": ["/"]}, "cannot be read"),
    ],
)
def test_refuses(run: Any, options: dict[str, Any], message: str) -> None:
    result = run(look, **options)
    assert result["failed"] and message in result["msg"]
