#!/usr/bin/python
# SPDX-License-Identifier: MIT
# MIT is compatible with the GNU General Public License v3.0 of ansible-core, which loads this.
"""Ansible module: this machine as a node of a tailnet."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tailscale_node
short_description: Log a machine in to a tailnet when that is needed, and keep its settings
description:
  - Logs in with C(tailscale up) only when the client says that a login is needed. Every other setting is made with
    C(tailscale set), and only where C(tailscale debug prefs) shows another value.
  - What cannot be chosen is off, because it would be a door that no packet filter of the machine sees, or a way for
    others to change this machine. That is Tailscale's own SSH server and web page, its automatic updates, remote
    configuration, posture reports, routes, exit nodes, connectors and relays for others.
  - Funnel, and anything that the client serves and O(serve) does not name, is refused and left as it is.
  - Another control server, or other tags, take a new login. That is refused until O(reauth) says that it is wanted.
  - Refuses to shut out the SSH login that runs this task, when that came in by O(interface). It would lose its way
    when only Tailscale's own rules (netfilter mode V(on)) let it past UFW, or when Tailscale's own SSH answers it and
    sshd would not.
  - Reports what a person should know as warnings. A key that expires soon, peers that are reached through a relay
    alone, an address family without an address, complaints of the client.
version_added: 0.5.0
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
  login_server:
    description:
      - The control server. Empty is Tailscale's own; a Headscale server is named by its address.
    type: str
    default: ""
  auth_key:
    description:
      - What to log in with. A key, or the secret of an OAuth client (C(tskey-client-...)), which needs O(tags).
      - It is written to a file of root's alone in memory for as long as the login lasts, and is in no command line.
      - Used only when a login is needed.
    type: str
  auth_key_file:
    description:
      - A file on the machine with the same, of root's alone (0600), instead of O(auth_key). It is left there.
    type: path
  tags:
    description:
      - Tags of this node. A tagged node belongs to nobody and its key never expires.
      - Empty keeps the tags that come with the key.
    type: list
    elements: str
    default: []
  hostname:
    description:
      - Name of this node. Empty keeps the name that it has; a new node takes that of the machine.
    type: str
    default: ""
  accept_dns:
    description:
      - Whether the machine asks the tailnet's resolver.
    type: bool
    default: false
  accept_routes:
    description:
      - Whether the machine uses routes that other nodes offer.
    type: bool
    default: false
  shields_up:
    description:
      - Whether the client refuses every connection from the tailnet. That closes the machine's doors, too.
    type: bool
    default: false
  netfilter_mode:
    description:
      - Whether the client puts rules of its own into the packet filter. With V(on) it accepts everything that comes in
        by its interface before UFW is asked. With V(nodivert) it makes its chains and calls them from nowhere.
    type: str
    choices: ['off', nodivert, 'on']
    default: 'off'
  serve:
    description:
      - Services on the loopback that the client gives a name with TLS, on the tailnet alone.
      - The client answers such a port by itself. No packet filter of the machine sees it; the tailnet's policy decides.
    type: list
    elements: dict
    default: []
    suboptions:
      port:
        description: Port on the tailnet.
        type: int
        required: true
      target:
        description: What is behind it, as C(http://127.0.0.1:PORT).
        type: str
        required: true
  reauth:
    description:
      - Log in anew when the control server or the tags differ. Every connection over the tailnet ends.
    type: bool
    default: false
  timeout:
    description:
      - How many seconds to wait for the client to make up its mind, and for a login.
    type: int
    default: 60
  key_expiry_days:
    description:
      - Warn when the node's key expires within so many days.
    type: int
    default: 14
  interface:
    description:
      - The interface that the client makes.
    type: str
    default: tailscale0
  lockout_accepted:
    description:
      - Warn instead of refusing when the login that runs this task would not work afterwards.
    type: bool
    default: false
  defer_netfilter:
    description:
      - Leave netfilter mode V(on) as it is, instead of refusing, when the login that runs this task needs it until UFW
        lets it in. Whoever says so sets UFW's rules next, and then the mode. RV(deferred) says whether it was left.
    type: bool
    default: false
  binary:
    description:
      - The client's command.
    type: str
    default: tailscale
"""

