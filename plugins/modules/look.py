#!/usr/bin/python
# SPDX-License-Identifier: MIT
# MIT is compatible with the GNU General Public License v3.0 of ansible-core, which loads this.
"""Ansible module: look at many things on a machine in one step."""

from __future__ import annotations

DOCUMENTATION = r"""
module: look
short_description: Look at packages, files and answers of commands in one step
description:
  - Reads what a role has to know about a machine before it decides, with one run on the target instead of one for each
    question.
  - Changes nothing and judges nothing.
version_added: 0.2.0
author: mushishi.sovereign contributors (!UNKNOWN)
extends_documentation_fragment:
  - mushishi.sovereign.attributes
attributes:
  check_mode:
    support: full
    details: Looks in check mode, too. Name only commands that change nothing.
  diff_mode:
    support: none
    details: Nothing is ever changed.
  idempotent:
    support: full
options:
  packages:
    description: Names of packages of the distribution (dpkg).
    type: list
    elements: str
    default: []
  paths:
    description: Paths to look at, without reading them.
    type: list
    elements: str
    default: []
  globs:
    description: Patterns of paths to look for.
    type: list
    elements: str
    default: []
  contents:
    description: Text files to read, of 1 MiB at most. No secrets, as what is read is returned.
    type: list
    elements: str
    default: []
  sha256:
    description: Files to hash.
    type: list
    elements: str
    default: []
  commands:
    description: Commands that only read.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name under which the answer is returned.
        type: str
        required: true
      argv:
        description: The command as a list. No shell is between.
        type: list
        elements: str
        required: true
      allowed:
        description: Exit statuses that are answers. Every other one is an error. Empty allows all.
        type: list
        elements: int
        default: [0]
"""

EXAMPLES = r"""
- name: Look at what is here
  mushishi.sovereign.look:
    packages: [caddy]
    paths: [/run/netns/sovereign]
    contents: [/etc/docker/daemon.json]
    commands:
      - {name: python, argv: [/usr/bin/python3, --version]}
      - {name: nftables, argv: [systemctl, is-enabled, nftables.service], allowed: []}
  register: __demo_look
"""

RETURN = r"""
missing_packages:
  description: Packages that are not installed, or not to the end.
  returned: success
  type: list
  elements: str
  sample: [caddy]
dpkg_interrupted:
  description: Whether C(dpkg) was killed in the middle of its work, so that C(dpkg --configure -a) is due.
  returned: success
  type: bool
  sample: false
paths:
  description:
    - For each path whether it C(exists), its C(kind) (V(file), V(directory), V(other) or V(absent)), whether it is a
      C(link), and its C(size) in bytes. A link is followed for all but C(link).
  returned: success
  type: dict
  sample: {/run/netns/sovereign: {exists: true, kind: file, link: false, size: 0}}
globs:
  description: For each pattern the paths that match, sorted.
  returned: success
  type: dict
  sample: {}
contents:
  description: For each file its text, none when there is no such file.
  returned: success
  type: dict
  sample: {/etc/docker/daemon.json: "{}"}
sha256:
  description: For each file its SHA-256, none when there is no such file.
  returned: success
  type: dict
  sample: {}
commands:
  description: For each command its C(rc), C(stdout) and C(stderr), without the line breaks at their ends.
  returned: success
  type: dict
  sample: {python: {rc: 0, stdout: Python 3.12.3, stderr: ""}}
"""

from collections.abc import Sequence

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mushishi.sovereign.plugins.module_utils import _look
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "str", "default": []},
            "paths": {"type": "list", "elements": "str", "default": []},
            "globs": {"type": "list", "elements": "str", "default": []},
            "contents": {"type": "list", "elements": "str", "default": []},
            "sha256": {"type": "list", "elements": "str", "default": []},
            "commands": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "argv": {"type": "list", "elements": "str", "required": True},
                    "allowed": {"type": "list", "elements": "int", "default": [0]},
                },
            },
        },
        supports_check_mode=True,
    )
    # What commands say is read, so it must not be translated.
    module.run_command_environ_update = {"LANG": "C", "LC_ALL": "C"}

    def run(command: Sequence[str]) -> tuple[int, str, str]:
        try:
            status, out, err = module.run_command(list(command), handle_exceptions=False)
        except OSError as error:
            # As a shell says it: a program that is not there is an answer, too.
            return 127, "", f"{command[0]}: {error.strerror}"
        return status, out, err

    try:
        result = _look.look(module.params, run)
    except SovereignError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
