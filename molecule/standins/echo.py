# SPDX-License-Identifier: MIT
"""The stand-in for a host on the LAN or a tailnet peer: records who knocks, sends back what it gets."""

from __future__ import annotations

import argparse
import json
import secrets
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import records
from .control import Arguments, ControlServer, record_verbs
from .net import (
    Connection,
    Listener,
    TcpListener,
    UdpListener,
    family_of,
    join_address,
    log,
    loopback_of,
    run_until_signal,
)
from .records import Recorder

DEFAULT_CONTROL = "127.0.0.1:9097"


class Echo:
    """Listeners on some ports of some addresses."""

    def __init__(
        self,
        bind: Sequence[str],
        tcp: Sequence[int],
        udp: Sequence[int],
        state: Path | None = None,
    ) -> None:
        self.recorder = Recorder(state / "records.jsonl" if state else None)
        self.tcp = [
            TcpListener(h, p, self.recorder, f"tcp {p}", self._stream)
            for h in bind
            for p in tcp
        ]
        self.udp = [UdpListener(h, p, self._datagram) for h in bind for p in udp]

    def _all(self) -> list[Listener]:
        return [*self.tcp, *self.udp]

    def open(self) -> None:
        """Bind everything. Raises OSError."""
        for listener in self._all():
            listener.open()

    def shut(self) -> None:
        """Close everything."""
        for listener in self._all():
            listener.shut()

    def _stream(self, connection: Connection) -> None:
        while data := connection.recv():
            connection.send(data)

    def _datagram(self, data: bytes, src: str, dst: str) -> bytes | None:
        port = dst.rpartition(":")[2]
        self.recorder.add("datagram", service=f"udp {port}", src=src, dst=dst, raw=data)
        return data

    def describe(self) -> dict[str, Any]:
        """Where it listens."""
        return {
            "tcp": [join_address(x.host, x.port) for x in self.tcp],
            "udp": [join_address(x.host, x.port) for x in self.udp],
        }

    def verbs(self) -> dict[str, Callable[[Arguments], dict[str, Any]]]:
        """What the control channel offers."""
        return {
            **record_verbs(self.recorder),
            "describe": lambda _: self.describe(),
            "selftest": lambda _: self.selftest(),
        }

    def selftest(self) -> dict[str, Any]:
        """Send a fresh marker to every listener; it must come back and be in the records."""
        checks = []
        for listener in self._all():
            kind = (
                socket.SOCK_STREAM
                if isinstance(listener, TcpListener)
                else socket.SOCK_DGRAM
            )
            marker = f"SELFTEST-{secrets.token_hex(10)}"
            host = loopback_of(listener.host)
            name = f"{'tcp' if kind == socket.SOCK_STREAM else 'udp'} {join_address(host, listener.port)}"
            try:
                with socket.socket(family_of(host), kind) as sock:
                    sock.settimeout(5.0)
                    sock.connect((host, listener.port))
                    sock.sendall(marker.encode())
                    back = sock.recv(4096).decode()
            except OSError as error:
                checks.append(
                    {
                        "check": name,
                        "ok": False,
                        "detail": f"{type(error).__name__}: {error}",
                    }
                )
                continue
            deadline = time.monotonic() + 5.0
            found = 0
            while not found and time.monotonic() < deadline:
                found = int(
                    records.find(self.recorder.records()[-200:], marker)["count"]
                )
            checks.append(
                {
                    "check": name,
                    "ok": bool(found) and back == marker,
                    "detail": f"recorded {found}",
                }
            )
        return {
            "ok": bool(checks) and all(check["ok"] for check in checks),
            "checks": checks,
        }


def _ports(text: str) -> list[int]:
    ports = [int(part) for part in text.split(",") if part]
    if any(not 0 <= port <= 65535 for port in ports):
        raise ValueError(f"{text}: a port is 0…65535")
    return ports


def main(argv: Sequence[str] | None = None) -> int:
    """Run until told to stop. Exit 1 when something cannot be bound."""
    parser = argparse.ArgumentParser(prog="standins.echo", description=__doc__)
    parser.add_argument("--tcp", type=_ports, default=[], metavar="PORT[,PORT…]")
    parser.add_argument("--udp", type=_ports, default=[], metavar="PORT[,PORT…]")
    parser.add_argument("--bind", action="append", default=[], metavar="ADDRESS")
    parser.add_argument("--state", type=Path)
    parser.add_argument("--control", default=DEFAULT_CONTROL)
    given = parser.parse_args(argv)
    echo = Echo(given.bind or ["0.0.0.0", "::"], given.tcp, given.udp, given.state)
    try:
        echo.open()
        control = ControlServer(given.control, echo.verbs())
    except (OSError, ValueError) as error:
        log(f"cannot start: {error}")
        return 1
    print(
        "ready " + json.dumps({**echo.describe(), "control": control.address}),
        flush=True,
    )
    run_until_signal()
    echo.shut()
    control.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
