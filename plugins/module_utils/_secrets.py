# SPDX-License-Identifier: MIT
"""One secret in one file: what is wanted, what is there, and the way from one to the other. Nothing here shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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


def wanted_from(params: Mapping[str, Any], *, check_mode: bool) -> Wanted:
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
