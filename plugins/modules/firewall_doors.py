#!/usr/bin/python
# SPDX-License-Identifier: MIT
# MIT is compatible with the GNU General Public License v3.0 of ansible-core, which loads this.
"""Ansible module: UFW, DOCKER-USER and the list of doors, brought to what is wanted in one step, under the brake."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firewall_doors
short_description: Keep UFW and DOCKER-USER shut but for the doors of the tailnet
description:
  - Reads UFW's files, the kernel's filter tables and Docker's settings, compares them once with what is wanted, and
    makes the difference up by C(ufw) commands. A chain that somebody has flushed is a difference.
  - Wanted is UFW enabled for IPv4 and IPv6, incoming and routed denied, and one rule for each door on the tailnet's
    interface. Outgoing is allowed, unless the user denies or rejects it already. Rules of the user stay, as do rules of
    another hand in DOCKER-USER.
  - Writes the list of doors to C(/etc/mushishi/doors.json), and where Docker runs the same policy into DOCKER-USER.
  - Refuses what would cut off who runs it. Arms the brake before the first change, so that what is not confirmed with
    M(mushishi.sovereign.firewall_brake) is undone by itself.
  - Refuses packet filters in which its rules would stand unread, which are iptables-legacy and Docker's own backend for
    nftables.
version_added: 0.3.0
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
  state:
    description:
      - V(absent) puts back what was there before the first change, to the byte. Where another hand has changed a file
        since, its changes stay and only what is ours is taken out.
    type: str
    choices: [present, absent]
    default: present
  doors:
    description: What a client of the tailnet may open.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: What is behind it, in small letters.
        type: str
        required: true
      port:
        description: Its port.
        type: int
        required: true
      protocol:
        description: Its protocol.
        type: str
        choices: [tcp, udp]
        required: true
      role:
        description: The role that opens it.
        type: str
        required: true
  interface:
    description: The tailnet's interface.
    type: str
    required: true
  inside:
    description: Interfaces that are not outside, as loopback and Docker's bridges. A name may end in C(*).
    type: list
    elements: str
    required: true
  confirm_seconds:
    description: After this time without a confirmation the change is undone.
    type: int
    default: 60
  over_ssh:
    description: Whether this task comes by SSH. Then it must be found out from where, or nothing is changed.
    type: bool
    default: true
  lockout_accepted:
    description: Change it although it would cut off who does it. The brake is armed all the same.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: The only way in
  mushishi.sovereign.firewall_doors:
    interface: tailscale0
    inside: [lo, docker0, "br-*"]
    doors:
      - {name: ssh, port: 22, protocol: tcp, role: ssh}
  register: changed_firewall

- name: It works, says a new connection
  mushishi.sovereign.firewall_brake:
    state: confirmed
    token: "{{ changed_firewall.token }}"
  when: changed_firewall.token | length > 0
"""

RETURN = r"""
token:
  description: What the change is confirmed with. Empty when nothing was changed.
  returned: success
  type: str
  sample: 0f1e2d3c4b5a69788796a5b4c3d2e1f0
login:
  description: Whether the task came from within an SSH login. Only a new connection can confirm the change then.
  returned: success
  type: bool
  sample: true
kept:
  description: Files that another hand has changed since, whose changes stay (state absent).
  returned: success
  type: list
  elements: str
  sample: []
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.firewall import machine
from ansible_collections.mushishi.sovereign.plugins.module_utils.firewall.doors import OPTIONS


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "doors": {"type": "list", "elements": "dict", "default": [], "options": OPTIONS},
            "interface": {"type": "str", "required": True},
            "inside": {"type": "list", "elements": "str", "required": True},
            "confirm_seconds": {"type": "int", "default": 60},
            "over_ssh": {"type": "bool", "default": True},
            "lockout_accepted": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    given = module.params
    try:
        wish = machine.Wish.of(given, given["state"])
        outcome = machine.Machine(machine.runner(module)).bring(wish, check_mode=module.check_mode)
    except SovereignError as error:
        module.fail_json(msg=str(error))
    for note in outcome.notes:
        module.warn(note)
    module.exit_json(
        changed=outcome.changed, diff=outcome.diff, token=outcome.token, kept=outcome.kept, login=outcome.login
    )


if __name__ == "__main__":
    main()
