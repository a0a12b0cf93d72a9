# SPDX-License-Identifier: MIT
"""Published holes: which version has which, and whose package is refused for it."""

from __future__ import annotations

import re

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils.docker import holes

REMEDY = "Do something."
BY_NAME = {hole.name: hole for hole in holes.HOLES}
DNS = BY_NAME["CVE-2024-29018"]
TRIO = next(hole for name, hole in BY_NAME.items() if "CVE-2025-31133" in name)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("Docker version 26.1.5+dfsg1, build a72d7cd", (26, 1, 5)),
        ("Docker version 29.9.0, build a5b58c9", (29, 9, 0)),
        ("runc version 1.1.15+ds1\ncommit: 1.1.15+ds1-2+b4\nspec: 1.2.0", (1, 1, 15)),
        ("containerd containerd.io v2.4.1 0123456789abcdef", (2, 4, 1)),
        ("containerd github.com/containerd/containerd 1.7.24~ds1 1.7.24~ds1-6+b4", (1, 7, 24)),
        ("29.9", (29, 9, 0)),
        ("", None),
        ("not found", None),
    ],
)
def test_versions_are_read_from_what_programs_say(text: str, version: holes.Version | None) -> None:
    assert holes.version_of(text) == version


@pytest.mark.parametrize(
    ("hole", "version", "has"),
    [
        (DNS, (23, 0, 10), True),
        (DNS, (23, 0, 11), False),
        (DNS, (24, 0, 9), True),
        (DNS, (25, 0, 4), True),
        (DNS, (25, 0, 5), False),
        (DNS, (26, 0, 0), False),
        (TRIO, (1, 2, 7), True),
        (TRIO, (1, 2, 8), False),
        (TRIO, (1, 3, 2), True),
        (TRIO, (1, 3, 3), False),
        (TRIO, (1, 4, 0), False),
    ],
)
def test_a_range_begins_and_ends_where_it_is_written(hole: holes.Hole, version: holes.Version, has: bool) -> None:
    assert holes.has(hole, version) is has


@pytest.mark.parametrize(
    ("versions", "origin", "refused", "named"),
    [
        ({"docker": (29, 9, 0), "runc": (1, 5, 1), "containerd": (2, 4, 1)}, "docker", [], []),
        # Debian 13 as it is: nothing is refused, what its tracker has to say is named.
        (
            {"docker": (26, 1, 5), "runc": (1, 1, 15)},
            "distribution",
            [],
            ["CVE-2025-54410", "CVE-2025-31133", "docker cp"],
        ),
        ({"docker": (26, 0, 1)}, "distribution", ["CVE-2024-32473"], ["CVE-2024-41110"]),
        ({"docker": (25, 0, 4)}, "distribution", ["written for 26.0.0", "CVE-2024-29018"], []),
        ({"docker": (28, 3, 2)}, "docker", ["CVE-2025-54388", "docker cp"], ["CVE-2026-34040"]),
        ({"docker": (29, 9, 0), "runc": (1, 3, 2)}, "docker", ["CVE-2025-31133"], []),
        ({"docker": (29, 9, 0), "runc": (1, 3, 2)}, "distribution", [], ["CVE-2025-31133"]),
        ({}, "docker", [], []),
    ],
)
def test_who_is_refused_and_who_is_told(
    versions: dict[str, holes.Version], origin: holes.Origin, refused: list[str], named: list[str]
) -> None:
    found = holes.judge(versions, origin, REMEDY)
    assert bool(found["refused"]) is bool(refused), found
    for word in refused:
        assert any(word in line for line in found["refused"]), (word, found)
    for word in named:
        assert any(word in line for line in found["named"]), (word, found)
    assert all(line.endswith(REMEDY) for line in found["refused"])


def test_the_table_can_be_looked_up() -> None:
    for hole in holes.HOLES:
        assert hole.source.startswith("https://github.com/")
        assert re.search(r"CVE-20\d\d-\d+", hole.name)
        assert all(holes.version_of(mended) for _first, mended in hole.affected)
        assert not (hole.everywhere and not hole.refused), "what is refused everywhere is refused"


def test_the_pin_has_none() -> None:
    """What a fresh machine gets, with the runc that containerd.io 2.3 and newer brings (1.5)."""
    found = holes.judge({"docker": (29, 9, 0), "containerd": (2, 4, 1), "runc": (1, 5, 0)}, "docker", REMEDY)
    assert found == {"refused": [], "named": []}
