# SPDX-License-Identifier: MIT
"""A real HAProxy with the role's own configuration on loopback ports, and a raw engine that notes what it gets."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.compile import cloud_key_names, door_routes
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.validate import load_policy

CHECKOUT = Path(__file__).resolve().parents[4]
ROLE = CHECKOUT / "roles/gateway"
#: Status, headers (lower case), body.
Reply = tuple[int, dict[str, str], bytes]


def trusted(value: Any) -> Any:
    """The same data with its texts marked as templates, as Ansible marks what it reads from a role."""
    if isinstance(value, dict):
        return {key: trusted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [trusted(item) for item in value]
    return trust_as_template(value) if isinstance(value, str) else value


def role_values() -> dict[str, Any]:
    """The role's own variables, with the example's policy compiled."""
    raw = yaml.safe_load((CHECKOUT / "inventory/example/group_vars/all/policy.yml").read_text())["sovereign_policy"]
    policy = load_policy(raw)
    known: dict[str, Any] = {"ansible_managed": "Ansible managed"}
    for name in ("defaults", "vars"):
        known.update(trusted(yaml.safe_load((ROLE / name / "main.yml").read_text())))
    known["__gateway_door_routes"] = door_routes(policy)
    known["__gateway_cloud_key_names"] = cloud_key_names(policy)
    return known


def render(template: str, values: dict[str, Any]) -> str:
    """One of the role's templates."""
    text = (ROLE / "templates" / template).read_text()
    return str(Templar(loader=DataLoader(), variables=values).template(trust_as_template(text)))


def haproxy_program() -> str:
    """HAProxy itself. tools/bootstrap.sh installs it: a check that was skipped would be no check."""
    found = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert found, "haproxy is not installed; run tools/test, or: apt-get install haproxy"
    return found


def free_port() -> int:
    """A port that nobody has at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


class Engine:
    """Accepts connections, notes each request whole, and answers by ``script(connection, request)``."""

    def __init__(self, script: Callable[[socket.socket, bytes], None], port: int = 0) -> None:
        self.script = script
        self.seen: list[bytes] = []
        self.ended: list[float] = []
        self._server = socket.create_server(("127.0.0.1", port))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            data = b""
            try:
                while b"\r\n\r\n" not in data:
                    piece = connection.recv(65536)
                    if not piece:
                        return
                    data += piece
                length = re.search(rb"(?i)content-length: (\d+)", data)
                while length and len(data.split(b"\r\n\r\n", 1)[1]) < int(length[1]):
                    data += connection.recv(65536)
                self.seen.append(data)
                self.script(connection, data)
            except OSError:
                pass
            finally:
                self.ended.append(time.monotonic())

    def close(self) -> None:
        """Refuse from here on."""
        self._server.close()


def head(text: bytes) -> tuple[str, dict[str, str]]:
    """Request line and headers (lower case) of a raw message."""
    line, *rest = text.split(b"\r\n\r\n", 1)[0].decode("latin-1").split("\r\n")
    return line, {name.lower(): value.strip() for name, _, value in (entry.partition(":") for entry in rest)}


def plain(body: bytes = b'{"choices":[]}', status: str = "200 OK") -> Callable[[socket.socket, bytes], None]:
    """A script that answers at once."""

    def script(connection: socket.socket, _request: bytes) -> None:
        connection.sendall(
            b"HTTP/1.1 %s\r\nserver: engine\r\nset-cookie: a=b\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%s" % (status.encode(), len(body), body)
        )

    return script


def hang(connection: socket.socket, _request: bytes) -> None:
    """A script that never answers."""
    connection.recv(1)


class Door:
    """A running door: ``ports`` by plane, ``control``."""

    def __init__(self, ports: dict[str, int], control: int, folder: Path) -> None:
        self.ports = ports
        self.control = control
        #: Where its list of shut modes begins.
        self.closed = str(folder / "closed.acl")

    def command(self, text: str) -> str:
        """Ask the control channel."""
        with socket.create_connection(("127.0.0.1", self.control), 5) as connection:
            connection.sendall(text.encode() + b"\n")
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    def send(self, plane: str, raw: bytes, timeout: float = 10) -> socket.socket:
        """A connection on which a request was sent."""
        connection = socket.create_connection(("127.0.0.1", self.ports[plane]), timeout)
        connection.sendall(raw)
        return connection

    def ask(
        self, plane: str, method: str, path: str, body: bytes = b"", headers: str = ""
    ) -> tuple[int, dict[str, str], bytes]:
        """One request; status, headers, body."""
        raw = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}"
        if body:
            raw += f"Content-Length: {len(body)}\r\n"
        with self.send(plane, raw.encode("latin-1") + b"\r\n" + body) as connection:
            return answer(connection)


def answer(connection: socket.socket) -> Reply:
    """Everything up to the end of the connection."""
    data = b"".join(iter(lambda: connection.recv(65536), b""))
    line, headers = head(data)
    return int(line.split()[1]), headers, data.split(b"\r\n\r\n", 1)[1]


@contextmanager
def running_door(
    folder: Path, engines: dict[str, int], sessions: dict[str, int] | None = None, control: int = 0
) -> Iterator[Door]:
    """The role's HAProxy configuration with its addresses moved to loopback; ``engines``: backend name → port."""
    values = role_values()
    ports = {"sovereign": free_port(), "hybrid": free_port()}
    control = control or free_port()
    values["__gateway_control_port"] = control
    values["__gateway_door_addresses"] = {plane: f"127.0.0.1:{port}" for plane, port in ports.items()}
    values["__gateway_door_routes"] = [
        {**route, "upstream_host": "127.0.0.1", "upstream_port": engines.get(route["backend"], free_port())}
        for route in values["__gateway_door_routes"]
    ]
    (folder / "closed.acl").touch()
    values["__gateway_closed_list"] = str(folder / "closed.acl")
    values["gateway_engine_sessions"] = sessions or {}
    config = folder / "haproxy.cfg"
    config.write_text(render("haproxy.cfg.j2", values) + "\n")
    with (folder / "haproxy.log").open("w") as log:
        process = subprocess.Popen([haproxy_program(), "-db", "-f", str(config)], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 10
            while True:
                try:
                    socket.create_connection(("127.0.0.1", control), 1).close()
                    break
                except OSError:
                    assert time.monotonic() < deadline and process.poll() is None, (folder / "haproxy.log").read_text()
                    time.sleep(0.02)
            yield Door(ports, control, folder)
        finally:
            process.kill()
            process.wait()
