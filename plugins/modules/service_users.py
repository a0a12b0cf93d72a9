#!/usr/bin/python
# SPDX-License-Identifier: MIT
# MIT is compatible with the GNU General Public License v3.0 of ansible-core, which loads this.
"""Ansible module: the users that services run as, in one step."""

from __future__ import annotations

DOCUMENTATION = r"""
module: service_users
short_description: Keep the users that services run as
description:
  - Every name becomes a system user with a group of its own of the same name, no home, no shell and no password.
  - A user that is there and differs is put right; what is right is not touched.
version_added: 0.2.0
author: mushishi.sovereign contributors (!UNKNOWN)
extends_documentation_fragment:
  - mushishi.sovereign.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  names:
    description:
      - The users.
    type: list
    elements: str
    required: true
  comment:
    description:
      - What C(/etc/passwd) says about them.
    type: str
    default: service
"""

EXAMPLES = r"""
- name: Create a user per service
  mushishi.sovereign.service_users:
    names: [mushishi-sovereign-admission, mushishi-hybrid-gateway]
    comment: mushishi.sovereign service
"""

RETURN = r"""#"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mushishi.sovereign.plugins.module_utils import _accounts
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils._host import read_text


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "comment": {"type": "str", "default": "service"},
        },
        supports_check_mode=True,
    )
    try:
        commands, differences = _accounts.commands(
            module.params["names"], module.params["comment"], lambda name: read_text(f"/etc/{name}")
        )
    except SovereignError as error:
        module.fail_json(msg=str(error))
    if not module.check_mode:
        for command in commands:
            module.run_command(command, check_rc=True)
    module.exit_json(changed=differences.changed, diff=differences.diff("users"))


if __name__ == "__main__":
    main()
