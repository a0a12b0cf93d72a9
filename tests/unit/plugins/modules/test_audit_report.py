# SPDX-License-Identifier: MIT
"""audit_report: a thin shell around the report and its chain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.mushishi.sovereign.plugins.module_utils.audit import chain
from ansible_collections.mushishi.sovereign.plugins.modules import audit_report

ROW = {"kind": "attack", "rule": "P1", "source": "unit a", "path": "→ b", "outcome": "refused", "ms": 1.5, "detail": ""}
RESULT = {"rows": [ROW, {**ROW, "kind": "control", "outcome": "leaked"}], "started": 1.0, "ended": 2.0}


def test_it_writes_signs_and_says_where(run: Any, tmp_path: Path) -> None:
    where = {"folder": str(tmp_path / "audit"), "key_file": str(tmp_path / "key")}
    first = run(audit_report, result=RESULT, **where)
    assert first["changed"] and not first["failed"] and first["verdict"] == "green"
    second = run(audit_report, result={**RESULT, "rows": [*RESULT["rows"], {**ROW, "outcome": "leaked"}]}, **where)
    assert second["verdict"] == "red" and "1 of 2 attempts" in second["sentence"]
    for result in (first, second):
        files = [Path(result[name]) for name in ("markdown", "json", "signature")]
        assert all(path.is_file() for path in files)
        assert chain.sha256(files[1].read_bytes()) == result["sha256"]
        assert chain.check_signature(files[1].read_bytes(), files[2].read_bytes(), result["public"]) == ""
        assert chain.fingerprint(result["public"]) == result["fingerprint"]
    assert chain.verify(tmp_path / "audit", holds=[first["sha256"], second["sha256"]]).ok


def test_check_mode_judges_and_writes_nothing(run: Any, tmp_path: Path) -> None:
    where = {"folder": str(tmp_path / "audit"), "key_file": str(tmp_path / "key")}
    result = run(audit_report, check=True, result=RESULT, **where)
    assert result["changed"] and result["verdict"] == "green" and result["markdown"] == ""
    assert list(tmp_path.iterdir()) == []


def test_a_broken_chain_and_a_strange_result_are_refused(run: Any, tmp_path: Path) -> None:
    where = {"folder": str(tmp_path / "audit"), "key_file": str(tmp_path / "key")}
    assert "no row of an audit" in run(audit_report, result={"rows": [{"a": 1}]}, **where)["msg"]
    run(audit_report, result=RESULT, **where)
    (tmp_path / "key").unlink()
    result = run(audit_report, result=RESULT, **where)
    assert result["failed"] and "broken" in result["msg"] and "another key" in result["msg"]
    assert chain.verify(tmp_path / "audit").ok, "nothing was added"
