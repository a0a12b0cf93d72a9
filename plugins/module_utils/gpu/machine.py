# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""The machine as a mode switch sees it, and the one surface that the modules and ``sovereignctl`` use.

``with opened() as machine``: ``machine.status()``, ``plan()``, ``switch()``, ``history()``, ``info()``. Everything that
comes out is plain values, fit for JSON, but a switch's :class:`.switch.Result` (see :func:`result_as_mapping`). Memory
is MiB, times are seconds, moments are Unix time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.mushishi.sovereign.plugins.module_utils import _files
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import docker_tenants, nvml, tenants, warm
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.docker_tenants import DockerTenants
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.door import Door, NoDoor, in_service
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.journal import Journal, Places, holder, locked
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.probes import Probes, known
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.sleeper import VllmSleeper
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.switch import (
    Result,
    Running,
    Step,
    Switch,
    SwitchFailed,
    expected_seconds,
)
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.tenants import (
    OFF,
    Memory,
    Mode,
    Process,
    Registry,
    Tenant,
)

REGISTRY = Path("/etc/mushishi/gpu/registry.json")
NAMESPACE = "/run/netns/sovereign"
#: No call of compose takes longer: it ends what does not stop in its time.
_COMPOSE_SECONDS = 900.0
_THING = "registry of the card's tenants"

Report = Callable[[Step], None]


#: A program that we begin does not outlive us: the next run would meet it at work.
_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")


