#!/usr/bin/python
# SPDX-License-Identifier: MIT
# MIT is compatible with the GNU General Public License v3.0 of ansible-core, which loads this.
"""Ansible module: a file that holds one secret."""

from __future__ import annotations

DOCUMENTATION = r"""
module: secret_file
short_description: Create a random secret once, or place a given one
description:
  - Keeps a file that holds one secret token.
  - Without O(content) a random, URL-safe secret is made when the file is missing or empty; one that is there is kept.
  - With O(content) the file holds exactly that.
  - Wrong mode and ownership are put right in both cases.
  - The file is written whole or not at all, and has its final mode and owner before it gets its name.
  - The secret is in no return value, no diff and no log.
version_added: 0.1.0
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
  path:
    description:
      - Absolute path of the file. Its folder must exist, except in check mode.
      - A symbolic link or anything else than a regular file is refused.
    type: path
    required: true
  content:
    description:
      - The secret to place. White space around it is removed.
      - One line of visible ASCII characters.
    type: str
  bytes:
    description:
      - How much randomness a new secret holds, in bytes. Not used with O(content).
    type: int
    default: 32
  prefix:
    description:
      - Text in front of a new secret. A secret that is there is kept whatever it begins with.
    type: str
    default: ""
  mode:
    description:
      - Mode of the file, octal. One that lets others read it or the group write it is refused.
    type: str
    default: "0600"
  owner:
    description:
      - User that owns the file.
    type: str
    default: root
  group:
    description:
      - Group of the file.
    type: str
    default: root
  state:
    description:
      - Whether the file is there.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Make the key between admission and the sovereign gateway
  mushishi.sovereign.secret_file:
    path: /etc/mushishi/secrets/gateway-sovereign.key
    prefix: sk-

- name: Place the key of a cloud provider
  mushishi.sovereign.secret_file:
    path: /etc/mushishi/secrets/cloud/groq.key
    content: "{{ vault_groq_key }}"
"""

RETURN = r"""
path:
  description: Path of the file.
  returned: success
  type: str
  sample: /etc/mushishi/secrets/gateway-sovereign.key
created:
  description: Whether a new secret was made or placed where none was (in check mode, whether it would be).
  returned: success
  type: bool
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils._secrets import ensure, wanted_from


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "content": {"type": "str", "no_log": True},
            "bytes": {"type": "int", "default": 32},
            "prefix": {"type": "str", "default": ""},
            "mode": {"type": "str", "default": "0600"},
            "owner": {"type": "str", "default": "root"},
            "group": {"type": "str", "default": "root"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    try:
        result = ensure(wanted_from(module.params, check_mode=module.check_mode), check_mode=module.check_mode)
    except SovereignError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
