# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""A door: one port that a client of the tailnet may open on this machine. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError

PROTOCOLS = ("tcp", "udp")
#: Stands in comments of nftables, iptables and UFW: no quotes, and short enough for all of them.
NAME = re.compile(r"[a-z0-9][a-z0-9 _-]{0,39}")
INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
ROLE = re.compile(r"[a-z][a-z0-9_]{0,39}")
#: A door as a suboption of a module.
OPTIONS: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "port": {"type": "int", "required": True},
    "protocol": {"type": "str", "choices": list(PROTOCOLS), "required": True},
    "role": {"type": "str", "required": True},
}


@dataclass(frozen=True, order=True)
class Door:
    """Sorted by protocol, then port."""

    protocol: str
    port: int
    name: str
    role: str


def doors_from(raw: Iterable[Mapping[str, Any]]) -> list[Door]:
    """The doors of several roles as one list, sorted. The same one twice is one.

    Raises:
        SovereignError: a door that no rule can be made of, or two of different names at one port.
    """
    found: dict[tuple[str, int], Door] = {}
    for item in raw:
        door = _door_from(item)
        other = found.setdefault((door.protocol, door.port), door)
        if other != door:
            raise SovereignError(
                f"door {door.port}/{door.protocol}",
                f"{other.role} calls it {other.name!r}, {door.role} calls it {door.name!r}",
                "One port has one service behind it: give one of the two another port.",
            )
    return sorted(found.values())


def _door_from(item: Mapping[str, Any]) -> Door:
    missing = sorted({"name", "port", "protocol", "role"} - set(item))
    thing = f"door {item.get('name', '')!r} of role {item.get('role', '')!r}"
    if missing:
        raise SovereignError(thing, f"{', '.join(missing)} is missing", "Write {name, port, protocol, role}.")
    text = str(item["port"])
    port = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= port <= 65535 or isinstance(item["port"], bool):
        raise SovereignError(thing, f"port {item['port']!r}", "A port is a number from 1 to 65535.")
    if item["protocol"] not in PROTOCOLS:
        raise SovereignError(thing, f"protocol {item['protocol']!r}", "Write tcp or udp.")
    if not NAME.fullmatch(str(item["name"])):
        raise SovereignError(thing, "the name does not fit", "Up to 40 small letters, digits, blanks, - and _.")
    if not ROLE.fullmatch(str(item["role"])):
        raise SovereignError(thing, "the role's name does not fit", "Name the role that opens it.")
    return Door(str(item["protocol"]), port, str(item["name"]), str(item["role"]))


def check_interface(name: str) -> str:
    """The name of an interface that rules can be made of.

    Raises:
        SovereignError: it is none.
    """
    if not INTERFACE.fullmatch(name):
        raise SovereignError("interface of the doors", f"{name!r} is no interface's name", "Write one as tailscale0.")
    return name


def is_inside(interface: str, patterns: Iterable[str]) -> bool:
    """Whether an interface is one of those that are not outside; a pattern may end in ``*``."""
    return any(
        interface.startswith(pattern[:-1]) if pattern.endswith("*") else interface == pattern for pattern in patterns
    )


def document(interface: str, doors: Iterable[Door], inside: Iterable[str]) -> str:
    """The text of /etc/mushishi/doors.json, of which DOCKER-USER's rules are made, and which probes read as expected.

    ``inside`` stands in it, and not in the unit, so that the brake puts it back together with the rest.
    """
    listed = [asdict(door) for door in sorted(doors)]
    given = {"interface": interface, "inside": list(inside), "doors": listed}
    return json.dumps(given, indent=2, sort_keys=True) + "\n"
