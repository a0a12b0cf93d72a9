# SPDX-License-Identifier: MIT
"""Tries ways and says what happened. One file of the standard library, sent as text to ``python3 -I -`` in the place
to try from.

A target is a dict with ``proto`` and what that needs; a result is ``{state, errno, ms, detail}``. ``state``: ``open``
(it got through), ``error`` (stopped, ``errno`` says how), ``sent`` (a datagram left and nobody refused it),
``silent`` (no answer in time).
"""

from __future__ import annotations

import errno
import json
import os
import selectors
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

Target = dict[str, Any]
Result = dict[str, Any]

#: TCP connections that are tried at the same time.
WINDOW = 256
WORKERS = 24
#: Families by number where this Python has no name for them.
FAMILIES = {
    "AF_UNIX": 1,
    "AF_INET": 2,
    "AF_INET6": 10,
    "AF_KEY": 15,
    "AF_NETLINK": 16,
    "AF_PACKET": 17,
    "AF_CAN": 29,
    "AF_TIPC": 30,
}
FAMILIES.update({"AF_BLUETOOTH": 31, "AF_ALG": 38, "AF_VSOCK": 40, "AF_XDP": 44})


def name_of(error: BaseException) -> str:
    """The errno's name of an exception, else its class."""
    number = getattr(error, "errno", None)
    if isinstance(error, socket.gaierror) or not isinstance(number, int):
        return type(error).__name__
    return errno.errorcode.get(number, str(number))


def result(state: str, began: float, code: str = "", detail: str = "") -> Result:
    """What is told about one target."""
    return {"state": state, "errno": code, "ms": round((time.monotonic() - began) * 1000, 2), "detail": detail}


def family_of(address: str) -> int:
    """AF_INET6 for what has a colon."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def where(target: Target) -> tuple[Any, ...]:
    """Socket address; a link-local one may carry its interface behind a ``%``."""
    address, port = str(target["address"]), int(target.get("port", 0))
    if ":" not in address:
        return (address, port)
    host, _sign, zone = address.partition("%")
    return (host, port, 0, socket.if_nametoindex(zone) if zone else 0)


def try_tcp(targets: list[tuple[int, Target]], limit: float) -> dict[int, Result]:
    """Connect to all, WINDOW at a time."""
    waiting, found = list(reversed(targets)), {}
    selector = selectors.DefaultSelector()
    pending: dict[socket.socket, tuple[int, float]] = {}

    def finish(sock: socket.socket, number: int) -> None:
        at, began = pending.pop(sock)
        selector.unregister(sock)
        state = "open" if number == 0 else "silent" if number == errno.ETIMEDOUT else "error"
        found[at] = result(state, began, errno.errorcode.get(number, str(number)) if number else "")
        # Ended at once: a connection made through a planted hole could not be closed politely once that is shut.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    while waiting or pending:
        while waiting and len(pending) < WINDOW:
            at, target = waiting.pop()
            began = time.monotonic()
            try:
                sock = socket.socket(family_of(target["address"]), socket.SOCK_STREAM)
                sock.setblocking(False)
                number = sock.connect_ex(where(target))
            except OSError as error:
                found[at] = result("error", began, name_of(error))
                continue
            if number not in (0, errno.EINPROGRESS):
                found[at] = result("error", began, errno.errorcode.get(number, str(number)))
                sock.close()
                continue
            pending[sock] = (at, began)
            selector.register(sock, selectors.EVENT_WRITE)
        for key, _mask in selector.select(0.05) if pending else []:
            sock = key.fileobj  # type: ignore[assignment]  # only sockets were registered
            finish(sock, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        now = time.monotonic()
        for sock in [sock for sock, (_at, began) in pending.items() if now - began > limit]:
            finish(sock, errno.ETIMEDOUT)
    return found


def try_udp(target: Target, limit: float) -> Result:
    """A datagram that carries the target's token; any answer is open, an ICMP error is an error."""
    began = time.monotonic()
    try:
        with socket.socket(family_of(target["address"]), socket.SOCK_DGRAM) as sock:
            sock.settimeout(min(limit, float(target.get("wait", limit))))
            if target.get("broadcast"):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.connect(where(target))
            sock.send(str(target.get("token", "mushishi-audit")).encode())
            size = len(sock.recv(65536))
    except TimeoutError:
        return result("sent", began)
    except OSError as error:
        return result("error", began, name_of(error))
    return result("open", began, detail=f"{size} bytes came back")


def question(name: str) -> bytes:
    """A recursive DNS question for an address (RFC 1035 §4.1)."""
    labels = b"".join(bytes([len(part)]) + part for part in (text.encode() for text in name.split(".")))
    return struct.pack("!HHHHHH", os.getpid() & 0xFFFF, 0x0100, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, 1, 1)


