# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""The registry as the machine has it, and the plan of a switch: who goes, who stays, who comes. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError

VERSION = 1
#: The mode in which nobody holds the card. It is always there and cannot be declared.
OFF = "off"
_THING = "registry of the card's tenants"


@dataclass(frozen=True)
class Tenant:
    """Who may hold the card: MiB, seconds, container names; ``ready`` and ``busy`` as the probes read them."""

    name: str
    project: str
    containers: tuple[str, ...]
    vram_mib: int
    ready: Mapping[str, Any]
    busy: tuple[Mapping[str, Any], ...] = ()
    ready_seconds: float = 1800
    stop_seconds: float = 60
    drain_seconds: float = 300
    models: tuple[str, ...] = ()
    engine: str | None = None
    #: Whether it may sleep instead of going: 0 never, else vLLM's level (docs/decisions/026).
    sleep_level: int = 0


@dataclass(frozen=True)
class Mode:
    """Tenants that hold the card together, in the order in which they start."""

    name: str
    tenants: tuple[Tenant, ...]
    cpu_floors: tuple[str, ...] = ()

    @property
    def vram_mib(self) -> int:
        """What they may hold together."""
        return sum(tenant.vram_mib for tenant in self.tenants)


@dataclass(frozen=True)
class Registry:
    """Tenants and modes by name; ``off`` is always among the modes."""

    tenants: Mapping[str, Tenant]
    modes: Mapping[str, Mode]
    reserve_mib: int = 0
    card_mib: int | None = None
    guests: tuple[str, ...] = ()
    #: CPU floor → how it is asked for a completion.
    floors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def from_document(cls, raw: Mapping[str, Any]) -> Registry:
        """Read what the controller has checked and written.

        Raises:
            SovereignError: it is of another version, or not what the controller writes.
        """
        version = raw.get("version") if isinstance(raw, Mapping) else None
        if version != VERSION:
            seen = f"it is of version {version!r}, not {VERSION}"
            raise SovereignError(_THING, seen, "Run site.yml again.")
        try:
            tenants = {name: _tenant(name, given) for name, given in raw["tenants"].items()}
            modes = {
                name: Mode(name, tuple(tenants[each] for each in given["tenants"]), tuple(given["cpu_floors"]))
                for name, given in raw["modes"].items()
            }
            modes[OFF] = Mode(OFF, ())
            guests, floors = tuple(raw["guests"]), dict(raw["floors"])
            return cls(tenants, modes, int(raw["reserve_mib"]), raw["card_mib"], guests, floors)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SovereignError(_THING, f"it cannot be read ({error!r})", "Run site.yml again.") from None

    @classmethod
    def from_text(cls, text: str) -> Registry:
        """The same from a file's text."""
        try:
            raw = json.loads(text)
        except ValueError as error:
            raise SovereignError(_THING, f"it is no JSON ({error})", "Run site.yml again.") from None
        return cls.from_document(raw)

    def mode(self, name: str) -> Mode:
        """A mode by name.

        Raises:
            SovereignError: there is none of that name.
        """
        if name not in self.modes:
            names = ", ".join(sorted(self.modes))
            raise SovereignError(f"mode {name}", "there is no such mode", f"Choose one of {names}.")
        return self.modes[name]

    def fits(self, mode: Mode, card_mib: int) -> None:
        """Refuse a mode that the card cannot hold, with the sum.

        Raises:
            SovereignError: its budgets and the reserve exceed the card.
        """
        need = mode.vram_mib + self.reserve_mib
        if mode.tenants and need > card_mib:
            words = " + ".join(f"{tenant.name} {tenant.vram_mib}" for tenant in mode.tenants)
            raise SovereignError(
                f"mode {mode.name}",
                f"it does not fit: {words} + reserve {self.reserve_mib} = {need} MiB, and the card has {card_mib} MiB",
                "Lower a budget (context, sequences, cache), or take a tenant out of the mode.",
            )


