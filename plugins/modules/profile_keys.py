#!/usr/bin/python
# SPDX-License-Identifier: MIT
# MIT is compatible with the GNU General Public License v3.0 of ansible-core, which loads this.
"""Ansible module: one key per profile, and the index of their hashes."""

from __future__ import annotations

DOCUMENTATION = r"""
module: profile_keys
short_description: Keep one key file per profile and the index by which a service knows them
description:
  - Makes a random key C(sk-<profile>-<random>) for each profile that has none, in C(<directory>/<profile>.key).
  - Writes an index, a JSON object with the SHA-256 of each key (hex) as name and the profile as value. A service that
    holds it can tell whose key it sees, but cannot give a key away.
  - An index entry of a profile that is no longer listed is removed; its key file stays, because a client may need it
    again and without its entry it opens nothing.
  - To replace a key, remove or rewrite its file and run again.
  - No key is in a return value, a diff or a log.
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
  profiles:
    description:
      - Names of the profiles that the service behind O(index) knows. Lower case letters, digits and hyphens.
    type: list
    elements: str
    required: true
  directory:
    description:
      - Absolute path of the folder of the key files. It must exist, except in check mode.
      - All C(*.key) files in it are looked at, so that no two profiles ever share a key.
    type: path
    required: true
  index:
    description:
      - Absolute path of the index file. Its folder must exist, except in check mode.
    type: path
    required: true
  owner:
    description:
      - User that owns the key files and the index.
    type: str
    default: root
  group:
    description:
      - Group of the key files and the index.
    type: str
    default: root
  mode:
    description:
      - Mode of the key files and the index, octal.
    type: str
    default: "0600"
"""

EXAMPLES = r"""
- name: Keys of the profiles of the sovereign plane
  mushishi.sovereign.profile_keys:
    profiles: "{{ sovereign_policy | mushishi.sovereign.plane_profiles('sovereign') }}"
    directory: /etc/mushishi/secrets/profiles
    index: /etc/mushishi/secrets/profiles-sovereign.json
"""

