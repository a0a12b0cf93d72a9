# SPDX-License-Identifier: MIT
"""Filter: the doors of many roles as one list."""

from __future__ import annotations

DOCUMENTATION = r"""
name: doors
short_description: Make one sorted list of the doors that roles open
version_added: 0.3.0
author: mushishi.sovereign contributors (!UNKNOWN)
description:
  - Checks each door (a port that a client of the tailnet may open) and sorts them by protocol and port. The same door
    twice is one.
  - A port with two services, or a door that no rule can be made of, is an error that names the role.
positional: _input
options:
  _input:
    description: Doors, each with C(name), C(port), C(protocol) and C(role).
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: What is open
  ansible.builtin.debug:
    msg: "{{ [{'name': 'ssh', 'port': '22', 'protocol': 'tcp', 'role': 'ssh'}] | mushishi.sovereign.doors }}"
"""

RETURN = r"""
_value:
  description: The doors, sorted, with their ports as numbers.
  type: list
  elements: dict
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from ansible.errors import AnsibleFilterError


def doors(raw: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One list. Raises AnsibleFilterError for a door that cannot be."""
    # Not at the top: Ansible loads every filter's file, in every worker, to find any filter.
    from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
    from ansible_collections.mushishi.sovereign.plugins.module_utils.firewall.doors import doors_from

    try:
        return [asdict(door) for door in doors_from(raw)]
    except SovereignError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """The filter's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names and functions of this file."""
        return {"doors": doors}