def _tenant(name: str, given: Mapping[str, Any]) -> Tenant:
    return Tenant(
        name=name,
        project=given["project"],
        containers=tuple(given["containers"]),
        vram_mib=int(given["vram_mib"]),
        ready=given["ready"],
        busy=tuple(given["busy"]),
        ready_seconds=float(given["ready_seconds"]),
        stop_seconds=float(given["stop_seconds"]),
        drain_seconds=float(given["drain_seconds"]),
        models=tuple(given["models"]),
        engine=given["engine"],
        sleep_level=int(given.get("sleep_level", 0)),
    )


@dataclass(frozen=True)
class Plan:
    """Who goes (in order), who stays, who comes (in order)."""

    stop: tuple[Tenant, ...] = ()
    keep: tuple[Tenant, ...] = ()
    start: tuple[Tenant, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nobody comes or goes."""
        return not self.stop and not self.start

    def words(self) -> list[str]:
        """One line a step, for people and for check mode."""
        return [
            *(f"stop {tenant.name} ({tenant.vram_mib} MiB)" for tenant in self.stop),
            *(f"keep {tenant.name} ({tenant.vram_mib} MiB)" for tenant in self.keep),
            *(f"start {tenant.name} ({tenant.vram_mib} MiB)" for tenant in self.start),
        ]


def plan(registry: Registry, running: Collection[str], wanted: Mode, stale: Collection[str] = ()) -> Plan:
    """What leads from the tenants that run to a mode.

    ``stale``: tenants that are there and not as they should be; they go and come again. Who stands last in the registry
    goes first. Names that are no tenants are left alone: they are not ours.
    """
    keep = tuple(tenant for tenant in wanted.tenants if tenant.name in running and tenant.name not in stale)
    kept = {tenant.name for tenant in keep}
    ours = [tenant for name, tenant in registry.tenants.items() if name in running]
    stop = [tenant for tenant in reversed(ours) if tenant.name not in kept]
    return Plan(tuple(stop), keep, tuple(tenant for tenant in wanted.tenants if tenant.name not in kept))


@dataclass(frozen=True)
class Process:
    """A process on the card, as the driver and the kernel know it; ``tenant`` when it is in one's container.

    ``container``: the number of the container that it is in, whoever's.
    """

    pid: int
    mib: int
    name: str
    user: str
    tenant: str | None = None
    container: str | None = None

    def words(self) -> str:
        """For a person who must find it."""
        return f"{self.name} (pid {self.pid}, user {self.user}, {self.mib} MiB)"


@dataclass(frozen=True)
class Memory:
    """The card's memory in MiB. ``reserved``: the driver's own share, which nobody holds and nobody can have."""

    total: int
    used: int
    reserved: int = 0

    @property
    def free(self) -> int:
        """What is left."""
        return self.total - self.used - self.reserved


@dataclass(frozen=True)
class Strangers:
    """Processes on the card that are no tenant's: guests that the registry names, and all others."""

    guests: tuple[Process, ...] = ()
    foreign: tuple[Process, ...] = ()

    @property
    def mib(self) -> int:
        """What they hold together."""
        return sum(process.mib for process in (*self.guests, *self.foreign))


def strangers(registry: Registry, processes: Collection[Process]) -> Strangers:
    """Who is on the card without being a tenant."""
    others = [process for process in processes if process.tenant is None]
    guests = tuple(process for process in others if process.name in registry.guests)
    return Strangers(guests, tuple(process for process in others if process not in guests))


@dataclass
class Peaks:
    """The most that each tenant was seen to hold, in MiB."""

    seen: dict[str, int] = field(default_factory=dict)

    def note(self, processes: Collection[Process]) -> None:
        """Look at the card once."""
        now: dict[str, int] = {}
        for process in processes:
            if process.tenant is not None:
                now[process.tenant] = now.get(process.tenant, 0) + process.mib
        for name, mib in now.items():
            self.seen[name] = max(mib, self.seen.get(name, 0))

    def drift(self, registry: Registry) -> list[str]:
        """Tenants that held more than they declare, one sentence each."""
        return [
            f"{name} held {mib} MiB and declares {registry.tenants[name].vram_mib}"
            for name, mib in sorted(self.seen.items())
            if name in registry.tenants and mib > registry.tenants[name].vram_mib
        ]
