# SPDX-License-Identifier: MIT
"""Filter: why a compose project may not be a tenant of the card."""

from __future__ import annotations

DOCUMENTATION = r"""
name: tenant_problems
short_description: Say why a compose project may not be a tenant
version_added: 0.4.0
author: mushishi.sovereign contributors (!UNKNOWN)
description:
  - Judges the text of a compose project by rule P5. No Docker socket, no namespaces of the host, no capability, no
    second network, no folder of the host's own, no published port.
options:
  _input:
    description: The text of the project.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: The project may be a tenant
  ansible.builtin.assert:
    that: problems | length == 0
    fail_msg: "{{ problems | join('; ') }}"
  vars:
    problems: "{{ lookup('ansible.builtin.template', 'compose.yml.j2') | mushishi.sovereign.tenant_problems }}"
"""

RETURN = r"""
_value:
  description: One sentence each; none when it may.
  type: list
  elements: str
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError


def tenant_problems(text: Any) -> list[str]:
    """Sentences about a project. Raises AnsibleFilterError for a text that is no project."""
    # Not at the top: Ansible loads every filter's file, in every worker, to find any filter.
    import yaml
    from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.compose_rules import problems

    try:
        project = yaml.safe_load(str(text))
    except yaml.YAMLError as error:
        raise AnsibleFilterError(f"tenant_problems: it is no YAML: {error}") from error
    if not isinstance(project, dict):
        raise AnsibleFilterError("tenant_problems: it is no compose project")
    return problems(project)


class FilterModule:
    """The filter's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names and functions of this file."""
        return {"tenant_problems": tenant_problems}
