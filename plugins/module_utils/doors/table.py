# SPDX-License-Identifier: MIT
"""What was expected of each port, what was seen, and one verdict over all of it. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urlsplit

from .scan import ports_of

GREEN, RED, INVALID = "green", "red", "invalid"
#: ``holds``: as expected. ``differs``: not. ``not tested``: the table says why. ``blind``: nothing that was seen proves
#: anything.
VERDICTS = ("holds", "differs", "not tested", "blind")
SIDES = ("lan", "tailnet")
#: What a side sees where there is no door: on a LAN a dead machine, on the tailnet a clear refusal (or, at worst,
#: nothing).
ELSEWHERE = {"lan": ("silent",), "tailnet": ("refused", "unreachable", "silent")}
EXPECTED = {"lan": "silent", "tailnet": "refused"}
#: The tailnet's client answers this port by itself, inside the tunnel: a real peer finds it open whatever the filters
#: and the tailnet's policy say (tailscale: ``net/tstun/wrap.go``), a played one does not.
PEER_API = "open or refused (peer API, answered by the client)"
UDP_SILENCE = "silent: dropped, or a service that does not answer what was asked"


@dataclass(frozen=True)
class Row:
    """One port, or a range of ports that answered alike."""

    probe: str
    side: str
    address: str
    port: str
    expected: str
    seen: str
    verdict: str

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"{self.address} {self.port}: no such verdict ({self.verdict})")


def wanted(doors: Iterable[Mapping[str, Any]], side: str) -> dict[tuple[str, int], str]:
    """(protocol, port) to the door's name, for what a side may open."""
    return {
        (str(door["protocol"]), int(door["port"])): str(door.get("name", "")) for door in doors if side == "tailnet"
    }


def peer_ports(urls: Iterable[str], address: str) -> set[int]:
    """The ports of the client's peer API at an address, as ``tailscale status`` names them (http://[fd7a::1]:1234)."""
    parts = [urlsplit(url) for url in urls]
    return {part.port for part in parts if part.port and plain(part.hostname or "") == plain(address)}


