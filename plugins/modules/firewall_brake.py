#!/usr/bin/python
# SPDX-License-Identifier: MIT
# MIT is compatible with the GNU General Public License v3.0 of ansible-core, which loads this.
"""Ansible module: arm the brake before a change of the firewall, and let go of it in a new connection."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firewall_brake
short_description: A change of the firewall that is not confirmed is undone by itself
description:
  - V(armed) copies UFW's files and state, the guard's doors and the list of doors, and starts a timer of systemd that
    puts them back. It needs no controller, and after a reboot in between a unit does it.
  - V(confirmed) keeps the change. It belongs into a new connection (C(meta) with C(reset_connection)), as one that was
    there before the change proves nothing. The machine compares the two SSH connections, and refuses the old one.
  - V(awaited) waits until somebody has confirmed it with C(brake.py confirm), for a task that runs inside an SSH login
    without coming by a connection of its own.
  - Arming is refused when the change would cut off who makes it.
version_added: 0.3.0
author: mushishi.sovereign contributors (!UNKNOWN)
extends_documentation_fragment:
  - mushishi.sovereign.attributes
attributes:
  check_mode:
    support: full
    details: Nothing is armed, as nothing will be changed.
  diff_mode:
    support: none
    details: The brake is no change; nothing of it is left.
  idempotent:
    support: full
    details: A change is confirmed once.
options:
  state:
    description: What to do.
    type: str
    choices: [armed, confirmed, awaited]
    required: true
  token:
    description: Which change is confirmed, or awaited.
    type: str
    default: ""
  reason:
    description: What is about to be changed, in words.
    type: str
    default: the firewall
  doors:
    description: What will be open, as in M(mushishi.sovereign.firewall_doors).
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
    default: tailscale0
  inside:
    description: Interfaces that are not outside. A name may end in C(*).
    type: list
    elements: str
    default: [lo]
  confirm_seconds:
    description: After this time without a confirmation the change is undone.
    type: int
    default: 60
  over_ssh:
    description: Whether this task comes by SSH. Then it must be found out from where, or nothing is armed.
    type: bool
    default: true
  lockout_accepted:
    description: Arm it although the change would cut off who makes it.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Arm the brake
  mushishi.sovereign.firewall_brake:
    state: armed
    reason: the guard's doors
    doors: [{name: ssh, port: 22, protocol: tcp, role: ssh}]
  register: brake

- name: Let go of it
  mushishi.sovereign.firewall_brake: {state: confirmed, token: "{{ brake.token }}"}
"""

RETURN = r"""
token:
  description: What the change is confirmed with. Empty in check mode.
  returned: success
  type: str
  sample: 0f1e2d3c4b5a69788796a5b4c3d2e1f0
login:
  description: Whether the task came from within an SSH login. Only a new connection can confirm the change then.
  returned: success
  type: bool
  sample: true
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.firewall import brake, machine
from ansible_collections.mushishi.sovereign.plugins.module_utils.firewall.doors import OPTIONS


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["armed", "confirmed", "awaited"], "required": True},
            "token": {"type": "str", "default": "", "no_log": False},
            "reason": {"type": "str", "default": "the firewall"},
            "doors": {"type": "list", "elements": "dict", "default": [], "options": OPTIONS},
            "interface": {"type": "str", "default": "tailscale0"},
            "inside": {"type": "list", "elements": "str", "default": ["lo"]},
            "confirm_seconds": {"type": "int", "default": 60},
            "over_ssh": {"type": "bool", "default": True},
            "lockout_accepted": {"type": "bool", "default": False},
        },
        required_if=[("state", "confirmed", ["token"]), ("state", "awaited", ["token"])],
        supports_check_mode=True,
    )
    given = module.params
    here = machine.Machine(machine.runner(module))
    token = given["token"]
    try:
        wish = machine.Wish.of(given, "present")
        connection = here.connection(wish)
        if given["state"] == "armed":
            token = "" if module.check_mode else here.arm(wish, given["reason"])
        elif not module.check_mode:
            if given["state"] == "confirmed":
                here.brake.confirm(token, connection)
            else:
                here.brake.wait(token)
    except SovereignError as error:
        module.fail_json(msg=str(error))
    except brake.Unfinished as error:
        module.fail_json(msg=f"firewall: {error}")
    except brake.OldConnection as error:
        module.fail_json(
            msg=f"firewall: {error}. Ansible ends its own before; one that ssh shares by your own settings "
            "(ControlMaster) it does not: write -o ControlPath=none into ansible_ssh_args. The change is undone by "
            "itself."
        )
    except (brake.Undone, brake.NotArmed) as error:
        module.fail_json(
            msg=f"firewall: {error} The machine is as it was before. What cut the connection is in what this run "
            "wanted to change: compare its doors with the way by which this controller comes in."
        )
    module.exit_json(changed=False, token=token, login=bool(connection))


if __name__ == "__main__":
    main()
