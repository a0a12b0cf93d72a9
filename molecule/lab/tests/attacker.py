# SPDX-License-Identifier: MIT
"""Runs on the lab machine as root: knocks without a pause, as every sovereign user, from every place of the plane.

``python3 - MARKER STOP < attacker.py`` with places as JSON in ``PLACES``: knocks until the file STOP exists, then says
what got through and how often it tried. Places come and go while services restart; one that is away is passed over.
The marker goes out as the first bytes of each connection, in each datagram and in each name that is asked for, so
that one that arrives is seen where it arrives, whatever this program believes.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import random
import selectors
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CLONE_NEWNET = 0x40000000
#: Seconds that one volley waits for its answers.
PATIENCE = 0.4
TCP_PORTS, UDP_PORTS = (22, 53, 80, 443, 853, 4000), (53, 123, 443)


def query(name: str) -> bytes:
    """A DNS question for an address (RFC 1035 §4.1)."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack("!HHHHHH", random.getrandbits(16), 0x0100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"


def volley(addresses: list[str], marker: str) -> tuple[int, list[str]]:
    """One knock at every port of every address; how many were tried, and which connections stood."""
    tried, through = 0, []
    waiting = selectors.DefaultSelector()
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        for port in UDP_PORTS:
            with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
                tried += 1
                sock.sendto(query(f"{marker}.example.org".lower()) if port == 53 else marker.encode(), (address, port))
        for port in TCP_PORTS:
            tried += 1
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError:
                continue
            sock.setblocking(False)
            if sock.connect_ex((address, port)) in (0, 115):
                waiting.register(sock, selectors.EVENT_WRITE, f"{address} {port}")
            else:
                sock.close()
    end = time.monotonic() + PATIENCE
    while waiting.get_map() and time.monotonic() < end:
        for key, _ in waiting.select(0.05):
            sock = key.fileobj  # type: ignore[assignment]  # only sockets were registered
            waiting.unregister(sock)
            with contextlib.suppress(OSError):
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    through.append(str(key.data))
                    sock.send(f"{marker}\r\n\r\n".encode())
            sock.close()
    for key in list(waiting.get_map().values()):
        key.fileobj.close()  # type: ignore[union-attr]  # only sockets were registered
    return tried, through


def engine_namespaces() -> list[str]:
    """Network namespaces of the containers that run now."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        ids = subprocess.run(["docker", "ps", "-q"], capture_output=True, text=True, timeout=5).stdout.split()
        shape = ["docker", "inspect", "--format", "{{.State.Pid}}", *ids]
        pids = subprocess.run(shape, capture_output=True, text=True, timeout=5).stdout.split() if ids else []
        return [f"/proc/{pid}/ns/net" for pid in pids if pid != "0"]
    return []


def knock_as(place: str, user: str, addresses: list[str], marker: str) -> tuple[int, list[str]] | None:
    """A volley by a child that has become that user in that place; None when the place is not there."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        told: Any = None
        with contextlib.suppress(OSError, KeyError):
            if place != "host":
                handle = os.open(place, os.O_RDONLY)
                os.setns(handle, CLONE_NEWNET)
                os.close(handle)
            who = pwd.getpwnam(user)
            os.setgroups([])
            os.setgid(who.pw_gid)
            os.setuid(who.pw_uid)
            told = volley(addresses, marker)
        os.write(writing, json.dumps(told).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return tuple(json.loads(text)) if text and text != b"null" else None  # type: ignore[return-value]  # two of them


def main(marker: str, stop: Path) -> None:
    """Knock until told to stop."""
    wanted = json.loads(os.environ["PLACES"])
    tried: dict[str, int] = {}
    through: dict[str, list[str]] = {}
    while True:
        last = stop.exists()
        for place in wanted["places"]:
            for where in engine_namespaces() if place == "engines" else [place]:
                for user in ["nobody"] if place == "engines" else wanted["users"]:
                    found = knock_as(where, user, wanted["addresses"], marker)
                    if found is not None:
                        name = f"{user} in {place}"
                        tried[name] = tried.get(name, 0) + found[0]
                        through.setdefault(name, []).extend(found[1])
        if last:
            break
    found = {name: sorted(set(ways)) for name, ways in through.items() if ways}
    sys.stdout.write(json.dumps({"tried": tried, "through": found}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
