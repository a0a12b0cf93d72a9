# SPDX-License-Identifier: MIT
"""The example of a tailnet policy opens the doors, each of them, and nothing else; and its own tests say so."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.mushishi.sovereign.plugins.filter.tailnet_policy import FilterModule
from ansible_collections.mushishi.sovereign.plugins.module_utils.tailnet import policy
from hypothesis import given
from hypothesis import strategies as st

DOORS = [
    {"name": "ssh", "port": 22, "protocol": "tcp", "role": "ssh"},
    {"name": "admission", "port": "4001", "protocol": "tcp", "role": "ingress"},
    {"name": "hybrid", "port": 4000, "protocol": "tcp", "role": "ingress"},
]
WORDS = {"tag": "tag:sovereign", "sources": ["autogroup:member"], "user": "you@example.com"}


def opened(made: dict[str, Any]) -> set[tuple[str, int]]:
    """What a policy's grants open, as (protocol, port)."""
    found = set()
    for grant in made["grants"]:
        for word in grant["ip"]:
            protocol, _colon, port = word.partition(":")
            found.add((protocol, int(port)))
    return found


def faults(made: dict[str, Any]) -> list[str]:
    """Where a policy's own tests say something else than its grants, as the control server would find."""
    found = []
    for test in made["tests"]:
        for verdict, expected in (("accept", True), ("deny", False)):
            for word in test.get(verdict, []):
                tag, _colon, port = word.rpartition(":")
                known = tag in made["tagOwners"] and any(tag in grant["dst"] for grant in made["grants"])
                if not known or ((test["proto"], int(port)) in opened(made)) is not expected:
                    found.append(f"{verdict} {word}")
    return found


def test_opens_the_doors_and_nothing_else() -> None:
    made = policy.policy(DOORS, **WORDS)
    assert opened(made) == {("tcp", 22), ("tcp", 4000), ("tcp", 4001)}
    assert set(made) == {"tagOwners", "grants", "tests"} and faults(made) == []
    (test,) = made["tests"]
    assert test["accept"] == ["tag:sovereign:22", "tag:sovereign:4000", "tag:sovereign:4001"]
    assert "tag:sovereign:8188" in test["deny"] and not set(test["accept"]) & set(test["deny"])


def test_a_grant_too_many_is_found() -> None:
    """Control: the tests in the file would fail on the control server."""
    made = policy.policy(DOORS, **WORDS)
    made["grants"][0]["ip"].append("tcp:8188")
    assert faults(made) == ["deny tag:sovereign:8188"]
    made["grants"][0]["ip"] = ["tcp:22"]
    assert faults(made) == ["accept tag:sovereign:4000", "accept tag:sovereign:4001"]


@given(st.lists(st.tuples(st.sampled_from(policy.PROTOCOLS), st.integers(1, 65535)), min_size=1, max_size=8))
def test_any_list_of_doors(found: list[tuple[str, int]]) -> None:
    made = policy.policy([{"name": "x", "protocol": a, "port": b, "role": "r"} for a, b in found], **WORDS)
    assert opened(made) == set(found) and faults(made) == []


@pytest.mark.parametrize(
    ("doors", "words"),
    [
        ([], "there is no door"),
        ([{"name": "x", "protocol": "icmp", "port": 1}], "door 'x': icmp 1"),
        ([{"name": "x", "protocol": "tcp", "port": 0}], "tcp 0 is no protocol and port"),
        ([{"name": "x", "protocol": "tcp", "port": "22-30"}], "tcp 22-30"),
        ([{"name": "x"}], "None None"),
    ],
)
def test_refuses(doors: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(AnsibleFilterError, match=words):
        FilterModule().filters()["tailnet_policy"](doors, **WORDS)
