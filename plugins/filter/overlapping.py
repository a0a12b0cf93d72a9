# SPDX-License-Identifier: MIT
"""Filter: which of these networks overlap that one."""

from __future__ import annotations

DOCUMENTATION = r"""
name: overlapping
short_description: Keep the networks that overlap one network
version_added: 0.1.0
author: mushishi.sovereign contributors (!UNKNOWN)
description:
  - Keeps those entries of a list of IPv4 or IPv6 networks that share at least one address with a given network.
  - The word C(default), which a routing table uses for every address, overlaps nothing here.
positional: _input
options:
  _input:
    description: Networks or addresses as text, as C(ip route) prints them.
    type: list
    elements: str
    required: true
  network:
    description: The network to compare with.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Which routes are in the way
  ansible.builtin.debug:
    msg: "{{ ['10.0.0.0/8', '192.0.2.0/24', 'default'] | mushishi.sovereign.overlapping('10.88.0.0/24') }}"
"""

RETURN = r"""
_value:
  description: The entries that overlap, in their order.
  type: list
  elements: str
"""

import ipaddress
from collections.abc import Callable, Iterable
from typing import Any

from ansible.errors import AnsibleFilterError


def overlapping(networks: Iterable[str], network: str) -> list[str]:
    """Entries of ``networks`` that overlap ``network``. Raises AnsibleFilterError for text that is no network."""
    try:
        wanted = ipaddress.ip_network(network)
        found = []
        for text in networks:
            if text == "default":
                continue
            other = ipaddress.ip_network(text, strict=False)
            if other.version == wanted.version and other.overlaps(wanted):
                found.append(text)
    except ValueError as error:
        raise AnsibleFilterError(f"overlapping: {error}. Write networks like 10.88.0.0/24.") from error
    return found


class FilterModule:
    """The filter's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names and functions of this file."""
        return {"overlapping": overlapping}
