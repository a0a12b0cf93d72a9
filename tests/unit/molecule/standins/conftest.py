# SPDX-License-Identifier: MIT
"""The stand-ins, started in this process on loopback addresses and ports that the kernel chooses."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

MOLECULE = Path(__file__).resolve().parents[4] / "molecule"
sys.path.insert(0, str(MOLECULE))  # the package lies under molecule/

from standins import internet, make_ca, records
from standins.providers import PROVIDERS

ADDRESSES = {name: [f"127.0.0.{11 + at}"] for at, name in enumerate(PROVIDERS)}


@dataclass
class Reply:
    """An HTTP answer, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    def events(self) -> list[Any]:
        """The data of server-sent events; the last one is ``[DONE]``."""
        lines = [
            line[6:]
            for line in self.body.decode().split("\n\n")
            if line.startswith("data: ")
        ]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


class Net:
    """A running `Internet` and ways to talk to it."""

    def __init__(self, running: internet.Internet, certs: Path) -> None:
        self.running = running
        self.certs = certs

    def address(self, provider: str) -> tuple[str, int]:
        """Where a provider listens."""
        listener = self.running.providers[provider][0]
        return listener.host, listener.port

    def tls(self, where: tuple[str, int], name: str) -> ssl.SSLSocket:
        """A TLS connection that trusts the lab CA."""
        context = ssl.create_default_context(cafile=str(self.certs / "ca.pem"))
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context.wrap_socket(
            socket.create_connection(where, 5.0), server_hostname=name
        )

    def ask(
        self, provider: str, method: str, path: str, body: Any = None, **headers: str
    ) -> Reply:
        """One request to a provider with its lab key (override by ``Authorization``)."""
        spec = PROVIDERS[provider]
        sock = self.tls(self.address(provider), spec.host)
        connection = http.client.HTTPConnection(spec.host)
        connection.sock = sock
        raw = (
            body
            if isinstance(body, bytes) or body is None
            else json.dumps(body).encode()
        )
        named = {k.replace("_", "-"): v for k, v in headers.items()}
        try:
            connection.request(
                method, path, raw, {"Authorization": f"Bearer {spec.key}", **named}
            )
            reply = connection.getresponse()
            return Reply(
                reply.status,
                {k.lower(): v for k, v in reply.headers.items()},
                reply.read(),
            )
        finally:
            connection.close()

    def chat(self, provider: str, prompt: str = "hello", **more: Any) -> Reply:
        """One chat completion."""
        path = f"{PROVIDERS[provider].bases[0]}/chat/completions"
        return self.ask(
            provider,
            "POST",
            path,
            {"model": "m", "messages": [{"role": "user", "content": prompt}], **more},
        )

    def find(self, marker: str, wait: bool = True) -> dict[str, Any]:
        """Look for a marker; waits a moment for it to be recorded."""
        return eventually(
            lambda: records.find(self.running.recorder.records(), marker), wait
        )


def eventually(look: Callable[[], dict[str, Any]], wait: bool = True) -> dict[str, Any]:
    """Call `look` until ``count`` is positive, for 5 s at most."""
    import time

    deadline = time.monotonic() + 5.0
    while True:
        found = look()
        if found["count"] or not wait or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA for all tests."""
    folder = tmp_path_factory.mktemp("certs")
    make_ca.ensure(folder, [p.host for p in PROVIDERS.values()])
    return folder


@pytest.fixture
def net(certs: Path, tmp_path: Path) -> Iterator[Net]:
    """All four providers, DNS and the catch-all on loopback."""
    options = internet.Options(
        state=tmp_path / "state",
        certs=certs,
        addresses=ADDRESSES,
        keys={name: p.key for name, p in PROVIDERS.items()},
        tls_port=0,
        dns_listen=(("127.0.0.1", 0),),
        dns_names={
            "known.example": ["192.0.2.7", "2001:db8::7"],
            "four.example": ["192.0.2.8"],
        },
        catch_all=0,
        catch_all_bind=("127.0.0.1",),
    )
    running = internet.Internet(options)
    running.open()
    yield Net(running, certs)
    running.shut()
