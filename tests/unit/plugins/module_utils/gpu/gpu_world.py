# SPDX-License-Identifier: MIT
"""A machine with a card that is played: containers take and give back its memory, start slowly, hang, die, refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import registry as given
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.switch import Running
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.tenants import Memory, Process, Registry, Tenant

CARD = 32607
#: Tenant → MiB.
SIZES = {
    "vllm-agent": 22000,
    "vllm-forensic": 27000,
    "vllm-coding": 23000,
    "comfyui": 24000,
    "tts": 4000,
    "music": 26000,
}
MODES = {
    "agent": ["vllm-agent", "tts"],
    "forensic": ["vllm-forensic"],
    "coding": ["vllm-coding"],
    "creative": ["comfyui"],
    "audio": ["tts"],
    "music": ["music"],
}


def raw_registry(**changes: Any) -> dict[str, Any]:
    """What an inventory would say."""
    tenants = {
        name: {
            "project": f"/etc/mushishi/gpu/{name}/compose.yml",
            "containers": [f"mushishi-{name}"],
            "vram_mib": mib,
            "ready": {"kind": "completion", "url": f"http://10.88.0.{number}:8000", "model": name},
            "busy": [{"kind": "vllm", "url": f"http://10.88.0.{number}:8000/metrics"}],
            "models": [name],
            "ready_seconds": 100,
            "stop_seconds": 10,
            "drain_seconds": 20,
            "engine": None,
        }
        for number, (name, mib) in enumerate(SIZES.items(), 10)
    }
    modes = {name: {"tenants": names, "cpu_floors": []} for name, names in MODES.items()}
    return {"tenants": tenants, "modes": modes, "card_mib": CARD, "reserve_mib": 600, "guests": ["Xorg"], **changes}


def registry(**changes: Any) -> Registry:
    """The same as the machine has it."""
    return Registry.from_document(given.document(given.load(raw_registry(**changes))))


class Killed(BaseException):
    """SIGKILL, as far as Python has one: nothing of ours runs any more."""


@dataclass
class Container:
    """A tenant's containers: since when, and whether they are dead, hang, or are of another project."""

    since: float
    mib: int
    pid: int
    dead: bool = False
    stale: bool = False


@dataclass
class Played:
    """The World of a switch. ``faults``: what goes wrong, by name; ``calls``: what was asked, in order."""

    names: Mapping[str, int] = field(default_factory=lambda: dict(SIZES))
    start_seconds: float = 1.0
    #: MiB of the card that are the driver's own.
    reserved: int = 0
    clock: float = 1000.0
    up: dict[str, Container] = field(default_factory=dict)
    shut: set[str] = field(default_factory=set)
    foreign: list[Process] = field(default_factory=list)
    #: A container of somebody else, which the machine shows beside ours.
    bystander: str = ""
    at_work: dict[str, float] = field(default_factory=dict)
    hang: set[str] = field(default_factory=set)
    #: All their places are taken: they answer us nothing, and others token by token.
    full: set[str] = field(default_factory=set)
    die: set[str] = field(default_factory=set)
    clings: dict[str, float] = field(default_factory=dict)
    lacks: dict[str, str] = field(default_factory=dict)
    silent_floors: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    kill_at: Callable[[int, str], bool] = lambda _number, _call: False
    _pids: int = 100
    _gone: list[tuple[float, str, Container]] = field(default_factory=list)

    def _call(self, what: str) -> None:
        self.calls.append(what)
        if self.kill_at(len(self.calls), what):
            raise Killed(what)
        verb = what.split(" ", 1)[0]
        for key in (what, verb):
            if key in self.broken:
                raise SovereignError(f"played {key}", self.broken[key], "Mend it.")

    # ---- the World
    def running(self) -> Mapping[str, Running]:
        self._call("running")
        there = {name: Running(self.clock - each.since, each.stale or each.dead) for name, each in self.up.items()}
        return {**there, **({self.bystander: Running(self.clock)} if self.bystander else {})}

    def startable(self, tenant: Tenant) -> str:
        self._call("startable")
        return self.lacks.get(tenant.name, "")

    def start(self, tenant: Tenant) -> None:
        self._call(f"start {tenant.name}")
        self.up.pop(tenant.name, None)
        self._pids += 1
        used = sum(process.mib for process in self.processes())
        assert used + tenant.vram_mib <= CARD, f"{tenant.name} finds no memory: {used} of {CARD} MiB are taken"
        self.up[tenant.name] = Container(self.clock, tenant.vram_mib, self._pids, dead=tenant.name in self.die)

    def stop(self, tenant: Tenant) -> None:
        self._call(f"stop {tenant.name}")
        container = self.up.pop(tenant.name, None)
        if container and (seconds := self.clings.get(tenant.name, 0.3)):
            self._gone.append((self.clock + seconds, tenant.name, container))

    def alive(self, tenant: Tenant) -> bool:
        self._call("alive")
        return tenant.name in self.up and not self.up[tenant.name].dead

    def logs(self, tenant: Tenant) -> str:
        return f"the last words of {tenant.name}"

    def processes(self) -> Sequence[Process]:
        self._call("processes")
        self._gone = [entry for entry in self._gone if entry[0] > self.clock]
        ours = [(name, each) for name, each in self.up.items() if not each.dead]
        ours += [(name, each) for _until, name, each in self._gone]
        return [*(Process(each.pid, each.mib, "python3", "root", name) for name, each in ours), *self.foreign]

    def memory(self) -> Memory:
        self._call("memory")
        return Memory(CARD, sum(process.mib for process in self.processes()), self.reserved)

    def close(self, tenant: Tenant) -> None:
        self._call(f"close {tenant.name}")
        self.shut.add(tenant.name)

    def open(self, tenant: Tenant) -> None:
        self._call(f"open {tenant.name}")
        self.shut.discard(tenant.name)

    def ready(self, tenant: Tenant) -> str:
        self._call("ready")
        if tenant.name not in self.up:
            return "nobody is there"
        if tenant.name in self.full:
            self.clock += 10
            return "timed out"
        if tenant.name in self.hang:
            return "it takes the request and says nothing"
        return "" if self.clock - self.up[tenant.name].since >= self.start_seconds else "it loads"

    def busy(self, tenant: Tenant) -> Sequence[str]:
        self._call("busy")
        if tenant.name in self.full:
            return ["2 requests running"]
        left = self.at_work.get(tenant.name, 0.0) - self.clock
        # Behind a shut door the work ends; before an open one more of it comes.
        if left > 0 or (tenant.name in self.at_work and tenant.name not in self.shut):
            return ["2 requests run"]
        return []

    def made(self, tenant: Tenant) -> float | None:
        self._call("made")
        return self.clock if tenant.name in self.full else 7.0

    def floor(self, name: str) -> str:
        self._call("floor")
        return "connection refused" if name in self.silent_floors else ""

    def now(self) -> float:
        return self.clock

    def time(self) -> float:
        return 1_790_000_000 + self.clock

    def sleep(self, seconds: float) -> None:
        self.clock += seconds

    # ---- for the tests
    def has(self, *names: str) -> None:
        """These run and serve."""
        for name in names:
            self._pids += 1
            self.up[name] = Container(self.clock - 500, self.names[name], self._pids)
