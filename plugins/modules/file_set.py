#!/usr/bin/python
# SPDX-License-Identifier: MIT
# MIT is compatible with the GNU General Public License v3.0 of ansible-core, which loads this.
"""Ansible module: many files, folders and links in one step."""

from __future__ import annotations

DOCUMENTATION = r"""
module: file_set
short_description: Keep many files, folders and links in one step
description:
  - Brings a list of files, folders and links to what is wanted, in the order of the list.
  - A file is written whole or not at all, checked first where O(entries[].validate) asks for it, and has its final mode
    and owner before it gets its name. What is right already is not touched, not even its times.
  - A symbolic link in the last place of a path is never followed. Something of another kind in the way is refused.
  - When one entry is refused, those before it are in place and those after it are untouched. The next run goes on.
  - One run on the target does what would otherwise be one run for each file.
version_added: 0.2.0
author: mushishi.sovereign contributors (!UNKNOWN)
extends_documentation_fragment:
  - mushishi.sovereign.attributes
attributes:
  check_mode:
    support: full
    details: O(entries[].validate) is not run in check mode, because what it needs may not be there yet.
  diff_mode:
    support: full
    details: Shows the content of text files. Where it is secret, say C(no_log=true) on the task.
  idempotent:
    support: full
options:
  entries:
    description:
      - What shall be where. A path may be named once.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path.
        type: str
        required: true
      state:
        description:
          - What shall be there. Folders above a missing V(directory) are made with it; all else needs its folder.
          - V(absent) removes a file, a link or an empty folder.
        type: str
        choices: [file, directory, link, absent]
        default: file
      content:
        description:
          - Content of a file. Made on the controller with P(ansible.builtin.template#lookup) or, with C(rstrip=false),
            P(ansible.builtin.file#lookup).
        type: str
      src:
        description: A file on the target whose content is taken instead of O(entries[].content).
        type: str
      target:
        description: What a link leads to.
        type: str
      owner:
        description: User that owns a file or folder.
        type: str
        default: root
      group:
        description: Group of a file or folder.
        type: str
        default: root
      mode:
        description: Mode of a file or folder, octal. Required for both. One that lets everybody write is refused.
        type: str
      validate:
        description:
          - Command that looks at the new file before it gets its name, as a list. Every C(%s) in it stands for the
            file's path. Its failure leaves the old file.
        type: list
        elements: str
        default: []
"""

EXAMPLES = r"""
- name: Place the settings and the unit of a service
  mushishi.sovereign.file_set:
    entries:
      - {path: /etc/mushishi/door, state: directory, mode: "0755"}
      - path: /etc/mushishi/ingress-sovereign/Caddyfile
        content: "{{ lookup('ansible.builtin.template', 'Caddyfile.j2') }}"
        mode: "0644"
        validate: [/usr/bin/caddy, validate, --adapter, caddyfile, --config, "%s"]
      - path: /opt/mushishi/door/probe.py
        content: "{{ lookup('ansible.builtin.file', 'probe.py', rstrip=false) }}"
        mode: "0644"
      - {path: /etc/systemd/system/caddy.service, state: link, target: /dev/null}
"""

RETURN = r"""
changed_paths:
  description: Paths that were changed, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: [/etc/mushishi/ingress-sovereign/Caddyfile]
"""

from collections.abc import Sequence

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mushishi.sovereign.plugins.module_utils import _file_set
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "entries": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "str", "required": True},
                    "state": {
                        "type": "str",
                        "choices": ["file", "directory", "link", "absent"],
                        "default": "file",
                    },
                    "content": {"type": "str"},
                    "src": {"type": "str"},
                    "target": {"type": "str"},
                    "owner": {"type": "str", "default": "root"},
                    "group": {"type": "str", "default": "root"},
                    "mode": {"type": "str"},
                    "validate": {"type": "list", "elements": "str", "default": []},
                },
            },
        },
        supports_check_mode=True,
    )

    def run(command: Sequence[str]) -> tuple[int, str]:
        status, out, err = module.run_command(list(command))
        return status, f"{err}{out}"

    try:
        entries = _file_set.entries_from(module.params["entries"], check_mode=module.check_mode)
        result = _file_set.ensure(entries, run, check_mode=module.check_mode)
    except SovereignError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
