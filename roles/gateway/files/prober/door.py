# SPDX-License-Identifier: MIT
"""The engine door's control channel: HAProxy's runtime API over loopback. Counters are read, engines put in and out."""

from __future__ import annotations

import asyncio
import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

#: Servers alone (-1: of every proxy; 4: servers; -1: all of them), and every stream with its byte counts.
QUESTION = "show stat -1 4 -1;show sess all"
SECONDS = 2.0
#: Some two KiB for each stream, of which the door has no more than its maxconn.
MOST = 16 * 1024 * 1024

_STREAM = re.compile(r"^0x[0-9a-f]+: \[[^\]]*\] id=(\d+)", re.MULTILINE)
_BACKEND = re.compile(r"^  backend=(\S+)", re.MULTILINE)
_STATUS = re.compile(r"^  txn=.* status=(-?\d+)", re.MULTILINE)
_TOTAL = re.compile(r"^  res=.* total=(\d+)\)", re.MULTILINE)


def server_of(engine: str) -> str:
    """An engine's name in the door's configuration."""
    return f"engine-{engine}/engine"


@dataclass(frozen=True)
class Server:
    """One server's counters since the door started. ``good``: answers with a 2xx status, those under way included."""

    engine: str
    in_flight: int
    callers: int
    errors: int
    good: int
    aborted: int
    out: bool


@dataclass(frozen=True)
class Stream:
    """One request under way: ``status`` of the answer so far (below 200 while there is none), bytes of it so far."""

    number: int
    engine: str
    status: int
    answered: int


def parse_servers(text: str) -> list[Server]:
    """The servers of engines in HAProxy's CSV. Raises :class:`ValueError` or :class:`KeyError` for anything else."""
    lines = text.strip().splitlines()
    if not lines or not lines[0].startswith("# pxname,"):
        raise ValueError("no counters came from the engine door")
    rows = csv.DictReader([lines[0][2:], *(line for line in lines[1:] if line)])
    return [
        Server(
            engine=row["pxname"].removeprefix("engine-"),
            in_flight=int(row["scur"]),
            callers=int(row["stot"]),
            errors=int(row["econ"]),
            good=int(row["hrsp_2xx"] or 0),
            aborted=int(row["cli_abrt"] or 0) + int(row["srv_abrt"] or 0),
            out=row["status"].startswith("MAINT"),
        )
        for row in rows
        if row["pxname"].startswith("engine-")
    ]


def parse_streams(text: str) -> list[Stream]:
    """The requests to engines that are under way, from ``show sess all``."""
    starts = [*_STREAM.finditer(text)]
    found = []
    for at, start in enumerate(starts):
        block = text[start.start() : starts[at + 1].start() if at + 1 < len(starts) else len(text)]
        backend, status, total = _BACKEND.search(block), _STATUS.search(block), _TOTAL.search(block)
        if backend and total and backend[1].startswith("engine-"):
            name = backend[1].removeprefix("engine-")
            found.append(Stream(int(start[1]), name, int(status[1]) if status else 0, int(total[1])))
    return found


@dataclass
class Traffic:
    """Tells from one reading to the next whether an engine gave its callers anything.

    Headers alone prove nothing: vLLM sends them before its engine has seen the request. So what counts is a body that
    grows, or a good answer that came to its end.
    """

    totals: dict[int, int] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)

    def moved(self, servers: Iterable[Server], streams: Iterable[Stream]) -> set[str]:
        """Names of the engines that gave something since the last call."""
        under_way = [stream for stream in streams if 200 <= stream.status < 300]
        grown = {stream.engine for stream in under_way if stream.answered > self.totals.get(stream.number, 1 << 62)}
        ended = {
            server.engine: server.good - server.aborted - sum(stream.engine == server.engine for stream in under_way)
            for server in servers
        }
        grown |= {name for name, count in ended.items() if count > self.ended.get(name, 1 << 62)}
        self.totals = {stream.number: stream.answered for stream in under_way}
        self.ended = ended
        return grown


class Control:
    """The control channel. Each call is one short connection; :class:`OSError` when the door does not answer."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address

    async def read(self) -> tuple[list[Server], list[Stream]]:
        """The counters, and what is under way. Raises :class:`OSError`, :class:`ValueError`."""
        text = await self.command(QUESTION)
        counters, _blank, streams = text.partition("\n\n")
        try:
            return parse_servers(counters), parse_streams(streams)
        except KeyError as exc:
            raise ValueError(f"the engine door's counters have no {exc}") from exc

    async def take_out(self, engine: str) -> None:
        """No request goes to the engine from now on; those under way go on."""
        await self.command(f"set server {server_of(engine)} state maint")

    async def cut(self, engine: str) -> None:
        """The requests under way to the engine end."""
        await self.command(f"shutdown sessions server {server_of(engine)}")

    async def put_in(self, *engines: str) -> None:
        """Requests go to these engines again."""
        await self.command(";".join(f"set server {server_of(engine)} state ready" for engine in engines))

    async def command(self, text: str) -> str:
        """One line of commands, and everything that comes back, up to :data:`MOST` bytes."""
        try:
            return await asyncio.wait_for(self._command(text), SECONDS)
        except TimeoutError:
            raise TimeoutError("the engine door's control channel does not answer") from None

    async def _command(self, text: str) -> str:
        reader, writer = await asyncio.open_connection(*self._address, limit=1024 * 1024)
        try:
            writer.write(text.encode() + b"\n")
            raw = bytearray()
            while piece := await reader.read(65536):
                raw += piece
                if len(raw) > MOST:
                    raise OSError(f"the engine door's control channel says more than {MOST} bytes")
            return raw.decode("utf-8", "replace")
        finally:
            writer.close()
