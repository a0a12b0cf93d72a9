# SPDX-License-Identifier: MIT
"""Try every TCP port and some UDP ports of some addresses, and say how each answered. One file, standard library only,
so that it can be started in any namespace: it reads one job from standard input and writes events, one JSON object a
line.

A control goes with each scan: a TCP and a UDP service that it plants itself, at its own address, and must find by the
very same means. What shows that the addressed machine was there at all is told as ``evidence``.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import json
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

#: How a port answered. ``unreachable``: a router, the neighbour or this machine itself said that there is no way.
OUTCOMES = ("open", "refused", "unreachable", "silent")
#: Seconds between two words of progress.
BEAT = 2.0
#: What a planted service sends back, and what is asked where nothing better is known.
WORD = b"mushishi-doors\n"
#: Of the memory of this process: too many sockets, too many local ports. Waited out.
_FULL = (errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM)
#: Sockets that the program itself needs.
_OWN_FILES = 64

Tell = Callable[[Mapping[str, Any]], None]


def ports_of(text: str) -> list[int]:
    """The ports of ``1-1024,4000``. Raises ValueError for one that is none."""
    found: set[int] = set()
    for part in text.replace(" ", "").split(","):
        if part:
            first, _sign, last = part.partition("-")
            found.update(range(int(first), int(last or first) + 1))
    if found and not 1 <= min(found) <= max(found) <= 65535:
        raise ValueError(f"{text}: ports are 1 to 65535")
    return sorted(found)


def spelled(ports: Iterable[int]) -> str:
    """The same the other way: ``1-1024,4000``."""
    runs: list[list[int]] = []
    for port in sorted(set(ports)):
        if runs and runs[-1][1] == port - 1:
            runs[-1][1] = port
        else:
            runs.append([port, port])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def family_of(address: str) -> socket.AddressFamily:
    """AF_INET6 for what has a colon."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def place(address: str, port: int) -> tuple[Any, ...]:
    """Where a socket connects to; a link-local address (fe80::1%eth0) has the number of its interface beside it."""
    plain, _sign, zone = address.partition("%")
    return (plain, port, 0, number_of(zone)) if zone else (plain, port)


@functools.lru_cache
def number_of(zone: str) -> int:
    """The number of an interface. Raises OSError when there is none."""
    return socket.if_nametoindex(zone)


def means(number: int) -> str:
    """What the number of an error says of a port."""
    if number in (errno.ECONNREFUSED, errno.ECONNRESET):
        return "refused"
    return "silent" if number == errno.ETIMEDOUT else "unreachable"


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


class Progress:
    """How far a scan is, told now and then with the time that is left."""

    def __init__(self, tell: Tell, total: int) -> None:
        self.tell, self.total, self.done = tell, max(total, 1), 0
        self.began = self.told = time.monotonic()
        self.what = ""

    def step(self) -> None:
        """One port more."""
        self.done += 1
        now = time.monotonic()
        if now - self.told >= BEAT:
            self.told = now
            left = (now - self.began) / self.done * (self.total - self.done)
            self.tell(
                {
                    "progress": f"{self.what}: {self.done} of {self.total} ports tried "
                    f"({100 * self.done // self.total} %), about {clock(left)} left"
                }
            )


async def knock(address: str, port: int, patience: float) -> str:
    """How one TCP port answers a connection."""
    loop = asyncio.get_running_loop()
    while True:
        sock = None
        try:
            sock = socket.socket(family_of(address), socket.SOCK_STREAM)
            sock.setblocking(False)
            await asyncio.wait_for(loop.sock_connect(sock, place(address, port)), patience)
            # Asking an address of its own, a socket may get the very port that it asks for, and meet itself.
            return "refused" if sock.getsockname() == sock.getpeername() else "open"
        except (asyncio.TimeoutError, TimeoutError):
            return "silent"
        except OSError as error:
            if error.errno not in _FULL:
                return means(error.errno or 0)
        finally:
            if sock is not None:
                sock.close()
        await asyncio.sleep(0.05)


async def ask(address: str, port: int, question: bytes, patience: float) -> str:
    """How one UDP port answers a question. It is asked twice before it counts as silent."""
    loop = asyncio.get_running_loop()
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(place(address, port))
            for _again in range(2):
                sock.send(question)
                try:
                    await asyncio.wait_for(loop.sock_recv(sock, 4096), patience)
                    return "open"
                except (asyncio.TimeoutError, TimeoutError):
                    continue
        except OSError as error:
            return means(error.errno or 0)
    return "silent"


async def all_of(
    things: Sequence[Any], one: Callable[[Any], Awaitable[str]], parallel: int, progress: Progress
) -> dict[int, str]:
    """Outcome by port, ``parallel`` at a time. A thing is a port, or a port with its question."""
    found: dict[int, str] = {}
    waiting: Iterator[Any] = iter(things)

    async def worker() -> None:
        for thing in waiting:
            found[thing if isinstance(thing, int) else thing[0]] = await one(thing)
            progress.step()

    await asyncio.gather(*(worker() for _number in range(min(parallel, len(things)))))
    return found


def own_address(address: str) -> str | None:
    """The address from which this machine would ask another; None when it has no way there."""
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(place(address, 9))
        except OSError:
            return None
        _plain, sign, zone = address.partition("%")
        return str(sock.getsockname()[0]).partition("%")[0] + sign + zone


