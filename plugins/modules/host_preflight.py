#!/usr/bin/python
# SPDX-License-Identifier: MIT
# MIT is compatible with the GNU General Public License v3.0 of ansible-core, which loads this.
"""Ansible module: refuse a machine that cannot work, before anything is changed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_preflight
short_description: Refuse occupied ports, too little memory or disk, wrong files and unknown systems
description:
  - Looks at the machine and reports all that is wrong at once, each with the object, what was seen, and what to do.
  - Reads only.
version_added: 0.1.0
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
  ports:
    description:
      - TCP ports that must be free, or held by the unit that is going to hold them.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: What the port is for.
        type: str
        required: true
      address:
        description: The address to bind.
        type: str
      addresses:
        description: The addresses to bind, when there are several. They add to O(ports[].address).
        type: list
        elements: str
        default: []
      port:
        description: The port.
        type: int
        required: true
      unit:
        description: The systemd unit that may hold it, with its suffix. Empty means that nobody may.
        type: str
        default: ""
      variable:
        description: The variable that sets the port, for the message.
        type: str
        default: ""
  memory_mib:
    description:
      - The least memory of the machine in MiB. A limit of the control group counts when it is lower.
      - V(0) asks for nothing.
    type: int
    default: 0
  disk:
    description:
      - Free space that is needed. Needs on one file system add up.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path of what will be put there. It need not exist.
        type: path
        required: true
      free_mib:
        description: How much space in MiB. V(0) asks for nothing.
        type: int
        required: true
      unless:
        description: A path whose existence means that the space is taken already.
        type: path
      name:
        description: What it is, for the message.
        type: str
        default: ""
  disk_reserve_mib:
    description:
      - MiB that must stay free on each file system on which O(disk) puts something.
    type: int
    default: 0
  files:
    description:
      - Files that, when they are there, must have this content. A missing file is no problem.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path of the file.
        type: path
        required: true
      sha256:
        description: SHA-256 of the content in hexadecimal digits.
        type: str
        required: true
  systems:
    description:
      - Operating systems of which this must be one. Empty accepts every one.
    type: list
    elements: dict
    default: []
    suboptions:
      id:
        description: C(ID) of C(/etc/os-release).
        type: str
        required: true
      version_id:
        description: C(VERSION_ID) of C(/etc/os-release).
        type: str
        required: true
  kernel:
    description:
      - The oldest kernel that will do. Empty accepts every one.
    type: str
    default: ""
  fail:
    description:
      - Whether to fail when there are problems. When false they are only returned.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: The machine can carry the CPU floor
  mushishi.sovereign.host_preflight:
    ports:
      - name: hybrid gateway
        address: 127.0.0.1
        port: 4000
        unit: mushishi-hybrid-gateway.service
    memory_mib: 16384
    disk:
      - path: /data/ai/02-models/model.gguf
        free_mib: 9000
        unless: /data/ai/02-models/model.gguf
"""

RETURN = r"""
problems:
  description: What is wrong, one message each.
  returned: always
  type: list
  elements: str
  sample: ["memory: this machine has 7800 MiB, 16384 MiB are needed. Add memory, or choose smaller models."]
"""

import ipaddress
import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mushishi.sovereign.plugins.module_utils import _host
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError


def checked_ports(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries of ``ports`` with all addresses in one list.

    Raises:
        SovereignError: an entry without an address, or with something that is none.
    """
    ports = []
    for entry in entries:
        addresses = ([entry["address"]] if entry["address"] else []) + list(entry["addresses"])
        thing = f"option ports, entry {entry['name']!r}"
        if not addresses:
            raise SovereignError(thing, "no address is given", "Give address or addresses.")
        for address in addresses:
            try:
                ipaddress.ip_address(address)
            except ValueError:
                raise SovereignError(thing, f"{address!r} is no IP address", "Give an address, not a name.") from None
        ports.append({**entry, "addresses": addresses})
    return ports


def find_problems(params: dict[str, Any], root: str, kernel: str) -> list[str]:
    """Everything that is wrong with the machine whose file tree is at ``root`` (the empty string: this one).

    Raises:
        SovereignError: an option that makes no sense.
    """
    problems = _host.judge_system(params["systems"], _host.parse_os_release(_host.read_text(f"{root}/etc/os-release")))
    problems += _host.judge_kernel(params["kernel"], kernel)
    if params["memory_mib"]:
        problems += _host.judge_memory(params["memory_mib"], _host.read_memory(root))
    needs = [
        (
            f"{entry['name']} in {entry['path']}" if entry["name"] else entry["path"],
            entry["free_mib"],
            _host.find_space(root + entry["path"]),
        )
        for entry in params["disk"]
        if entry["free_mib"] and not (entry["unless"] and os.path.lexists(root + entry["unless"]))
    ]
    problems += _host.judge_disk(needs, params["disk_reserve_mib"])
    for entry in params["files"]:
        problems += _host.judge_file(entry["path"], entry["sha256"], _host.hash_file(root + entry["path"]))
    ports = checked_ports(params["ports"])
    listeners = [item for item in _host.read_listeners(root) if any(item.port == entry["port"] for entry in ports)]
    holders = _host.find_holders(root, (item.inode for item in listeners)) if listeners else {}
    return problems + _host.judge_ports(ports, listeners, holders)


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "ports": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "address": {"type": "str"},
                    "addresses": {"type": "list", "elements": "str", "default": []},
                    "port": {"type": "int", "required": True},
                    "unit": {"type": "str", "default": ""},
                    "variable": {"type": "str", "default": ""},
                },
            },
            "memory_mib": {"type": "int", "default": 0},
            "disk": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "path", "required": True},
                    "free_mib": {"type": "int", "required": True},
                    "unless": {"type": "path"},
                    "name": {"type": "str", "default": ""},
                },
            },
            "disk_reserve_mib": {"type": "int", "default": 0},
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "path", "required": True},
                    "sha256": {"type": "str", "required": True},
                },
            },
            "systems": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "id": {"type": "str", "required": True},
                    "version_id": {"type": "str", "required": True},
                },
            },
            "kernel": {"type": "str", "default": ""},
            "fail": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    try:
        problems = find_problems(module.params, "", os.uname().release)
    except SovereignError as error:
        module.fail_json(msg=str(error), problems=[str(error)])
    if problems and module.params["fail"]:
        module.fail_json(msg=f"This machine is not ready. {' '.join(problems)}", problems=problems)
    module.exit_json(changed=False, problems=problems)


if __name__ == "__main__":
    main()
