# SPDX-License-Identifier: MIT
"""The map for contributors is true: a word in code after a link stands in that file, a test's name among its tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGES = ("CONTRIBUTING.md", "docs/planes.md")
#: A link, then one or more words in code with nothing but commas between.
CLAIM = re.compile(r"\]\((?P<target>[^)#]+)\)(?P<words>(?:,? `[A-Za-z_]+`)+)")
WORD = re.compile(r"`([A-Za-z_]+)`")


def claims(page: Path) -> list[tuple[Path, str]]:
    """Linked file and word, for each word that a page says stands in it."""
    return [
        ((page.parent / found["target"]).resolve(), word)
        for found in CLAIM.finditer(page.read_text(encoding="utf-8"))
        for word in WORD.findall(found["words"])
    ]


def is_there(target: Path, word: str) -> bool:
    """Say whether a file defines or holds the word as a whole word."""
    return target.is_file() and re.search(rf"\b{re.escape(word)}\b", target.read_text(encoding="utf-8")) is not None


@pytest.mark.parametrize("page", PAGES)
def test_pages_make_claims(page: str) -> None:
    assert len(claims(ROOT / page)) >= 10


@pytest.mark.parametrize(
    ("page", "target", "word"),
    [(page, target.relative_to(ROOT), word) for page in PAGES for target, word in claims(ROOT / page)],
)
def test_what_the_map_names_is_there(page: str, target: Path, word: str) -> None:
    assert is_there(ROOT / target, word), f"{page} says that `{word}` stands in {target}"


def test_a_wrong_word_is_found(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("def load_policy(): ...\n")
    page = tmp_path / "page.md"
    page.write_text("[code](code.py) `load_policy`, `load_polic` and [gone](gone.py) `anything`\n")
    assert [is_there(*claim) for claim in claims(page)] == [True, False, False]


def test_all_ten_rules_have_a_row() -> None:
    text = (ROOT / "docs/planes.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \*\*P(\d+)\*\*", text, re.MULTILINE) == [str(number) for number in range(1, 11)]
