# SPDX-License-Identifier: MIT
"""gpu_mode and gpu_info: what an order becomes, what is told of its end, and how a long one is watched."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import basic
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import machine
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.switch import Result, SwitchFailed
from ansible_collections.mushishi.sovereign.plugins.modules import gpu_info, gpu_mode

Run = Callable[..., dict[str, Any]]


class Machine:
    """Answers as :class:`machine.Machine` does; remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.planned: list[str] = []
        self.result = Result(
            "agent", "forensic", True, ["stop a", "start b"], {"stop": 1.25, "start": 2.5}, [], {"b": 7}
        )
        self.error: SovereignError | None = None
        self.under_way: list[dict[str, Any] | None] = []

    def switch(self, target: str, **options: Any) -> Result:
        self.told.append((target, options))
        if self.error:
            raise self.error
        self.result.target, self.result.outcome = target, "done" if self.result.changed else "nothing to do"
        return self.result

    def plan(self, target: str) -> dict[str, Any]:
        self.planned.append(target)
        if self.error:
            raise self.error
        return {
            "origin": "agent",
            "target": target,
            "changed": target != "agent",
            "steps": ["stop a", "start b"],
            "stop": ["a"],
            "keep": ["k"],
            "start": ["b"],
            "warnings": ["mind the cat"],
            "expected_seconds": 3.5,
        }

    def status(self) -> dict[str, Any]:
        return {"mode": "agent", "problems": [], "running": ["a"], "progress": None}

    def info(self) -> dict[str, Any]:
        return {"cards": [{"name": "a card"}], "no_card": None}

    def progress(self) -> dict[str, Any] | None:
        return self.under_way.pop(0) if len(self.under_way) > 1 else self.under_way[0]


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine()

    @contextlib.contextmanager
    def opened(registry: str) -> Iterator[Machine]:
        assert registry == "/etc/mushishi/gpu/registry.json"
        yield found

    monkeypatch.setattr(machine, "opened", opened)
    monkeypatch.setattr(gpu_info, "PAUSE_SECONDS", 0.01)
    return found


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(basic.AnsibleModule, "warn", lambda _self, text: said.append(text))
    return said


def test_a_switch(run: Run, there: Machine, warned: list[str]) -> None:
    there.result.warnings = ["b held 9 MiB and declares 8"]
    result = run(gpu_mode, mode="forensic")
    assert result == {
        "failed": False,
        "changed": True,
        "mode": "forensic",
        "origin": "agent",
        "outcome": "done",
        "plan": ["stop a", "start b"],
        "seconds": {"stop": 1.25, "start": 2.5},
        "total_seconds": 3.75,
        "peaks": {"b": 7},
        "notes": ["b held 9 MiB and declares 8"],
        "diff": {},
    }
    assert warned == ["b held 9 MiB and declares 8"] and there.planned == []
    options = {"on_busy": "fail", "drain_seconds": None, "rollback": True, "wait_seconds": 0, "who": "a playbook"}
    assert there.told == [("forensic", options)]


def test_every_option_arrives(run: Run, there: Machine) -> None:
    run(gpu_mode, mode="music", on_busy="force", drain_timeout=7, rollback=False, lock_wait=9)
    options = {"on_busy": "force", "drain_seconds": 7, "rollback": False, "wait_seconds": 9, "who": "a playbook"}
    assert there.told == [("music", options)]


def test_a_diff_of_what_changes(run: Run, there: Machine) -> None:
    result = run(gpu_mode, mode="forensic", _ansible_diff=True)
    assert result["diff"] == {"before": "mode: agent\ntenants: a, k\n", "after": "mode: forensic\ntenants: b, k\n"}
    there.result.changed = False
    assert run(gpu_mode, mode="forensic", _ansible_diff=True)["diff"] == {}


def test_check_mode_is_the_plan(run: Run, there: Machine, warned: list[str]) -> None:
    result = run(gpu_mode, check=True, mode="forensic")
    assert there.told == [] and warned == ["mind the cat"]
    assert (result["changed"], result["outcome"], result["expected_seconds"]) == (True, "planned", 3.5)
    assert result["plan"] == ["stop a", "start b"] and result["diff"]["after"].startswith("mode: forensic")
    result = run(gpu_mode, check=True, mode="agent")
    assert (result["changed"], result["outcome"]) == (False, "nothing to do")


