# SPDX-License-Identifier: MIT
"""The real admission and a stand-in gateway as processes, which tests start, kill and start again."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from admission import journal
from admission_standin import GATEWAY_KEY, KEYS, RULES

HERE = Path(__file__).parent
FILES = HERE.parents[3] / "roles" / "admission" / "files"


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def question(text: str, **more: Any) -> dict[str, Any]:
    """A chat request."""
    return {"model": "private", "messages": [{"role": "user", "content": text}], **more}


class Machine:
    """Admission with its queue below a folder, and the gateway beside it."""

    def __init__(self, folder: Path, *, limits: dict[str, Any] | None = None, wait: float = 60, **queue: Any) -> None:
        self.folder = folder
        self.data, self.told, self.gateway_folder = folder / "data", folder / "told", folder / "gateway"
        credentials = folder / "credentials"
        for one in (self.data, self.told, self.gateway_folder, credentials):
            one.mkdir(parents=True, mode=0o700)
        self.port, self.gateway_port = free_port(), free_port()
        rules = copy.deepcopy(RULES)
        rules["profiles"]["private"]["wait"] = wait
        settings = {
            "directory": str(self.data), "told": str(self.told), "free_bytes": 0, "probe_seconds": 0.2,
            "keep_alive_seconds": 0.2, **queue,
        }  # fmt: skip
        self.config = folder / "config.json"
        self.config.write_text(
            json.dumps(
                {
                    "listen": {"host": "127.0.0.1", "port": self.port},
                    "upstream": {"url": f"http://127.0.0.1:{self.gateway_port}"},
                    "rules": rules,
                    "limits": {"drain_seconds": 1, "connections": 1000, **(limits or {})},
                    "queue": settings,
                }
            )
        )
        (credentials / "gateway.key").write_text(GATEWAY_KEY)
        digests = {hashlib.sha256(key.encode()).hexdigest(): profile for profile, key in KEYS.items()}
        (credentials / "profiles.json").write_text(json.dumps(digests))
        self.environment = {
            **os.environ, "PYTHONPATH": str(FILES), "CREDENTIALS_DIRECTORY": str(credentials),
            "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        self.log = folder / "log"
        self._clients: dict[str, httpx.Client] = {}
        self.service: subprocess.Popen[bytes] | None = None
        self.gateway: subprocess.Popen[bytes] | None = None

    # ---- processes
    def start_gateway(self, **told: Any) -> None:
        """Bring it up, told so."""
        self.tell(**told)
        if self.gateway is None:
            argv = [sys.executable, str(HERE / "queue_gateway.py"), str(self.gateway_port), str(self.gateway_folder)]
            self.gateway = subprocess.Popen(argv, env=self.environment)
            self._listens(self.gateway_port, self.gateway)

    def tell(self, **told: Any) -> None:
        """What the gateway shall do from now on."""
        partial = self.gateway_folder / "told.part"
        partial.write_text(json.dumps(told))
        partial.replace(self.gateway_folder / "told.json")

    def start(self) -> None:
        """Bring admission up."""
        with self.log.open("ab") as log:
            self.service = subprocess.Popen(
                [sys.executable, "-m", "admission", "serve", "--config", str(self.config)],
                env=self.environment, stdout=log, stderr=log,
            )  # fmt: skip
        self._listens(self.port, self.service)

    def _listens(self, port: int, process: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + 90
        while time.monotonic() < until:
            if process.poll() is not None:
                raise AssertionError(f"ended with {process.returncode}: {self.log.read_text()[-2000:]}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.01)
        raise AssertionError("does not listen")

    @staticmethod
    def _end(process: subprocess.Popen[bytes] | None, how: int) -> None:
        if process is not None and process.poll() is None:
            process.send_signal(how)
            process.wait(30)

    def kill(self) -> None:
        """SIGKILL to admission."""
        self._end(self.service, signal.SIGKILL)
        self.service = None

    def stop(self) -> None:
        """SIGTERM to admission, as systemd does."""
        self._end(self.service, signal.SIGTERM)
        self.service = None

    def kill_gateway(self) -> None:
        """SIGKILL to the gateway."""
        self._end(self.gateway, signal.SIGKILL)
        self.gateway = None

    # ---- what a client does
    def client(self, profile: str = "private") -> httpx.Client:
        """A client with a profile's key. Threads share it; a connection serves one request, as a kill would end it."""
        if profile not in self._clients:
            headers = {"authorization": f"Bearer {KEYS[profile]}", "connection": "close"}
            self._clients[profile] = httpx.Client(
                base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=120, verify=False,  # noqa: S501 - plain HTTP; not to read the CAs
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            )  # fmt: skip
        return self._clients[profile]

    def ask(self, text: str, profile: str = "private", headers: Any = None, **more: Any) -> httpx.Response:
        """One chat request."""
        document = {**question(text, **more), "model": profile}
        return self.client(profile).post("/v1/chat/completions", json=document, headers=headers or {})

    def get(self, url: str, profile: str = "private") -> httpx.Response:
        """GET."""
        return self.client(profile).get(url)

    # ---- what is seen
    def served(self) -> list[dict[str, Any]]:
        """The gateway's whole answers, in order, without those to a probe."""
        try:
            lines = (self.gateway_folder / "served").read_bytes().splitlines()
        except OSError:
            return []
        return [one for one in map(json.loads, lines) if not one["one"]]

    def jobs(self) -> list[journal.Job]:
        """Every job of the file."""
        db = journal.connect(self.data / journal.FILE, read_only=True)
        try:
            return journal.every(db)
        finally:
            db.close()

    def events(self) -> list[dict[str, Any]]:
        """The service's log."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def settled(self, seconds: float = 60) -> list[journal.Job]:
        """The jobs, once none waits."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            jobs = self.jobs()
            if not any(job.waits for job in jobs):
                return jobs
            time.sleep(0.05)
        raise AssertionError(f"{sum(job.waits for job in self.jobs())} jobs wait after {seconds} s")


@contextlib.contextmanager
def machine(folder: Path, **settings: Any) -> Iterator[Machine]:
    """A machine whose processes are gone afterwards."""
    made = Machine(folder, **settings)
    try:
        yield made
    finally:
        made.kill()
        made.kill_gateway()