RETURN = r"""
index:
  description: Path of the index.
  returned: success
  type: str
  sample: /etc/mushishi/secrets/profiles-sovereign.json
created:
  description: Profiles that got a new key (in check mode, that would get one).
  returned: success
  type: list
  elements: str
  sample: [private]
removed:
  description: Profiles whose index entry was removed.
  returned: success
  type: list
  elements: str
  sample: []
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mushishi.sovereign.plugins.module_utils import _files
from ansible_collections.mushishi.sovereign.plugins.module_utils._diff import Differences
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils._tokens import clean_token, new_token

# The name becomes a file name and a part of the key: no separators, no dots.
PROFILE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
# A key shorter than this was not made by us and can be guessed.
MINIMUM_KEY_LENGTH = 20
RANDOM_BYTES = 32


@dataclass(frozen=True)
class Wanted:
    """What the task asks for."""

    profiles: tuple[str, ...]
    directory: str
    index: str
    access: _files.Access


def wanted_from(params: dict[str, Any], *, check_mode: bool) -> Wanted:
    """Checks the options.

    Raises:
        SovereignError: a name that is no profile name, a name listed twice, or a bad path, mode or owner.
    """
    profiles = params["profiles"]
    for name in profiles:
        if not PROFILE_NAME.fullmatch(name):
            raise SovereignError(
                "option profiles",
                f"{name!r} is no profile name",
                "Use lower case letters, digits and hyphens, at most 64, with a letter or digit at both ends.",
            )
        if profiles.count(name) > 1:
            raise SovereignError("option profiles", f"{name!r} is listed twice", "List it once.")
    return Wanted(
        tuple(sorted(profiles)),
        _files.absolute(params["directory"], "directory"),
        _files.absolute(params["index"], "index"),
        _files.resolve_access("profile keys", params["mode"], params["owner"], params["group"], check_mode=check_mode),
    )


def key_path(directory: str, profile: str) -> str:
    """Where the key of ``profile`` is kept."""
    return os.path.join(directory, f"{profile}.key")


def key_hash(key: str) -> str:
    """What stands for ``key`` in the index: SHA-256, hex. A key holds 256 random bits, so no salt is needed."""
    return hashlib.sha256(key.encode("ascii")).hexdigest()


def read_key(path: str, found: _files.Found | None) -> str:
    """The key in a key file, the empty string when the file is missing or empty.

    Raises:
        SovereignError: the file holds something that is no key.
    """
    if found is None:
        return ""
    thing = f"key file {path}"
    key = clean_token(found.content, thing)
    if key and len(key) < MINIMUM_KEY_LENGTH:
        raise SovereignError(
            thing,
            f"its key has only {len(key)} characters",
            f"Use at least {MINIMUM_KEY_LENGTH}, or remove the file so that a new key is made.",
        )
    return key


def other_profiles(directory: str, listed: tuple[str, ...]) -> list[str]:
    """Profiles with a key file in ``directory`` that this task does not list."""
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    stems = [name.removesuffix(".key") for name in names if name.endswith(".key") and not name.startswith(".")]
    return sorted(set(stems) - set(listed))


def refuse_shared_keys(keys: Mapping[str, str], directory: str) -> None:
    """Refuses two profiles with one key: the service could not tell them apart, and they may be of different tiers.

    Args:
        keys: profile to key.
        directory: where the key files are, for the message.

    Raises:
        SovereignError: names both profiles.
    """
    seen: dict[str, str] = {}
    for profile in sorted(keys):
        key = keys[profile]
        if key in seen:
            raise SovereignError(
                f"key files in {directory}",
                f"profiles {seen[key]!r} and {profile!r} have the same key",
                f"Remove {key_path(directory, profile)} so that a new key is made.",
            )
        if key:
            seen[key] = profile


def parse_index(found: _files.Found | None) -> dict[str, str] | None:
    """Hash to profile as the index says; empty when there is none, None when it is not an index."""
    if found is None:
        return {}
    try:
        data = json.loads(found.content)
    except ValueError:
        return None
    if not isinstance(data, dict) or not all(isinstance(value, str) for value in data.values()):
        return None
    return data


def render_index(keys: Mapping[str, str]) -> bytes:
    """The bytes of the index of ``keys`` (profile to key); the same keys give the same bytes."""
    entries = {key_hash(key): profile for profile, key in keys.items()}
    return (json.dumps(entries, indent=1, sort_keys=True) + "\n").encode("ascii")


def compare_index(
    differences: Differences, found: _files.Found | None, keys: Mapping[str, str]
) -> tuple[bool, list[str]]:
    """Notes what differs in the index, in words without hashes.

    Args:
        differences: gets one entry for each profile whose entry differs.
        found: the index file.
        keys: profile to key; an empty key stands for one that is to be made.

    Returns:
        whether the index has to be written, and the profiles whose entry goes.
    """
    existing = parse_index(found)
    if existing is None:
        return differences.compare("index", "not an index", "written anew"), []
    write = differences.compare("index", "absent" if found is None else "present", "present")
    by_profile: dict[str, set[str]] = {}
    for hashed, profile in existing.items():
        by_profile.setdefault(profile, set()).add(hashed)
    removed = sorted(set(by_profile) - set(keys))
    for profile in sorted(set(by_profile) | set(keys)):
        hashes = by_profile.get(profile, set())
        if profile not in keys:
            before, after = "listed", "absent"
        else:
            after = "its key"
            current = key_hash(keys[profile]) if keys[profile] else ""
            before = "absent" if not hashes else ("its key" if hashes == {current} else "another key")
        write = differences.compare(f"index entry {profile}", before, after) or write
    if found is not None and not write:
        # Same entries, other bytes: somebody edited the layout. Put it right, so that the file has one form only.
        write = differences.compare("index layout", found.content == render_index(keys), True)
    return write, removed


def ensure(wanted: Wanted, *, check_mode: bool) -> dict[str, Any]:
    """Makes it so, and returns the module's result."""
    found = {
        profile: _files.look(key_path(wanted.directory, profile), f"key file {key_path(wanted.directory, profile)}")
        for profile in wanted.profiles
    }
    keys = {profile: read_key(key_path(wanted.directory, profile), file) for profile, file in found.items()}
    others: dict[str, str] = {}
    for profile in other_profiles(wanted.directory, wanted.profiles):
        path = key_path(wanted.directory, profile)
        others[profile] = read_key(path, _files.look(path, f"key file {path}"))
    refuse_shared_keys({**others, **keys}, wanted.directory)

    differences = Differences()
    created = [profile for profile in wanted.profiles if not keys[profile]]
    fixed: list[str] = []
    for profile in wanted.profiles:
        differences.compare(f"key {profile}", "kept" if keys[profile] else "none", "kept" if keys[profile] else "new")
        before = len(differences.names)
        _files.compare_access(differences, f"key {profile} ", found[profile], wanted.access)
        if len(differences.names) > before and profile not in created:
            fixed.append(profile)

    index_thing = f"key index {wanted.index}"
    index_found = _files.look(wanted.index, index_thing)
    write, removed = compare_index(differences, index_found, keys)
    before = len(differences.names)
    _files.compare_access(differences, "index ", index_found, wanted.access)
    fix_index = len(differences.names) > before

    if differences.changed and not check_mode:
        for profile in created:
            path = key_path(wanted.directory, profile)
            keys[profile] = new_token(RANDOM_BYTES, f"sk-{profile}-")
            _files.write_whole(
                path,
                keys[profile].encode("ascii"),
                wanted.access,
                f"key file {path}",
                only_new=found[profile] is None,
            )
        for profile in fixed:
            _files.fix_access(key_path(wanted.directory, profile), wanted.access)
        if write:
            _files.write_whole(wanted.index, render_index(keys), wanted.access, index_thing)
        elif fix_index:
            _files.fix_access(wanted.index, wanted.access)
    return {
        "changed": differences.changed,
        "diff": differences.diff(wanted.index),
        "index": wanted.index,
        "created": created,
        "removed": removed,
    }


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "profiles": {"type": "list", "elements": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "index": {"type": "path", "required": True},
            "owner": {"type": "str", "default": "root"},
            "group": {"type": "str", "default": "root"},
            "mode": {"type": "str", "default": "0600"},
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
