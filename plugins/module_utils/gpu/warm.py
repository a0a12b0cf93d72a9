# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""Sleep instead of stop between engines of vLLM: an option, off by default (docs/decisions/026).

A sleeping engine gives most of its memory back and is there again in seconds. It may also say that it sleeps and free
nothing, come back with another tongue, or hang behind a green ``/health``. So nothing is believed that the driver and
a completion do not confirm: once when the machine is built (:func:`prove`), and again at each switch
(:class:`WarmWorld`). On any doubt the engine is stopped and started, as without this option, and why is told.

Who may is in the registry (``sleep_level``, from ``vllm_sleep_level``). Pure but for what is behind
:class:`Sleeper` and the world of a switch. Memory is MiB, times are seconds.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.switch import FREED_SECONDS, PAUSE, Running, World
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.tenants import (
    Memory,
    Mode,
    Process,
    Registry,
    Tenant,
)

VERSION = 1
#: 1 keeps the weights in the machine's memory, 2 throws them away and reads them again.
LEVELS = (1, 2)
#: What a sleeping engine must have given back at least. What stays was measured at 1.5 to 4.3 GiB of 22 and more.
FREED_SHARE = 0.5
#: Memory of the machine that level 1 takes, by what the engine held: a model of 16 GB took 22 GiB (vLLM, issue 48337).
HOST_SHARE = 1.5
#: Over what the proof saw it hold asleep.
SLACK_MIB = 256
SLEEP_SECONDS = WAKE_SECONDS = 120.0
#: An engine that wakes once may hang the second time.
CYCLES = 2
#: The name under which the leftovers of sleepers stand among the guests on the card.
ASLEEP = "asleep"


class Doubt(Exception):
    """Why an engine may not sleep; the message is one sentence without its end."""


class Sleeper(Protocol):
    """What sleep needs of an engine and the machine. What gets no answer raises :class:`Doubt`."""

    def sleep(self, tenant: Tenant, level: int) -> None:
        """Let it sleep when its work is done; returns when it says that it does."""

    def wake(self, tenant: Tenant, level: int) -> None:
        """Wake it; returns when it says that it is awake."""

    def asleep(self, tenant: Tenant) -> bool:
        """What it says of itself."""

    def says(self, tenant: Tenant) -> str:
        """Its answer to the one question, with a fixed seed."""

    def restarts(self, tenant: Tenant, on: bool) -> None:
        """Whether Docker may start its containers again by itself: after a boot a sleeper would come back awake."""

    def host_free(self) -> int:
        """The machine's free memory."""


@dataclass(frozen=True)
class Proof:
    """What was seen of an engine. ``made_from``: what it holds for; another project or driver needs another proof.

    ``doubt``: why it may not sleep; empty when it may.
    """

    level: int
    made_from: str
    doubt: str = ""
    awake_mib: int = 0
    asleep_mib: int = 0
    sleep_seconds: float = 0.0
    wake_seconds: float = 0.0


def text_of(proofs: Mapping[str, Proof]) -> str:
    """The proofs of a machine, as its file has them."""
    entries = {name: dataclasses.asdict(proof) for name, proof in sorted(proofs.items())}
    return json.dumps({"version": VERSION, "proofs": entries}, indent=2, sort_keys=True) + "\n"


def from_text(text: str) -> dict[str, Proof]:
    """The same back; nothing from a file of another version or shape: then nobody may sleep until proven anew."""
    try:
        raw = json.loads(text)
        entries = raw["proofs"] if raw["version"] == VERSION else {}
        return {str(name): Proof(**entry) for name, entry in entries.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}


# ---- one engine: asleep, and awake again
def held(world: World, tenant: Tenant) -> int:
    """What the driver says that it holds."""
    return sum(process.mib for process in world.processes() if process.tenant == tenant.name)


def _until(world: World, done: Callable[[], bool], seconds: float) -> bool:
    deadline = world.now() + seconds
    while not done():
        if world.now() >= deadline:
            return False
        world.sleep(PAUSE)
    return True