@pytest.mark.parametrize(
    "options", [{"mode": "off"}, {"mode": False}, {"state": "absent"}, {"state": "absent", "mode": "off"}]
)
def test_off(run: Run, there: Machine, options: dict[str, Any]) -> None:
    assert run(gpu_mode, **options)["mode"] == "off"
    assert there.told[0][0] == "off"


@pytest.mark.parametrize("options", [{}, {"mode": ""}, {"state": "absent", "mode": "agent"}])
def test_no_order(run: Run, there: Machine, options: dict[str, Any]) -> None:
    result = run(gpu_mode, **options)
    assert result["failed"] and result["outcome"] == "refused" and there.told == []


def test_a_failure_keeps_the_result(run: Run, there: Machine, warned: list[str]) -> None:
    gone = Result("agent", "forensic", True, ["stop a"], {"stop": 1.0}, ["mind"], {"b": 3}, "rolled back")
    there.error = SwitchFailed("tenant b", "it ended: words", "Look at its log. The mode agent serves again.", gone)
    result = run(gpu_mode, mode="forensic")
    assert result["failed"] and result["msg"].startswith("tenant b: it ended: words")
    assert (result["outcome"], result["changed"], result["seconds"]) == ("rolled back", True, {"stop": 1.0})
    assert (result["peaks"], result["origin"], warned) == ({"b": 3}, "agent", ["mind"])


@pytest.mark.parametrize("check", [True, False])
def test_a_refusal(run: Run, there: Machine, check: bool) -> None:
    there.error = SovereignError("mode forensic", "it does not fit: a 1 + b 2 = 3", "Lower a budget.")
    result = run(gpu_mode, check=check, mode="forensic")
    assert result["failed"] and "it does not fit: a 1 + b 2 = 3" in result["msg"]
    assert (result["outcome"], result["changed"]) == ("refused", False)


def test_info(run: Run, there: Machine) -> None:
    result = run(gpu_info)
    assert (result["mode"], result["running"], result["cards"]) == ("agent", ["a"], [{"name": "a card"}])
    assert not result["changed"]


PROGRESS = {"target": "agent", "phase": "answers", "detail": "a: it loads", "elapsed": 34.2, "expected": 120.0}
UNFINISHED = {"started": 1, "finished": 0, "ansible_job_id": "j1"}


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "j1"
    path.write_text(json.dumps(UNFINISHED))
    return path


def test_a_switch_is_watched(run: Run, there: Machine, job: Path) -> None:
    there.under_way = [dict(PROGRESS)]
    result = run(gpu_info, job=str(job), wait=0)
    assert result["running"] and result["message"] == "to agent: answers, a: it loads; 34 s of about 120 s"
    there.under_way = [{**PROGRESS, "detail": "", "expected": None}]
    assert run(gpu_info, job=str(job), wait=0)["message"] == "to agent: answers; 34 s"
    there.under_way = [None]
    assert run(gpu_info, job=str(job), wait=0)["message"] == "it begins"


@pytest.mark.parametrize("how", ["finished", "gone", "killed", "garbage"])
def test_a_switch_that_is_over_is_not_watched(run: Run, there: Machine, job: Path, how: str) -> None:
    there.under_way = [None]
    if how == "finished":
        job.write_text(json.dumps({"finished": 1, "ansible_job_id": "j1", "changed": True}))
        there.under_way = [dict(PROGRESS)]
    elif how == "gone":
        job.unlink()
    else:
        if how == "garbage":
            job.write_text('{"started":')
        old = time.time() - gpu_info.BEGIN_SECONDS - 5
        os.utime(job, (old, old))
    began = time.monotonic()
    result = run(gpu_info, job=str(job), wait=30)
    assert (result["running"], result["progress"], result["message"]) == (False, None, "ended")
    assert time.monotonic() - began < 5


def test_the_end_of_a_switch_ends_the_wait(run: Run, there: Machine, job: Path) -> None:
    there.under_way = [dict(PROGRESS), dict(PROGRESS), None]
    old = time.time() - gpu_info.BEGIN_SECONDS - 5
    os.utime(job, (old, old))
    began = time.monotonic()
    assert not run(gpu_info, job=str(job), wait=30)["running"]
    assert time.monotonic() - began < 5


def test_what_cannot_be_read_is_an_error(run: Run, there: Machine) -> None:
    def broken() -> dict[str, Any]:
        raise SovereignError("file x", "it is not what a switch writes", "Move it away.")

    there.status = broken  # type: ignore[method-assign]  # a fault of this test
    assert "Move it away" in run(gpu_info)["msg"]
