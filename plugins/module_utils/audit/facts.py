# SPDX-License-Identifier: MIT
"""What an audit knows of its machine: how it reads, what the policy says of it, and what it was at that moment."""

from __future__ import annotations

import glob
import hashlib
import ipaddress
import json
import os
import platform
import pwd
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def words(text: str) -> tuple[str, ...]:
    """The words of a text, for long lists."""
    return tuple(text.split())


#: A model file that is larger is told by its size and time, unless its hash was asked for.
HASHED_BYTES = 256 * 1024 * 1024
CONFIGURATION = words(
    """
    /etc/mushishi/guard/* /etc/mushishi/plane/* /etc/mushishi/admission/* /etc/mushishi/gateway/*
    /etc/mushishi/ingress-*/* /etc/mushishi/vllm/*/compose.yml /etc/systemd/system/mushishi-*
    /etc/systemd/system/mushishi-*/* /opt/mushishi/plane/* /etc/docker/daemon.json
    """
)


@dataclass(frozen=True)
class Settings:
    """What the policy and the roles say; the module's parameters."""

    bridge: str = "br-sovereign"
    namespace: str = "sovereign"
    network: str = "sovereign"
    lan: str = "10.88.0.0/24"
    host_address: str = "10.88.0.1"
    namespace_address: str = "10.88.0.2"
    ingress_interface: str = "tailscale0"
    ingress_ports: Sequence[int] = (4000, 4001)
    plane_clients: Sequence[Mapping[str, Any]] = ()
    namespace_flows: Sequence[Mapping[str, Any]] = ()
    loopback_services: Sequence[Mapping[str, Any]] = ()
    door_routes: Sequence[Mapping[str, Any]] = ()
    door_port: int = 4021
    hybrid_egress: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    targets: Sequence[Mapping[str, Any]] = ()
    t1_trees: Sequence[str] = ()
    secrets: str = "/etc/mushishi/secrets"
    table: tuple[str, str] = ("inet", "mushishi_guard")
    hash_models: bool = False
    sovereign_profiles: Sequence[str] = ()
    local_backends: Sequence[str] = ()
    sovereign_port: int = 4001

    def on_lan(self, address: str) -> bool:
        """Whether an address is the sovereign LAN's."""
        try:
            return ipaddress.ip_address(address.partition("%")[0]) in ipaddress.ip_network(self.lan)
        except ValueError:
            return False

    def providers(self) -> list[str]:
        """Hosts outside that the policy names for anybody."""
        return sorted({str(entry["host"]) for hosts in self.hybrid_egress.values() for entry in hosts})

    def engines(self) -> list[str]:
        """Addresses of the LAN that the policy gives to engines."""
        known = {str(flow["address"]) for flow in self.namespace_flows if self.on_lan(str(flow["address"]))}
        return sorted(known - {self.namespace_address})


class Machine:
    """How the audit reads: commands that only read, and files. An absent command or file is an empty text."""

    def __init__(self) -> None:
        self.environment = {"PATH": PATH, "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""}

    def run(self, *argv: str, stdin: str = "", timeout: float = 30) -> str:
        """Standard output of a command."""
        return self.done(*argv, stdin=stdin, timeout=timeout)[1]

    def done(self, *argv: str, stdin: str = "", timeout: float = 30) -> tuple[int, str, str]:
        """Exit status and both outputs; 127 for a command that is not there, 124 for one that took too long."""
        try:
            done = subprocess.run(
                argv,
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                env=self.environment,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return 124, "", "took too long"
        except OSError as error:
            return 127, "", str(error)
        return done.returncode, done.stdout, done.stderr

    def json(self, *argv: str) -> Any:
        """A command's JSON; None where it gave none."""
        try:
            return json.loads(self.run(*argv))
        except ValueError:
            return None

    def text(self, path: str) -> str:
        """A file's text."""
        try:
            with open(path, encoding="utf-8", errors="replace") as stream:
                return stream.read()
        except OSError:
            return ""

    def inside(self, namespace: str, *argv: str) -> tuple[str, ...]:
        """A command in a named network namespace."""
        return ("ip", "netns", "exec", namespace, *argv)

    def users(self) -> dict[str, int]:
        """Every user's number."""
        return {entry.pw_name: entry.pw_uid for entry in pwd.getpwall()}

    def properties(self, names: Sequence[str], wanted: str) -> dict[str, dict[str, str]]:
        """``systemctl show`` of several units: unit → property → value."""
        found: dict[str, dict[str, str]] = {}
        if not names:
            return found
        for block in self.run("systemctl", "show", *names, "--property", f"Id,{wanted}").split("\n\n"):
            pairs = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            if "Id" in pairs:
                found[pairs["Id"]] = pairs
        return found

    def units(self, pattern: str) -> list[str]:
        """Services by name, loaded or only installed."""
        loaded = self.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "--type=service", pattern)
        installed = self.run("systemctl", "list-unit-files", "--plain", "--no-legend", "--type=service", pattern)
        names = {line.split()[0] for line in (loaded + installed).splitlines() if line.strip()}
        return sorted(name for name in names if not name.endswith("@.service") and "-audit-" not in name)

    def processes(self) -> list[int]:
        """Every process."""
        return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


@dataclass
class Process:
    """One process as the kernel tells it."""

    pid: int
    status: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, pid: int) -> Process | None:
        """None when it has ended."""
        try:
            with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as stream:
                pairs = (line.split(":", 1) for line in stream if ":" in line)
                return cls(pid, {name: value.strip() for name, value in pairs})
        except OSError:
            return None

    @property
    def uid(self) -> int:
        """Its effective user."""
        return int(self.status.get("Uid", "0 0").split()[1])

    def link(self, name: str) -> str:
        """``ns/net``, ``exe`` …; empty when it has ended."""
        try:
            return os.readlink(f"/proc/{self.pid}/{name}")
        except OSError:
            return ""

    def environment(self) -> dict[str, str]:
        """Its environment, as it was given."""
        try:
            with open(f"/proc/{self.pid}/environ", "rb") as stream:
                words = stream.read().decode("utf-8", "replace").split("\0")
        except OSError:
            return {}
        return dict(word.split("=", 1) for word in words if "=" in word)


