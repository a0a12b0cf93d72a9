# SPDX-License-Identifier: MIT
"""Stand-ins for the card's other tenants: what role ``gpu_tenants`` asks of their images, and no more.

Started with the command lines of the real ones (``python main.py …`` is ComfyUI, ``python tools/api_server.py …`` is
Fish Speech, ``rq worker …``, ``redis-server …``), or ``serve ROUTE PORT`` for those that begin by themselves. Each
looks for the folders that it is promised and ends when one is missing; ``STANDIN_VRAM_MIB`` is what it holds.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .card import Hold
from .net import log, run_until_signal


class Missing(Exception):
    """Something that the tenant was promised is not there."""


def options(words: Sequence[str]) -> dict[str, str]:
    """``--name=value`` and ``--name value`` of a command line, without the dashes; a bare ``--name`` is empty."""
    found: dict[str, str] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, _equals, value = word[2:].partition("=")
            found[name] = value
        elif name and not found[name]:
            found[name] = word
    return found


def writable(folder: str) -> None:
    """Raises Missing for a folder in which nothing can be written."""
    mark = Path(folder) / ".stand-in"
    try:
        mark.write_text("written\n")
        mark.unlink()
    except OSError as error:
        raise Missing(f"{folder} cannot be written: {error.strerror}") from error


def readable(path: str) -> None:
    """Raises Missing for what cannot be read, or could be changed."""
    place = Path(path)
    try:
        list(place.iterdir()) if place.is_dir() else place.read_bytes()
    except OSError as error:
        raise Missing(f"{path} cannot be read: {error.strerror}") from error
    if os.access(path, os.W_OK):
        raise Missing(f"{path} could be changed")


class Prompts:
    """ComfyUI's queue: each prompt runs for the seconds that it asks for, all at once."""

    def __init__(self) -> None:
        self._ends: list[float] = []

    def add(self, seconds: float) -> None:
        """One more, from now on."""
        self._ends.append(time.monotonic() + seconds)

    def running(self) -> list[int]:
        """Numbers of those that are not at their end."""
        now = time.monotonic()
        return [number for number, end in enumerate(self._ends) if end > now]


def web(port: int, routes: Mapping[str, Any], prompts: Prompts | None = None) -> ThreadingHTTPServer:
    """A server of JSON objects by route (a function is asked each time), not yet serving."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _say(self, status: int, value: Any) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            found = routes.get(urlsplit(self.path).path)
            if found is None:
                return self._say(404, {"error": "not found"})
            return self._say(200, found() if callable(found) else found)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if prompts is None or self.path != "/prompt":
                return self._say(404, {"error": "not found"})
            prompts.add(float(json.loads(body)["seconds"]))
            return self._say(200, {"prompt_id": "stand-in"})

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
            """Say nothing."""

    return ThreadingHTTPServer(("0.0.0.0", port), Handler)


def comfyui(given: Mapping[str, str]) -> ThreadingHTTPServer:
    """ComfyUI, when all of its folders are as its command line says."""
    if given.get("listen") != "0.0.0.0" or "disable-api-nodes" not in given:
        raise Missing("ComfyUI would listen elsewhere, or would have nodes that call a cloud")
    for name in ("input-directory", "output-directory", "temp-directory", "user-directory"):
        writable(given[name])
    readable(given["extra-model-paths-config"])
    readable("/custom_nodes")
    readable("/models")
    prompts = Prompts()
    routes = {
        "/system_stats": {"system": {"comfyui_version": "stand-in"}, "devices": []},
        "/queue": lambda: {"queue_running": prompts.running(), "queue_pending": []},
    }
    return web(int(given["port"]), routes, prompts)


class Lists(socketserver.ThreadingTCPServer):
    """As much of RESP as RQ's queues need: PING, RPUSH, LPOP, LLEN, ZCARD, inline or as an array."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, port: int) -> None:
        self.lists: dict[str, list[str]] = {}
        super().__init__(("0.0.0.0", port), _ListsHandler)

    def answer(self, words: Sequence[str]) -> str:
        """One command's answer, as it goes over the wire."""
        name, *rest = [*words, ""]
        name = name.upper()
        if name == "PING":
            return "+PONG\r\n"
        if name not in ("RPUSH", "LPOP", "LLEN", "ZCARD"):
            return f"-ERR unknown command '{name}'\r\n"
        entries = self.lists.setdefault(rest[0], [])
        if name == "RPUSH":
            entries.append(rest[1])
        elif name == "LPOP":
            return f"+{entries.pop(0)}\r\n" if entries else "$-1\r\n"
        return f":{len(entries)}\r\n"


class _ListsHandler(socketserver.StreamRequestHandler):
    server: Lists

    def handle(self) -> None:
        while line := self.rfile.readline(4096).decode().strip():
            words = line.split()
            if line.startswith("*"):
                pairs = [(self.rfile.readline(), self.rfile.readline()) for _word in range(int(line[1:]))]
                words = [word.decode().strip() for _length, word in pairs]
            self.wfile.write(self.server.answer(words).encode())


def worker(url: str) -> threading.Thread:
    """A worker that asks its Redis whether it is there, again and again."""
    parts = urlsplit(url)
    where = (parts.hostname or "", parts.port or 6379)

    def ask() -> None:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(where, 5) as one:
                one.sendall(b"PING\r\n")
                one.recv(64)
            time.sleep(1)

    return threading.Thread(target=ask, daemon=True)


def start(words: Sequence[str]) -> None:
    """Begin as what a command line says, in threads. Raises Missing, ValueError."""
    given = options(words)
    server: socketserver.BaseServer
    if list(words[:2]) == ["python", "main.py"]:
        server = comfyui(given)
    elif list(words[:2]) == ["python", "tools/api_server.py"]:
        writable("/data/references")
        readable("/models")
        server = web(int(given["listen"].rpartition(":")[2]), {"/v1/health": {"status": "ok"}})
    elif list(words[:2]) == ["rq", "worker"]:
        writable(os.environ["DATA_DIR"])
        worker(given["url"]).start()
        return
    elif words[:1] == ["redis-server"]:
        writable(given["dir"])
        server = Lists(int(given["port"]))
    elif words[:1] == ["serve"] and len(words) == 3:
        writable("/data/jobs")
        server = web(int(words[2]), {words[1]: {"status": "ok"}})
    else:
        raise ValueError(f"no tenant begins with {' '.join(words)}")
    threading.Thread(target=server.serve_forever, daemon=True).start()


def main(argv: Sequence[str] | None = None) -> int:
    """Run until a signal comes."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        writable("/cache")
        start(words)
    except (Missing, ValueError, KeyError) as error:
        log(f"{type(error).__name__}: {error}")
        return 1
    hold = Hold(int(os.environ.get("STANDIN_VRAM_MIB") or 0))
    log(f"{' '.join(words[:2])}: holding {hold.mib} MiB")
    run_until_signal()
    return 0


if __name__ == "__main__":
    sys.exit(main())
