# SPDX-License-Identifier: MIT
"""The private queue is admission's: its own program is run, as admission's own user."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError

from sovereignctl.words import COMMANDS


@dataclass(frozen=True)
class Place:
    """Where the role admission has put its service, and whose it is."""

    python: Path = Path("/opt/mushishi/venvs/admission/bin/python")
    home: Path = Path("/opt/mushishi/admission")
    user: str = "mushishi-sovereign-admission"

    @property
    def program(self) -> Path:
        """The part of the service that looks after the queue."""
        return self.home / "admission/queuectl.py"


def argv(words: Sequence[str], place: Place) -> list[str]:
    """The program and its words.

    Raises:
        SovereignError: there is no such word, or the program is not on this machine.
    """
    known = COMMANDS["queue"].words
    if not words or words[0] not in known:
        seen = f"it is {words[0]!r}" if words else "there is none"
        raise SovereignError("word after queue", seen, f"Say one of {', '.join(known)}.")
    for path in (place.program, place.python):
        if not path.exists():
            raise SovereignError(
                "the private queue",
                f"it is not on this machine ({path} is missing)",
                "Run site.yml with a version of the collection that brings the queue: --tags admission.",
            )
    return [str(place.python), "-PB", "-m", "admission.queuectl", *words]


def environment(place: Place) -> dict[str, str]:
    """Nothing of the caller's but how the terminal is."""
    kept = {name: os.environ[name] for name in ("TERM", "LANG", "LC_ALL") if name in os.environ}
    return {**kept, "PATH": "/usr/bin:/bin", "PYTHONPATH": str(place.home), "HOME": "/nonexistent"}


def become(user: str) -> None:
    """Give root up, for good.

    Raises:
        SovereignError: there is no such user.
    """
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        raise SovereignError(f"user {user}", "there is none", "Run site.yml.") from None
    if os.geteuid() == found.pw_uid:
        return
    os.initgroups(user, found.pw_gid)
    os.setresgid(found.pw_gid, found.pw_gid, found.pw_gid)
    os.setresuid(found.pw_uid, found.pw_uid, found.pw_uid)


def run(
    words: Sequence[str],
    place: Place,
    execute: Callable[[str, list[str], dict[str, str]], object] = os.execve,
    become_user: Callable[[str], None] = become,
) -> None:
    """Become admission's program; does not come back.

    Raises:
        SovereignError: see ``argv`` and ``become``.
    """
    call = argv(words, place)
    # Nothing of root's folder may be needed by who is not root.
    os.chdir("/")
    become_user(place.user)
    execute(call[0], call, environment(place))