def plain(address: str) -> str:
    """An address in one spelling; a name as it is."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address


def seen_of(result: Mapping[str, Any], protocol: str) -> dict[int, str]:
    """Port to outcome."""
    return {port: outcome for outcome, text in result[protocol].items() for port in ports_of(str(text))}


def words(protocol: str, outcome: str) -> str:
    """An outcome as a person reads it."""
    return UDP_SILENCE if (protocol, outcome) == ("udp", "silent") else outcome


def of_protocol(
    base: Mapping[str, str],
    seen: Mapping[int, str],
    protocol: str,
    doors: Mapping[tuple[str, int], str],
    peer_api: Iterable[int] = (),
) -> list[Row]:
    """The rows of one address and protocol: every door, the client's own port, everything open that is neither, and how
    the rest answered."""
    aside = sorted(set(peer_api) & set(seen))
    rows = [
        Row(**base, port=f"{protocol} {port}", expected=PEER_API, seen=seen[port], verdict="holds") for port in aside
    ]
    seen = {port: outcome for port, outcome in seen.items() if port not in aside}
    named = {port: name for (kind, port), name in doors.items() if kind == protocol}
    for port, name in sorted(named.items()):
        outcome = seen.get(port, "not tried")
        verdict = "holds" if outcome == "open" else "differs"
        # A door for datagrams whose service keeps silent looks like no door at all.
        if outcome == "not tried" or (protocol, outcome) == ("udp", "silent"):
            verdict = "not tested"
        rows.append(
            Row(
                **base,
                port=f"{protocol} {port}",
                expected=f"open ({name})",
                seen=words(protocol, outcome),
                verdict=verdict,
            )
        )
    side = base["side"]
    rows += [
        Row(**base, port=f"{protocol} {port}", expected=EXPECTED[side], seen="open", verdict="differs")
        for port, outcome in sorted(seen.items())
        if outcome == "open" and port not in named
    ]
    rest: dict[str, int] = {}
    for port, outcome in seen.items():
        if outcome != "open" and port not in named:
            rest[outcome] = rest.get(outcome, 0) + 1
    for outcome, count in sorted(rest.items()):
        verdict = "holds" if outcome in ELSEWHERE[side] else "differs"
        ports = f"{protocol}, {count} ports"
        rows.append(Row(**base, port=ports, expected=EXPECTED[side], seen=words(protocol, outcome), verdict=verdict))
    return rows


def rows_of(
    probe: str,
    side: str,
    result: Mapping[str, Any],
    doors: Iterable[Mapping[str, Any]],
    peer_api: Iterable[str] = (),
) -> list[Row]:
    """The rows of one address, as one probe saw it.

    Args:
        probe: who knocked.
        side: ``lan`` or ``tailnet``.
        result: what the scanner says of the address.
        doors: the list that the machine's own ``doors.json`` holds.
        peer_api: where the tailnet's client listens for its peers, as addresses of web pages.
    """
    base = {"probe": probe, "side": side, "address": str(result["address"])}
    if not result["route"]:
        why = "no way there from this probe"
        return [Row(**base, port="all", expected=EXPECTED[side], seen=why, verdict="not tested")]
    rows = [
        Row(**base, port=f"{protocol} control", expected="open (planted)", seen=outcome, verdict="blind")
        for protocol, outcome in sorted(result["control"].items())
        if outcome != "open"
    ]
    if not result["control"]:
        rows.append(Row(**base, port="control", expected="open (planted)", seen="none was planted", verdict="blind"))
    if not result["evidence"]:
        nobody = "nothing shows that the machine was there"
        rows.append(Row(**base, port="all", expected="somebody at this address", seen=nobody, verdict="blind"))
    allowed = wanted(doors, side)
    # On the LAN that port is as shut as any other.
    own = peer_ports(peer_api, base["address"]) - {port for _protocol, port in allowed} if side == "tailnet" else set()
    rows += of_protocol(base, seen_of(result, "tcp"), "tcp", allowed, own)
    rows += of_protocol(base, seen_of(result, "udp"), "udp", allowed)
    return rows


def verdict(rows: Sequence[Row]) -> str:
    """``red`` when anything differs; ``invalid`` when nothing was proven, somewhere; else ``green``."""
    if any(row.verdict == "differs" for row in rows):
        return RED
    tested = {row.side for row in rows if row.verdict == "holds"}
    sides = {row.side for row in rows}
    if not rows or any(row.verdict == "blind" for row in rows) or tested != sides:
        return INVALID
    return GREEN


def why(rows: Sequence[Row]) -> str:
    """What makes a verdict, in a sentence; empty for green."""
    differs = [row for row in rows if row.verdict == "differs"]
    if differs:
        first = differs[0]
        more = f", and {len(differs) - 1} more" if len(differs) > 1 else ""
        saw = f"saw {first.address} {first.port} {first.seen}, expected {first.expected}"
        return f"{first.probe} ({first.side}) {saw}{more}."
    blind = [row for row in rows if row.verdict == "blind"]
    if blind:
        row = blind[0]
        what = f"{row.probe} ({row.side}), {row.address}, {row.port}: {row.seen}"
        return f"{what}. So the silence proves nothing."
    untested = sorted({row.side for row in rows} - {row.side for row in rows if row.verdict == "holds"})
    if untested:
        return f"Nothing was tested from the {', '.join(untested)}."
    return "" if rows else "Nothing was tested."


def chosen(rows: Iterable[Row], only: Sequence[str]) -> list[Row]:
    """Rows whose words fit one of these shell patterns; without patterns all of them."""
    return [
        row
        for row in rows
        if not only or any(fnmatchcase(" ".join(asdict(row).values()), f"*{pattern}*") for pattern in only)
    ]


def lines(rows: Sequence[Row], total: Sequence[Row]) -> list[str]:
    """The table: what differs first. The verdict is of all rows, those that were filtered out included."""
    heads = ("from", "address", "port", "expected", "seen", "")
    order = {"differs": 0, "blind": 1, "not tested": 2, "holds": 3}
    cells = [heads] + [
        (
            f"{row.probe} ({row.side})",
            row.address,
            row.port,
            row.expected,
            row.seen,
            "" if row.verdict == "holds" else row.verdict,
        )
        for row in sorted(rows, key=lambda row: order[row.verdict])
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(heads))]
    table = [" · ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip(" ·") for line in cells]
    said = why(total)
    return [f"Verdict: {verdict(total)}.{f' {said}' if said else ''}", *table]


def as_dicts(rows: Iterable[Row]) -> list[dict[str, str]]:
    """For a result."""
    return [asdict(row) for row in rows]
