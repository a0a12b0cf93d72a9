# SPDX-License-Identifier: MIT
"""secret_set: what secret_file does, for many files, and nothing by halves where that can be known before."""

from __future__ import annotations

import grp
import json
import os
import pwd
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.modules import secret_set

GIVEN = "sk-given-by-a-test-0123456789"


@pytest.fixture
def secrets(tmp_path: Path) -> list[dict[str, Any]]:
    """Two secrets of the user who runs the tests: one to make, one to place."""
    access = {"owner": pwd.getpwuid(os.getuid()).pw_name, "group": grp.getgrgid(os.getgid()).gr_name}
    return [
        {"path": str(tmp_path / "made.key"), "prefix": "sk-", **access},
        {"path": str(tmp_path / "placed.key"), "content": GIVEN + "\n", **access},
    ]


def test_makes_and_places_once(run: Any, secrets: list[dict[str, Any]], tmp_path: Path) -> None:
    predicted = run(secret_set, check=True, secrets=secrets)
    assert os.listdir(tmp_path) == []
    first = run(secret_set, secrets=secrets)
    made = (tmp_path / "made.key").read_text()
    second = run(secret_set, secrets=secrets)
    assert predicted == first and first["changed_paths"] == [entry["path"] for entry in secrets]
    assert not second["changed"] and second["changed_paths"] == [] and (tmp_path / "made.key").read_text() == made
    assert made.startswith("sk-") and (tmp_path / "placed.key").read_text() == GIVEN
    shown = json.dumps([predicted, first, second])
    assert made not in shown and GIVEN not in shown


def test_only_the_one_that_differs_is_touched(run: Any, secrets: list[dict[str, Any]], tmp_path: Path) -> None:
    run(secret_set, secrets=secrets)
    (tmp_path / "placed.key").chmod(0o644)
    result = run(secret_set, secrets=secrets)
    assert result["changed_paths"] == [secrets[1]["path"]] and len(result["diff"]) == 1
    gone = run(secret_set, secrets=[{**secrets[0], "state": "absent"}, secrets[1]])
    assert gone["changed_paths"] == [secrets[0]["path"]] and os.listdir(tmp_path) == ["placed.key"]


@pytest.mark.parametrize(
    ("change", "said"),
    [({"content": "two words"}, "content"), ({"mode": "0644"}, "0644"), ({"path": "relative"}, "relative")],
)
def test_a_bad_entry_is_refused_before_the_first_is_touched(
    run: Any, secrets: list[dict[str, Any]], tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    refused = run(secret_set, secrets=[secrets[0], {**secrets[1], **change}])
    assert refused["failed"] and said in refused["msg"]
    assert os.listdir(tmp_path) == []
    twice = run(secret_set, secrets=[secrets[0], secrets[0]])
    assert twice["failed"] and "twice" in twice["msg"] and os.listdir(tmp_path) == []


def test_the_content_is_kept_out_of_logs() -> None:
    assert '"content": {"type": "str", "no_log": True}' in Path(secret_set.__file__).read_text()