def _run(argv: Sequence[str]) -> tuple[int, str, str]:
    """A program, to its end."""
    try:
        # Not for the terminal's Ctrl-C, which calls the switch off: compose has to come to its end first.
        done = subprocess.run(
            [*_WITH_US, *argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_COMPOSE_SECONDS,
            check=False,
            start_new_session=True,
        )
    except FileNotFoundError:
        return 127, "", f"{_WITH_US[0]} is not installed"
    except subprocess.TimeoutExpired:
        return 124, "", f"it did not end within {_COMPOSE_SECONDS:.0f} s"
    return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


class RealWorld:
    """The :class:`.switch.World` of this machine. ``card``: None where no card answers; ``why`` says why then."""

    def __init__(
        self,
        registry: Registry,
        docker: Callable[[], DockerTenants],
        card: nvml.Card | None,
        why: SovereignError | None,
        door: Door,
        namespace: str,
    ) -> None:
        self._registry, self._docker, self._card, self._why, self._door = registry, docker, card, why, door
        self._probes = Probes(namespace, self._load, self._inside)
        #: Every container of ours that was seen: a process may be on the card for longer than its container is there.
        self._owners: dict[str, str] = {}
        #: Nobody shall hold the card, so none has to answer.
        self.without_card = False
        self.warnings: list[str] = []

    # ---- tenants
    def running(self) -> Mapping[str, Running]:
        """Tenants that have a container."""
        return self._docker().running()

    def startable(self, tenant: Tenant) -> str:
        """Empty when what it needs is on the machine."""
        return self._docker().startable(tenant)

    def start(self, tenant: Tenant) -> None:
        """Bring it up."""
        self._docker().start(tenant)

    def stop(self, tenant: Tenant) -> None:
        """Take it down."""
        # Whose its processes are is known from its containers, which are about to go.
        self._owners.update(self._docker().owners())
        self._docker().stop(tenant)

    def alive(self, tenant: Tenant) -> bool:
        """Whether all its containers run."""
        return self._docker().alive(tenant)

    def logs(self, tenant: Tenant) -> str:
        """The last lines of its log."""
        return self._docker().logs(tenant)

    def owners(self) -> dict[str, str]:
        """Number of a container → whose it is; as far as it is known where Docker does not answer."""
        with contextlib.suppress(SovereignError):
            self._owners.update(self._docker().owners())
        return dict(self._owners)

    # ---- the card
    def memory(self) -> Memory:
        """The card's memory."""
        if self._card is None and self.without_card:
            return Memory(0, 0)
        return self._there().memory()

    def processes(self) -> Sequence[Process]:
        """Who is on the card."""
        if self._card is None and self.without_card:
            return []
        card = self._there()
        self._owners.update(self._docker().owners())
        return card.processes(self._owners.get)

    def _there(self) -> nvml.Card:
        if self._card is None:
            raise self._why or SovereignError("NVIDIA's card", "there is none", "Switch to off.")
        return self._card

    def _inside(self, tenant: Tenant, address: str) -> str | None:
        return self._docker().namespace_of(tenant, address)

    def _load(self) -> int | None:
        return self._card.load() if self._card else None

    # ---- the door
    def close(self, tenant: Tenant) -> None:
        """Shut the engine door for it, if it has one."""
        if tenant.engine is not None:
            self._door.close(tenant.engine)

    def open(self, tenant: Tenant) -> None:
        """Open it, and wait for the prober, who may still think that the engine is away."""
        if tenant.engine is None:
            return
        self._door.open(tenant.engine)
        parts = urlsplit(str(tenant.ready["url"]))
        if not in_service(self._door, parts.hostname or "", parts.port or 80, self.sleep):
            self.warnings.append(f"the engine door's prober still keeps {tenant.name} out, although it answers")

    # ---- questions
    def ready(self, tenant: Tenant) -> str:
        """Empty when it has really answered."""
        return self._probes.ready(tenant)

    def busy(self, tenant: Tenant) -> Sequence[str]:
        """What it works at."""
        return self._probes.busy(tenant, self.processes())

    def made(self, tenant: Tenant) -> float | None:
        """What it has brought forth so far, when it counts that."""
        return self._probes.made(tenant)

    def floor(self, name: str) -> str:
        """Empty when a CPU floor has really answered."""
        if name not in self._registry.floors:
            return "the registry does not know it"
        return self._probes.floor(name, self._registry.floors[name])

    # ---- time
    def now(self) -> float:
        """A clock that only goes forward."""
        return time.monotonic()

    def time(self) -> float:
        """Unix time."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Wait; a door that was started anew meanwhile is told again who is shut out."""
        time.sleep(seconds)
        self._door.again()


class Machine:
    """One card and its modes."""

    def __init__(
        self,
        registry: Registry | SovereignError,
        world: RealWorld,
        cards: Sequence[nvml.Card],
        no_card: SovereignError | None,
        door: Door,
        places: Places,
        sleeper: warm.Sleeper,
    ) -> None:
        self._given, self._world, self._cards, self._no_card = registry, world, cards, no_card
        self._sleeper = sleeper
        self._door, self._places, self._journal = door, places, Journal(places)

    @property
    def registry(self) -> Registry:
        """Tenants and modes.

        Raises:
            SovereignError: there is no registry, or it cannot be read.
        """
        if isinstance(self._given, SovereignError):
            raise self._given
        return self._given

    # ---- changing
    def switch(
        self,
        target: str,
        *,
        on_busy: str = "fail",
        drain_seconds: float | None = None,
        rollback: bool = True,
        wait_seconds: float = 0.0,
        report: Report = lambda _step: None,
        who: str = "",
    ) -> Result:
        """Switch to a mode. ``wait_seconds``: for another switch to end; ``report`` is told each step.

        Raises:
            SovereignError: refused before anything was begun.
            switch.SwitchFailed: it was begun; its ``result`` says where it ended.
        """
        mode = self._prepared(target)
        words = f"to {target}{f', asked by {who}' if who else ''}"
        with locked(self._places, words, seconds=wait_seconds):
            around = self._warm()
            try:
                around.begin(mode)
                result = self._switch(around, lambda step: self._told(target, step, report)).run(
                    target, on_busy=on_busy, drain_seconds=drain_seconds, rollback=rollback
                )
            except SwitchFailed as error:
                error.result.warnings += around.told
                raise
            finally:
                with contextlib.suppress(OSError):
                    self._places.progress.unlink(missing_ok=True)
        result.warnings += self._blind(mode) + self._world.warnings + around.told
        return result

    def _prepared(self, target: str) -> Mode:
        mode = self.registry.mode(target)
        for tenant in self.registry.tenants.values():
            known(tenant)
        self._world.without_card = not mode.tenants
        return mode

    def _switch(self, around: warm.WarmWorld, report: Report = lambda _step: None) -> Switch:
        return Switch(around.registry, around, self._journal, report)

    def _warm(self) -> warm.WarmWorld:
        """The world in which engines sleep that may, and have proven it; without such engines, the world as it is."""
        may = {name for name, tenant in self.registry.tenants.items() if tenant.sleep_level}
        known_proofs = warm.from_text(self._journal.proofs()) if may else {}
        # A proof is of one project, one level and one driver.
        proofs = {
            name: proof
            for name, proof in known_proofs.items()
            if name in may
            and proof.level == self.registry.tenants[name].sleep_level
            and proof.made_from == self._made_from(self.registry.tenants[name])
        }

        def keep(name: str, proof: warm.Proof) -> None:
            proofs[name] = proof
            self._journal.prove(warm.text_of(proofs))

        def distrust(name: str, why: str) -> None:
            keep(name, dataclasses.replace(proofs[name], doubt=why))

        def learn(tenant: Tenant) -> warm.Proof | None:
            if tenant.name not in may or tenant.name in proofs:
                return None
            made_from = self._made_from(tenant)
            keep(tenant.name, warm.prove(self._world, self._sleeper, tenant, tenant.sleep_level, made_from))
            return proofs[tenant.name]

        return warm.WarmWorld(self._world, self._sleeper, self.registry, proofs, distrust, learn)

    def _made_from(self, tenant: Tenant) -> str:
        try:
            text = Path(tenant.project).read_bytes()
        except OSError:
            return ""
        driver = self._cards[0].facts(lambda _number: None).driver if self._cards else "none"
        return f"project {hashlib.sha256(text).hexdigest()[:16]}, driver {driver}"

    def _blind(self, mode: Mode) -> list[str]:
        if self._no_card is None or mode.tenants:
            return []
        return [f"no card answers, so nothing proves that its memory is free ({self._no_card.seen})"]

    def _told(self, target: str, step: Step, report: Report) -> None:
        """Say where a switch stands, to those who watch the file too. What watches may not stop what is watched."""
        text = json.dumps({"target": target, "pid": os.getpid(), "at": time.time(), **asdict(step)}) + "\n"
        # In /run: nothing is lost with it, and nothing is waited for.
        beside = f"{self._places.progress}.new"
        with contextlib.suppress(OSError):
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
            os.rename(beside, self._places.progress)
        report(step)

    # ---- looking
    def plan(self, target: str) -> dict[str, Any]:
        """What a switch to a mode would do now: ``origin``, ``target``, ``changed``, ``steps`` (words), ``stop``,
        ``keep``, ``start`` (names), ``warnings``, ``expected_seconds``.

        Raises:
            SovereignError: it would be refused.
        """
        mode = self._prepared(target)
        switch = self._switch(self._warm())
        warnings = switch.fits(mode) + self._blind(mode)
        found = switch.plan(target)
        switch.can_begin(mode, found)
        origin, left = switch.before()
        return {
            "origin": origin,
            "target": target,
            "changed": left is not None or not found.empty or self._journal.good() != target,
            "steps": found.words(),
            "stop": [tenant.name for tenant in found.stop],
            "keep": [tenant.name for tenant in found.keep],
            "start": [tenant.name for tenant in found.start],
            "warnings": warnings,
            "expected_seconds": expected_seconds(self._journal.history(), target),
        }

    def history(self) -> list[dict[str, Any]]:
        """Every switch that is remembered, the oldest first: ``origin``, ``target``, ``began``, ``ended``,
        ``outcome``, ``seconds`` by phase, ``peaks`` by tenant, ``why``.
        """
        return self._journal.history()

    def progress(self) -> dict[str, Any] | None:
        """The switch under way: ``who``, ``target``, ``phase``, ``detail``, ``elapsed``, ``expected``, ``pid``,
        ``at``; None when there is none. Asks neither Docker nor the card.
        """
        who = holder(self._places)
        if who is None:
            return None
        empty = {
            "target": "",
            "phase": "begins",
            "detail": "",
            "elapsed": 0.0,
            "expected": None,
            "pid": None,
            "at": None,
        }
        try:
            found = json.loads(self._places.progress.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = {}
        return {**empty, **(found if isinstance(found, dict) else {}), "who": who}

    def info(self) -> dict[str, Any]:
        """The cards: ``cards`` (as :func:`.nvml.as_result`), and ``no_card``, why there is none or None."""
        try:
            owners = self._world.owners()
            found = [dict(nvml.as_result(card.facts(owners.get))) for card in self._cards]
        except SovereignError as error:
            return {"cards": [], "no_card": str(error)}
        return {"cards": found, "no_card": None if self._no_card is None else str(self._no_card)}

    def status(self) -> dict[str, Any]:
        """All that can be said now; what cannot is None, and ``problems`` says why.

        ``mode`` and ``since``: the last good one. ``intent``: a switch that has not come to its end. ``progress``: one
        that is under way now. ``tenants``: by name, with ``running``, ``asleep``, ``stale``, ``age_seconds``,
        ``vram_mib``, ``held_mib``, ``busy`` (reasons), ``models``. ``modes``: by name, with ``tenants``, ``vram_mib``,
        ``peak_mib``, ``cpu_floors``, ``expected_seconds``. ``card``, ``processes``, ``foreign``: what the driver says.
        ``busy`` and ``busy_reasons``: the verdict. ``closed``: modes that are shut at the engine door.
        """
        problems: list[str] = []

        def asked(question: Callable[[], Any], otherwise: Any = None) -> Any:
            try:
                return question()
            except SovereignError as error:
                if str(error) not in problems:
                    problems.append(str(error))
                return otherwise

        registry = asked(lambda: self.registry, Registry({}, {OFF: Mode(OFF, ())}))
        around = asked(self._warm) or self._world
        running = asked(around.running) if registry.tenants else {}
        sleeping = around.sleeping if isinstance(around, warm.WarmWorld) else ()
        card = asked(self._card)
        processes = asked(self._world.processes) if self._cards else None
        intent, history = asked(self._journal.intent), asked(self._journal.history, [])
        told = {
            name: {**self._tenant(tenant, running, processes, asked), "asleep": name in sleeping}
            for name, tenant in registry.tenants.items()
        }
        reasons = [f"{name}: {why}" for name, each in told.items() for why in each["busy"]]
        strangers = tenants.strangers(registry, processes or [])
        return {
            "mode": asked(self._journal.good),
            "since": asked(self._journal.since),
            "intent": None if intent is None else asdict(intent),
            "progress": asked(self.progress),
            "running": None if running is None else sorted(running),
            "tenants": told,
            "modes": {name: _mode(registry, mode, history) for name, mode in registry.modes.items()},
            "card": card,
            "no_card": None if self._no_card is None else str(self._no_card),
            "processes": None if processes is None else [nvml.process_result(each) for each in processes],
            "foreign": [nvml.process_result(each) for each in strangers.foreign],
            "busy": bool(reasons),
            "busy_reasons": reasons,
            "closed": sorted(asked(self._door.closed) or ()),
            "problems": problems,
        }

    def _card(self) -> dict[str, Any] | None:
        if not self._cards:
            return None
        owners = self._world.owners()
        return dict(nvml.as_result(self._cards[0].facts(owners.get)))

    def _tenant(
        self,
        tenant: Tenant,
        running: Mapping[str, Running] | None,
        processes: Sequence[Process] | None,
        asked: Callable[..., Any],
    ) -> dict[str, Any]:
        state = (running or {}).get(tenant.name)
        held = [each.mib for each in processes or () if each.tenant == tenant.name]
        return {
            "running": state is not None,
            "stale": bool(state and state.stale),
            "age_seconds": None if state is None else round(state.age, 1),
            "vram_mib": tenant.vram_mib,
            "held_mib": None if processes is None else sum(held),
            "busy": asked(lambda: list(self._world.busy(tenant)), []) if state is not None else [],
            "models": list(tenant.models),
        }


def _mode(registry: Registry, mode: Mode, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A mode as the registry has it, and as it was measured."""
    measured = [
        sum(entry["peaks"].values())
        for entry in history
        if entry.get("target") == mode.name and entry.get("outcome") == "done" and entry.get("peaks")
    ]
    # What it held when it went: an engine that has worked holds more than one that has just answered.
    measured += [
        sum(entry["origin_peaks"].values())
        for entry in history
        if entry.get("origin") == mode.name and entry.get("origin_peaks")
    ]
    return {
        "tenants": [tenant.name for tenant in mode.tenants],
        "vram_mib": mode.vram_mib,
        "reserve_mib": registry.reserve_mib,
        "peak_mib": max(measured, default=None),
        "cpu_floors": list(mode.cpu_floors),
        "expected_seconds": expected_seconds(history, mode.name),
    }


def result_as_mapping(result: Result) -> dict[str, Any]:
    """A switch's result as plain values, its times rounded to the millisecond."""
    plain = asdict(result)
    plain["seconds"] = {phase: round(took, 3) for phase, took in result.seconds.items()}
    plain["total_seconds"] = round(sum(result.seconds.values()), 3)
    return plain


def progress_in_words(progress: Mapping[str, Any]) -> str:
    """A switch under way in one line: ``to agent: answers, vllm-agent: it loads; 34 s of about 120 s``."""
    about = f", {progress['detail']}" if progress["detail"] else ""
    expected = f" of about {progress['expected']:.0f} s" if progress["expected"] else ""
    return f"to {progress['target'] or '?'}: {progress['phase']}{about}; {progress['elapsed']:.0f} s{expected}"


def _registry(path: Path) -> Registry | SovereignError:
    try:
        found = _files.look(str(path), f"{_THING} {path}")
        if found is None:
            return SovereignError(f"{_THING} {path}", "it is not there", "Run site.yml with the tag gpu_modes.")
        return Registry.from_text(found.content.decode("utf-8", "replace"))
    except SovereignError as error:
        return error


@contextlib.contextmanager
def opened(
    registry: Path | str = REGISTRY,
    *,
    places: Places | None = None,
    namespace: str = NAMESPACE,
    run: docker_tenants.Runner = _run,
) -> Iterator[Machine]:
    """This machine. What is missing (a registry, a card, Docker, the plane) is told by whoever needs it."""
    given = _registry(Path(registry))
    here = given if isinstance(given, Registry) else Registry({}, {OFF: Mode(OFF, ())})
    inside = namespace if os.path.exists(namespace) else ""
    door = Door(inside) if inside else NoDoor()
    with contextlib.ExitStack() as stack:
        cards: Sequence[nvml.Card] = ()
        no_card: SovereignError | None = None
        try:
            cards = stack.enter_context(nvml.cards())
        except SovereignError as error:
            no_card = error
        if no_card is None and not cards:
            no_card = SovereignError("NVIDIA's card", "the driver knows none", "Look at nvidia-smi.")
        connected: list[DockerTenants] = []

        def docker() -> DockerTenants:
            if not connected:
                client = docker_tenants.connect()
                stack.callback(client.close)
                connected.append(DockerTenants(here, client, run, time.time, patience=docker_tenants.PATIENCE))
            return connected[0]

        world = RealWorld(here, docker, cards[0] if cards else None, no_card, door, inside)
        yield Machine(given, world, cards, no_card, door, places or Places(), VllmSleeper(inside, run))
