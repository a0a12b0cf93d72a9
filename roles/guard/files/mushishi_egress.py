# SPDX-License-Identifier: MIT
"""What the names of the policy mean now: for the guard's sets, and for the hosts file of the units that use the names.

A hybrid unit asks no resolver. This program asks the machine's own, as root, and gives the answer to both: the kernel
opens exactly the addresses that the unit can find. A resolver that lies can name another public address; TLS still says
that it is not the host. Standard library alone.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: An address stays open for this long after it was named last: a connection may be on its way to it.
KEPT_SECONDS = 600
#: A name that nobody can resolve keeps its last addresses for this long.
HELD_SECONDS = 24 * 3600
TABLE = "inet mushishi_guard"
EXIT_UNRESOLVED, EXIT_GUARD = 1, 2
#: No name opens an address of a private network, of this machine, or of the plane.
NEVER = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.168.0.0/16", "224.0.0.0/3", "::/8", "fc00::/7", "fe80::/10", "ff00::/8"),
    )
)

#: host → address → when it was named last.
Known = dict[str, dict[str, float]]
Resolver = Callable[[str], list[str]]


@dataclass(frozen=True)
class User:
    """Who may open what: the sets' name, the hosts with their ports."""

    name: str
    group: str
    hosts: dict[str, list[int]]


def read_users(config: Mapping[str, Any]) -> list[User]:
    """The configuration, as the role writes it."""
    found = []
    for name, given in sorted(config["users"].items()):
        hosts: dict[str, list[int]] = {}
        for entry in given["hosts"]:
            hosts.setdefault(str(entry["host"]), []).append(int(entry["port"]))
        found.append(User(name, str(given["set"]), hosts))
    return found


def may_open(address: str) -> bool:
    """Whether a name may open this address."""
    parsed = ipaddress.ip_address(address)
    return not any(parsed in network for network in NEVER if network.version == parsed.version)


def resolve(host: str) -> list[str]:
    """Addresses of a name as the machine finds them; empty when nobody knows."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return sorted({str(entry[4][0]) for entry in found})


def learn(
    known: Known, hosts: Iterable[str], ask: Resolver, now: float
) -> tuple[Known, dict[str, list[str]], list[str]]:
    """What is known after asking; the addresses that each name means now; what to say of it."""
    names = sorted(set(hosts))
    with ThreadPoolExecutor(max_workers=8) as pool:
        answers = dict(zip(names, pool.map(ask, names), strict=True))
    after: Known = {}
    current: dict[str, list[str]] = {}
    said = []
    for host in names:
        before = known.get(host, {})
        fresh = [address for address in answers[host] if may_open(address)]
        for address in sorted(set(answers[host]) - set(fresh)):
            said.append(f"{host} names {address}, which no name may open")
        if fresh:
            kept = {address: when for address, when in before.items() if now - when <= KEPT_SECONDS}
            after[host] = kept | dict.fromkeys(fresh, now)
            current[host] = fresh
            continue
        last = max(before.values(), default=0.0)
        if before and now - last <= HELD_SECONDS:
            after[host] = before
            current[host] = sorted(address for address, when in before.items() if when == last)
            said.append(f"{host} cannot be resolved; its addresses of {int(now - last)} s ago are kept")
        else:
            said.append(f"{host} cannot be resolved and has no address: it is closed")
    return after, current, said


def elements(user: User, known: Known) -> dict[str, list[str]]:
    """Set → its elements, ``address . port``."""
    sets: dict[str, list[str]] = {f"{user.group}_4": [], f"{user.group}_6": []}
    for host, ports in user.hosts.items():
        for address in known.get(host, {}):
            group = f"{user.group}_{ipaddress.ip_address(address).version}"
            sets[group] += [f"{address} . {port}" for port in ports]
    return {name: sorted(set(found)) for name, found in sets.items()}


def transaction(sets: Mapping[str, Iterable[str]]) -> str:
    """The words that make the sets hold exactly this, in one atomic step."""
    lines = []
    for name, found in sorted(sets.items()):
        lines.append(f"flush set {TABLE} {name}")
        if found:
            lines.append(f"add element {TABLE} {name} {{ {', '.join(found)} }}")
    return "\n".join(lines) + "\n"


def hosts_file(user: User, current: Mapping[str, Iterable[str]]) -> str:
    """What the unit sees as /etc/hosts."""
    lines = ["127.0.0.1 localhost", "::1 localhost"]
    lines += [f"{address} {host}" for host in sorted(user.hosts) for address in sorted(current.get(host, []))]
    return "\n".join(lines) + "\n"


def write_in_place(path: Path, text: str) -> None:
    """Into the same file, because a unit has it mounted; shorter text is filled up first: nothing old is left."""
    with contextlib.suppress(FileNotFoundError):
        if path.read_text(encoding="utf-8") == text:
            return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        data = text.encode()
        os.pwrite(descriptor, data + b"\n" * max(0, os.fstat(descriptor).st_size - len(data)), 0)
        os.ftruncate(descriptor, len(data))
        os.fchmod(descriptor, 0o644)
    finally:
        os.close(descriptor)


def load_sets(text: str) -> None:
    """Give the sets to the kernel. Raises :class:`subprocess.CalledProcessError`."""
    subprocess.run(["nft", "--file", "-"], input=text, text=True, check=True, capture_output=True, timeout=20)


def refresh(
    config: Path, state: Path, folder: Path, ask: Resolver = resolve, load: Callable[[str], None] = load_sets
) -> list[str]:
    """Ask for all names, then open, then tell; what is to be said of it."""
    users = read_users(json.loads(config.read_text(encoding="utf-8")))
    known: Known = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(state.read_text(encoding="utf-8"))
    # After a boot what was known opens at once: the line may come later, and a unit waits for its file.
    if not all((folder / f"hosts-{user.name}").exists() for user in users):
        load(transaction({name: found for user in users for name, found in elements(user, known).items()}))
        for user in users:
            write_in_place(folder / f"hosts-{user.name}", hosts_file(user, known))
    after, current, said = learn(known, [host for user in users for host in user.hosts], ask, time.time())
    new = state.with_name(f".{state.name}")
    new.write_text(json.dumps(after, sort_keys=True) + "\n", encoding="utf-8")
    new.replace(state)
    try:
        load(transaction({name: found for user in users for name, found in elements(user, after).items()}))
    finally:
        for user in users:
            write_in_place(folder / f"hosts-{user.name}", hosts_file(user, current))
    return said


def main() -> int:
    """Its three places on the machine are its arguments."""
    config, state, folder = map(Path, sys.argv[1:4])
    try:
        said = refresh(config, state, folder)
    except subprocess.CalledProcessError as error:
        print(f"The guard does not take the addresses: {error.stderr.strip()[:300]}", file=sys.stderr)
        return EXIT_GUARD
    for sentence in said:
        print(sentence, file=sys.stderr)
    return EXIT_UNRESOLVED if any("is closed" in sentence for sentence in said) else 0


if __name__ == "__main__":
    raise SystemExit(main())
