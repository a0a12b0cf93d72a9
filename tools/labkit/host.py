# SPDX-License-Identifier: MIT
"""What the machine under the lab is: its distribution, its package archive, its routes."""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from .say import Failed, Run

#: Host distribution → (suite of the lab machine, archive components). The lab machine is the nearest relative of
#: Ubuntu 24.04 that the host's own archive carries.
SUITES = {"ubuntu": ("noble", "main,universe"), "debian": ("trixie", "main")}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Host:
    """The host's distribution (``debian``, ``ubuntu``), the lab machine's suite, and the archive to take it from."""

    distribution: str
    suite: str
    components: str
    mirror: str


def read_host(os_release: Path = Path("/etc/os-release"), apt: Path = Path("/etc/apt")) -> Host:
    """Read the host. Raises :class:`Failed` on a distribution without apt sources that the lab could use."""
    fields = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', os_release.read_text(), re.MULTILINE))
    names = [fields.get("ID", ""), *fields.get("ID_LIKE", "").split()]
    for name in names:
        if name in SUITES:
            suite, components = SUITES[name]
            return Host(name, suite, components, find_mirror(apt, name))
    seen = fields.get("PRETTY_NAME", "an unknown system")
    raise Failed(f"This is {seen}; the lab is built on Debian 12 or Ubuntu 24.04.")


def find_mirror(apt: Path, distribution: str) -> str:
    """The archive that the host's own apt uses: first entry whose address ends in ``/debian`` or ``/ubuntu``."""
    # Cloud images of Debian name a list of mirrors in a file of its own.
    sources = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*")), *sorted((apt / "mirrors").glob("*"))]
    for source in sources:
        if source.suffix not in ("", ".list", ".sources") or not source.is_file():
            continue
        text = re.sub(r"^\s*#.*$", "", source.read_text(), flags=re.MULTILINE)
        for url in re.findall(r"\bhttps?://[^\s\]]+", text):
            if url.rstrip("/").endswith(f"/{distribution}"):
                return str(url.rstrip("/"))
    raise Failed(f"No {distribution} archive was found in {apt}/sources.list or {apt}/sources.list.d; add one.")


def taken_networks(run: Run) -> list[Network]:
    """Networks that the host itself uses: its routes, its name servers."""
    taken: list[Network] = []
    for family in ("-4", "-6"):
        for route in json.loads(run.output(["ip", family, "-json", "route", "show"], why="Reading the routes")):
            if route.get("dst", "default") != "default":
                taken.append(ipaddress.ip_network(route["dst"], strict=False))
    for server in re.findall(r"^nameserver\s+([0-9a-fA-F.:]+)", Path("/etc/resolv.conf").read_text(), re.MULTILINE):
        taken.append(ipaddress.ip_network(server))
    return taken


def addresses_of(url: str) -> list[Network]:
    """The addresses behind a URL's host, as networks of one; none when it cannot be resolved."""
    host = urlsplit(url).hostname or ""
    try:
        found = socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [ipaddress.ip_network(entry[4][0]) for entry in found]


def refuse_overlap(wanted: dict[str, str], taken: list[Network]) -> None:
    """Raise :class:`Failed` when a network of the lab (name → CIDR) overlaps one that the host uses."""
    for name, cidr in wanted.items():
        network = ipaddress.ip_network(cidr)
        for other in taken:
            if network.version == other.version and network.overlaps(other):
                raise Failed(
                    f"The lab's network {name} ({cidr}) overlaps {other}, which this machine uses. A bridge there would"
                    " cut this machine off. Change it in molecule/lab/vars.yml (and the addresses in inventory/lab)."
                )


def remove_left_bridges(run: Run, names: Sequence[str], sysfs: Path = Path("/sys/class/net")) -> None:
    """Delete the lab's own bridges that nobody uses: a Docker engine that is killed leaves its bridges behind.

    ``names``: bridges of networks that no running engine knows. Raises :class:`Failed` for one that is in use.
    """
    for name in names:
        if not (sysfs / name / "bridge").is_dir():
            continue
        members = sorted(member.name for member in (sysfs / name / "brif").iterdir())
        if members:
            raise Failed(
                f"The bridge {name} carries {len(members)} machines of another lab, run by no Docker engine in sight"
                f" ({', '.join(members)}). Take it down from its own folder first: tools/lab down"
            )
        run.note(f"removing the bridge {name}, which a killed Docker engine has left behind")
        run.command(["ip", "link", "delete", name, "type", "bridge"], why="Removing a bridge that was left behind")