def containers(machine: Machine, network: str) -> list[dict[str, Any]]:
    """``docker inspect`` of every container that is on the sovereign network or is one of ours."""
    names = machine.run("docker", "ps", "--all", "--quiet", "--no-trunc").split()
    shown = machine.json("docker", "inspect", *names) if names else []
    return [
        one
        for one in shown or []
        if network in one["NetworkSettings"]["Networks"] or one["Name"].startswith("/mushishi-")
    ]


def digest(data: bytes) -> str:
    """sha256 in hex."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: str) -> str:
    """sha256 of a file; empty when it cannot be read."""
    total = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            for piece in iter(lambda: stream.read(1024 * 1024), b""):
                total.update(piece)
    except OSError:
        return ""
    return total.hexdigest()


def without_counts(tree: Any) -> Any:
    """A listing of nft without what changes by itself: counters, handles, the listing's own head."""
    if isinstance(tree, dict):
        return {
            key: without_counts(value)
            for key, value in tree.items()
            if key not in ("counter", "handle", "metainfo", "packets", "bytes", "expires")
        }
    if isinstance(tree, list):
        return [
            without_counts(value)
            for value in tree
            if not (isinstance(value, dict) and set(value) & {"counter", "metainfo"})
        ]
    return tree


def facts(machine: Machine, settings: Settings, sources: Mapping[str, str]) -> dict[str, Any]:
    """Versions and sha256 digests of what is in force; ``sources`` is the audit's own code by name."""
    plane = machine.inside(settings.namespace, "nft", "-j", "list", "ruleset")
    listings = {"host": machine.json("nft", "-j", "list", "table", *settings.table), "plane": machine.json(*plane)}
    files = sorted({path for pattern in CONFIGURATION for path in glob.glob(pattern) if os.path.isfile(path)})
    running = containers(machine, settings.network)
    return {
        "host": platform.node(),
        "versions": versions(machine),
        "rules": {
            name: digest(json.dumps(without_counts(listing), sort_keys=True).encode())
            for name, listing in listings.items()
            if listing
        },
        "configuration": {path: file_digest(path) for path in files},
        "units": {name: digest(machine.run("systemctl", "cat", name).encode()) for name in machine.units("mushishi-*")},
        "images": {one["Name"].lstrip("/"): one["Image"] for one in running},
        "models": {path: model_digest(path, settings.hash_models) for path in sorted(set(models(machine, running)))},
        "audit": {name: digest(text.encode()) for name, text in sorted(sources.items())},
    }


def versions(machine: Machine) -> dict[str, str]:
    """What runs here."""
    said = {
        "nft": machine.run("nft", "--version"),
        "systemd": machine.run("systemctl", "--version"),
        "docker": machine.run("docker", "version", "--format", "{{.Server.Version}}"),
        "haproxy": machine.run("haproxy", "-v"),
        "caddy": machine.run("caddy", "version"),
        "tailscale": machine.run("tailscale", "version"),
    }
    system = dict(line.split("=", 1) for line in machine.text("/etc/os-release").splitlines() if "=" in line)
    found = {name: text.splitlines()[0].strip() for name, text in said.items() if text.strip()}
    return {
        "system": system.get("PRETTY_NAME", "").strip('"'),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **found,
    }


def models(machine: Machine, running: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """Files that the running engines were given as their models."""
    for pid in machine.processes():
        words = machine.text(f"/proc/{pid}/cmdline").split("\0")
        if "--model" in words[:-1] and os.path.basename(words[0]) == "llama-server":
            yield words[words.index("--model") + 1]
    for one in running:
        for mount in one["Mounts"]:
            if mount["Destination"].startswith("/models/"):
                yield from (path for path in glob.glob(f"{mount['Source']}/**", recursive=True) if os.path.isfile(path))


def model_digest(path: str, always: bool) -> str:
    """sha256 of a model's file, or its size and time where it is large."""
    try:
        about = os.stat(path)
    except OSError:
        return ""
    if about.st_size <= HASHED_BYTES or always:
        return file_digest(path)
    return f"{about.st_size} bytes, changed {int(about.st_mtime)}, not hashed"
