# SPDX-License-Identifier: MIT
"""Filter: the example of a tailnet policy for a list of doors."""

from __future__ import annotations

DOCUMENTATION = r"""
name: tailnet_policy
short_description: Make an example of a tailnet policy out of a list of doors
version_added: 0.5.0
author: mushishi.sovereign contributors (!UNKNOWN)
description:
  - Returns a policy for Tailscale or Headscale in which named people may open the doors of one tagged machine, and
    nothing else, together with tests that the control server runs whenever the policy is saved.
  - It is made from the list of doors that the firewall uses, so that the two say the same.
positional: _input
options:
  _input:
    description: The doors, each with C(name), C(port) and C(protocol).
    type: list
    elements: dict
    required: true
  tag:
    description: The tag of the machine.
    type: str
    required: true
  sources:
    description: Who is let in, in the words of a policy file.
    type: list
    elements: str
    required: true
  user:
    description: The person as whom the policy's own tests ask.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show the policy
  ansible.builtin.debug:
    msg: "{{ doors | mushishi.sovereign.tailnet_policy(tag='tag:hub', sources=['group:us'], user='me@example.com') }}"
  vars:
    doors:
      - {name: ssh, port: 22, protocol: tcp, role: ssh}
"""

RETURN = r"""
_value:
  description: C(tagOwners), C(grants) and C(tests) of a policy file.
  type: dict
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError


def tailnet_policy(doors: Iterable[Mapping[str, Any]], tag: str, sources: Sequence[str], user: str) -> dict[str, Any]:
    """The policy. Raises AnsibleFilterError for a list of doors that none can be made of."""
    # Not at the top: Ansible loads every filter's file, in every worker, to find any filter.
    from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
    from ansible_collections.mushishi.sovereign.plugins.module_utils.tailnet import policy

    try:
        return policy.policy(doors, tag, sources, user)
    except SovereignError as error:
        raise AnsibleFilterError(f"tailnet_policy: {error}") from error


class FilterModule:
    """The filter's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names and functions of this file."""
        return {"tailnet_policy": tailnet_policy}
