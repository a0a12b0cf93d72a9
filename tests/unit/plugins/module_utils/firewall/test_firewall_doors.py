# SPDX-License-Identifier: MIT
"""Doors as data: what one may be, one list of many, and the document that others read."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.mushishi.sovereign.plugins.filter.doors import FilterModule, doors
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.firewall.doors import (
    Door,
    check_interface,
    document,
    doors_from,
    is_inside,
)
from hypothesis import given
from hypothesis import strategies as some

GOOD = {"name": "ssh", "port": 22, "protocol": "tcp", "role": "ssh"}
DOORS = some.lists(
    some.builds(
        Door,
        protocol=some.sampled_from(["tcp", "udp"]),
        port=some.integers(1, 65535),
        name=some.from_regex(r"[a-z0-9][a-z0-9 _-]{0,39}", fullmatch=True),
        role=some.just("ssh"),
    ),
    unique_by=lambda door: (door.protocol, door.port),
    max_size=20,
)


def raw(door: Door, **other: Any) -> dict[str, Any]:
    return {"name": door.name, "port": door.port, "protocol": door.protocol, "role": door.role, **other}


@given(DOORS, some.randoms(use_true_random=False))
def test_the_list_is_the_same_in_any_order_and_twice(made: list[Door], chance: random.Random) -> None:
    given_ = [raw(door) for door in made] + [raw(door, port=str(door.port)) for door in made]
    chance.shuffle(given_)
    assert doors_from(given_) == sorted(made)
    read = json.loads(document("tailscale0", doors_from(given_), ("lo", "br-*")))
    assert doors_from(read["doors"]) == sorted(made) and set(read) == {"interface", "inside", "doors"}
    assert read["inside"] == ["lo", "br-*"]
    assert [tuple(door) for door in map(sorted, read["doors"])] == [("name", "port", "protocol", "role")] * len(made)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"port": 0}, "from 1 to 65535"),
        ({"port": 65536}, "from 1 to 65535"),
        ({"port": "22;"}, "from 1 to 65535"),
        ({"port": "٢٢"}, "from 1 to 65535"),
        ({"port": True}, "from 1 to 65535"),
        ({"protocol": "sctp"}, "tcp or udp"),
        ({"name": ""}, "does not fit"),
        ({"name": "a'b"}, "does not fit"),
        ({"name": 'a"b'}, "does not fit"),
        ({"name": "a\nb"}, "does not fit"),
        ({"name": "a" * 41}, "does not fit"),
        ({"role": "no role"}, "does not fit"),
    ],
)
def test_what_no_rule_can_be_made_of(change: dict[str, Any], words: str) -> None:
    with pytest.raises(SovereignError, match=words):
        doors_from([{**GOOD, **change}])
    assert doors_from([GOOD]) == [Door("tcp", 22, "ssh", "ssh")], "control"


@pytest.mark.parametrize("name", list(GOOD))
def test_what_is_missing_is_named(name: str) -> None:
    with pytest.raises(SovereignError, match=f"{name} is missing"):
        doors_from([{key: value for key, value in GOOD.items() if key != name}])


def test_two_services_at_one_port_are_refused() -> None:
    other = {**GOOD, "name": "web", "role": "ingress"}
    with pytest.raises(SovereignError, match="ssh calls it 'ssh', ingress calls it 'web'"):
        doors_from([GOOD, other])
    assert len(doors_from([GOOD, {**other, "protocol": "udp"}])) == 2, "another protocol is another port"


def test_the_filter() -> None:
    assert FilterModule().filters() == {"doors": doors}
    assert doors([{**GOOD, "port": "22"}]) == [GOOD]
    with pytest.raises(AnsibleFilterError, match="tcp or udp"):
        doors([{**GOOD, "protocol": "icmp"}])


@pytest.mark.parametrize("name", ["", "a b", "tailscale0;", "x" * 16, '"'])
def test_an_interface_that_is_none(name: str) -> None:
    with pytest.raises(SovereignError):
        check_interface(name)
    assert check_interface("tailscale0") == "tailscale0"


@pytest.mark.parametrize(
    ("interface", "inside"), [("lo", True), ("br-0a1b", True), ("br0", False), ("lo0", False), ("tailscale0", False)]
)
def test_inside(interface: str, inside: bool) -> None:
    assert is_inside(interface, ["lo", "docker0", "br-*"]) is inside
