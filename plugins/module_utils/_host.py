# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""What a machine is like, read from /proc and the file system, and what is wrong with it for us.

The readers take the root of the file tree, so that they also read a recorded one. The judges are pure: they get what
was read and return messages, each naming the object, what was seen and what to do.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# State of a listening socket in /proc/net/tcp (TCP_LISTEN in include/net/tcp_states.h of Linux).
_LISTEN = "0A"
_MIB = 1024 * 1024
# An unlimited cgroup v1 limit is a number near 2^63; no machine has so much memory.
_NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class Listener:
    """A TCP socket that waits for connections."""

    address: str
    port: int
    inode: int


@dataclass(frozen=True)
class Holder:
    """The process that holds a socket, as far as /proc tells. ``unit`` is empty outside systemd."""

    pid: int
    name: str
    unit: str


@dataclass(frozen=True)
class Space:
    """Where files would land: the folder that exists, its file system and what is free there, in bytes."""

    existing: str
    device: int
    free: int


def _decode_address(text: str) -> str:
    """Turns the kernel's hexadecimal address (words in host order, little-endian here) into the usual notation."""
    raw = bytes.fromhex(text)
    words = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
    address = ipaddress.ip_address(words)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def parse_listeners(text: str) -> list[Listener]:
    """The listening sockets in the text of /proc/net/tcp or /proc/net/tcp6."""
    listeners = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == _LISTEN:
            address, port = fields[1].split(":")
            listeners.append(Listener(_decode_address(address), int(port, 16), int(fields[9])))
    return listeners


def read_text(path: str) -> str:
    """The text of a small file, the empty string when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def read_listeners(root: str) -> list[Listener]:
    """All listening TCP sockets of the network namespace that ``root``/proc shows."""
    return [item for name in ("tcp", "tcp6") for item in parse_listeners(read_text(f"{root}/proc/net/{name}"))]


def unit_of_cgroup(text: str) -> str:
    """The systemd unit in the text of /proc/PID/cgroup, the empty string when there is none.

    Both forms are read: the one line of cgroup v2 and the ``name=systemd`` line of v1.
    """
    for line in text.splitlines():
        number, _unused, rest = line.partition(":")
        controllers, _unused, path = rest.partition(":")
        if (number == "0" and not controllers) or controllers == "name=systemd":
            units = [part for part in path.split("/") if re.search(r"\.(service|scope|socket)$", part)]
            if units:
                return units[-1]
    return ""


def find_holders(root: str, inodes: Iterable[int]) -> dict[int, Holder]:
    """Who holds the sockets with these inodes. A socket whose holder may not be looked at is left out."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    holders: dict[int, Holder] = {}
    try:
        pids = sorted(int(name) for name in os.listdir(f"{root}/proc") if name.isdigit())
    except OSError:
        return holders
    for pid in pids:
        folder = f"{root}/proc/{pid}"
        try:
            descriptors = os.listdir(f"{folder}/fd")
        except OSError:
            continue
        for descriptor in descriptors:
            try:
                inode = wanted.get(os.readlink(f"{folder}/fd/{descriptor}"))
            except OSError:
                continue
            if inode is not None and inode not in holders:
                name = read_text(f"{folder}/comm").strip()
                holders[inode] = Holder(pid, name, unit_of_cgroup(read_text(f"{folder}/cgroup")))
    return holders


def collides(listening: str, wanted: str) -> bool:
    """Whether a socket that listens on one address keeps another from being bound, on the same port.

    ``::`` counts for IPv4 too: whether it does is an option of the socket that /proc does not show, and on by default.
    """
    first, second = ipaddress.ip_address(listening), ipaddress.ip_address(wanted)
    if first == second:
        return True
    if first.version == second.version:
        return first.is_unspecified or second.is_unspecified
    wide = first if first.version == 6 else second
    return wide.is_unspecified


def judge_ports(
    wanted: Sequence[Mapping[str, Any]], listeners: Sequence[Listener], holders: Mapping[int, Holder]
) -> list[str]:
    """Messages about ports that somebody else holds.

    Args:
        wanted: entries with ``name``, ``addresses``, ``port``, and ``unit`` and ``variable`` (may be empty).
        listeners: the listening sockets.
        holders: socket inode to process.
    """
    problems = []
    for entry in wanted:
        for address in entry["addresses"]:
            for listener in listeners:
                if listener.port != entry["port"] or not collides(listener.address, address):
                    continue
                holder = holders.get(listener.inode)
                if holder is not None and entry["unit"] and holder.unit == entry["unit"]:
                    continue
                who = "a process that cannot be seen from here"
                if holder is not None:
                    who = f"{holder.name or 'a process'} (process {holder.pid}, {holder.unit or 'no systemd unit'})"
                remedy = f", or set {entry['variable']} to a free port" if entry["variable"] else ""
                problems.append(
                    f"port {listener.port} on {address}, for {entry['name']}: {who} already listens on "
                    f"{listener.address}. Stop it{remedy}."
                )
    return problems