def put_to_sleep(world: World, sleeper: Sleeper, tenant: Tenant, level: int, most_mib: int) -> float:
    """Let it sleep, and see that it holds no more than so much; how long it took.

    Raises:
        Doubt: it does not, or does not say so.
    """
    began, before = world.now(), held(world, tenant)
    # First: from here on a boot leaves it down.
    sleeper.restarts(tenant, False)
    sleeper.sleep(tenant, level)
    if not _until(world, lambda: held(world, tenant) <= most_mib, SLEEP_SECONDS):
        left = held(world, tenant)
        raise Doubt(f"it says that it sleeps and holds {left} of {before} MiB, where {most_mib} were allowed")
    if not sleeper.asleep(tenant):
        raise Doubt("it took the order to sleep and says that it is awake")
    return world.now() - began


def wake_up(world: World, sleeper: Sleeper, tenant: Tenant, level: int, awake_mib: int) -> float:
    """Wake it, and see that it answers; how long it took.

    Raises:
        Doubt: it does not.
    """
    began, need = world.now(), awake_mib - held(world, tenant)
    if (free := world.memory().free) < need:
        raise Doubt(f"it needs {need} MiB to wake, and {free} are free")
    sleeper.wake(tenant, level)
    why = "it was not asked"

    def serves() -> bool:
        nonlocal why
        if not world.alive(tenant):
            raise Doubt("it ended while it woke")
        why = world.ready(tenant)
        return not why

    if not _until(world, serves, WAKE_SECONDS):
        raise Doubt(f"it woke and did not answer within {WAKE_SECONDS:.0f} s ({why})")
    if sleeper.asleep(tenant):
        raise Doubt("it answers and says that it is asleep")
    sleeper.restarts(tenant, True)
    return world.now() - began


# ---- when the machine is built
def prove(world: World, sleeper: Sleeper, tenant: Tenant, level: int, made_from: str) -> Proof:
    """Try it on the running engine, whose door is shut and who is idle: memory freed, the same words before and after.

    An engine that came into doubt is stopped and started again, so that the machine is as it was. Waits for its answer.

    Raises:
        SovereignError: it cannot be started again, or does not answer then.
    """
    try:
        return _proven(world, sleeper, tenant, level, made_from)
    except Doubt as doubt:
        anew(world, tenant)
        if not _until(world, lambda: not world.ready(tenant), tenant.ready_seconds):
            raise SovereignError(
                f"tenant {tenant.name}",
                f"it was made anew after its sleep came into doubt ({doubt}) and does not answer: {world.logs(tenant)}",
                "Look at what its log says; take the option to sleep away.",
            ) from None
        return Proof(level, made_from, str(doubt))


def _proven(world: World, sleeper: Sleeper, tenant: Tenant, level: int, made_from: str) -> Proof:
    if why := world.ready(tenant):
        raise Doubt(f"it does not answer before it was ever asleep ({why})")
    awake = held(world, tenant)
    if awake == 0:
        raise Doubt("the driver names no memory of it, so nobody could see whether it gives any back")
    if level == 1 and (free := sleeper.host_free()) < awake * HOST_SHARE:
        raise Doubt(f"its weights need some {awake * HOST_SHARE:.0f} MiB of the machine, and {free} are free")
    words = sleeper.says(tenant)
    if sleeper.says(tenant) != words:
        raise Doubt("it answers the same question differently while it is awake, so nothing could be compared")
    asleep, to_sleep, to_wake = 0, 0.0, 0.0
    for _cycle in range(CYCLES):
        to_sleep = max(to_sleep, put_to_sleep(world, sleeper, tenant, level, int(awake * (1 - FREED_SHARE))))
        asleep = max(asleep, held(world, tenant))
        to_wake = max(to_wake, wake_up(world, sleeper, tenant, level, awake))
        if sleeper.says(tenant) != words:
            raise Doubt("it answers differently after it was asleep")
    return Proof(level, made_from, "", awake, asleep, to_sleep, to_wake)


