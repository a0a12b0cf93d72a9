# SPDX-License-Identifier: MIT
"""The filter that finds what is in the way of a network."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.mushishi.sovereign.plugins.filter.overlapping import FilterModule, overlapping

LAN = "10.88.0.0/24"


@pytest.mark.parametrize(
    ("routes", "found"),
    [
        ([], []),
        (["default", "192.0.2.0/24", "10.89.0.0/16"], []),
        (["10.88.0.0/16"], ["10.88.0.0/16"]),
        (["10.0.0.0/8", "10.88.0.7", "10.88.1.0/24"], ["10.0.0.0/8", "10.88.0.7"]),
        (["10.88.0.0/24"], ["10.88.0.0/24"]),
        (["fd00::/8"], []),
    ],
)
def test_overlapping(routes: list[str], found: list[str]) -> None:
    assert overlapping(routes, LAN) == found


@pytest.mark.parametrize(("routes", "network"), [(["nonsense"], LAN), ([], "10.88.0.1/24")])
def test_what_is_no_network_is_named(routes: list[str], network: str) -> None:
    with pytest.raises(AnsibleFilterError, match=r"nonsense|10\.88\.0\.1/24"):
        overlapping(routes, network)


def test_it_is_registered() -> None:
    assert FilterModule().filters() == {"overlapping": overlapping}
