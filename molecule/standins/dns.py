# SPDX-License-Identifier: MIT
"""Enough of the DNS (RFC 1035) for a recording server: questions in, addresses or NXDOMAIN out."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

TYPES = {
    1: "A",
    2: "NS",
    5: "CNAME",
    6: "SOA",
    12: "PTR",
    15: "MX",
    16: "TXT",
    28: "AAAA",
    33: "SRV",
    65: "HTTPS",
    255: "ANY",
}
"""Record types by number (IANA DNS parameters); others are written TYPEn."""
NOERROR, FORMERR, NXDOMAIN, NOTIMP = 0, 1, 3, 4
TTL = 5
"""Seconds an answer may be cached: short, so that tests see what they changed."""


@dataclass(frozen=True)
class Question:
    """One question as it was asked."""

    identity: int
    flags: int
    name: str
    kind: int
    wire: bytes

    @property
    def type_name(self) -> str:
        """``A``, ``AAAA`` … or ``TYPEn``."""
        return TYPES.get(self.kind, f"TYPE{self.kind}")


def parse_question(message: bytes) -> Question:
    """Read the first question. Raises ValueError for anything that is no plain query."""
    if len(message) < 17:
        raise ValueError("too short")
    identity, flags, questions = struct.unpack_from("!HHH", message)
    if flags & 0xF800 or questions != 1:
        raise ValueError("no plain query with one question")
    labels: list[str] = []
    at = 12
    while True:
        if at >= len(message):
            raise ValueError("name ends early")
        size = message[at]
        at += 1
        if size == 0:
            break
        if size > 63 or at + size > len(message):
            raise ValueError("bad label")
        labels.append(message[at : at + size].decode("utf-8", "backslashreplace"))
        at += size
    if at + 4 > len(message):
        raise ValueError("question ends early")
    kind = struct.unpack_from("!H", message, at)[0]
    return Question(identity, flags, ".".join(labels), kind, message[12 : at + 4])


def answer(question: Question, rcode: int, addresses: list[str]) -> bytes:
    """A response with the addresses of the asked family (an empty answer when there is none)."""
    wanted = {1: 4, 28: 6}.get(question.kind)
    packed = [
        a.packed for a in map(ipaddress.ip_address, addresses) if a.version == wanted
    ]
    flags = (
        0x8480 | (question.flags & 0x0100) | rcode
    )  # response, authoritative, recursion available
    header = struct.pack("!HHHHHH", question.identity, flags, 1, len(packed), 0, 0)
    records = b"".join(
        b"\xc0\x0c" + struct.pack("!HHIH", question.kind, 1, TTL, len(value)) + value
        for value in packed
    )
    return header + question.wire + records


def format_error(message: bytes) -> bytes | None:
    """FORMERR for a message that has at least an id."""
    return (
        message[:2] + struct.pack("!HHHHH", 0x8000 | FORMERR, 0, 0, 0, 0)
        if len(message) >= 2
        else None
    )


def query(identity: int, name: str, kind: int) -> bytes:
    """A recursive query for one name."""
    labels = b"".join(
        bytes([len(part)]) + part
        for part in (p.encode() for p in name.rstrip(".").split("."))
    )
    return (
        struct.pack("!HHHHHH", identity, 0x0100, 1, 0, 0, 0)
        + labels
        + b"\0"
        + struct.pack("!HH", kind, 1)
    )


class Zone:
    """Names, their addresses, and what is said about all others."""

    def __init__(self, names: dict[str, list[str]], default: list[str] | None) -> None:
        self._names = {
            name.lower().rstrip("."): addresses for name, addresses in names.items()
        }
        self._default = default

    def lookup(self, name: str) -> list[str] | None:
        """The addresses of a name, None for NXDOMAIN."""
        return self._names.get(name.lower().rstrip("."), self._default)

    def respond(self, message: bytes) -> tuple[Question | None, str, bytes | None]:
        """Answer a message: (question, the answer in words, bytes); no question when the message is none."""
        try:
            question = parse_question(message)
        except ValueError as error:
            return None, f"malformed: {error}", format_error(message)
        addresses = self.lookup(question.name)
        if addresses is None:
            return question, "NXDOMAIN", answer(question, NXDOMAIN, [])
        wanted = {1: 4, 28: 6}.get(question.kind)
        said = [a for a in addresses if ipaddress.ip_address(a).version == wanted]
        return (
            question,
            " ".join(said) or "NODATA",
            answer(question, NOERROR, addresses),
        )