def anew(world: World, tenant: Tenant) -> None:
    """Stop it, see its memory free, start it: the way without sleep.

    Raises:
        SovereignError: its memory does not come free.
    """
    world.stop(tenant)
    if not _until(world, lambda: held(world, tenant) == 0, FREED_SECONDS):
        raise SovereignError(
            f"tenant {tenant.name}",
            f"it was stopped and holds {held(world, tenant)} MiB after {FREED_SECONDS:.0f} s",
            "Look at sovereignctl gpu; a process that does not end may need a restart of the machine.",
        )
    world.start(tenant)


# ---- at each switch
class WarmWorld:
    """A switch's world in which engines that have proven it sleep instead of going, and wake instead of coming.

    To the switch a sleeper is not running; what it still holds is a guest's. ``told``: which way was taken and why, one
    sentence each. ``distrust``: is told of an engine that came into doubt; it may not sleep from then on. ``learn``:
    tries one that was made anew before its door opens; None when it need not be tried.
    """

    def __init__(
        self,
        world: World,
        sleeper: Sleeper,
        registry: Registry,
        proofs: Mapping[str, Proof],
        distrust: Callable[[str, str], None] = lambda _name, _why: None,
        learn: Callable[[Tenant], Proof | None] = lambda _tenant: None,
    ) -> None:
        self._world, self._sleeper, self._distrust, self._learn = world, sleeper, distrust, learn
        self._new: set[str] = set()
        self._proofs = {name: proof for name, proof in proofs.items() if not proof.doubt}
        self._tenants = registry.tenants
        self._sleeping: set[str] = set()
        self._may: Collection[str] = ()
        self._target = Mode("", ())
        guests = (*registry.guests, ASLEEP) if self._proofs else registry.guests
        self.registry = dataclasses.replace(registry, guests=guests)
        self.told: list[str] = []

    def __getattr__(self, name: str) -> Any:
        """What sleep changes nothing of."""
        return getattr(self._world, name)

    def begin(self, mode: Mode) -> None:
        """A switch to this mode is about to begin: sleepers beside whom it does not fit are stopped.

        Raises:
            SovereignError: one of them cannot be stopped.
        """
        # Who was not awake when it began may have failed in it, and failed engines do not sleep.
        self._target, self._may = mode, set(self.running())
        for tenant in mode.tenants:
            if tenant.name in self._proofs and tenant.name in self._may:
                # An earlier switch may have ended between its last words and its sleep.
                try:
                    self._sleeper.restarts(tenant, True)
                except Doubt as doubt:
                    self.told.append(f"{tenant.name} may stay down after a boot: {doubt}")
        sleepers = [name for name in self._sleeping if name not in {tenant.name for tenant in mode.tenants}]
        for name in sorted(sleepers, key=lambda name: -held(self._world, self._tenants[name])):
            if mode.tenants and not (why := self._no_room(())):
                return
            self.told.append(f"{name} slept and is stopped: {why if mode.tenants else 'nobody shall hold the card'}")
            self._gone(self._tenants[name])

    def _no_room(self, more: Collection[tuple[str, int]]) -> str:
        """Why the target does not fit beside those who sleep, and ``more``; empty when it does."""
        coming = {tenant.name for tenant in self._target.tenants}
        left = {name: held(self._world, self._tenants[name]) for name in self._sleeping if name not in coming}
        left |= dict(more)
        need = self._target.vram_mib + self.registry.reserve_mib + sum(left.values())
        total = self._world.memory().total
        if need <= total:
            return ""
        words = " + ".join(f"{name} asleep {mib}" for name, mib in sorted(left.items()))
        return (
            f"{self._target.name} {self._target.vram_mib} + {words} + reserve {self.registry.reserve_mib} = {need} MiB,"
            f" and the card has {total}"
        )

    def _gone(self, tenant: Tenant) -> None:
        self._sleeping.discard(tenant.name)
        self._world.stop(tenant)

    def _doubted(self, tenant: Tenant, doubt: Doubt) -> None:
        self._proofs.pop(tenant.name, None)
        self.told.append(f"{tenant.name} is stopped and started instead of sleeping, from now on: {doubt}")
        self._distrust(tenant.name, str(doubt))

    def _is_asleep(self, tenant: Tenant) -> bool:
        try:
            return self._sleeper.asleep(tenant)
        except Doubt:
            # Who does not say is no sleeper: the switch waits for its answer, or makes it anew.
            return False

    @property
    def sleeping(self) -> Collection[str]:
        """Who slept when it was last asked who runs."""
        return frozenset(self._sleeping)

    # ---- what a switch asks
    def running(self) -> Mapping[str, Running]:
        """Those who are awake. Who sleeps is asked of the engines, so that a run after a crash knows it."""
        found = dict(self._world.running())
        sleepers = {name for name in found if name in self._proofs and not found[name].stale}
        self._sleeping = {name for name in sleepers if self._is_asleep(self._tenants[name])}
        return {name: state for name, state in found.items() if name not in self._sleeping}

    def processes(self) -> Sequence[Process]:
        """Who is on the card; what sleepers still hold is a guest's."""
        return [
            dataclasses.replace(process, tenant=None, name=ASLEEP) if process.tenant in self._sleeping else process
            for process in self._world.processes()
        ]

    def memory(self) -> Memory:
        """As the driver has it: what sleepers hold is not free."""
        return self._world.memory()

    def stop(self, tenant: Tenant) -> None:
        """Let it sleep, when it may and there is room for it; else stop it."""
        proof = self._proofs.get(tenant.name)
        if proof is None or tenant.name not in self._may:
            self._gone(tenant)
            return
        if not self._target.tenants:
            why = "nobody shall hold the card"
        elif self._world.busy(tenant):
            # Work that was to be ended by force: its answers are lost either way, and a stop is sure to end.
            why = "it is at work"
        else:
            why = self._no_room([(tenant.name, proof.asleep_mib)])
        if why:
            self.told.append(f"{tenant.name} is stopped instead of sleeping: {why}")
            self._gone(tenant)
            return
        try:
            seconds = put_to_sleep(self._world, self._sleeper, tenant, proof.level, proof.asleep_mib + SLACK_MIB)
        except Doubt as doubt:
            self._doubted(tenant, doubt)
            self._gone(tenant)
            return
        self._sleeping.add(tenant.name)
        self.told.append(f"{tenant.name} sleeps ({seconds:.1f} s)")

    def start(self, tenant: Tenant) -> None:
        """Wake it, when it sleeps; else start it."""
        if tenant.name not in self._sleeping:
            self._new.add(tenant.name)
            self._world.start(tenant)
            return
        proof = self._proofs[tenant.name]
        self._sleeping.discard(tenant.name)
        try:
            seconds = wake_up(self._world, self._sleeper, tenant, proof.level, proof.awake_mib)
        except Doubt as doubt:
            self._doubted(tenant, doubt)
            anew(self._world, tenant)
            return
        self.told.append(f"{tenant.name} woke ({seconds:.1f} s)")

    def open(self, tenant: Tenant) -> None:
        """Open the door; an engine that was just made, and was never tried, is tried before anybody comes."""
        if tenant.name in self._new:
            self._new.discard(tenant.name)
            if proof := self._learn(tenant):
                left, took = f"{proof.asleep_mib} of {proof.awake_mib} MiB", f"{proof.wake_seconds:.1f} s"
                seen = f"asleep it holds {left} and wakes in {took}"
                may = f"may not sleep: {proof.doubt}" if proof.doubt else f"may sleep from now on: {seen}"
                self.told.append(f"{tenant.name} {may}")
        self._world.open(tenant)
