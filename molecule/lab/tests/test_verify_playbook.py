# SPDX-License-Identifier: MIT
"""verify.yml: its expectation follows the state of the engines, and it is right in each."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import Lab, play

WISHES = {"verify_include_cloud": True}


def rows(table: str) -> dict[str, tuple[str, bool]]:
    """Profile → who answered, and whether that was right, from the table's lines."""
    found = {}
    for line in table.partition("\n\n")[0].splitlines()[2:]:
        columns = re.split(r"\s{2,}", line.strip())
        found[columns[0]] = (columns[4], columns[-1] == "yes")
    return found


@pytest.mark.parametrize(
    ("mode", "answered"),
    [
        ("forensic", {"client": "gpu-forensic", "private": "cpu", "personal": "cpu", "coding": "cpu-coder"}),
        pytest.param(
            "coding", {"coding": "gpu-coder", "private": "cpu", "personal": "cpu"}, marks=pytest.mark.nightly
        ),
        pytest.param("off", {"private": "cpu", "personal": "cpu", "planning": "deepseek"}, marks=pytest.mark.nightly),
        ("agent", {"private": "gpu", "personal": "gpu", "coordination": "gpu", "coding": "cpu-coder"}),
    ],
)
def test_verify_follows_the_mode(raw_lab: Lab, tmp_path: Path, mode: str, answered: dict[str, str]) -> None:
    raw_lab.gpu(mode)
    try:
        table = tmp_path / "table.txt"
        done = play("verify", "--extra-vars", json.dumps({**WISHES, "verify_table_file": str(table)}))
        assert done.returncode == 0, done.stdout[-3000:]
        seen = rows(table.read_text())
        assert set(seen) == set(raw_lab.policy["profiles"])
        assert re.search(r"^sovereign egress: 0 packets since 20\d\d-\S+Z$", table.read_text(), re.MULTILINE)
        assert all(right for _, right in seen.values()), table.read_text()
        assert {name: seen[name][0] for name in answered} == answered
        if mode != "forensic":
            assert "refused" in seen["client"][0]
    finally:
        if mode != "agent":
            raw_lab.gpu("agent")


def test_verify_of_nothing_is_no_success(raw_lab: Lab) -> None:
    """An inventory without a machine must fail, loudly."""
    done = play("verify", "--limit", "nobody", "--inventory", "localhost,")
    assert done.returncode != 0
