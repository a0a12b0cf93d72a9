# SPDX-License-Identifier: MIT
"""The page of a report: what a reader who is no engineer finds on it, and what never stands on it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils.audit import capture, chain, model, report
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[5]
LINK = {
    "name": "AUDIT-20261125T174836Z",
    "sequence": 2,
    "previous": {"name": "AUDIT-20261124T174836Z", "sha256": "c" * 64},
    "key": {"fingerprint": "SHA256:abc", "public": "ssh-ed25519 AAAA"},
}
WAY = "→ internet v4 198.51.100.53 tcp 443"
UNIT = "unit mushishi-sovereign-gateway"


def row(kind: str = "attack", outcome: str = "refused", **more: Any) -> dict[str, Any]:
    """A row as the audit gives it."""
    made = {"kind": kind, "rule": "P1", "source": UNIT, "path": WAY, "outcome": outcome}
    return {**made, "ms": 0.25, "detail": "ENETUNREACH", **more}


CONTROL = row("control", "leaked", source="planted route", path="→ sink 203.0.113.7")
GREEN = [row(), row(ms=0.5), row(ms=2.0), row("static", "holds", ms=None, path="members are registered"), CONTROL]
LEAK = row(outcome="leaked", detail="connected")


def made(rows: list[dict[str, Any]], before: dict[str, Any] | None = None, **more: Any) -> tuple[dict[str, Any], str]:
    """A report and its page."""
    given_facts = {"host": "hub", "versions": {"nft": "1.1.3"}, "configuration": {"/etc/mushishi/x": "d" * 64}}
    result = {"rows": rows, "facts": given_facts, "started": 1_795_000_000, "ended": "2026-11-18T11:10:00Z", **more}
    document = report.document(result, before)
    return document, report.markdown(document, LINK)


def part(page: str, title: str) -> str:
    """What stands under a heading."""
    return re.split(r"^## ", page.split(f"## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


# ---- verdicts
@pytest.mark.parametrize(
    ("rows", "verdict", "words"),
    [
        (GREEN, "green", "No way out was found: none of 4 attempts got through."),
        ([*GREEN, LEAK], "red", "A way out is open: 1 of 5 attempts got through."),
        (GREEN[:-1], "invalid", "no hole was planted"),
        ([*GREEN[:-1], {**CONTROL, "outcome": "refused"}], "invalid", "1 planted hole of 1 was not found"),
        ([CONTROL], "invalid", "nothing could be tried"),
        ([CONTROL, row(outcome="not tested", detail="no such unit")], "invalid", "nothing could be tried"),
        ([], "invalid", "no hole was planted"),
        ([*GREEN, row(outcome="not tested")], "green", "1 could not be tried; they are listed with their reasons."),
        # A leak is a leak, whether or not the test would have found others.
        ([LEAK], "red", "A way out is open"),
    ],
)
def test_the_verdict_in_one_sentence(rows: list[dict[str, Any]], verdict: str, words: str) -> None:
    document, page = made(rows)
    assert document["verdict"] == verdict and words in document["sentence"]
    assert page.splitlines()[2].startswith(f"**{verdict.upper()}. {document['sentence']}**")


@pytest.mark.parametrize(
    ("said", "rows", "verdict"),
    [
        ("red", GREEN, "red"),
        ("invalid", GREEN, "invalid"),
        ("green", [*GREEN, LEAK], "red"),
        ("no such word", GREEN, "invalid"),
        ("invalid", [*GREEN, LEAK], "red"),
    ],
)
def test_the_audit_can_make_it_worse_and_never_better(said: str, rows: list[dict[str, Any]], verdict: str) -> None:
    assert made(rows, verdict=said)[0]["verdict"] == verdict


def test_the_audits_own_reason_is_told() -> None:
    silent = made(GREEN, verdict="invalid", why="admission did not answer.")[1]
    assert "proves nothing: admission did not answer." in silent
    assert "proves nothing: no hole was planted" in made(GREEN[:-1], verdict="invalid", why="nothing was planted")[1]
    assert "admission" not in made(GREEN, why="admission did not answer")[0]["sentence"]


@pytest.mark.parametrize("bad", [{}, {"kind": "attack"}, row("no such kind"), row(outcome="passed"), "text", None])
def test_what_is_no_row_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="no "):
        report.document({"rows": [bad]})


# ---- the first page
def test_what_got_through_is_named_with_its_meaning_and_remedy() -> None:
    pull = row("pull", "leaked", rule="P2", source="user mushishi-hybrid-gateway", path="/slots")
    _, page = made([*GREEN, LEAK, pull])
    through = part(page, "What got through")
    wanted = ("*No way out* (rule P1), in 1 place", UNIT, WAY, "connected", "*What it means:*", "*What to do:*")
    for words in wanted:
        assert words in through, words
    assert "could fetch what it must not: `/slots`" in through and "Nothing." not in through
    assert part(made(GREEN)[1], "What got through").strip() == "Nothing."


def test_many_leaks_are_cut_on_the_first_page_and_whole_below() -> None:
    rows = [row(outcome="leaked", path=f"→ way {n}") for n in range(40)]
    _, page = made([*GREEN, *rows])
    first, _, rest = page.partition("\n---\n")
    assert "and 30 more; all are in the tables below" in first and "→ way 39" not in first
    assert all(f"→ way {n}`" in rest for n in range(40))


def test_every_rule_and_kind_has_words() -> None:
    assert set(report.RULE_WORDS) == {f"P{n}" for n in range(1, 11)}
    assert set(report.KIND_WORDS) == set(report.LEAK_WORDS) == set(model.KINDS) - {"control"}
    for kind in report.KIND_WORDS:
        _, page = made([*GREEN, row(kind, "leaked", rule="P99")])
        assert "The guarantee" in part(page, "What got through")


def test_the_controls_are_told_found_or_not() -> None:
    assert "| `planted route` | `→ sink 203.0.113.7` | found |" in made(GREEN)[1]
    blind = part(made([*GREEN, {**CONTROL, "outcome": "refused"}])[1], "How we know that this test finds holes")
    assert "1 of 2 were found" in blind and "**not found**" in blind
    assert "no hole was planted" in part(made(GREEN[:-1])[1], "How we know that this test finds holes")


def test_numbers_by_kind() -> None:
    tried = part(made([*GREEN, LEAK, row(outcome="not tested")])[1], "What was tried")
    assert f"| {report.KIND_WORDS['attack']} | 5 | 3 | **1** | 1 |" in tried
    assert f"| {report.KIND_WORDS['static']} | 1 | 1 | 0 | 0 |" in tried


def test_tables_are_by_place_with_times_and_an_appendix() -> None:
    _, page = made([*GREEN, row(outcome="not tested", path="→ vsock", detail="no such device")])
    assert f"| `{UNIT}` | 3 in 0.25 / 0.5 / 2 ms | 1 | 0 | 1 |" in part(page, "By place")
    untested = part(page, "Not tested")
    assert "`no such device` (1):" in untested and "`→ vsock`" in untested
    assert page.count(f"`{WAY}`") == 3, "in the appendix alone"


def test_versions_and_digests_stand_there() -> None:
    facts = part(made(GREEN)[1], "Versions and digests")
    assert "`1.1.3`" in facts and f"`{'d' * 16}…`" in facts and "`hub`" in facts


def test_how_to_check_it_stands_there() -> None:
    page = part(made(GREEN)[1], "How to check that nobody has changed this report")
    assert f"-n {chain.NAMESPACE} -s {LINK['name']}.sig < {LINK['name']}.json" in page
    assert "c" * 64 in page and "SHA256:abc" in page and 'mushishi-audit namespaces="' in page


# ---- what it does not cover
def test_the_limits_are_the_ones_of_the_page() -> None:
    """One list, on the page that comes with the product and in every report."""
    text = (ROOT / "docs/what-is-not-covered.md").read_text(encoding="utf-8")
    said = re.findall(r"^\| \*\*(.+?)\*\* \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    assert [tuple(row) for row in said] == list(report.NOT_COVERED)


def test_the_limits_stand_in_every_report() -> None:
    for rows in (GREEN, [*GREEN, LEAK], []):
        document, page = made(rows)
        first, _, rest = page.partition("\n---\n")
        assert all(limit.lower() in first.lower() for limit, _, _ in report.NOT_COVERED)
        assert all(why in rest and remedy in rest for _, why, remedy in report.NOT_COVERED)
        assert len(document["not_covered"]) == len(report.NOT_COVERED)


# ---- counters
def counters(traffic: int, audit: int = 0, **more: Any) -> dict[str, Any]:
    planes = {"host": {"sovereign_to_host": {"traffic": traffic, "audit": audit}}}
    return {"since": "2026-11-01T00:00:00Z", "egress": traffic, "planes": planes, "problems": [], "ok": True, **more}


def test_counters_since_the_last_report() -> None:
    first, page = made(GREEN, counters=counters(3, 10))
    assert "| `planes.host.sovereign_to_host.traffic` | 3 |" in page and "since 2026-11-01T00:00:00Z" in page
    second, page = made(GREEN, first, counters=counters(3, 25))
    assert second["counters"]["risen"]["planes.host.sovereign_to_host.audit"] == 15
    assert "traffic` |" not in page and f"since {first['ended']}" in page
    third, page = made(GREEN, second, counters=counters(3, 25))
    assert "No counter of the guard has risen" in page and not any(third["counters"]["risen"].values())
    fourth, _ = made(GREEN, third, counters=counters(1, 0))
    assert fourth["counters"]["risen"]["planes.host.sovereign_to_host.traffic"] == 1, "began anew"
    assert "The guard's counters were not read." in made(GREEN)[1]


# ---- what never stands there
def test_no_marker_and_nothing_that_a_page_would_load() -> None:
    marker = capture.Markers.make(["private"]).of("private", "prompt")
    nasty = f"![x](http://203.0.113.9/x.png) <img src=http://203.0.113.9> `a` | b\n# c {marker} {marker.upper()} "
    nasty += "z" * 999
    leak = row(outcome="leaked", source=nasty, path=nasty, detail=nasty, rule=nasty)
    document, page = made([*GREEN, leak], facts={"host": nasty, "versions": {nasty: nasty}})
    assert marker not in page.lower() and marker not in str(document["rows"]).lower()
    assert "\n# c" not in page
    outside = re.sub(r"`[^`\n]*`", "", page)
    assert "http://203" not in outside and "<img" not in outside, "only as code"
    assert max(len(cell) for line in page.splitlines() if line.startswith("|") for cell in line.split(" | ")) < 600


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=400))
def test_foreign_words_stay_in_their_cell(text: str) -> None:
    leak = row(outcome="leaked", path=text, detail=text, source=text)
    _, page = made([*GREEN, leak], facts={"host": text, text: {text: text}})
    for line in page.split("\n"):
        assert line.count("`") % 2 == 0 or line.startswith("```"), line
        if line.startswith("| `"):
            assert len(re.split(r"(?<!\\)\|", line)) - 2 in (2, 3, 5), line
    chain.canonical(chain.clean(made([*GREEN, row(path=text)])[0]))


def test_written_signed_and_chained(tmp_path: Path) -> None:
    folder, key = tmp_path / "audit", tmp_path / "key"
    for number in (5, 9):
        written = report.write({"rows": GREEN, "ended": 1_795_000_000, "counters": counters(number)}, folder, key)
    assert written["counters"]["risen"]["egress"] == 4, "since the one before"
    page = (folder / written["markdown"]["file"]).read_text(encoding="utf-8")
    assert page.startswith("# Sovereignty audit, 2026-11-18T") and "record 2 of its chain" in page
    assert chain.verify(folder).ok
    with pytest.raises(ValueError, match="no row"):
        report.write({"rows": [{}]}, folder, key)
    assert chain.verify(folder).ok and len(list(folder.glob("*.md"))) == 2, "nothing was added"
