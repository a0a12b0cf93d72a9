#!/usr/bin/python
# SPDX-License-Identifier: MIT
# MIT is compatible with the GNU General Public License v3.0 of ansible-core, which loads this.
"""Ansible module: many files that hold one secret each, in one step."""

from __future__ import annotations

DOCUMENTATION = r"""
module: secret_set
short_description: Keep many secrets, each in a file of its own, in one step
description:
  - Does for a list of files what M(mushishi.sovereign.secret_file) does for one, in the order of the list, with one run
    on the target.
  - Every entry is checked before the first file is touched.
  - No secret is in a return value, a diff or a log.
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
  secrets:
    description:
      - The secrets. A path may be named once.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path of the file. Its folder must exist, except in check mode.
        type: path
        required: true
      content:
        description: The secret to place. Without it a random one is made when the file is missing or empty.
        type: str
      bytes:
        description: How much randomness a new secret holds, in bytes.
        type: int
        default: 32
      prefix:
        description: Text in front of a new secret.
        type: str
        default: ""
      mode:
        description: Mode of the file, octal. One that lets others read it or the group write it is refused.
        type: str
        default: "0600"
      owner:
        description: User that owns the file.
        type: str
        default: root
      group:
        description: Group of the file.
        type: str
        default: root
      state:
        description: Whether the file is there.
        type: str
        choices: [present, absent]
        default: present
"""

EXAMPLES = r"""
- name: Make the keys between the services, and place that of a cloud provider
  mushishi.sovereign.secret_set:
    secrets:
      - {path: /etc/mushishi/secrets/gateway-sovereign.key, prefix: sk-}
      - {path: /etc/mushishi/secrets/llama-door.key, prefix: sk-}
      - {path: /etc/mushishi/secrets/cloud/groq.key, content: "{{ vault_groq_key }}"}
"""

RETURN = r"""
changed_paths:
  description: Files that were changed, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: [/etc/mushishi/secrets/llama-door.key]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils._secrets import ensure, wanted_from


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "secrets": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "no_log": False,
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str", "no_log": True},
                    "bytes": {"type": "int", "default": 32},
                    "prefix": {"type": "str", "default": ""},
                    "mode": {"type": "str", "default": "0600"},
                    "owner": {"type": "str", "default": "root"},
                    "group": {"type": "str", "default": "root"},
                    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
                },
            },
        },
        supports_check_mode=True,
    )
    try:
        wanted = [wanted_from(entry, check_mode=module.check_mode) for entry in module.params["secrets"]]
        paths = [entry.path for entry in wanted]
        twice = sorted({path for path in paths if paths.count(path) > 1})
        if twice:
            raise SovereignError(f"secrets names {twice[0]}", "it stands there twice", "Name each file once.")
        results = [ensure(entry, check_mode=module.check_mode) for entry in wanted]
    except SovereignError as error:
        module.fail_json(msg=str(error))
    changed = [result["path"] for result in results if result["changed"]]
    module.exit_json(
        changed=bool(changed), changed_paths=changed, diff=[result["diff"] for result in results if result["changed"]]
    )


if __name__ == "__main__":
    main()
