# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""What is on a machine: packages, files, links, and what commands that only read say."""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils._host import hash_file

# Runs a program: argument list in; exit status, standard output and standard error out.
Runner = Callable[[Sequence[str]], "tuple[int, str, str]"]

# More than this is no file of settings.
_MAX_BYTES = 1024 * 1024
_DPKG = "var/lib/dpkg"
# States of dpkg in which a killed run leaves a package.
_HALF = ("half-installed", "unpacked", "half-configured")


def installed(status: str) -> dict[str, str]:
    """Package name to dpkg's state (``installed``, ``half-configured`` …) from the text of dpkg's status file."""
    states: dict[str, str] = {}
    for block in status.split("\n\n"):
        name = re.search(r"^Package: (\S+)$", block, re.MULTILINE)
        state = re.search(r"^Status: \S+ \S+ (\S+)$", block, re.MULTILINE)
        # A package may be there for several architectures; one that is installed is enough.
        if name and state and states.get(name[1]) != "installed":
            states[name[1]] = state[1]
    return states


def packages(root: str, wanted: Sequence[str]) -> dict[str, Any]:
    """``missing_packages`` among ``wanted``, and whether dpkg was interrupted. The machine's files are at ``root``."""
    try:
        with open(f"{root}/{_DPKG}/status", encoding="utf-8", errors="replace") as stream:
            states = installed(stream.read())
    except FileNotFoundError:
        states = {}
    try:
        updates = [name for name in os.listdir(f"{root}/{_DPKG}/updates") if name.isdigit()]
    except FileNotFoundError:
        updates = []
    return {
        "missing_packages": [name for name in wanted if states.get(name) not in ("installed", "triggers-pending")],
        "dpkg_interrupted": bool(updates) or any(state in _HALF for state in states.values()),
    }


def path_state(path: str) -> dict[str, Any]:
    """What is at a path. ``kind`` and ``size`` (bytes) are of what a link leads to; a broken one does not exist."""
    link = os.path.islink(path)
    try:
        status = os.stat(path)
    except OSError:
        return {"exists": False, "kind": "absent", "link": link, "size": 0}
    kinds = (("file", stat.S_ISREG), ("directory", stat.S_ISDIR))
    kind = next((name for name, test in kinds if test(status.st_mode)), "other")
    return {"exists": True, "kind": kind, "link": link, "size": status.st_size}


def text_of(path: str) -> str | None:
    """The text of a file; None when there is none.

    Raises:
        SovereignError: it is too large, no text, or cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise SovereignError(f"file {path}", f"it has more than {_MAX_BYTES} bytes", "Is that the file you mean?")
        return content.decode("utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise SovereignError(f"file {path}", "it is no text", "Is that the file you mean?") from None
    except OSError as error:
        raise SovereignError(f"file {path}", f"it cannot be read ({error.strerror})", "Look at it.") from None


def answers(commands: Iterable[Mapping[str, Any]], run: Runner) -> dict[str, dict[str, Any]]:
    """What each command says, by the name it was given.

    Raises:
        SovereignError: two commands have one name, or one ends in a way that was not allowed.
    """
    said: dict[str, dict[str, Any]] = {}
    for command in commands:
        name, argv, allowed = command["name"], command["argv"], command["allowed"]
        if name in said:
            raise SovereignError(f"command {name}", "the name is given twice", "Give each its own.")
        status, out, err = run(argv)
        if allowed and status not in allowed:
            what = f"{' '.join(argv)} ended with {status}: {(err or out).strip()}"
            raise SovereignError(f"command {name}", what, "Look at what it says.")
        said[name] = {"rc": status, "stdout": out.rstrip("\n"), "stderr": err.rstrip("\n")}
    return said


def look(params: Mapping[str, Any], run: Runner, root: str = "") -> dict[str, Any]:
    """Everything the task asks for.

    Raises:
        SovereignError: something cannot be read, or a command fails.
    """
    return {
        **packages(root, params["packages"]),
        "paths": {path: path_state(path) for path in params["paths"]},
        "globs": {pattern: sorted(glob.glob(pattern)) for pattern in params["globs"]},
        "contents": {path: text_of(path) for path in params["contents"]},
        "sha256": {path: hash_file(path) for path in params["sha256"]},
        "commands": answers(params["commands"], run),
    }
