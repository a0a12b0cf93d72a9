# SPDX-License-Identifier: MIT
"""The lab machine as the benchmarks see it: its namespaces, its keys, its services, its engine stand-in."""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml
from labkit import engine as docker_engine
from labkit import scenario
from labkit.paths import SCENARIO, STATE
from labkit.say import Failed

from .load import Target, socket_in

SECRETS = "/etc/mushishi/secrets"
#: Where the parts listen; the lab's settings, as the roles' defaults have them.
GPU, CPU = ("10.88.0.10", 8000, "nemotron"), ("10.88.0.2", 8001, "nemotron-cpu")
#: Way → profile and port of its ingress.
WAYS = {"T1": ("private", 4001), "T2": ("personal", 4000)}
ENGINE = "mushishi-vllm-agent"
#: Where the engine stand-in is steered, in its own namespace.
CONTROL = ("127.0.0.1", 9098)
#: The speed that the stand-in had before a benchmark told it another; gone when it was put right.
TOLD = STATE / "bench/standin-was.json"


class Lab:
    """The lab machine, which must be up."""

    def __init__(self) -> None:
        address = docker_engine.address()
        if address is None:
            raise Failed("The lab is down. Bring it up first: tools/lab up")
        self.docker = {"DOCKER_HOST": address}
        self.hub, self.client = f"{scenario.PREFIX}-hub", f"{scenario.PREFIX}-client"
        self.settings = yaml.safe_load((SCENARIO / "vars.yml").read_text(encoding="utf-8"))
        self.pids = {name: self._pid(name) for name in (self.hub, self.client)}

    def _docker(self, *words: str, stdin: str = "", check: bool = True, seconds: float = 300) -> str:
        done = subprocess.run(
            ["docker", *words], input=stdin, capture_output=True, text=True, env=self.environment(), timeout=seconds
        )
        if check and done.returncode != 0:
            raise Failed(f"`docker {' '.join(words[:6])}` ended with {done.returncode}: {done.stderr.strip()[-400:]}")
        return done.stdout

    def environment(self) -> dict[str, str]:
        """What Ansible and the Docker client need."""
        return {**scenario.environment(self.docker["DOCKER_HOST"]), "MUSHISHI_IMAGE": "none"}

    def _pid(self, name: str) -> int:
        try:
            found = int(self._docker("inspect", "--format", "{{.State.Pid}}", name))
        except (Failed, ValueError):
            found = 0
        if not found:
            raise Failed(f"The lab machine {name} does not run. Bring the lab up first: tools/lab up")
        return found

    def run(self, *argv: str, stdin: str = "", check: bool = True, seconds: float = 300) -> str:
        """Standard output of a command on the hub, as root. Raises Failed."""
        return self._docker("exec", "-i", self.hub, *argv, stdin=stdin, check=check, seconds=seconds)

    def secret(self, name: str) -> str:
        """A key of the machine; it is held in memory only."""
        return self.run("head", "--lines=1", f"{SECRETS}/{name}").strip()

    # ---- whom one can ask
    @property
    def plane(self) -> str:
        """Path of the sovereign namespace, from this machine."""
        return f"/proc/{self.pids[self.hub]}/root/run/netns/sovereign"

    def direct(self, backend: str) -> Target:
        """An engine itself (``gpu`` or ``cpu``), from within the sovereign plane: nothing lies between."""
        host, port, model = GPU if backend == "gpu" else CPU
        key = self.secret("llama-sovereign.key") if backend == "cpu" else ""
        return Target(f"{backend} direct", host, port, model, key, namespace=self.plane)

    def way(self, name: str) -> Target:
        """A whole way (``T1`` or ``T2``) as a client on the tailnet goes it, beginning at the ingress."""
        profile, port = WAYS[name]
        key = self.run("cat", f"{SECRETS}/profiles/{profile}.key").strip()
        host = str(self.settings["lab_hub"]["tailnet"]["v4"])
        return Target(name, host, port, profile, key, namespace=f"/proc/{self.pids[self.client]}/ns/net")

    # ---- the engine stand-in
    @cached_property
    def _engine(self) -> str:
        """Path of the network namespace of the engine's container, from this machine."""
        pid = self.run("docker", "inspect", "--format", "{{.State.Pid}}", ENGINE, check=False).strip()
        if not pid.isdigit() or pid == "0":
            raise Failed(f"{ENGINE} does not run. Bring the GPU mode `agent` up: playbooks/mode.yml -e mode=agent")
        return f"/proc/{self.pids[self.hub]}/root/proc/{pid}/ns/net"

    def standin(self, verb: str, **arguments: object) -> dict[str, Any]:
        """Ask or steer the stand-in of the GPU engine, at its control address in its own namespace. Raises Failed.

        Takes a millisecond: what is told is in force when this returns.
        """
        connection = http.client.HTTPConnection(*CONTROL, timeout=30)
        try:
            connection.sock = socket_in(self._engine, socket.AF_INET)
            connection.sock.settimeout(30)
            connection.sock.connect(CONTROL)
            connection.request("POST", f"/{verb}", json.dumps(arguments), {"Content-Type": "application/json"})
            reply = connection.getresponse()
            answer = dict(json.loads(reply.read()))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Failed(f"The engine stand-in does not answer `{verb}`: {error}. Is the GPU mode `agent`?") from error
        finally:
            connection.close()
        if "error" in answer:
            said = answer["error"]
            raise Failed(f"The engine stand-in refused `{verb}` {arguments}: {said}. Renew it: tools/lab up")
        return answer

    @contextmanager
    def standin_kept(self) -> Iterator[None]:
        """Whatever happens inside, the stand-in has its own fault and speed again afterwards.

        What they were is written down first: after a run that was killed, the next one puts them right.
        """
        if TOLD.is_file():
            self._put_right()
        fault = str(self.standin("fault")["fault"])
        if fault != "ok":
            raise Failed(f"The engine stand-in is told to fail ({fault}): somebody else works with the lab.")
        TOLD.parent.mkdir(parents=True, exist_ok=True)
        TOLD.write_text(json.dumps(self.standin("speed")), encoding="utf-8")
        try:
            yield
        finally:
            self._put_right()

    def _put_right(self) -> None:
        self.standin("fault", fault="ok")
        self.standin("speed", **json.loads(TOLD.read_text(encoding="utf-8")))
        TOLD.unlink()

    # ---- what the services use
    def usage(self) -> dict[str, Usage]:
        """Memory and processor time of each of our services that runs, by unit name without prefix and suffix."""
        found = json.loads(self.run("python3", "-", stdin=USAGE))
        return {short(unit): Usage(*values) for unit, values in found.items()}

    def versions(self) -> dict[str, str]:
        """Versions of what stands on the ways."""
        script = (
            "/opt/mushishi/venvs/gateway/bin/python -c 'import importlib.metadata as m; print(m.version(\"litellm\"))';"
            " caddy version; haproxy -v 2>/dev/null || true"
        )
        text = self.run("sh", "-c", script, check=False)
        versions = {"litellm": r"\A(\d[\w.]+)$", "caddy": r"^v?(2\.[\d.]+)", "haproxy": r"^HAProxy version ([\d.]+)"}
        found = {name: re.search(form, text, re.MULTILINE) for name, form in versions.items()}
        return {name: match[1] for name, match in found.items() if match}


