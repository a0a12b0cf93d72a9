# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""The example of a tailnet policy: who may open the doors of this machine, and tests that the control server runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError

PROTOCOLS = ("tcp", "udp")
# What people have published by accident, and what this machine has inside: none is a door unless a door says so. The
# example's tests ask for them in vain.
CLOSED = (22, 80, 443, 2375, 3000, 4000, 4001, 4011, 5432, 5678, 6006, 6379, 8000, 8001, 8080, 8188, 8642, 11434, 19999)


def pairs(doors: Iterable[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """Protocol and port of each door, sorted, each once.

    Raises:
        SovereignError: a door that there cannot be.
    """
    found = set()
    for door in doors:
        protocol, port = door.get("protocol"), door.get("port")
        try:
            number = int(str(port))
        except ValueError:
            number = 0
        if protocol not in PROTOCOLS or not 1 <= number <= 65535:
            raise SovereignError(
                f"door {door.get('name')!r}",
                f"{protocol} {port} is no protocol and port",
                "Write {name: ssh, port: 22, protocol: tcp, role: ssh}.",
            )
        found.add((str(protocol), number))
    return sorted(found)


def policy(doors: Iterable[Mapping[str, Any]], tag: str, sources: Sequence[str], user: str) -> dict[str, Any]:
    """A policy file with one grant: the sources may open the doors of the tagged machine, and nothing else.

    Raises:
        SovereignError: there is no door, or one that cannot be.
    """
    found = pairs(doors)
    if not found:
        raise SovereignError("the tailnet policy", "there is no door to grant", "Install a role that opens one first.")
    tests = []
    for protocol in PROTOCOLS:
        opened = [port for each, port in found if each == protocol]
        closed = [port for port in CLOSED if port not in opened]
        # With nothing open over UDP there is one test less to read.
        if opened or protocol == "tcp":
            test: dict[str, Any] = {"src": user, "proto": protocol}
            test["accept"] = [f"{tag}:{port}" for port in opened]
            test["deny"] = [f"{tag}:{port}" for port in closed]
            tests.append(test)
    return {
        "tagOwners": {tag: ["autogroup:admin"]},
        "grants": [{"src": list(sources), "dst": [tag], "ip": [f"{protocol}:{port}" for protocol, port in found]}],
        "tests": tests,
    }
