# SPDX-License-Identifier: MIT
"""A machine's addresses, by who can knock at them. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

#: Interfaces behind which nobody from outside stands: loopback, bridges and wires of containers and of virtual
#: machines.
INSIDE = re.compile(r"lo|docker\d+|br-.+|veth.+|virbr\d+|cni\d+|sov0-host|doors-.+|dummy\d+")


def addresses_of(entry: dict[str, Any], scope: str = "global") -> Iterator[str]:
    """The addresses of an interface that others can ask for; link-local ones mean nothing but on its own network."""
    for address in entry.get("addr_info", []):
        if address.get("scope") == scope and not address.get("deprecated") and "local" in address:
            yield str(address["local"])


def addresses(shown: str, routes: str, tailnet: str) -> dict[str, Any]:
    """What can be knocked at, and by which card a stranger of the LAN would come.

    Args:
        shown: what ``ip -json addr show`` says.
        routes: what ``ip -json route show default`` says, of both families.
        tailnet: the tailnet's interface.

    Raises:
        ValueError: an answer is no JSON.
    """
    found: dict[str, Any] = {"lan": [], "link": [], "tailnet": [], "card": ""}
    cards = []
    for entry in json.loads(shown or "[]"):
        name = str(entry.get("ifname", ""))
        if name == tailnet:
            found["tailnet"] += addresses_of(entry)
        elif not INSIDE.fullmatch(name):
            there = list(addresses_of(entry))
            found["lan"] += there
            found["link"] += [address for address in addresses_of(entry, "link") if ":" in address]
            cards += [name] if there else []
    by_default = [str(route.get("dev")) for route in json.loads(routes or "[]")]
    found["card"] = next((name for name in [*by_default, *cards] if name in cards), "")
    return found
