# SPDX-License-Identifier: MIT
"""The module door_scan: what it asks the scanner, what it says, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.doors import scan, stage
from ansible_collections.mushishi.sovereign.plugins.modules import door_scan

Run = Callable[..., dict[str, Any]]
DEAD = {
    "address": "192.0.2.10",
    "route": True,
    "tcp": {"silent": "1-65535"},
    "udp": {"silent": "53"},
    "control": {"tcp": "open", "udp": "open"},
    "evidence": "its network card answered (02:00:00:00:00:01)",
}


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The jobs that the scanner was given; it answers with a dead machine."""
    jobs: list[dict[str, Any]] = []

    def fake(job: dict[str, Any], tell: scan.Tell) -> list[dict[str, Any]]:
        jobs.append(job)
        tell({"progress": "half of it"})
        return [DEAD]

    monkeypatch.setattr(scan, "scan", fake)
    return jobs


def test_by_default_everything_is_tried(run: Run, scanned: list[dict[str, Any]]) -> None:
    result = run(door_scan, side="lan", addresses=["192.0.2.10"])
    (job,) = scanned
    assert len(job["tcp"]) == 65535 and len(job["udp"]) == 200
    assert (result["failed"], result["verdict"], result["changed"]) == (False, "green", False)
    assert result["table"][0] == "Verdict: green." and result["rows"][0]["verdict"] == "holds"


def test_what_differs_fails_unless_it_is_only_looked_at(run: Run, scanned: list[dict[str, Any]]) -> None:
    doors = [{"name": "ssh", "port": 22, "protocol": "tcp"}]
    failed = run(door_scan, side="tailnet", addresses=["192.0.2.10"], doors=doors)
    assert failed["failed"] and failed["verdict"] == "red" and "tcp 22" in failed["msg"]
    shown = run(door_scan, side="tailnet", addresses=["192.0.2.10"], doors=doors, fail_on_difference=False)
    assert not shown["failed"] and shown["verdict"] == "red" and len(scanned) == 2


def test_rows_can_be_filtered_the_verdict_cannot(run: Run, scanned: list[dict[str, Any]]) -> None:
    doors = [{"name": "ssh", "port": 22, "protocol": "tcp"}]
    given = {"side": "tailnet", "addresses": ["192.0.2.10"], "doors": doors, "fail_on_difference": False}
    assert [row["port"] for row in run(door_scan, only=["udp"], **given)["rows"]] == ["udp, 1 ports"]
    assert run(door_scan, only=["udp"], **given)["verdict"] == "red" and scanned


def test_progress_is_written_down(run: Run, scanned: list[dict[str, Any]], tmp_path: Path) -> None:
    diary = tmp_path / "progress"
    run(door_scan, side="lan", addresses=["192.0.2.10"], progress=str(diary))
    assert diary.read_text().splitlines() == ["half of it", "finished: Verdict: green."] and scanned


def test_a_stage_that_cannot_be_made_is_an_error(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_words: Any) -> None:
        raise SovereignError("the stage of the lan", "no", "Name a probe host.")

    monkeypatch.setattr(stage, "played", fail)
    diary = tmp_path / "progress"
    result = run(door_scan, side="lan", addresses=["192.0.2.10"], namespace=True, progress=str(diary))
    assert result["failed"] and "Name a probe host" in result["msg"] and "finished:" in diary.read_text()


def test_a_side_that_could_not_be_played_is_not_green(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "played", lambda *_words: ([], "", "the interface tailscale0 is down"))
    given = {"addresses": ["100.64.0.2"], "namespace": True, "enter": "tailscale0", "fail_on_difference": False}
    result = run(door_scan, side="tailnet", **given)
    assert (result["verdict"], result["note"]) == ("invalid", "the interface tailscale0 is down")
    assert "the interface tailscale0 is down" in result["table"][2] and "not tested" in result["table"][2]


@pytest.mark.parametrize("given", [{"tcp_ports": "0"}, {"udp_ports": "x"}])
def test_ports_that_are_none_are_refused(run: Run, given: dict[str, str]) -> None:
    result = run(door_scan, side="lan", addresses=["192.0.2.10"], **given)
    assert result["failed"] and "The doors were not tried" in result["msg"]
