# SPDX-License-Identifier: MIT
"""Filter: a machine's addresses, by who can knock at them."""

from __future__ import annotations

DOCUMENTATION = r"""
name: door_addresses
short_description: Sort a machine's addresses by who can knock at them
version_added: 0.3.0
author: mushishi.sovereign contributors (!UNKNOWN)
description:
  - Reads what C(ip) says of interfaces and default routes. Loopback, and bridges and wires of containers, are left out.
    Link-local addresses of IPv6 are apart, since they mean nothing but on their own network.
positional: _input, routes, tailnet
options:
  _input:
    description: What C(ip -json addr show) says.
    type: str
    required: true
  routes:
    description: What C(ip -json route show default) says, of IPv4 and IPv6 as one list.
    type: str
    required: true
  tailnet:
    description: The tailnet's interface.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: What a stranger could try
  ansible.builtin.debug:
    msg: "{{ addr.stdout | mushishi.sovereign.door_addresses(route.stdout, 'tailscale0') }}"
"""

RETURN = r"""
_value:
  description:
    - C(lan) and C(tailnet), lists of addresses; C(link), the link-local ones of the LAN; and C(card), the interface by
      which a stranger of the LAN would come.
  type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError


def door_addresses(shown: Any, routes: Any, tailnet: Any) -> dict[str, Any]:
    """The addresses. Raises AnsibleFilterError for an answer that is no JSON."""
    # Not at the top: Ansible loads every filter's file, in every worker, to find any filter.
    from ansible_collections.mushishi.sovereign.plugins.module_utils.doors.addresses import addresses

    try:
        return addresses(str(shown), str(routes), str(tailnet))
    except ValueError as error:
        raise AnsibleFilterError(f"door_addresses: {error}. Is that what `ip -json` says?") from error


class FilterModule:
    """The filter's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names and functions of this file."""
        return {"door_addresses": door_addresses}