def try_dns(target: Target, limit: float) -> Result:
    """Ask one server, by UDP or (``stream``) TCP. An answer with records is open; one that knows nothing is an error.
    """
    began = time.monotonic()
    stream = bool(target.get("stream"))
    try:
        with socket.socket(family_of(target["address"]), socket.SOCK_STREAM if stream else socket.SOCK_DGRAM) as sock:
            sock.settimeout(limit)
            sock.connect(where({"port": 53, **target}))
            asked = question(str(target.get("query", "example.com")))
            sock.sendall(struct.pack("!H", len(asked)) + asked if stream else asked)
            answer = sock.recv(65536)[2 if stream else 0 :]
    except TimeoutError:
        return result("sent", began)
    except OSError as error:
        return result("error", began, name_of(error))
    if len(answer) < 12:
        return result("error", began, "EOF")
    code, records = answer[3] & 0x0F, struct.unpack_from("!H", answer, 6)[0]
    if code == 0 and records:
        return result("open", began, detail=f"{records} records")
    return result("error", began, f"RCODE{code}", "a resolver that knows nothing")


def try_resolve(target: Target, _limit: float) -> Result:
    """Ask the system's resolver, as a program would."""
    began = time.monotonic()
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(str(target["query"]), None)}
    except OSError as error:
        return result("error", began, name_of(error))
    return result("open", began, detail=" ".join(sorted(found)))


def try_icmp(target: Target, limit: float) -> Result:
    """Ping once, by a ping socket, else a raw one."""
    began = time.monotonic()
    six = ":" in target["address"]
    protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
    packet = struct.pack("!BBHHH", 128 if six else 8, 0, 0, os.getpid() & 0xFFFF, 1)
    total = sum(struct.unpack("!4H", packet))
    packet = packet[:2] + struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + packet[4:]
    try:
        try:
            sock = socket.socket(family_of(target["address"]), socket.SOCK_DGRAM, protocol)
        except PermissionError:
            sock = socket.socket(family_of(target["address"]), socket.SOCK_RAW, protocol)
    except OSError as error:
        return result("error", began, name_of(error), "this user has no ICMP socket")
    try:
        with sock:
            sock.settimeout(limit)
            sock.connect(where({**target, "port": 0}))
            sock.send(packet)
            sock.recv(65536)
    except TimeoutError:
        return result("sent", began)
    except OSError as error:
        return result("error", began, name_of(error))
    return result("open", began)


def try_http(target: Target, limit: float) -> Result:
    """One request; the status is the detail."""
    began = time.monotonic()
    head = f"{target.get('method', 'GET')} {target['url']} HTTP/1.1\r\nHost: audit\r\nConnection: close\r\n"
    try:
        with socket.create_connection(where(target)[:2], timeout=limit) as sock:
            sock.sendall(f"{head}Content-Length: 0\r\n\r\n".encode())
            answer = sock.recv(4096)
    except TimeoutError:
        return result("silent", began)
    except OSError as error:
        return result("error", began, name_of(error))
    words = answer.split(b" ", 2)
    return result("open", began, detail=words[1].decode("ascii", "replace") if len(words) > 1 else "")


def try_unix(target: Target, limit: float) -> Result:
    """Connect to a socket file, or to an abstract name (``@…``), in each way a socket can be."""
    began = time.monotonic()
    path = str(target["file"])
    last: BaseException = OSError(errno.ENOENT, "")
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        try:
            with socket.socket(socket.AF_UNIX, kind) as sock:
                sock.settimeout(limit)
                sock.connect("\0" + path[1:] if path.startswith("@") else path)
            return result("open", began)
        except OSError as error:
            last = error
            if name_of(error) != "EPROTOTYPE":
                break
    return result("error", began, name_of(last))


def try_family(target: Target, limit: float) -> Result:
    """Whether a socket of a family can be had at all; a packet socket sends a forged frame where it can."""
    began = time.monotonic()
    name = str(target["family"])
    kind = {"raw": socket.SOCK_RAW, "dgram": socket.SOCK_DGRAM}.get(str(target.get("type")), socket.SOCK_STREAM)
    try:
        with socket.socket(FAMILIES[name], kind, int(target.get("protocol", 0))) as sock:
            sock.settimeout(limit)
            if name == "AF_PACKET":
                sock.bind((next(link for _i, link in socket.if_nameindex() if link != "lo"), 0))
                # Local experimental ethertype (IEEE 802): no stack answers it.
                sock.send(b"\xff" * 6 + b"\x02\x00\x00\x00\x00\x01" + b"\x88\xb5" + b"mushishi-audit".ljust(46, b"\0"))
    except (OSError, StopIteration) as error:
        return result("error", began, name_of(error))
    return result("open", began, detail="a socket of this family")