class Echo(asyncio.DatagramProtocol):
    """The planted UDP service."""

    def connection_made(self, transport: Any) -> None:
        """Remember where to answer."""
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Send it back."""
        self.transport.sendto(data, addr)


async def control(address: str, patience: float) -> dict[str, str]:
    """Plant a TCP and a UDP service at an own address, and try both as everything else is tried."""
    family = family_of(address)
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), address, 0, family=family)
    transport, _echo = await asyncio.get_running_loop().create_datagram_endpoint(Echo, (address, 0), family=family)
    try:
        tcp, udp = server.sockets[0].getsockname()[1], transport.get_extra_info("sockname")[1]
        return {"tcp": await knock(address, tcp, patience), "udp": await ask(address, udp, WORD, patience)}
    finally:
        server.close()
        transport.close()


def told(*words: str) -> list[dict[str, Any]]:
    """What ``ip -json`` says; nothing when it fails."""
    try:
        done = subprocess.run(["ip", "-json", *words], capture_output=True, text=True, timeout=10, check=False)
        return list(json.loads(done.stdout or "[]"))
    except (OSError, ValueError, subprocess.SubprocessError):
        return []


def with_zones(addresses: Sequence[str]) -> list[str]:
    """The addresses, the link-local ones with this machine's own interface to the network on which the others are."""
    neighbours = [route for address in addresses if not local(address) for route in told("route", "get", address)]
    found = (route for route in neighbours if "dev" in route and not {"gateway", "type"} & set(route))
    near = next((str(route["dev"]) for route in found), "")
    return [f"{address}%{near}" if near and local(address) and "%" not in address else address for address in addresses]


def local(address: str) -> bool:
    """Whether an address is a link-local one of IPv6."""
    return address.lower().startswith(("fe8", "fe9", "fea", "feb"))


def neighbour(address: str) -> str:
    """The link address of an address on this machine's own network, as the kernel knows it now; empty without one."""
    plain, _sign, zone = address.partition("%")
    listed = told("neigh", "show", "to", plain, *(("dev", zone) if zone else ()))
    known = [entry for entry in listed if "lladdr" in entry and "FAILED" not in entry.get("state", [])]
    return str(known[0]["lladdr"]) if known else ""


def evidence(address: str, outcomes: Iterable[str]) -> str:
    """What shows that somebody is at an address; empty when nothing does."""
    if {"open", "refused"} & set(outcomes):
        return "it answered"
    link = neighbour(address)
    return f"its network card answered ({link})" if link else ""


def grouped(found: Mapping[int, str]) -> dict[str, str]:
    """Outcome to ports, spelled."""
    return {
        outcome: spelled(port for port, seen in found.items() if seen == outcome)
        for outcome in OUTCOMES
        if outcome in found.values()
    }


async def scan_one(job: Mapping[str, Any], address: str, progress: Progress) -> dict[str, Any]:
    """Everything about one address."""
    patience, parallel = float(job["patience"]), int(job["parallel"])
    own = own_address(address)
    # A link-local address that no neighbour has is another network's: nothing to be tried from here.
    if own is not None and local(address) and await knock(address, 9, patience) != "refused" and not neighbour(address):
        own = None
    if own is None:
        progress.done += len(job["tcp"]) + len(job["udp"])
        return {"address": address, "route": False, "tcp": {}, "udp": {}, "control": {}, "evidence": ""}
    planted = await control(own, max(patience, 2.0))

    async def tcp(port: int) -> str:
        return await knock(address, port, patience)

    async def udp(pair: Sequence[Any]) -> str:
        return await ask(address, int(pair[0]), bytes.fromhex(str(pair[1])) or WORD, float(job["udp_patience"]))

    progress.what = f"{address} TCP"
    streams = await all_of(job["tcp"], tcp, parallel, progress)
    progress.what = f"{address} UDP"
    # Few at a time: a machine says only now and then that a port is closed.
    datagrams = await all_of(job["udp"], udp, min(parallel, 50), progress)
    return {
        "address": address,
        "route": True,
        "tcp": grouped(streams),
        "udp": grouped(datagrams),
        "control": planted,
        "evidence": evidence(address, [*streams.values(), *datagrams.values()]),
    }


def enough_files(parallel: int) -> int:
    """How many sockets may be open at a time; asks the kernel for more where it gives them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else parallel + _OWN_FILES
    if soft < parallel + _OWN_FILES:
        soft = min(parallel + _OWN_FILES, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(parallel, soft - _OWN_FILES))


def scan(job: Mapping[str, Any], tell: Tell) -> list[dict[str, Any]]:
    """One result for each address of a job.

    Args:
        job: ``addresses``; ``tcp``, a list of ports; ``udp``, pairs of a port and its question in hexadecimal digits;
            ``parallel``; ``patience`` and ``udp_patience`` in seconds.
        tell: gets the events.
    """
    addresses = with_zones([str(address) for address in job["addresses"]])
    made = {**job, "addresses": addresses, "parallel": enough_files(int(job["parallel"]))}
    progress = Progress(tell, len(made["addresses"]) * (len(made["tcp"]) + len(made["udp"])))

    async def everything() -> list[dict[str, Any]]:
        return [await scan_one(made, address, progress) for address in addresses]

    return asyncio.run(everything())


def main() -> None:
    """As a program: a job comes in by standard input, events and at last the result go out."""

    def tell(event: Mapping[str, Any]) -> None:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()

    tell({"ready": True})
    job = json.loads(sys.stdin.readline())
    tell({"result": scan(job, tell)})
