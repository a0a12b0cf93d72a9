# SPDX-License-Identifier: MIT
"""Every relative link in a Markdown file leads to a file, and every anchor to a heading."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)")
LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)>\s]+)>?(?:\s+\"[^\"]*\")?\s*\)")
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*\s*$", re.MULTILINE)


def links(text: str) -> list[str]:
    """Return the targets of all links in prose, code left out."""
    return LINK.findall(INLINE_CODE.sub("", FENCE.sub("", text)))


def anchors(text: str) -> set[str]:
    """Return the anchors of all headings, made as GitHub makes them."""
    found: dict[str, int] = {}
    names = set()
    for heading in HEADING.findall(FENCE.sub("", text)):
        plain = LINK.sub(lambda match: match[0][1 : match[0].index("]")], heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        count = found.get(slug, 0)
        found[slug] = count + 1
        names.add(f"{slug}-{count}" if count else slug)
    return names


def broken(path: Path, text: str) -> list[str]:
    """Return the relative links of a page that lead nowhere."""
    found = []
    for link in links(text):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / unquote(target)).resolve() if target else path
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file.read_text("utf-8"))):
            found.append(link)
    return found


def test_links_resolve(markdown_files: list[Path], checkout: Path) -> None:
    found = {str(path.relative_to(checkout)): broken(path, path.read_text("utf-8")) for path in markdown_files}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[a](other.md)", []),
        ("[a](other.md#a-heading-with-code)", []),
        ("[a](#here)\n\n## Here", []),
        ("[a](https://example.test/x)", []),
        ("`[a](missing.md)`", []),
        ("```\n[a](missing.md)\n```\n", []),
        ("[a](missing.md)", ["missing.md"]),
        ("[a](other.md#nowhere)", ["other.md#nowhere"]),
        ("[a](#nowhere)", ["#nowhere"]),
    ],
)
def test_the_search_itself(text: str, wanted: list[str], tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A heading, with `code`\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    assert broken(page, text) == wanted