def netlink(kind: int, flags: int) -> int:
    """Add (24) or delete (25) a host route to 192.0.2.1 by lo, which leads nowhere; 0 or the errno."""
    body = struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 4, 253, 1, 0)
    body += struct.pack("=HH4s", 8, 1, socket.inet_aton("192.0.2.1")) + struct.pack("=HHI", 8, 4, 1)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.settimeout(2)
        sock.send(struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body)
        return -int(struct.unpack_from("=i", sock.recv(4096), 16)[0])


def try_route(_target: Target, _limit: float) -> Result:
    """Change the routing table; what could be added is taken away again."""
    began = time.monotonic()
    try:
        number = netlink(24, 0x605)
        if number == 0:
            netlink(25, 0x5)
    except OSError as error:
        return result("error", began, name_of(error))
    return result(
        "error" if number else "open", began, errno.errorcode.get(number, ""), "" if number else "a route was added"
    )


def try_setns(_target: Target, _limit: float) -> Result:
    """Leave the namespace: join the first process's."""
    began = time.monotonic()
    try:
        import ctypes  # where no code may be made at run time this fails, and takes nothing else with it

        descriptor = os.open("/proc/1/ns/net", os.O_RDONLY)
        libc = ctypes.CDLL(None, use_errno=True)
    except (OSError, MemoryError, ImportError) as error:
        return result("error", began, name_of(error))
    done = libc.setns(descriptor, 0x40000000)
    os.close(descriptor)
    return result(
        "open" if done == 0 else "error", began, "" if done == 0 else errno.errorcode.get(ctypes.get_errno(), "")
    )


def try_read(target: Target, _limit: float) -> Result:
    """Open files and list folders; one target may name many, and every one that opens is told."""
    began = time.monotonic()
    opened: list[str] = []
    errors: dict[str, int] = {}
    for path in target["files"]:
        try:
            if os.path.isdir(path):
                if os.listdir(path):
                    opened.append(path)
                continue
            with open(path, "rb", buffering=0) as stream:
                stream.read(1)
            opened.append(path)
        except OSError as error:
            errors[name_of(error)] = errors.get(name_of(error), 0) + 1
    if opened:
        return result("open", began, detail=json.dumps(opened[:20]))
    return result("error", began, " ".join(sorted(errors)) or "EMPTY", f"{len(target['files'])} tried")


def try_run(target: Target, limit: float) -> Result:
    """Run a program; anything on its standard output is open."""
    began = time.monotonic()
    try:
        done = subprocess.run(
            target["argv"], capture_output=True, stdin=subprocess.DEVNULL, timeout=limit + 8, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return result("error", began, name_of(error))
    said = done.stdout.strip()
    return result(
        "open" if said else "error",
        began,
        "" if said else f"EXIT{done.returncode}",
        f"{len(said)} bytes" if said else "",
    )


WAYS: dict[str, Callable[[Target, float], Result]] = {
    "udp": try_udp,
    "dns": try_dns,
    "resolve": try_resolve,
    "icmp": try_icmp,
    "http": try_http,
    "unix": try_unix,
    "family": try_family,
    "route": try_route,
    "setns": try_setns,
    "read": try_read,
    "run": try_run,
}


def attempt(targets: list[Target], limit: float = 1.5) -> list[Result]:
    """Try all; the results stand in the order of the targets."""
    found = try_tcp([(at, target) for at, target in enumerate(targets) if target["proto"] == "tcp"], limit)
    with ThreadPoolExecutor(WORKERS) as pool:
        others = [(at, target) for at, target in enumerate(targets) if target["proto"] != "tcp"]
        futures = {at: pool.submit(WAYS[target["proto"]], target, limit) for at, target in others}
        found.update({at: future.result() for at, future in futures.items()})
    return [found[at] for at in range(len(targets))]


def listen(doors: Iterable[Target], seconds: float) -> None:
    """Wait at ports and socket files, say ``ready``, then (when standard input ends) which tokens came. For holes and
    echoes.

    A TCP or file caller is let in and hung up on; a datagram is only read.
    """
    tokens: list[str] = []
    selector = selectors.DefaultSelector()
    for door in doors:
        if door["proto"] == "unix":
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.bind(door["file"])
            os.chmod(door["file"], 0o666)  # noqa: S103  # the planted hole
        else:
            sock = socket.socket(
                family_of(door["address"]), socket.SOCK_STREAM if door["proto"] == "tcp" else socket.SOCK_DGRAM
            )
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((door["address"], door["port"]))
        if door["proto"] != "udp":
            sock.listen(64)
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ, door["proto"])
    selector.register(sys.stdin, selectors.EVENT_READ, "stop")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for key, _mask in selector.select(0.2):
            if key.data == "stop":
                deadline = 0.0
            elif key.data == "udp":
                tokens.append(key.fileobj.recv(4096).decode("ascii", "replace"))  # type: ignore[union-attr]  # a socket
            else:
                key.fileobj.accept()[0].close()  # type: ignore[union-attr]  # a socket
    sys.stdout.write(json.dumps(tokens) + "\n")
