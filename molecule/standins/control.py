# SPDX-License-Identifier: MIT
"""The control channel of a stand-in: JSON over HTTP on a loopback address, one verb per path."""

from __future__ import annotations

import http.client
import ipaddress
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from . import records
from .net import join_address, split_address
from .records import Recorder

Arguments = dict[str, Any]
Verb = Callable[[Arguments], dict[str, Any]]


class ControlServer:
    """Serves verbs; refuses any address that is not loopback (ValueError)."""

    def __init__(self, address: str, verbs: dict[str, Verb]) -> None:
        host, port = split_address(address)
        if not ipaddress.ip_address(host).is_loopback:
            raise ValueError(
                f"control address {address} is not loopback: whoever reaches it steers the stand-in"
            )

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                verb = verbs.get(self.path.strip("/"))
                raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if verb is None:
                    self._say(
                        404,
                        {"error": f"no such verb; known: {', '.join(sorted(verbs))}"},
                    )
                    return
                try:
                    self._say(200, verb(json.loads(raw or b"{}")))
                except (ValueError, KeyError, OSError) as error:
                    self._say(400, {"error": f"{type(error).__name__}: {error}"})

            def _say(self, status: int, value: dict[str, Any]) -> None:
                body = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
                """Says nothing: control traffic is no event."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.address = join_address(host, self._server.server_address[1])
        threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.1},
            daemon=True,
        ).start()

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()


def record_verbs(recorder: Recorder) -> dict[str, Verb]:
    """The verbs that every stand-in has: find, stats, reset, ready."""

    def find(arguments: Arguments) -> dict[str, Any]:
        return records.find(
            recorder.records(),
            str(arguments["marker"]),
            float(arguments.get("since", 0.0)),
        )

    return {
        "find": find,
        "stats": lambda _: records.stats(recorder.records()),
        "reset": lambda _: {"forgotten": recorder.reset()},
        "ready": lambda _: {"ready": True},
    }


def call(
    address: str, verb: str, arguments: Arguments, timeout: float = 120.0
) -> tuple[int, dict[str, Any]]:
    """Ask a stand-in: (HTTP status, answer). Raises OSError when nobody listens."""
    host, port = split_address(address)
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request(
            "POST",
            f"/{verb}",
            json.dumps(arguments),
            {"Content-Type": "application/json"},
        )
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()
