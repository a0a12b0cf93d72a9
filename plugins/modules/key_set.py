#!/usr/bin/python
# SPDX-License-Identifier: MIT
# MIT is compatible with the GNU General Public License v3.0 of ansible-core, which loads this.
"""Ansible module: random keys, and the files that list several of them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: key_set
short_description: Create random keys once, and keep the files that list some of them
description:
  - Makes the keys that are missing, each in a file of its own; a key that is there is kept.
  - Keeps files that list several of these keys, one on a line, for a program that reads the keys it accepts from one
    file.
  - Files are written whole or not at all. What a killed run has left undone is done by the next one.
  - No key is in any return value, diff or log, and none leaves the machine.
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
  directory:
    description:
      - Absolute path of the folder of all these files. It must exist, except in check mode.
    type: path
    required: true
  names:
    description:
      - File names of the keys.
    type: list
    elements: str
    required: true
  prefix:
    description:
      - Text in front of a new key.
    type: str
    default: ""
  lists:
    description:
      - File name of each list, with the names of its keys in the order of the lines. They must be in O(names).
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Make the keys of the CPU floor, and the list that each instance reads
  mushishi.sovereign.key_set:
    directory: /etc/mushishi/secrets
    prefix: sk-
    names: [llama-sovereign.key, llama-door.key]
    lists:
      llama-nemotron.keys: [llama-sovereign.key, llama-door.key]
      llama-coder.keys: [llama-sovereign.key]
"""

RETURN = r"""
changed_paths:
  description: Files that were written or whose access was put right, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: [/etc/mushishi/secrets/llama-nemotron.keys]
"""

import os
import re
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mushishi.sovereign.plugins.module_utils import _files
from ansible_collections.mushishi.sovereign.plugins.module_utils._diff import Differences
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils._tokens import clean_token, new_token

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


def check(names: list[str], lists: dict[str, Any]) -> None:
    """Refuses options that cannot be meant.

    Raises:
        SovereignError: a name that is no file name, a name used twice, or a list of a key that is not there.
    """
    for name in [*names, *lists]:
        if not NAME.fullmatch(name):
            raise SovereignError(f"key file {name!r}", "this is no plain file name", "Use a-z, 0-9, dot and hyphen.")
    if len({*names, *lists}) != len(names) + len(lists):
        raise SovereignError("option names", "a name stands twice in names and lists", "Name each file once.")
    for name, wanted in lists.items():
        strangers = sorted(set(wanted) - set(names)) if isinstance(wanted, list) else [str(wanted)]
        if strangers or not wanted:
            raise SovereignError(
                f"list {name}", f"it names {', '.join(strangers) or 'no key'}", "Name keys that stand in names."
            )


def ensure(params: dict[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Makes it so, and returns the module's result.

    Raises:
        SovereignError: an option that makes no sense, or a file that is not what it should be.
    """
    folder = _files.absolute(params["directory"], "directory")
    check(params["names"], params["lists"])
    access = _files.resolve_access(f"keys in {folder}", "0600", "root", "root", check_mode=check_mode)
    differences = Differences()
    tokens: dict[str, str] = {}
    changed: list[str] = []

    def keep(name: str, wanted: bytes | None) -> None:
        """Brings one file to its content; ``wanted`` None keeps what is there, or makes a new key."""
        path = os.path.join(folder, name)
        thing = f"key file {path}"
        found = _files.look(path, thing)
        token = clean_token(found.content, thing) if found is not None and wanted is None else ""
        if wanted is None:
            tokens[name] = token or new_token(32, params["prefix"])
        content = tokens[name].encode("ascii") if wanted is None else wanted
        write = not token if wanted is None else found is None or found.content != wanted
        before = len(differences.names)
        if write:
            after = "made" if wanted is None else "listed"
            differences.compare(name, "none" if found is None else "another one", after)
        _files.compare_access(differences, f"{name} ", found, access)
        if len(differences.names) == before:
            return
        changed.append(path)
        if check_mode:
            return
        if write:
            _files.write_whole(path, content, access, thing, only_new=found is None)
        else:
            _files.fix_access(path, access)

    for name in params["names"]:
        keep(name, None)
    for name, wanted in params["lists"].items():
        keep(name, "".join(f"{tokens[key]}\n" for key in wanted).encode("ascii"))
    return {"changed": differences.changed, "diff": differences.diff(folder), "changed_paths": changed}


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "names": {"type": "list", "elements": "str", "required": True},
            "prefix": {"type": "str", "default": ""},
            "lists": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    try:
        result = ensure(module.params, check_mode=module.check_mode)
    except SovereignError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
