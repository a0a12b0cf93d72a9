# SPDX-License-Identifier: MIT
"""sovereignty_audit: what it is asked for, what makes it fail, and that check mode neither attacks nor plants."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils.audit.model import Row
from ansible_collections.mushishi.sovereign.plugins.modules import sovereignty_audit

REQUIRED: dict[str, Any] = {"plane_clients": [], "namespace_flows": [], "door_routes": [], "hybrid_egress": {}}
HOLDS = Row("static", "P1", "nft", "table", "holds")
REFUSED = Row("attack", "P1", "unit x (bare)", "→ internet", "refused", 0.1, "ENETUNREACH")
LEAK = Row("attack", "P1", "unit x (bare)", "→ internet v6", "leaked", 0.1, "it got through")
HOLE = Row("control", "P1", "unit x (bare)", "→ marked sink", "leaked", 0.1)
ASKED = Row("request", "", "profile private → 192.0.2.9:4001", "body: api_base", "refused", 2.0, "admission 400")
MISSED = Row("control", "P1", "unit x (bare)", "→ marked sink", "refused", 0.1, "a planted hole was NOT found")


class Parts:
    """What the parts find, and which were asked."""

    def __init__(self) -> None:
        self.static, self.attack, self.control, self.clients = [HOLDS], [REFUSED], [HOLE], [ASKED]
        self.asked: list[Any] = []


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Parts:
    found = Parts()

    @contextlib.contextmanager
    def marked() -> Iterator[None]:
        found.asked.append("mark")
        yield

    def asked(name: str, rows: str) -> Any:
        def collect(*arguments: Any) -> list[Row]:
            found.asked.append((name, *arguments[3:]))
            return list(getattr(found, rows))

        return collect

    for name in ("static", "attack", "control"):
        monkeypatch.setattr(getattr(sovereignty_audit, name), "collect", asked(name, name))
    monkeypatch.setattr(sovereignty_audit.clients, "collect", asked("clients", "clients"))
    monkeypatch.setattr(sovereignty_audit.counters, "audit_in_progress", marked)
    monkeypatch.setattr(sovereignty_audit.counters, "totals", lambda: {"egress": 0})
    monkeypatch.setattr(sovereignty_audit.facts, "containers", lambda *_arguments: [])
    monkeypatch.setattr(sovereignty_audit.facts, "facts", lambda *_arguments: {"audit": sorted(_arguments[2])})
    return found


def test_green(run: Any, parts: Parts) -> None:
    result = run(sovereignty_audit, **REQUIRED)
    assert not result["failed"] and not result["changed"] and (result["verdict"], result["why"]) == ("green", "")
    assert [row["path"] for row in result["rows"]] == ["table", "→ internet", "→ marked sink", "body: api_base"]
    assert result["summary"]["attack"] == {"refused": 1} and result["counters"] == {"egress": 0}
    assert result["started"] <= result["ended"] and "probe" in result["facts"]["audit"]
    assert parts.asked.index("mark") < [entry[0] for entry in parts.asked].index("attack"), "marked before it attacks"


def test_a_leak_fails_with_the_table(run: Any, parts: Parts) -> None:
    parts.attack.append(LEAK)
    result = run(sovereignty_audit, **REQUIRED)
    assert result["failed"] and result["verdict"] == "red" and "→ internet v6 (it got through)" in result["msg"]
    quiet = run(sovereignty_audit, fail_on_leak=False, **REQUIRED)
    assert not quiet["failed"] and quiet["verdict"] == "red"


def test_a_hole_that_was_not_found_is_invalid_and_fails(run: Any, parts: Parts) -> None:
    parts.control.append(MISSED)
    result = run(sovereignty_audit, **REQUIRED)
    assert result["failed"] and result["verdict"] == "invalid" and "NOT found" in result["why"]


def test_no_hole_at_all_is_invalid(run: Any, parts: Parts) -> None:
    parts.control.clear()
    result = run(sovereignty_audit, **REQUIRED)
    assert result["failed"] and result["verdict"] == "invalid" and result["why"].startswith("no hole was planted")


def test_check_mode_only_reads(run: Any, parts: Parts) -> None:
    result = run(sovereignty_audit, check=True, **REQUIRED)
    assert [entry[0] for entry in parts.asked] == ["static"] and result["verdict"] == "invalid" and not result["failed"]
    parts.static.append(Row("static", "P1", "nft", "table", "leaked"))
    assert run(sovereignty_audit, check=True, **REQUIRED)["failed"]


def test_only_what_was_asked_for_is_done(run: Any, parts: Parts) -> None:
    run(sovereignty_audit, parts=["static"], **REQUIRED)
    # The part that acts as a client decides by itself: test_audit_clients.py.
    assert [entry[0] for entry in parts.asked if entry != "mark"] == ["static", "control", "clients"]
    parts.asked.clear()
    run(sovereignty_audit, parts=["pull", "files"], **REQUIRED)
    assert ("attack", ["pull", "files"]) in parts.asked and ("control", ["pull", "files"]) in parts.asked
    assert not any(entry[0] == "static" for entry in parts.asked)


def test_a_filter_hides_rows_and_no_leak(run: Any, parts: Parts) -> None:
    parts.attack.append(LEAK)
    result = run(sovereignty_audit, kinds=["static"], fail_on_leak=False, **REQUIRED)
    assert [row["kind"] for row in result["rows"]] == ["static"] and result["verdict"] == "red"
    result = run(sovereignty_audit, only=["*internet v6*"], fail_on_leak=False, **REQUIRED)
    assert [row["path"] for row in result["rows"]] == ["→ internet v6"] and "LEAKED (1):" in result["table"]


def test_rows_found_elsewhere_count(run: Any, parts: Parts) -> None:
    given = {
        "kind": "static",
        "rule": "P1",
        "source": "gateway",
        "path": "private → groq",
        "outcome": "leaked",
        "ms": None,
        "detail": "no link",
    }
    assert run(sovereignty_audit, rows=[given], **REQUIRED)["verdict"] == "red"
    broken = run(sovereignty_audit, rows=[{**given, "outcome": "perhaps"}], **REQUIRED)
    assert broken["failed"] and "The audit did not run" in broken["msg"]


def test_an_audit_that_cannot_run_fails(run: Any, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: Any) -> list[Row]:
        raise OSError("no such machine")

    monkeypatch.setattr(sovereignty_audit.static, "collect", broken)
    assert "no such machine" in run(sovereignty_audit, **REQUIRED)["msg"]


def test_its_result_is_json(run: Any, parts: Parts) -> None:
    assert json.loads(json.dumps(run(sovereignty_audit, **REQUIRED)))["verdict"] == "green"
