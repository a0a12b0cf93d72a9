# SPDX-License-Identifier: MIT
"""Wait until an interface has an address that can be bound, and say which family is missing.

The kernel tells when an address comes (rtnetlink), so nothing is asked twice without a reason. An IPv6 address counts
once nobody else has it (it is no longer tentative). Ends with 0 when there is an address, with 1 when the time is over.

    python3 mushishi_tailnet.py --interface tailscale0 --seconds 90 --other-seconds 10
"""

from __future__ import annotations

import argparse
import errno
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator

# linux/rtnetlink.h, linux/netlink.h, linux/if_addr.h
_NEWLINK, _GETLINK, _NEWADDR, _GETADDR, _DONE, _ERROR = 16, 18, 20, 22, 3, 2
_DUMP = 0x301
# Interfaces, IPv4 addresses, IPv6 addresses.
_GROUPS = 0x1 | 0x10 | 0x100
_ADDRESS, _LOCAL, _FLAGS = 1, 2, 8
_DADFAILED, _TENTATIVE = 0x08, 0x40
_LINK_SCOPE = 253
_HEADER = struct.Struct("=IHHII")
_BODY = struct.Struct("=BBBBI")
_LINK = struct.Struct("=BBHiII")
_NAME = 3
FAMILIES = {socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6"}


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and body of each message in a datagram of the kernel."""
    while len(data) >= _HEADER.size:
        length, kind, _flags, _seq, _port = _HEADER.unpack_from(data)
        if length < _HEADER.size:
            return
        yield kind, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes behind a message's fixed part."""
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            break
        found[kind] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


def usable(body: bytes, index: int) -> tuple[str, str] | None:
    """Family and text of an address of the interface that can be bound; None for any other."""
    family, _prefix, flags, scope, where = _BODY.unpack_from(body)
    more = attributes(body[_BODY.size :])
    if _FLAGS in more:
        (flags,) = struct.unpack("=I", more[_FLAGS])
    if where != index or family not in FAMILIES or scope == _LINK_SCOPE or flags & (_TENTATIVE | _DADFAILED):
        return None
    raw = more.get(_LOCAL, more.get(_ADDRESS))
    return None if raw is None else (FAMILIES[family], socket.inet_ntop(family, raw))


def dumped(ask: int, told: int, body: bytes) -> Iterator[bytes]:
    """The bodies of all messages of one kind that the kernel answers to a question."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as asked:
        asked.bind((0, 0))
        asked.send(_HEADER.pack(_HEADER.size + len(body), ask, _DUMP, 1, 0) + body)
        while True:
            for kind, answer in messages(asked.recv(1 << 16)):
                if kind in (_DONE, _ERROR):
                    return
                if kind == told:
                    yield answer


def index_of(interface: str) -> int | None:
    """The interface's number. By netlink: if_nametoindex() would open a socket of a family that the unit forbids."""
    for body in dumped(_GETLINK, _NEWLINK, _LINK.pack(0, 0, 0, 0, 0, 0)):
        if attributes(body[_LINK.size :]).get(_NAME, b"").rstrip(b"\0") == interface.encode():
            return int(_LINK.unpack_from(body)[3])
    return None


def addresses(interface: str) -> dict[str, str] | None:
    """One address of each family that the interface has; None when there is no such interface."""
    index = index_of(interface)
    if index is None:
        return None
    found: dict[str, str] = {}
    for body in dumped(_GETADDR, _NEWADDR, _BODY.pack(0, 0, 0, 0, 0)):
        if (address := usable(body, index)) is not None:
            found.setdefault(*address)
    return found


def events() -> socket.socket:
    """A socket that becomes readable when an interface or an address comes or goes."""
    heard = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    heard.setblocking(False)
    heard.bind((0, _GROUPS))
    return heard


def drain(heard: socket.socket) -> None:
    """Take what was told; the state is read anew."""
    while True:
        try:
            heard.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError as error:
            # More was told than the socket could hold. That is news, too.
            if error.errno != errno.ENOBUFS:
                raise


def wait(
    interface: str,
    seconds: float,
    other_seconds: float,
    look: Callable[[str], dict[str, str] | None] = addresses,
) -> tuple[int, str]:
    """Exit status, and what to say."""
    with events() as heard:
        end = time.monotonic() + seconds
        other_end: float | None = None
        while True:
            found = look(interface)
            now = time.monotonic()
            if found:
                other_end = now + other_seconds if other_end is None else other_end
            limit = end if not found or other_end is None else other_end
            if len(found or {}) == len(FAMILIES) or now >= limit:
                return ended(interface, found)
            if select.select([heard], [], [], limit - now)[0]:
                drain(heard)


def ended(interface: str, found: dict[str, str] | None) -> tuple[int, str]:
    """What to say when nothing more is waited for."""
    if found is None:
        return 1, f"There is no interface {interface}: is the client running, and logged in? tailscale status"
    if not found:
        return 1, f"{interface} has neither an IPv4 nor an IPv6 address: tailscale status says why"
    has = ", ".join(f"{family} {address}" for family, address in sorted(found.items()))
    missing = " and ".join(sorted(set(FAMILIES.values()) - set(found)))
    return 0, f"{interface} has {has}" + (f"; it has no {missing} address" if missing else "")


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Wait until an interface has an address.")
    parser.add_argument("--interface", required=True)
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--other-seconds", type=float, default=10)
    given = parser.parse_args()
    status, said = wait(given.interface, given.seconds, given.other_seconds)
    print(said, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
