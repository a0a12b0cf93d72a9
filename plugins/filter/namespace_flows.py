# SPDX-License-Identifier: MIT
"""Filter: who inside the sovereign namespace may open what."""

from __future__ import annotations

DOCUMENTATION = r"""
name: namespace_flows
short_description: Compile the policy into the flows allowed inside the sovereign namespace
version_added: 0.1.0
author: mushishi.sovereign contributors (!UNKNOWN)
description:
  - Lists which service inside the sovereign namespace may open which address and port.
  - The guard turns each entry into one accept rule and rejects everything else.
positional: _input
options:
  _input:
    description: The policy, as in the inventory variable C(sovereign_policy).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show who may talk to whom inside the plane
  ansible.builtin.debug:
    msg: "{{ sovereign_policy | mushishi.sovereign.namespace_flows }}"
"""

RETURN = r"""
_value:
  description: One entry per allowed flow, with C(comment), C(user), C(address) and C(port).
  type: list
  elements: dict
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError


def namespace_flows(policy: Any) -> list[Any]:
    """List of ``{comment, user, address, port}``. Raises AnsibleFilterError for a policy that is not valid."""
    # Not at the top: Ansible loads every filter's file, in every worker, to find any filter.
    from ansible_collections.mushishi.sovereign.plugins.module_utils.policy import flows
    from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.errors import PolicyError
    from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.validate import load_policy

    try:
        return list(flows.namespace_flows(load_policy(policy)))
    except PolicyError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """The filter's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names and functions of this file."""
        return {"namespace_flows": namespace_flows}
