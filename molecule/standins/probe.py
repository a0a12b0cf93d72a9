# SPDX-License-Identifier: MIT
"""Knock on a list of doors and say what happened: ``python3 - "$(cat targets.json)" < probe.py``, or as a module.

One file, standard library only, so that it can be sent into any namespace, container or user. It only calls
connect(), sends a small datagram, asks a DNS question, or pings. See README.md for targets and outcomes.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import selectors
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WINDOW = 400
"""TCP connections that are tried at the same time."""
DEFAULT_TIMEOUT = 2.0
KNOWN = {
    "name",
    "family",
    "proto",
    "address",
    "port",
    "ports",
    "expect",
    "timeout",
    "payload",
    "query",
    "qtype",
    "report",
}
TYPES = {"A": 1, "TXT": 16, "AAAA": 28}

OUTCOMES = {
    errno.ECONNREFUSED: "refused",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETDOWN: "unreachable",
    errno.EHOSTDOWN: "unreachable",
    errno.EACCES: "prohibited",
    errno.EPERM: "prohibited",
    errno.EAFNOSUPPORT: "no-family",
    errno.EADDRNOTAVAIL: "no-family",
    errno.ETIMEDOUT: "timeout",
    errno.ECONNRESET: "reset",
}
"""What an errno of connect(), send() or recv() means."""


@dataclass(frozen=True)
class Target:
    """One door."""

    name: str
    proto: str
    address: str
    port: int
    family: int
    timeout: float
    expect: tuple[str, ...]
    payload: bytes
    query: str
    qtype: str
    quiet: bool


@dataclass(frozen=True)
class Result:
    """What happened at one door; `ms` is how long it took."""

    target: Target
    outcome: str
    errno: str | None
    ms: float
    detail: str | None = None

    @property
    def ok(self) -> bool | None:
        """Whether it was as expected; None when nothing was."""
        return self.outcome in self.target.expect if self.target.expect else None

    def as_json(self) -> dict[str, Any]:
        """For printing."""
        target = self.target
        return {
            "name": target.name,
            "proto": target.proto,
            "address": target.address,
            "port": target.port,
            "outcome": self.outcome,
            "errno": self.errno,
            "ms": round(self.ms, 2),
            "expect": list(target.expect),
            "ok": self.ok,
            "detail": self.detail,
        }


def read_targets(text: str) -> list[Target]:
    """Parse and expand the list. Raises ValueError naming the entry."""
    entries = json.loads(text)
    if not isinstance(entries, list):
        raise ValueError("the targets are no JSON list")  # noqa: TRY004  # the data are wrong, not the call
    return [target for at, entry in enumerate(entries) for target in _expand(at, entry)]


def _expand(at: int, entry: object) -> Iterator[Target]:
    if not isinstance(entry, dict):
        raise ValueError(f"target {at} is no object")  # noqa: TRY004  # the data are wrong, not the call
    if unknown := sorted(set(entry) - KNOWN):
        raise ValueError(f"target {at}: unknown {', '.join(unknown)}")
    proto = entry.get("proto", "tcp")
    if proto not in ("tcp", "udp", "dns", "icmp"):
        raise ValueError(f"target {at}: proto {proto!r} is none of tcp, udp, dns, icmp")
    address = str(entry.get("address", ""))
    if not address and proto != "dns":
        raise ValueError(f"target {at}: no address")
    ports = _ports(at, entry.get("ports"))
    if not ports:
        ports = [int(entry.get("port", 53 if proto == "dns" else 0))]
    if proto in ("tcp", "udp") and not all(1 <= port <= 65535 for port in ports):
        raise ValueError(f"target {at}: a port is 1…65535")
    qtype = str(entry.get("qtype", "A"))
    if qtype not in TYPES:
        raise ValueError(f"target {at}: qtype {qtype!r} is none of {', '.join(TYPES)}")
    expect = entry.get("expect", [])
    name = str(entry.get("name") or f"{proto} {address}")
    for port in ports:
        yield Target(
            name=f"{name}:{port}" if len(ports) > 1 else name,
            proto=proto,
            address=address,
            port=port,
            family=int(entry.get("family", 0)),
            timeout=float(entry.get("timeout", DEFAULT_TIMEOUT)),
            expect=(expect,) if isinstance(expect, str) else tuple(expect),
            payload=str(entry.get("payload", "")).encode(),
            query=str(entry.get("query", "example.org")),
            qtype=qtype,
            quiet=entry.get("report") == "unexpected",
        )


def _ports(at: int, given: object) -> list[int]:
    """``[22, 80]`` or ``"1-1024,4000"``."""
    if given is None:
        return []
    if isinstance(given, list):
        return [int(port) for port in given]
    found: list[int] = []
    for part in str(given).split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError(f"target {at}: ports {given!r}")
        found.extend(range(int(first), int(last or first) + 1))
    return found


def outcome_of(error: BaseException) -> tuple[str, str | None]:
    """Outcome and errno name of an exception."""
    if isinstance(error, TimeoutError) and not getattr(error, "errno", None):
        return "timeout", None
    number = getattr(error, "errno", None)
    if not isinstance(number, int):
        return "error", type(error).__name__
    return OUTCOMES.get(number, "error"), errno.errorcode.get(number, str(number))


def resolve(target: Target) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    """Family and socket address of a target; a host name is looked up. Raises OSError."""
    try:
        literal = ipaddress.ip_address(target.address)
    except ValueError:
        family = {4: socket.AF_INET, 6: socket.AF_INET6}.get(
            target.family, socket.AF_UNSPEC
        )
        found = socket.getaddrinfo(
            target.address, target.port, family, socket.SOCK_STREAM
        )[0]
        return socket.AddressFamily(found[0]), found[4]
    if literal.version == 6:
        return socket.AF_INET6, (str(literal), target.port, 0, 0)
    return socket.AF_INET, (str(literal), target.port)


def probe_tcp(targets: Sequence[Target]) -> Iterator[Result]:
    """Connect to all, at most WINDOW at a time."""
    waiting = list(reversed(targets))
    selector = selectors.DefaultSelector()
    pending: dict[socket.socket, tuple[Target, float]] = {}

    def finish(sock: socket.socket, error: int) -> Result:
        target, began = pending.pop(sock)
        selector.unregister(sock)
        took = (time.monotonic() - began) * 1000
        if error == 0 and target.payload:
            try:
                sock.setblocking(True)
                sock.settimeout(target.timeout)
                sock.sendall(target.payload)
            except OSError as problem:
                error = problem.errno or errno.EIO
        elif error == 0:
            # Ended at once: a connection made through a planted hole could not be closed politely once that is shut.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        if error == 0:
            return Result(target, "open", None, took)
        return Result(
            target,
            OUTCOMES.get(error, "error"),
            errno.errorcode.get(error, str(error)),
            took,
        )

    while waiting or pending:
        while waiting and len(pending) < WINDOW:
            target = waiting.pop()
            began = time.monotonic()
            try:
                family, where = resolve(target)
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:
                yield _failed(target, error, began)
                continue
            sock.setblocking(False)
            error_number = sock.connect_ex(where)
            pending[sock] = (target, began)
            selector.register(sock, selectors.EVENT_WRITE)
            if error_number not in (0, errno.EINPROGRESS):
                yield finish(sock, error_number)
        ready = selector.select(0.05) if pending else []
        for key, _ in ready:
            sock = key.fileobj  # type: ignore[assignment]  # only sockets were registered
            yield finish(sock, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        now = time.monotonic()
        for sock in [
            s for s, (target, began) in pending.items() if now - began > target.timeout
        ]:
            yield finish(sock, errno.ETIMEDOUT)


def _failed(target: Target, error: BaseException, began: float) -> Result:
    took = (time.monotonic() - began) * 1000
    if isinstance(error, socket.gaierror):
        return Result(target, _gai_outcome(error), error.strerror, took)
    outcome, name = outcome_of(error)
    return Result(target, outcome, name, took, str(error))


def _gai_outcome(error: socket.gaierror) -> str:
    names = {
        socket.EAI_NONAME: "nxdomain",
        socket.EAI_NODATA: "nxdomain",
        socket.EAI_AGAIN: "servfail",
    }
    return names.get(error.errno or 0, "error")


def probe_udp(target: Target) -> Result:
    """Send a datagram and wait for an answer or an ICMP error."""
    began = time.monotonic()
    try:
        family, where = resolve(target)
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(target.timeout)
            sock.connect(where)
            sock.send(target.payload or b"probe")
            size = len(sock.recv(65536))
    except OSError as error:
        return _failed(target, error, began)
    return Result(
        target,
        "open",
        None,
        (time.monotonic() - began) * 1000,
        f"{size} bytes came back",
    )


def probe_dns(target: Target) -> Result:
    """Ask one DNS server, or the system resolver when there is no address."""
    began = time.monotonic()
    try:
        if not target.address:
            family = {"A": socket.AF_INET, "AAAA": socket.AF_INET6}.get(
                target.qtype, socket.AF_UNSPEC
            )
            found = {
                str(entry[4][0])
                for entry in socket.getaddrinfo(target.query, None, family)
            }
            return Result(
                target,
                "resolved",
                None,
                (time.monotonic() - began) * 1000,
                " ".join(sorted(found)),
            )
        family, where = resolve(target)
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(target.timeout)
            sock.connect(where)
            sock.send(dns_query(target.query, TYPES[target.qtype]))
            reply = sock.recv(65536)
    except OSError as error:
        return _failed(target, error, began)
    outcome, detail = dns_outcome(reply)
    return Result(target, outcome, None, (time.monotonic() - began) * 1000, detail)


def dns_query(name: str, kind: int) -> bytes:
    """A recursive query (RFC 1035 §4.1)."""
    labels = b"".join(
        bytes([len(part)]) + part
        for part in (p.encode() for p in name.rstrip(".").split("."))
    )
    return (
        struct.pack("!HHHHHH", os.getpid() & 0xFFFF, 0x0100, 1, 0, 0, 0)
        + labels
        + struct.pack("!BHH", 0, kind, 1)
    )


def dns_outcome(reply: bytes) -> tuple[str, str]:
    """Outcome and a few words from a response."""
    if len(reply) < 12:
        return "error", "too short"
    _, flags, _, answers, _, _ = struct.unpack_from("!HHHHHH", reply)
    code = flags & 0x000F
    if code == 0:
        return ("resolved" if answers else "nodata"), f"{answers} records"
    return {3: "nxdomain", 2: "servfail", 5: "refused"}.get(
        code, "error"
    ), f"rcode {code}"


def probe_icmp(target: Target) -> Result:
    """Ping once: with a ping socket, else with a raw one."""
    began = time.monotonic()
    try:
        family, where = resolve(target)
        six = family == socket.AF_INET6
        protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
        raw = False
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM, protocol)
        except PermissionError:
            sock, raw = socket.socket(family, socket.SOCK_RAW, protocol), True
        with sock:
            sock.settimeout(target.timeout)
            sock.connect((where[0], 0, *where[2:]))
            sock.send(_echo_request(128 if six else 8))
            deadline = began + target.timeout
            while True:
                reply = sock.recv(65536)
                body = reply[(reply[0] & 0x0F) * 4 :] if raw and not six else reply
                if body[:1] == (b"\x81" if six else b"\x00"):
                    return Result(
                        target, "open", None, (time.monotonic() - began) * 1000
                    )
                if time.monotonic() > deadline:
                    return Result(
                        target, "timeout", None, (time.monotonic() - began) * 1000
                    )
    except OSError as error:
        return _failed(target, error, began)


def _echo_request(kind: int) -> bytes:
    payload = b"probe..."
    packet = struct.pack("!BBHHH", kind, 0, 0, os.getpid() & 0xFFFF, 1) + payload
    total = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    total = (total >> 16) + (total & 0xFFFF)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return packet[:2] + struct.pack("!H", checksum) + packet[4:]


def probe(targets: Sequence[Target]) -> list[Result]:
    """Knock on all doors; the results stand in the order of the targets."""
    results = {
        id(result.target): result
        for result in probe_tcp([t for t in targets if t.proto == "tcp"])
    }
    others: dict[str, Callable[[Target], Result]] = {
        "udp": probe_udp,
        "dns": probe_dns,
        "icmp": probe_icmp,
    }
    with ThreadPoolExecutor(max_workers=64) as pool:
        futures = [
            pool.submit(others[target.proto], target)
            for target in targets
            if target.proto in others
        ]
        for future in futures:
            result = future.result()
            results[id(result.target)] = result
    return [results[id(target)] for target in targets]


def report(results: Sequence[Result]) -> dict[str, Any]:
    """What is printed."""
    shown = [
        result.as_json()
        for result in results
        if not (result.target.quiet and result.ok)
    ]
    return {
        "ok": all(result.ok is not False for result in results),
        "results": shown,
        "summary": dict(sorted(Counter(result.outcome for result in results).items())),
    }


def main(argv: Sequence[str]) -> int:
    """Read the targets (argument, environment, stdin), knock, print. Exit 2 on bad input."""
    try:
        text = argv[0] if argv else os.environ.get("PROBE_TARGETS") or sys.stdin.read()
        if text.startswith("@"):
            with Path(text[1:]).open(encoding="utf-8") as file:
                text = file.read()
        targets = read_targets(text)
    except (ValueError, TypeError, OSError) as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        return 2
    print(json.dumps(report(probe(targets))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
