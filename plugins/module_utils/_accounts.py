# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""Users of services: what is in the machine's account files, and the commands that put it right."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ansible_collections.mushishi.sovereign.plugins.module_utils._diff import Differences
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError

# Reads a file below /etc; the empty string when it is missing.
Reader = Callable[[str], str]

HOME = "/nonexistent"
SHELL = "/usr/sbin/nologin"
_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")


@dataclass(frozen=True)
class Account:
    """A user as the account files have it. ``locked``: no password opens it."""

    name: str
    group: str
    comment: str
    home: str
    shell: str
    locked: bool


def _rows(text: str, fields: int) -> Iterator[list[str]]:
    for line in text.splitlines():
        row = line.split(":")
        if len(row) >= fields and not line.startswith("#"):
            yield row


def read_accounts(read: Reader) -> tuple[dict[str, Account], set[str]]:
    """All users by name, and the names of all groups, from /etc/passwd, /etc/group and /etc/shadow."""
    groups = {row[2]: row[0] for row in _rows(read("group"), 3)}
    passwords = {row[0]: row[1] for row in _rows(read("shadow"), 2)}
    users = {}
    for name, word, _uid, gid, comment, home, shell in (row[:7] for row in _rows(read("passwd"), 7)):
        password = passwords.get(name, word)
        users[name] = Account(name, groups.get(gid, gid), comment, home, shell, password[:1] in ("!", "*"))
    return users, set(groups.values())


def commands(names: Sequence[str], comment: str, read: Reader) -> tuple[list[list[str]], Differences]:
    """The commands, in order, that make every name a locked service user with a group of its own, and what differs.

    Raises:
        SovereignError: a name that no user can have.
    """
    users, groups = read_accounts(read)
    wanted: list[list[str]] = []
    differences = Differences()
    for name in names:
        if not _NAME.fullmatch(name):
            raise SovereignError(f"user {name!r}", "that is no name of a user", "Use a-z, 0-9, _ and -.")
        if differences.compare(f"group {name}", "present" if name in groups else "absent", "present"):
            wanted.append(["groupadd", "--system", "--", name])
        user = users.get(name)
        if differences.compare(f"user {name}", "present" if user else "absent", "present"):
            settings = ["--gid", name, "--comment", comment, "--home-dir", HOME, "--no-create-home", "--shell", SHELL]
            wanted.append(["useradd", "--system", *settings, "--", name])
        elif user is not None:
            wanted += _corrections(user, comment, differences)
    return wanted, differences


def _corrections(user: Account, comment: str, differences: Differences) -> list[list[str]]:
    checks = (
        ("group", user.group, user.name, ["--gid", user.name]),
        ("comment", user.comment, comment, ["--comment", comment]),
        ("home", user.home, HOME, ["--home", HOME]),
        ("shell", user.shell, SHELL, ["--shell", SHELL]),
        ("password", "locked" if user.locked else "open", "locked", ["--lock"]),
    )
    options = [
        word
        for what, before, after, words in checks
        if differences.compare(f"user {user.name} {what}", before, after)
        for word in words
    ]
    return [["usermod", *options, "--", user.name]] if options else []
