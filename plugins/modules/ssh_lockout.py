#!/usr/bin/python
# SPDX-License-Identifier: MIT
# MIT is compatible with the GNU General Public License v3.0 of ansible-core, which loads this.
"""Ansible module: would this very login still work?"""

from __future__ import annotations

DOCUMENTATION = r"""
module: ssh_lockout
short_description: Refuse rules for SSH under which the login that runs this task would not work
description:
  - Finds the SSH login above itself on the machine, whatever an inventory says, and asks whether it would be let in
    with a key, without root, from its address, by its user and groups.
  - A task that came by another way (a container's console, a local connection) has no login to lose.
  - Reads only.
version_added: 0.5.0
author: mushishi.sovereign contributors (!UNKNOWN)
extends_documentation_fragment:
  - mushishi.sovereign.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details: Nothing is ever changed.
  idempotent:
    support: full
options:
  networks:
    description:
      - The networks from which logins are let in. The loopback is always.
    type: list
    elements: str
    required: true
  allow_users:
    description:
      - The only users who are let in. Empty means all.
    type: list
    elements: str
    default: []
  allow_groups:
    description:
      - The only groups whose members are let in. Empty means all.
    type: list
    elements: str
    default: []
  accepted:
    description:
      - Warn instead of refusing.
    type: bool
    default: false
  sshd:
    description:
      - The server's program, which is asked where it looks for keys.
    type: str
    default: /usr/sbin/sshd
"""

EXAMPLES = r"""
- name: The login that Ansible uses still works afterwards
  mushishi.sovereign.ssh_lockout:
    networks: [100.64.0.0/10, "fd7a:115c:a1e0::/48"]
    allow_users: [me]
"""

RETURN = r"""
user:
  description: Who is logged in. Empty without a login.
  returned: success
  type: str
  sample: me
address:
  description: From where. Empty without a login.
  returned: success
  type: str
  sample: 100.101.102.103
reasons:
  description: Why the login would not work afterwards.
  returned: success
  type: list
  elements: str
  sample: []
"""

from collections.abc import Sequence

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils._login import Login, find_login
from ansible_collections.mushishi.sovereign.plugins.module_utils.tailnet import lockout


def _settings(module: AnsibleModule, login: Login | None) -> dict[str, str]:
    """What sshd does now for this login; nothing where there is no sshd."""

    def run(command: Sequence[str]) -> tuple[int, str, str]:
        try:
            status, out, err = module.run_command(list(command), handle_exceptions=False)
        except OSError as error:
            return 127, "", str(error)
        return status, out, err

    return {} if login is None else lockout.asked(login, run, module.params["sshd"])


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "networks": {"type": "list", "elements": "str", "required": True},
            "allow_users": {"type": "list", "elements": "str", "default": []},
            "allow_groups": {"type": "list", "elements": "str", "default": []},
            "accepted": {"type": "bool", "default": False},
            "sshd": {"type": "str", "default": "/usr/sbin/sshd"},
        },
        supports_check_mode=True,
    )
    given = module.params
    rules = lockout.Rules(tuple(given["networks"]), tuple(given["allow_users"]), tuple(given["allow_groups"]))
    login = find_login()
    try:
        found = lockout.reasons(login, rules, _settings(module, login))
    except ValueError as error:
        module.fail_json(msg=f"networks: {error}. Write networks like 100.64.0.0/10.")
    if login is not None and found:
        refusal = SovereignError(
            f"the login of {login.user} from {login.address}, which runs this task",
            f"it would not work afterwards: {'; '.join(found)}",
            "Put that right first, or run once with -e ssh_lockout_accepted=true and another way to the machine.",
        )
        if not given["accepted"]:
            module.fail_json(msg=str(refusal))
        module.warn(str(refusal))
    module.exit_json(
        changed=False,
        user="" if login is None else login.user,
        address="" if login is None else login.address,
        reasons=found,
    )


if __name__ == "__main__":
    main()
