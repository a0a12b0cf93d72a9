# SPDX-License-Identifier: MIT
"""What Lynis says is read whole, and no finding remains without a decision."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))

from labkit import lynis

#: Shortened and made up, in the form that Lynis 3.1 writes.
REPORT = """\
# Lynis Report
report_version_major=1
report_datetime_start=2026-11-27 10:00:00
lynis_version=3.1.4
os_name=Debian
os_version=13
suggestion[]=SSH-7408|Consider hardening SSH configuration|AllowTcpForwarding (set YES to NO)|-|
suggestion[]=SSH-7408|Consider hardening SSH configuration|MaxAuthTries (set 6 to 3)|-|
suggestion[]=BOOT-5122|Set a password on GRUB boot loader|-|-|
warning[]=FIRE-4512|iptables module(s) loaded, but no rules active|-|-|
lynis_tests_done=250
hardening_index=60
report_datetime_end=2026-11-27 10:01:00
"""
AFTER = REPORT.replace("hardening_index=60", "hardening_index=75").replace(
    "warning[]=FIRE-4512|iptables module(s) loaded, but no rules active|-|-|\n", ""
)
FORWARDING, TRIES = "SSH-7408 (AllowTcpForwarding)", "SSH-7408 (MaxAuthTries)"
DECIDED = f"""
"{FORWARDING}": {{kind: accepted, why: Port forwarding is how a client reaches a UI.}}
"{TRIES}": {{kind: later, why: Another role's business.}}
BOOT-5122: {{kind: container, why: The lab machine has no boot loader.}}
"""


def test_a_report_is_read_whole() -> None:
    found = lynis.parse(REPORT)
    assert (found.version, found.system, found.index, found.tests) == ("3.1.4", "Debian 13", 60, 250)
    assert found.findings == {
        FORWARDING: "suggestion: Consider hardening SSH configuration [AllowTcpForwarding (set YES to NO)]",
        TRIES: "suggestion: Consider hardening SSH configuration [MaxAuthTries (set 6 to 3)]",
        "BOOT-5122": "suggestion: Set a password on GRUB boot loader",
        "FIRE-4512": "warning: iptables module(s) loaded, but no rules active",
    }


def test_another_finding_changes_no_name() -> None:
    one = lynis.parse(REPORT.replace("suggestion[]=SSH-7408|Consider hardening SSH configuration|AllowTcp", "x=", 1))
    assert TRIES in one.findings and FORWARDING not in one.findings


@pytest.mark.parametrize("text", ["", "hello", REPORT.replace("report_datetime_end", "x"), REPORT.replace("=60", "=")])
def test_half_a_report_is_none(text: str) -> None:
    with pytest.raises(lynis.LynisError, match="came to its end"):
        lynis.parse(text)


def test_every_finding_that_remains_has_a_decision() -> None:
    after, decided = lynis.parse(AFTER), lynis.decisions(DECIDED)
    assert lynis.undecided(after, decided) == []
    (missing,) = lynis.undecided(after, {name: entry for name, entry in decided.items() if name != "BOOT-5122"})
    assert missing.startswith("BOOT-5122 remains and nobody has decided")
    (stale,) = lynis.undecided(after, {**decided, "FIRE-4512": {}})
    assert stale.startswith("FIRE-4512 is decided, and there is no such finding")


@pytest.mark.parametrize(
    "text",
    ["- a", "A: fine", "A: {kind: maybe, why: Because.}", "A: {kind: later}", "A: {kind: later, why: no sentence}"],
)
def test_a_decision_says_why(text: str) -> None:
    with pytest.raises(lynis.LynisError, match=r"A|table"):
        lynis.decisions(text)


def test_the_page_shows_what_is_gone_and_what_remains() -> None:
    text = lynis.page(lynis.parse(REPORT), lynis.parse(AFTER), lynis.decisions(DECIDED))
    assert "Hardening index 60 before, 75 after" in text and "1 findings are gone, 0 are new, 3 remain" in text
    assert "| FIRE-4512 | warning: iptables module(s) loaded, but no rules active | yes | no | gone |" in text
    assert "| BOOT-5122 | suggestion: Set a password on GRUB boot loader | yes | yes | **container.** The lab" in text
    assert all(line.count(" | ") == 4 for line in text.splitlines() if line.startswith("| ") and "Finding" not in line)


@pytest.fixture
def papers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which page, decisions and reports lie."""
    for name, file in (("PAGE", "lynis.md"), ("KEPT", "lynis.json"), ("DECISIONS", "lynis.yml")):
        monkeypatch.setattr(lynis, name, tmp_path / file)
    monkeypatch.setattr(lynis, "ROOT", tmp_path)
    (tmp_path / "lynis.yml").write_text(DECIDED)
    (tmp_path / "before.dat").write_text(REPORT)
    (tmp_path / "after.dat").write_text(AFTER)
    return tmp_path


def test_the_command(papers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(papers / "before.dat"), str(papers / "after.dat")]
    assert lynis.main(words) == 0 == lynis.main(["--check"])
    (papers / "lynis.md").write_text("another")
    assert lynis.main(["--check"]) == 1
    (papers / "lynis.yml").write_text("{}\n")
    assert lynis.main(words) == 1 and "BOOT-5122 remains" in capsys.readouterr().err


def test_the_page_of_this_repository() -> None:
    """As soon as there are reports, the page is what they and the decisions make."""
    assert lynis.decisions(lynis.DECISIONS.read_text()) is not None
    if lynis.KEPT.exists():
        assert lynis.main(["--check"]) == 0
    else:
        assert not lynis.PAGE.exists(), "a page without the reports that it was made of"
