# SPDX-License-Identifier: MIT
"""The decisions are numbered without a gap, have their four sections, and all stand in the index."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "docs" / "decisions"
DECISIONS = sorted(path.name for path in FOLDER.glob("*.md") if path.name not in ("README.md", "template.md"))
SECTIONS = ["Context", "Decision", "Consequences", "What would change our mind"]
ROW = re.compile(r"^\| \[(\d{3})\]\(([^)]+)\) \| (.+?) \| (.+?) \|$", re.MULTILINE)


def index() -> dict[str, tuple[str, str, str]]:
    """Return {file: (number, title, status)} as the index says."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    return {file: (number, title, status) for number, file, title, status in ROW.findall(text)}


def test_numbers_have_no_gap_and_no_double() -> None:
    numbers = [int(name[:3]) for name in DECISIONS]
    assert numbers == list(range(1, len(numbers) + 1))


def test_index_holds_every_decision_and_nothing_else() -> None:
    assert sorted(index()) == DECISIONS


@pytest.mark.parametrize("name", DECISIONS)
def test_title_number_and_status_agree_with_the_index(name: str) -> None:
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    number, title, status = index()[name]
    assert re.fullmatch(r"\d{3}-[a-z0-9-]+\.md", name)
    assert name.startswith(f"{number}-")
    assert lines[0] == f"# {number}. {title}"
    assert lines[2] == f"Status: {status}"


@pytest.mark.parametrize("name", [*DECISIONS, "template.md"])
def test_sections(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    for part in re.split(r"^## .+$", text, flags=re.MULTILINE)[1:]:
        assert part.strip(), "a section without a word"