EXAMPLES = r"""
- name: Put the machine on the tailnet
  mushishi.sovereign.tailscale_node:
    auth_key: "{{ vault_tailscale_key }}"
    tags: [tag:sovereign]
    hostname: hub

- name: The same on a Headscale server, with a key that lies on the machine
  mushishi.sovereign.tailscale_node:
    login_server: https://headscale.example.net
    auth_key_file: /root/headscale.key
"""

RETURN = r"""
deferred:
  description: Whether the netfilter mode was left V(on) because of O(defer_netfilter).
  returned: success
  type: bool
  sample: false
backend_state:
  description: The client's state.
  returned: success
  type: str
  sample: Running
addresses:
  description: Addresses of this node on the tailnet.
  returned: success
  type: list
  elements: str
  sample: [100.101.102.103, "fd7a:115c:a1e0::1"]
name:
  description: Full name on the tailnet.
  returned: success
  type: str
  sample: hub.example.ts.net
tags:
  description: Tags that the control server gave it.
  returned: success
  type: list
  elements: str
  sample: [tag:sovereign]
version:
  description: Version of the daemon.
  returned: success
  type: str
  sample: 1.102.3
key_expires:
  description: When the node's key expires. Empty when never.
  returned: success
  type: str
  sample: "2027-05-24T10:11:12Z"
key_days_left:
  description: Days until then, negative afterwards, none when it never expires.
  returned: success
  type: float
  sample: 178.3
relay_only:
  description: Whether every active peer is reached through a relay alone. None when no peer is active.
  returned: success
  type: bool
  sample: false
relayed_peers:
  description: Active peers that are reached through a relay alone, with its name.
  returned: success
  type: dict
  sample: {phone.example.ts.net: fra}
peer_api:
  description: Where the client's own server for peers listens. No packet filter of the machine sees it.
  returned: success
  type: list
  elements: str
  sample: ["http://100.101.102.103:40123"]
health:
  description: What the client complains about.
  returned: success
  type: list
  elements: str
  sample: []
"""

from collections.abc import Sequence

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils._login import find_login
from ansible_collections.mushishi.sovereign.plugins.module_utils.tailnet import client, node


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "login_server": {"type": "str", "default": ""},
            "auth_key": {"type": "str", "no_log": True},
            "auth_key_file": {"type": "path", "no_log": False},
            "tags": {"type": "list", "elements": "str", "default": []},
            "hostname": {"type": "str", "default": ""},
            "accept_dns": {"type": "bool", "default": False},
            "accept_routes": {"type": "bool", "default": False},
            "shields_up": {"type": "bool", "default": False},
            "netfilter_mode": {"type": "str", "choices": ["off", "nodivert", "on"], "default": "off"},
            "serve": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "port": {"type": "int", "required": True},
                    "target": {"type": "str", "required": True},
                },
            },
            "reauth": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 60},
            "key_expiry_days": {"type": "int", "default": 14, "no_log": False},
            "interface": {"type": "str", "default": "tailscale0"},
            "lockout_accepted": {"type": "bool", "default": False},
            "defer_netfilter": {"type": "bool", "default": False},
            "binary": {"type": "str", "default": "tailscale"},
        },
        supports_check_mode=True,
    )
    # What the client says is read, so it must not be translated.
    module.run_command_environ_update = {"LANG": "C", "LC_ALL": "C"}

    def run(command: Sequence[str]) -> tuple[int, str, str]:
        try:
            status, out, err = module.run_command(list(command), handle_exceptions=False)
        except OSError as error:
            # As a shell says it: a program that is not there is an answer, too.
            return 127, "", f"{command[0]}: {error.strerror}"
        return status, out, err

    try:
        wanted = node.wanted_from(module.params)
        here = client.Client(run, module.params["binary"])
        result = node.ensure(wanted, here, check_mode=module.check_mode, login=find_login())
    except SovereignError as error:
        module.fail_json(msg=str(error))
    for warning in result.pop("warnings"):
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
