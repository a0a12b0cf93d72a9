# SPDX-License-Identifier: MIT
"""The converge_lock module: what it says to a run that is refused, and to one that takes over."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils import _lock
from ansible_collections.mushishi.sovereign.plugins.modules import converge_lock

ANNA = _lock.Owner("laptop", "m1", "boot-1 pid:[4026531836]", 4711, "1000", "anna", "site.yml")
BEN = replace(ANNA, pid=4712, user="ben")
ELSEWHERE = replace(ANNA, controller="desk", machine="m2", kernel="boot-9 pid:[4026531836]")



def asked(run: Any, tmp_path: Path, owner: _lock.Owner, check: bool = False, **more: Any) -> dict[str, Any]:
    """One call of the module."""
    options = {"path": str(tmp_path / "run/lock"), "owner": vars(owner), **more}
    result: dict[str, Any] = run(converge_lock, check=check, **options)
    return result


def test_the_module_refuses_and_says_who(run: Any, tmp_path: Path) -> None:
    assert asked(run, tmp_path, ANNA)["verdict"] == "taken"
    refused = asked(run, tmp_path, ELSEWHERE)
    assert refused["failed"] and refused["verdict"] == "refused"
    for word in ("site.yml", "anna", "laptop", "4711", "since 20", "converge_lock_takeover=true", "lapses at"):
        assert word in refused["msg"], refused["msg"]
    assert asked(run, tmp_path, ANNA, state="free")["verdict"] == "freed"
    again = asked(run, tmp_path, ELSEWHERE)
    assert not again["failed"] and not again["changed"]


def test_the_module_says_what_it_took_over(run: Any, tmp_path: Path) -> None:
    token = asked(run, tmp_path, ANNA)["record"]["token"]
    taken = asked(run, tmp_path, BEN, judged=token)
    assert taken["verdict"] == "dead" and "taken over, which is dead: ansible-playbook site.yml of anna" in taken["msg"]
    lost = asked(run, tmp_path, ANNA, state="free")
    assert lost["verdict"] == "not ours" and "ben" in lost["msg"] and not lost["failed"]


def test_check_mode_only_looks(run: Any, tmp_path: Path) -> None:
    assert asked(run, tmp_path, ANNA, check=True)["verdict"] == "taken"
    assert not (tmp_path / "run").exists()
    asked(run, tmp_path, ANNA)
    before = (tmp_path / "run/lock").read_bytes()
    assert asked(run, tmp_path, BEN, check=True)["failed"]
    assert asked(run, tmp_path, ANNA, check=True, state="free")["verdict"] == "looked"
    assert (tmp_path / "run/lock").read_bytes() == before


def test_the_record_is_roots_alone(run: Any, tmp_path: Path) -> None:
    asked(run, tmp_path, ANNA)
    files = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "run").iterdir()}
    assert files == {"lock": 0o600, "lock.guard": 0o600}
    assert json.loads((tmp_path / "run/lock").read_text())["owner"]["user"] == "anna"


@pytest.mark.parametrize(
    ("options", "message"),
    [({"owner": None}, "nobody says"), ({"lease_seconds": 1}, "too short"), ({"path": "x"}, "plain absolute path")],
)
def test_options_that_cannot_be_meant(run: Any, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    full = {"path": str(tmp_path / "lock"), "owner": vars(ANNA), **options}
    result = run(converge_lock, **{name: value for name, value in full.items() if value is not None})
    assert result["failed"] and message in result["msg"]


def test_a_run_that_lost_its_lock_ends(run: Any, tmp_path: Path) -> None:
    token = asked(run, tmp_path, ANNA)["record"]["token"]
    kept = asked(run, tmp_path, ANNA, state="kept")
    assert kept["verdict"] == "kept" and kept["record"]["token"] == token and not kept["changed"]
    asked(run, tmp_path, BEN, judged=token)
    lost = asked(run, tmp_path, ANNA, state="kept")
    assert lost["failed"] and lost["verdict"] == "lost" and "ben" in lost["msg"]
    assert asked(run, tmp_path, BEN, state="kept")["verdict"] == "kept", "control: whose it is goes on"
    asked(run, tmp_path, BEN, state="free")
    none = asked(run, tmp_path, ANNA, state="kept")
    assert none["failed"] and "Run the whole playbook again" in none["msg"]


def test_a_dry_run_has_no_lock_to_lose(run: Any, tmp_path: Path) -> None:
    assert asked(run, tmp_path, ANNA, check=True, state="kept")["verdict"] == "looked"
    asked(run, tmp_path, BEN)
    assert asked(run, tmp_path, ANNA, check=True, state="kept")["failed"], "another run is at work"
