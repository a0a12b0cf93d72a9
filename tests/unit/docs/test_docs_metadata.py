# SPDX-License-Identifier: MIT
"""The collection's metadata: dependency ranges, what stays out of the archive, the changelog fragments."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
#: What the `ansible` bundles 12.3.0 and 14.5.0 ship, the two that the supported controllers install.
BUNDLED = {
    "community.docker": ("4.8.5", "5.4.0"),
    "community.general": ("11.4.2", "13.5.0"),
    "ansible.posix": ("2.1.0", "2.2.2"),
}
#: What an installed collection is made of. Everything else in the repository must be ignored by the build.
SHIPPED = {
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LESSONS.md",
    "LICENSE",
    "README.md",
    "changelogs",
    "docs",
    "inventory",
    "meta",
    "playbooks",
    "plugins",
    "requirements.yml",
    "roles",
}
FRAGMENTS = sorted((ROOT / "changelogs" / "fragments").glob("*"))


def galaxy() -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((ROOT / "galaxy.yml").read_text(encoding="utf-8"))
    return data


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def within(text: str, range_: str) -> bool:
    """Say whether a version lies in a range of the form ">=a,<b"."""
    low, high = range_.split(",")
    assert low[:2] == ">="
    assert high[0] == "<"
    assert high[1] != "="
    return version(low[2:]) <= version(text) < version(high[1:])


@pytest.mark.parametrize("name", BUNDLED)
def test_ranges_include_what_the_bundles_ship(name: str) -> None:
    for bundled in BUNDLED[name]:
        assert within(bundled, galaxy()["dependencies"][name])


def test_no_other_dependencies() -> None:
    assert set(galaxy()["dependencies"]) == set(BUNDLED)


def test_requirements_say_what_galaxy_says() -> None:
    entries = yaml.safe_load((ROOT / "requirements.yml").read_text(encoding="utf-8"))["collections"]
    assert {entry["name"]: entry["version"] for entry in entries} == galaxy()["dependencies"]


def test_the_archive_holds_the_product_alone() -> None:
    ignored = galaxy()["build_ignore"]
    shipped = {
        path.name
        for path in ROOT.iterdir()
        if path.name not in (".git", "galaxy.yml")
        and not any(fnmatch.fnmatch(path.name, pattern) for pattern in ignored)
        and (path.is_file() or any(path.rglob("*")))
    }
    assert shipped <= SHIPPED, "put it into build_ignore of galaxy.yml, or into SHIPPED here"


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: path.name)
def test_fragment(path: Path) -> None:
    config = yaml.safe_load((ROOT / "changelogs" / "config.yaml").read_text(encoding="utf-8"))
    sections = {name for name, _ in config["sections"]} | {
        config["prelude_section_name"],
        config["trivial_section_name"],
    }
    fragment = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert path.suffix == ".yml"
    assert set(fragment) <= sections
    for name, lines in fragment.items():
        if name == config["prelude_section_name"]:
            assert isinstance(lines, str)
        else:
            assert all(isinstance(line, str) and line.rstrip().endswith((".", ")")) for line in lines)
