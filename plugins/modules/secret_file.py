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

from dataclasses import dataclass
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mushishi.sovereign.plugins.module_utils import _files
from ansible_collections.mushishi.sovereign.plugins.module_utils._diff import Differences
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils._tokens import clean_token, new_token


@dataclass(frozen=True)
class Wanted:
    """What the task asks for."""

    path: str
    access: _files.Access
    state: str
    content: str | None
    size: int
    prefix: str


def wanted_from(params: dict[str, Any], *, check_mode: bool) -> Wanted:
    """Checks the options.

    Raises:
        SovereignError: an option that no secret file can have.
    """
    path = _files.absolute(params["path"], "path")
    thing = f"secret file {path}"
    content: str | None = None
    if params["content"] is not None:
        content = clean_token(params["content"].encode("utf-8"), f"content for {thing}")
        if not content:
            raise SovereignError(
                f"content for {thing}", "it is empty", "Give the secret, or leave content out to have one made."
            )
    # 16 bytes are 128 bits: below that a secret can be guessed in principle.
    if not 16 <= params["bytes"] <= 1024:
        raise SovereignError(f"bytes for {thing}", f"{params['bytes']} is out of range", "Use 16 to 1024, best 32.")
    clean_token(params["prefix"].encode("utf-8"), f"prefix for {thing}")
    access = _files.resolve_access(thing, params["mode"], params["owner"], params["group"], check_mode=check_mode)
    return Wanted(path, access, params["state"], content, params["bytes"], params["prefix"])


def compare(wanted: Wanted, found: _files.Found | None) -> tuple[Differences, bool]:
    """What has to change, and whether the content has to be written. Shows no secret."""
    differences = Differences()
    if wanted.state == "absent":
        differences.compare("state", "absent" if found is None else "present", "absent")
        return differences, False
    differences.compare("state", "absent" if found is None else "present", "present")
    existing = "" if found is None else found.content.decode("latin-1").strip()
    if wanted.content is not None:
        before = "none" if not existing else ("as given" if existing == wanted.content else "another one")
        write = differences.compare("secret", before, "as given")
    else:
        write = differences.compare(
            "secret", "kept" if existing else "none", "kept" if existing else "a new random one"
        )
    _files.compare_access(differences, "", found, wanted.access)
    return differences, write


def ensure(wanted: Wanted, *, check_mode: bool) -> dict[str, Any]:
    """Makes it so, and returns the module's result."""
    thing = f"secret file {wanted.path}"
    found = _files.look(wanted.path, thing)
    if found is not None and wanted.state == "present" and wanted.content is None:
        clean_token(found.content, thing)
    differences, write = compare(wanted, found)
    if differences.changed and not check_mode:
        if wanted.state == "absent":
            _files.remove(wanted.path)
        elif write:
            token = new_token(wanted.size, wanted.prefix) if wanted.content is None else wanted.content
            _files.write_whole(wanted.path, token.encode("ascii"), wanted.access, thing, only_new=found is None)
        else:
            _files.fix_access(wanted.path, wanted.access)
    return {
        "changed": differences.changed,
        "diff": differences.diff(wanted.path),
        "path": wanted.path,
        "created": found is None and wanted.state == "present",
    }


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
