# SPDX-License-Identifier: MIT
"""The page docs/lynis.md: what Lynis finds before and after, and what was decided about each finding that remains.

``PYTHONPATH=tools python3 -m labkit.lynis BEFORE AFTER`` reads two reports of ``lynis audit system``
(``lynis-report.dat``) and docs/lynis.yml, and writes docs/lynis.md and what it was made of. A finding that remains
without a decision, or a decision about nothing, is an error. ``--check`` makes the page again from what is kept, and
ends with 1 when it differs.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .paths import ROOT

DECISIONS, PAGE, KEPT = ROOT / "docs/lynis.yml", ROOT / "docs/lynis.md", ROOT / "docs/lynis.json"
#: What may be decided. ``container``: only because the lab machine is a container; a real one is judged anew.
KINDS = ("accepted", "later", "container", "not ours")


#: A setting that should have another value: "MaxAuthTries (set 6 to 3)".
SETTING = re.compile(r"(\S+) \(set ")


class LynisError(Exception):
    """Something cannot be read or is not decided; the message names it."""


@dataclass
class Report:
    """What one run of Lynis says."""

    version: str = ""
    system: str = ""
    index: int = 0
    tests: int = 0
    findings: dict[str, str] = field(default_factory=dict)


def parse(text: str) -> Report:
    """Read a report: lines of ``name=value``; findings are lines of ``suggestion[]=ID|text|details|…``.

    Raises:
        LynisError: the text is no report of a run that came to its end.
    """
    found = Report()
    single: dict[str, str] = {}
    listed: list[tuple[str, str, str, str]] = []
    for line in text.splitlines():
        name, sign, value = line.partition("=")
        if not sign or name.startswith("#"):
            continue
        if name in ("suggestion[]", "warning[]"):
            number, _bar, rest = value.partition("|")
            words, detail = [*rest.split("|"), "", ""][:2]
            listed.append((name.removesuffix("[]"), number, words, detail if detail.strip("-") else ""))
        else:
            single[name] = value
    times = Counter(number for _what, number, _words, _detail in listed)
    for what, number, words, detail in listed:
        # The same test may find several things: each is a finding, under a name that no other finding changes.
        setting = SETTING.match(detail)
        label = setting[1] if setting else (detail or words) if times[number] > 1 else ""
        said = f"{what}: {words}{f' [{detail}]' if detail else ''}"
        found.findings[f"{number} ({label})" if label else number] = said
    if not single.get("hardening_index", "").isdigit() or "report_datetime_end" not in single:
        raise LynisError("this is no report of a run of Lynis that came to its end (no hardening_index, no end)")
    found.index = int(single["hardening_index"])
    found.version = single.get("lynis_version", "unknown")
    found.system = " ".join(single.get(name, "") for name in ("os_name", "os_version")).strip()
    done = single.get("lynis_tests_done", single.get("tests_executed", ""))
    found.tests = int(done) if done.isdigit() else len([part for part in done.split("|") if part])
    return found


def decisions(text: str) -> dict[str, dict[str, str]]:
    """Finding to ``kind`` and ``why``, from YAML.

    Raises:
        LynisError: a decision has no reason or a kind that there is not.
    """
    listed: Any = yaml.safe_load(text) or {}
    if not isinstance(listed, dict):
        raise LynisError("the decisions are a table: finding, then kind and why")
    for name, entry in listed.items():
        if not isinstance(entry, dict) or set(entry) != {"kind", "why"} or entry["kind"] not in KINDS:
            raise LynisError(f"{name}: a decision has a kind ({', '.join(KINDS)}) and says why")
        if not str(entry["why"]).strip().endswith("."):
            raise LynisError(f"{name}: the reason is a sentence")
    return listed


def undecided(after: Report, decided: Mapping[str, Any]) -> list[str]:
    """What is wrong between findings and decisions: sentences; empty is good."""
    open_ = [name for name in after.findings if name not in decided]
    stale = [name for name in decided if name not in after.findings]
    return [
        *(f"{name} remains and nobody has decided about it: {after.findings[name]}" for name in open_),
        *(f"{name} is decided, and there is no such finding any more" for name in stale),
    ]


def cell(text: str) -> str:
    """Text that cannot end a cell of a table."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


def page(before: Report, after: Report, decided: Mapping[str, Mapping[str, str]]) -> str:
    """The page."""
    names = sorted({*before.findings, *after.findings})
    gone = sum(name not in after.findings for name in names)
    new = sum(name not in before.findings for name in names)
    counts = f"{gone} findings are gone, {new} are new, {len(after.findings)} remain, each with a decision."
    lines = [
        "# What Lynis finds",
        "",
        "Made by `tools/labkit/lynis.py` from two runs of `lynis audit system` on the lab's machine: as a distribution",
        "makes it, and as `playbooks/site.yml` leaves it. Decisions stand in [lynis.yml](lynis.yml).",
        "",
        f"Lynis {after.version}, {after.system}. Hardening index {before.index} before, {after.index} after;",
        f"{before.tests} and {after.tests} tests. {counts}",
        "",
        "The machine is a container: it leaves out what it cannot see there (boot loader, kernel, disks, modules), so",
        "a real machine has findings that are not here. The index is Lynis' own measure and no goal of ours.",
        "",
        "| Finding | What | Before | After | Decision |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        decision = decided.get(name)
        said = f"**{decision['kind']}.** {decision['why']}" if decision else "gone"
        what = after.findings.get(name) or before.findings[name]
        marks = ["yes" if name in report.findings else "no" for report in (before, after)]
        lines.append("| " + " | ".join(cell(text) for text in (name, what, *marks, said)) + " |")
    return "\n".join(lines) + "\n"


def kept(before: Report, after: Report) -> str:
    """Both reports, as they are kept beside the page."""
    return json.dumps({"before": vars(before), "after": vars(after)}, indent=1, sort_keys=True) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 done, 1 the page differs or something is not decided."""
    parser = argparse.ArgumentParser(prog="labkit.lynis", description="Write docs/lynis.md, or check it.")
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 when the page would differ")
    parser.add_argument(
        "reports", nargs="*", type=Path, metavar="REPORT", help="lynis-report.dat of before and of after"
    )
    given = parser.parse_args(arguments)
    if len(given.reports) != (0 if given.check else 2):
        parser.error("two reports are needed, before and after; with --check none")
    try:
        if given.check:
            raw = json.loads(KEPT.read_text(encoding="utf-8"))
            before, after = Report(**raw["before"]), Report(**raw["after"])
        else:
            before, after = (parse(path.read_text(encoding="utf-8", errors="replace")) for path in given.reports)
        decided = decisions(DECISIONS.read_text(encoding="utf-8"))
        if wrong := undecided(after, decided):
            raise LynisError("\n".join(wrong))
    except (LynisError, OSError, ValueError) as error:
        print(f"lynis: {error}", file=sys.stderr)
        return 1
    text = page(before, after, decided)
    if given.check:
        same = PAGE.exists() and PAGE.read_text(encoding="utf-8") == text
        print("" if same else "docs/lynis.md is not what it would be made of: write it again", end="" if same else "\n")
        return 0 if same else 1
    PAGE.write_text(text, encoding="utf-8")
    KEPT.write_text(kept(before, after), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
