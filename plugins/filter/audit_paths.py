# SPDX-License-Identifier: MIT
"""Filter: every way of a request through a gateway's configuration, as rows of the audit."""

from __future__ import annotations

DOCUMENTATION = r"""
name: audit_paths
short_description: List every way of a request through a gateway's configuration
version_added: 0.2.0
author: mushishi.sovereign contributors (!UNKNOWN)
description:
  - Reads the configuration file of a gateway as it stands on the machine, walks every way that a request of each
    profile could take through it, and holds the whole text against what the policy compiles to.
  - The rows are those of M(mushishi.sovereign.sovereignty_audit). A way that is no link of its profile's chain is
    V(leaked).
positional: _input, text, plane
options:
  _input:
    description: The policy, as in the inventory variable C(sovereign_policy).
    type: dict
    required: true
  text:
    description: The text of the gateway's configuration.
    type: str
    required: true
  plane:
    description: Which gateway it is.
    type: str
    choices: [sovereign, hybrid]
    required: true
  max_answer_tokens:
    description: The longest answer that the gateway was compiled with.
    type: int
    default: 16384
"""

EXAMPLES = r"""
- name: Show every way through the sovereign gateway
  ansible.builtin.debug:
    msg: "{{ sovereign_policy | mushishi.sovereign.audit_paths(text, 'sovereign') }}"
  vars:
    text: "{{ lookup('ansible.builtin.file', 'sovereign.yaml') }}"
"""

RETURN = r"""
_value:
  description: One entry for the proof and one for each way, with C(kind), C(rule), C(source), C(path), C(outcome),
    C(ms) and C(detail).
  type: list
  elements: dict
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError


def audit_paths(policy: Any, text: str, plane: str, max_answer_tokens: int = 16384) -> list[dict[str, Any]]:
    """Rows of the audit. Raises AnsibleFilterError for a policy or a plane that is not valid."""
    # Not at the top: Ansible loads every filter's file, in every worker, to find any filter.
    from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.model import Plane
    from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.validate import load_policy
    from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.ways import gateway_rows

    try:
        return gateway_rows(str(text), load_policy(policy), Plane(str(plane)), int(max_answer_tokens))
    except (ValueError, RuntimeError) as error:
        raise AnsibleFilterError(f"audit_paths: {error}") from error


class FilterModule:
    """The filter's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names and functions of this file."""
        return {"audit_paths": audit_paths}