def read_memory(root: str) -> int:
    """Memory in bytes that this machine may use: what is built in, or the control group's limit when that is less."""
    match = re.search(r"^MemTotal:\s+(\d+) kB$", read_text(f"{root}/proc/meminfo"), re.MULTILINE)
    amounts = [int(match.group(1)) * 1024] if match else []
    for path in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = read_text(f"{root}/{path}").strip()
        if text.isdigit() and int(text) < _NO_LIMIT:
            amounts.append(int(text))
    return min(amounts, default=0)


def judge_memory(wanted_mib: int, present: int) -> list[str]:
    """A message when there is less memory (``present``, bytes) than wanted."""
    if present >= wanted_mib * _MIB:
        return []
    return [
        (
            f"memory: this machine has {present // _MIB} MiB, {wanted_mib} MiB are needed. Add memory, or choose "
            "smaller models."
        )
    ]


def find_space(path: str) -> Space:
    """Looks at the nearest folder above ``path`` that exists."""
    existing = path
    while not os.path.isdir(existing):
        existing = os.path.dirname(existing)
    status = os.statvfs(existing)
    return Space(existing, os.stat(existing).st_dev, status.f_bavail * status.f_frsize)


def judge_disk(wanted: Sequence[tuple[str, int, Space]], reserve_mib: int = 0) -> list[str]:
    """Messages about file systems that are too full. Needs on one file system add up.

    Args:
        wanted: what is to be put where, in words that end with the path; MiB needed there; and where it would land.
        reserve_mib: what must stay free on each of these file systems.
    """
    by_device: dict[int, list[tuple[str, int, Space]]] = {}
    for item in wanted:
        by_device.setdefault(item[2].device, []).append(item)
    problems = []
    for items in by_device.values():
        needed = sum(mib for _path, mib, _space in items) + reserve_mib
        free = items[0][2].free // _MIB
        if free < needed:
            paths = ", ".join(f"{path} ({mib} MiB)" for path, mib, _space in items)
            problems.append(
                f"disk: the file system of {items[0][2].existing} has {free} MiB free, {needed} MiB are needed for "
                f"{paths}{f', with {reserve_mib} MiB left over' if reserve_mib else ''}. Free at least "
                f"{needed - free} MiB there, or put it on another disk."
            )
    return problems


def hash_file(path: str) -> str | None:
    """SHA-256 of a file in hexadecimal digits; None when there is no file to read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            while block := stream.read(_MIB):
                digest.update(block)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
    return digest.hexdigest()


def judge_file(path: str, wanted: str, seen: str | None) -> list[str]:
    """A message when a file is there (``seen`` is its SHA-256) and is not the wanted one."""
    if seen is None or seen == wanted.lower():
        return []
    return [
        (
            f"file {path}: its SHA-256 is {seen}, wanted is {wanted.lower()}. Remove the file to have it fetched "
            "again, or correct the hash."
        )
    ]


def parse_os_release(text: str) -> dict[str, str]:
    """The fields of /etc/os-release."""
    fields = {}
    for line in text.splitlines():
        name, separator, value = line.partition("=")
        if separator and not name.startswith("#"):
            fields[name.strip()] = value.strip().strip("\"'")
    return fields


def judge_system(wanted: Sequence[Mapping[str, str]], release: Mapping[str, str]) -> list[str]:
    """A message when the operating system is not in the list (entries with ``id`` and ``version_id``)."""
    seen = (release.get("ID", "unknown"), release.get("VERSION_ID", "unknown"))
    if not wanted or any((entry["id"], entry["version_id"]) == seen for entry in wanted):
        return []
    names = ", ".join(f"{entry['id']} {entry['version_id']}" for entry in wanted)
    return [f"operating system: this is {seen[0]} {seen[1]}, written for are {names}. Use one of these."]


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match.group(0).split(".")) if match else ()


def judge_kernel(minimum: str, release: str) -> list[str]:
    """A message when the kernel's ``release`` is older than ``minimum``; an empty minimum accepts every kernel."""
    if not minimum or _numbers(release) >= _numbers(minimum):
        return []
    return [f"kernel: this is Linux {release}, {minimum} or newer is needed. Update the kernel and boot it."]
