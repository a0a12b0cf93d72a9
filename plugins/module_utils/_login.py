# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""The SSH login above a process, read from the machine and not from an inventory.

What was started over SSH has a process above it whose environment says from where (``SSH_CONNECTION``), also when
``sudo`` stands between and has swept its own.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass

# No login is deeper than this below its sshd.
_DEEPEST = 64


@dataclass(frozen=True)
class Login:
    """Who is logged in (empty when nobody says), from which address, to which port of this machine.

    ``zone`` is the interface by which a link-local address came, which says nothing without it; empty for any other.
    """

    user: str
    address: str
    port: int
    zone: str = ""


def connection_from(text: str) -> tuple[str, int] | None:
    """Read ``SSH_CONNECTION`` (client, its port, server, its port): the client's address and the server's port."""
    words = text.split()
    if len(words) != 4 or not words[3].isdigit():
        return None
    try:
        # A link-local address has the interface behind a percent sign.
        address = ipaddress.ip_address(words[0].partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address), int(words[3])


def zone_from(text: str) -> str:
    """The interface that ``SSH_CONNECTION`` names with a link-local address of the client; empty without one."""
    return text.partition(" ")[0].partition("%")[2]


def _environment(process: str) -> dict[str, str]:
    with open(f"{process}/environ", "rb") as stream:
        pairs = stream.read().decode("utf-8", "replace").split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def _parent(process: str) -> int:
    with open(f"{process}/stat", encoding="utf-8", errors="replace") as stream:
        # The name in brackets may hold anything; what follows the last one has fixed places.
        return int(stream.read().rpartition(")")[2].split()[1])


def find_login(pid: int | None = None, proc: str = "/proc") -> Login | None:
    """The SSH login above a process, this one by default; None when it was not started over SSH."""
    pid = os.getpid() if pid is None else pid
    for _step in range(_DEEPEST):
        process = f"{proc}/{pid}"
        try:
            environment = _environment(process)
            pid = _parent(process)
        except (OSError, ValueError, IndexError):
            return None
        text = environment.get("SSH_CONNECTION", "")
        connection = connection_from(text)
        if connection:
            # sudo changes USER and LOGNAME of what it starts, and says who called.
            user = environment.get("SUDO_USER") or environment.get("LOGNAME") or environment.get("USER") or ""
            return Login(user, *connection, zone=zone_from(text))
        if pid <= 0:
            return None
    return None