@dataclass(frozen=True)
class Usage:
    """Of a service: resident memory, memory of its group (bytes), processor time of its processes (seconds).

    ``group`` counts its page cache as well and is None where the memory controller is not in the unified hierarchy.
    """

    resident: int
    group: int | None
    cpu: float


def short(unit: str) -> str:
    """``mushishi-hybrid-gateway.service`` → ``hybrid-gateway``."""
    return unit.removeprefix("mushishi-").removesuffix(".service")


#: Runs on the machine: memory and processor time of the processes of each of our units.
USAGE = """
import json, os, pathlib, re, subprocess
show = ["systemctl", "show", "--property=Id,ControlGroup,MemoryCurrent", "mushishi-*.service"]
found = {}
for text in subprocess.run(show, capture_output=True, text=True, check=True).stdout.split("\\n\\n"):
    unit = dict(line.partition("=")[::2] for line in text.splitlines() if line)
    if not unit.get("ControlGroup"):
        continue
    pids = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            groups = (process / "cgroup").read_text()
        except OSError:
            continue
        if unit["ControlGroup"].rsplit("/", 1)[1] in groups:
            pids.append(process)
    resident = ticks = 0
    for process in pids:
        try:
            match = re.search(r"^VmRSS:\\s+(\\d+) kB", (process / "status").read_text(), re.M)
            resident += int(match.group(1)) * 1024 if match else 0
            ticks += sum(map(int, (process / "stat").read_text().rpartition(")")[2].split()[11:13]))
        except OSError:
            continue
    current = unit.get("MemoryCurrent", "")
    if pids:
        group = int(current) if current.isdigit() else None
        found[unit["Id"]] = [resident, group, ticks / os.sysconf("SC_CLK_TCK")]
print(json.dumps(found))
"""
