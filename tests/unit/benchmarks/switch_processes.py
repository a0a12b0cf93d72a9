# SPDX-License-Identifier: MIT
"""Tenants that are processes in the place of containers, so that mode_switch can be tried without Docker.

As ``docker``: ``compose --file F up|down …`` starts or ends the program that F names (JSON). As ``switch_processes.py
ours REGISTRY MODE``: a switch by the collection's own core, with real probes over HTTP, a real journal and this
``docker``; only what Docker's library and the driver would say is told by the processes themselves.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()


def alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pid_of(project: str) -> int | None:
    """The process of a project, if it runs."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(Path(f"{project}.pid").read_text())
        return pid if alive(pid) else None
    return None


def compose(words: Sequence[str]) -> int:
    """``docker compose --file F up|down``."""
    project, verb = words[words.index("--file") + 1], next(word for word in words if word in ("up", "down"))
    pid = pid_of(project)
    if verb == "down":
        if pid:
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + 10
            while alive(pid):
                # As compose does it.
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.01)
        Path(f"{project}.pid").unlink(missing_ok=True)
        return 0
    if pid is None:
        told = json.loads(Path(project).read_text())
        with Path(f"{project}.log").open("a") as log:
            started = subprocess.Popen(
                told["command"],
                env={**os.environ, **told["environment"]},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        Path(f"{project}.pid").write_text(str(started.pid))
    return 0


def ours(path: str, mode: str) -> int:
    """Switch, and print what sovereignctl prints."""
    from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import machine
    from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.door import NoDoor
    from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.journal import Places
    from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.switch import Running
    from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.tenants import (
        Memory,
        Process,
        Registry,
        Tenant,
    )

    registry = Registry.from_text(Path(path).read_text())

    class Processes:
        """What DockerTenants would say."""

        def running(self) -> Mapping[str, Running]:
            found = {name: pid_of(tenant.project) for name, tenant in registry.tenants.items()}
            return {name: Running(time.time() - os.stat(f"/proc/{pid}").st_ctime) for name, pid in found.items() if pid}

        def _call(self, tenant: Tenant, *words: str) -> None:
            subprocess.run(["docker", "compose", "--file", tenant.project, *words], check=True, stdout=sys.stderr)

        def start(self, tenant: Tenant) -> None:
            self._call(tenant, "up", "--detach")

        def stop(self, tenant: Tenant) -> None:
            self._call(tenant, "down")

        def startable(self, _tenant: Tenant) -> str:
            return ""

        def namespace_of(self, _tenant: Tenant, _address: str) -> str | None:
            # All of them are in this one.
            return ""

        def alive(self, tenant: Tenant) -> bool:
            return pid_of(tenant.project) is not None

        def logs(self, tenant: Tenant) -> str:
            return Path(f"{tenant.project}.log").read_text()[-500:]

        def owners(self) -> dict[str, str]:
            return {name: name for name in registry.tenants}

    class Card:
        """What NVML would say."""

        def processes(self, tenant_of: Callable[[str], str | None]) -> list[Process]:
            found = [(name, tenant, pid_of(tenant.project)) for name, tenant in registry.tenants.items()]
            return [Process(pid, each.vram_mib, "python3", "root", tenant_of(name)) for name, each, pid in found if pid]

        def memory(self) -> Memory:
            return Memory(32607, sum(process.mib for process in self.processes(lambda name: name)))

        def load(self) -> int:
            return 0

    card: Any = Card()
    there: Any = Processes()
    world = machine.RealWorld(registry, lambda: there, card, None, NoDoor(), "")
    folder = Path(path).parent
    places = Places(folder / "state", folder / "lock", folder / "progress.json")
    found = machine.Machine(registry, world, [card], None, NoDoor(), places).switch(mode)
    sys.stdout.write(f"{json.dumps(machine.result_as_mapping(found))}\n")
    return 0


def engine(port: int, name: str, loading: float) -> dict[str, Any]:
    """A project: the stand-in of vLLM as a process that takes some time until it listens."""
    serve = ["serve", name, "--served-model-name", name, "--host", "127.0.0.1", "--port", str(port)]
    code = f"import runpy, sys, time; time.sleep({loading}); sys.argv[1:] = {serve}; "
    code += "runpy.run_module('standins.engine', run_name='__main__')"
    environment = {"PYTHONPATH": str(HERE.parents[3] / "molecule"), "STANDIN_CONTROL": f"127.0.0.1:{port + 1}"}
    return {"command": [sys.executable, "-c", code], "environment": environment}


@contextlib.contextmanager
def stage(folder: Path, ports: Sequence[int], loading: float) -> Iterator[dict[str, Any]]:
    """A registry of two modes with an engine each, their projects, and nobody left behind."""
    tenants, modes = {}, {}
    for name, port in zip(("first", "second"), ports, strict=True):
        project = folder / f"{name}.yml"
        project.write_text(json.dumps(engine(port, name, loading)))
        tenants[name] = {
            "project": str(project),
            "containers": [name],
            "vram_mib": 20000,
            "ready": {"kind": "completion", "url": f"http://127.0.0.1:{port}", "model": name},
            "busy": [{"kind": "vllm", "url": f"http://127.0.0.1:{port}/metrics"}],
            "models": [name],
            "ready_seconds": 60,
            "stop_seconds": 10,
            "drain_seconds": 20,
            "engine": None,
        }
        modes[name] = {"tenants": [name], "cpu_floors": []}
    more = {"card_mib": None, "reserve_mib": 0, "guests": [], "floors": {}}
    registry = {"version": 1, "tenants": tenants, "modes": modes, **more}
    (folder / "registry.json").write_text(json.dumps(registry))
    try:
        yield registry
    finally:
        for tenant in tenants.values():
            compose(["--file", str(tenant["project"]), "down"])


if __name__ == "__main__":
    if sys.argv[1] == "compose":
        sys.exit(compose(sys.argv[2:]))
    sys.path.insert(0, os.environ["COLLECTIONS_ROOT"])
    sys.exit(ours(*sys.argv[2:4]))
