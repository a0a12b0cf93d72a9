# SPDX-License-Identifier: MIT
"""key_set: keys are made once and kept, lists follow them, and nothing of a key is told."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.modules import key_set

LISTS = {"one.keys": ["a.key", "b.key"], "two.keys": ["b.key"]}


def asked(run: Any, folder: Path, check: bool = False, **change: Any) -> dict[str, Any]:
    """One call of the module."""
    options = {"directory": str(folder), "names": ["a.key", "b.key"], "prefix": "sk-", "lists": LISTS, **change}
    result: dict[str, Any] = run(key_set, check=check, **options)
    return result


def test_keys_and_lists_are_made_and_then_left_alone(run: Any, tmp_path: Path) -> None:
    assert asked(run, tmp_path)["changed"]
    first, second = ((tmp_path / name).read_text() for name in ("a.key", "b.key"))
    assert first.startswith("sk-") and first != second and len(first) > 40
    assert (tmp_path / "one.keys").read_text() == f"{first}\n{second}\n"
    assert (tmp_path / "two.keys").read_text() == f"{second}\n"
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    again = asked(run, tmp_path)
    assert not again["changed"] and again["changed_paths"] == []


@pytest.mark.parametrize("missing", ["a.key", "b.key", "one.keys"])
def test_what_a_killed_run_left_undone_is_done(run: Any, tmp_path: Path, missing: str) -> None:
    asked(run, tmp_path)
    kept = {name: (tmp_path / name).read_text() for name in ("a.key", "b.key") if name != missing}
    (tmp_path / missing).unlink()
    assert asked(run, tmp_path)["changed"]
    assert {name: (tmp_path / name).read_text() for name in kept} == kept
    lines = (tmp_path / "one.keys").read_text().split()
    assert lines == [(tmp_path / name).read_text() for name in ("a.key", "b.key")]
    assert not asked(run, tmp_path)["changed"]


def test_a_wrong_mode_is_put_right(run: Any, tmp_path: Path) -> None:
    asked(run, tmp_path)
    (tmp_path / "a.key").chmod(0o644)
    assert asked(run, tmp_path)["changed_paths"] == [str(tmp_path / "a.key")]
    assert (tmp_path / "a.key").stat().st_mode & 0o777 == 0o600


def test_check_mode_writes_nothing_and_no_key_is_told(run: Any, tmp_path: Path) -> None:
    predicted = asked(run, tmp_path, check=True)
    assert predicted["changed"] and os.listdir(tmp_path) == []
    real = asked(run, tmp_path)
    assert predicted["changed_paths"] == real["changed_paths"] and predicted["diff"] == real["diff"]
    (tmp_path / "one.keys").write_text("x\n")
    text = json.dumps([real, asked(run, tmp_path)])
    assert all((tmp_path / name).read_text() not in text for name in ("a.key", "b.key"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["../a"]}, "no plain file name"),
        ({"lists": {"one.keys": ["c.key"]}}, "it names c.key"),
        ({"lists": {"one.keys": []}}, "it names no key"),
        ({"lists": {"a.key": ["b.key"]}}, "stands twice"),
        ({"directory": "secrets"}, "plain absolute path"),
    ],
)
def test_options_that_cannot_be_meant(run: Any, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    result = asked(run, tmp_path, **change)
    assert result["failed"] and message in result["msg"]


def test_something_else_in_the_way_is_refused(run: Any, tmp_path: Path) -> None:
    (tmp_path / "a.key").symlink_to("/etc/hostname")
    result = asked(run, tmp_path)
    assert result["failed"] and "symbolic link" in result["msg"]
