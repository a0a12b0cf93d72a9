# SPDX-License-Identifier: MIT
"""Filter: tenants and modes of the card as one document."""

from __future__ import annotations

DOCUMENTATION = r"""
name: gpu_registry
short_description: Compile the registry of the GPU's tenants and modes
version_added: 0.6.0
author: mushishi.sovereign contributors (!UNKNOWN)
description:
  - Merges what roles and the inventory say, checks it, and returns the document that the machine is given.
  - A mode whose budgets exceed the card is refused, with the sum. So is a compose project that would be a way around
    the plane (the Docker socket, a namespace of the host, a capability, a second network), a container of two tenants,
    a model that two tenants serve.
requirements:
  - pydantic >= 2.6 (on the controller)
positional: _input, policy
options:
  _input:
    description:
      - Contributions, the later over the earlier. Each has C(tenants) and C(modes) by name, and C(projects), the text
        of a tenant's compose project by the tenant's name. A tenant or mode that is null is taken out.
    type: list
    elements: dict
    required: true
  policy:
    description: The routing policy, C(sovereign_policy). Its CPU floors are those that a mode may name.
    type: dict
    required: true
  card_mib:
    description: The card's memory in MiB. V(0) when it is not known; then the switch asks the driver.
    type: int
    default: 0
  reserve_mib:
    description: What driver and display take.
    type: int
    default: 1024
  guests:
    description: Programs that may be on the card beside every mode, by the kernel's name of the process.
    type: list
    elements: str
    default: []
  files:
    description: Path to text of compose projects that are on the machine already, none for one that is missing.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: What the machine is given
  ansible.builtin.debug:
    msg: "{{ [vllm_gives, {'tenants': gpu_tenants, 'modes': gpu_modes}]
             | mushishi.sovereign.gpu_registry(sovereign_policy, card_mib=32607) }}"
"""

RETURN = r"""
_value:
  description: The document, with C(version), C(tenants), C(modes), C(card_mib), C(reserve_mib), C(guests), C(floors).
  type: dict
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError


def gpu_registry(
    given: Iterable[Mapping[str, Any]],
    policy: object,
    card_mib: int = 0,
    reserve_mib: int = 1024,
    guests: Iterable[str] = (),
    files: Mapping[str, str | None] | None = None,
) -> dict[str, Any]:
    """The document. Raises AnsibleFilterError with everything that is refused."""
    # Not at the top: Ansible loads every filter's file, in every worker, to find any filter.
    from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
    from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.gather import compiled
    from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.validate import load_policy, to_plain

    plain: Any = to_plain({"given": list(given), "guests": list(guests), "files": dict(files or {})})
    try:
        return compiled(
            plain["given"],
            load_policy(policy),
            card_mib=int(card_mib) or None,
            reserve_mib=int(reserve_mib),
            guests=plain["guests"],
            files=plain["files"],
        )
    except (SovereignError, ValueError, TypeError, RuntimeError) as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """The filter's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names and functions of this file."""
        return {"gpu_registry": gpu_registry}
