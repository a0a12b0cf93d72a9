# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""A change of the GPU mode as a transaction (docs/decisions/023).

fit → intent → busy? → close the door → drain → stop → *freed* → start → *answers* → open → floors → commit. What goes
wrong before the stop leaves everything as it was; what goes wrong after it leads back to the last good mode. The plan
is always made from what really runs, so that a run after a crash needs to know no more than where it came from.

Everything outside is behind :class:`World`; times are seconds, memory is MiB.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import tenants
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.journal import Intent, Journal
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.tenants import (
    OFF,
    Memory,
    Mode,
    Peaks,
    Plan,
    Process,
    Registry,
    Tenant,
)

#: The driver gives memory back some time after the process is gone.
FREED_SECONDS = 60.0
#: Between two looks. A look costs milliseconds.
PAUSE = 0.25
#: Work that is over within this time is no reason to refuse: the prober's own question is one token, now and then.
GLANCE_SECONDS = 2.0
#: A CPU floor that answered before the switch may be busy with those who came to it meanwhile.
FLOOR_SECONDS = 120.0
#: Whose places are all taken has none for a question. It is asked again for as long as a long prompt takes to be read.
HANG_SECONDS = 60.0
ON_BUSY = ("fail", "wait", "force")
#: The last phase: the new mode serves, and is written down as the good one.
COMMIT = "commit"


@dataclass(frozen=True)
class Running:
    """A tenant that has containers: for how long, and whether they are not what its project says, or one is dead."""

    age: float
    stale: bool = False


class World(Protocol):
    """What a switch needs of the machine. Each may raise SovereignError when it cannot be asked or done."""

    def running(self) -> Mapping[str, Running]:
        """Tenants that have a container, by name; one that is dead makes its tenant stale."""

    def startable(self, tenant: Tenant) -> str:
        """Empty when what it needs to start is on the machine; else what is missing."""

    def start(self, tenant: Tenant) -> None:
        """Bring its containers up; returns before it serves."""

    def stop(self, tenant: Tenant) -> None:
        """Take its containers down, within its own time."""

    def alive(self, tenant: Tenant) -> bool:
        """Whether all its containers run."""

    def logs(self, tenant: Tenant) -> str:
        """The last lines of its log."""

    def memory(self) -> Memory:
        """The card's memory."""

    def processes(self) -> Sequence[Process]:
        """Who is on the card."""

    def close(self, tenant: Tenant) -> None:
        """Lead new requests past it, to the next link of their chain."""

    def open(self, tenant: Tenant) -> None:
        """Lead requests to it again."""

    def ready(self, tenant: Tenant) -> str:
        """Empty when it has really answered; else why not."""

    def busy(self, tenant: Tenant) -> Sequence[str]:
        """What it works at, one phrase each; nothing when it is idle. Loaded is not busy."""

    def made(self, tenant: Tenant) -> float | None:
        """What it has brought forth so far, a number that grows while it works; None when it does not say."""

    def floor(self, name: str) -> str:
        """Empty when a CPU floor has really answered; else why not."""

    def now(self) -> float:
        """A clock that only goes forward."""

    def time(self) -> float:
        """Unix time."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


@dataclass
class Result:
    """What became of a switch. ``seconds``: by phase, in order; ``plan``: one line a step."""

    origin: str
    target: str
    changed: bool = False
    plan: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    peaks: dict[str, int] = field(default_factory=dict)
    outcome: str = "nothing to do"


class SwitchFailed(SovereignError):
    """A switch that did not come to its end. ``result.outcome``: unchanged, rolled back, or broken."""

    def __init__(self, thing: str, seen: str, remedy: str, result: Result) -> None:
        super().__init__(thing, seen, remedy)
        self.result = result


@dataclass(frozen=True)
class Step:
    """What is told while it runs: the phase, about whom, seconds so far, and how long the whole took before."""

    phase: str
    detail: str
    elapsed: float
    expected: float | None


def expected_seconds(history: Iterable[Mapping[str, Any]], target: str) -> float | None:
    """How long switches to a mode took, the median of those that came to a good end; None when there was none."""
    took = [
        float(sum(entry["seconds"].values()))
        for entry in history
        if entry.get("target") == target and entry.get("outcome") == "done" and isinstance(entry.get("seconds"), dict)
    ]
    return statistics.median(took) if took else None


class Switch:
    """One card's switches."""

    def __init__(
        self,
        registry: Registry,
        world: World,
        journal: Journal,
        report: Callable[[Step], None] = lambda _step: None,
    ) -> None:
        self._registry, self._world, self._journal, self._report = registry, world, journal, report
        #: What the target's tenants were seen to hold, and what the origin's were, until they went.
        self._peaks, self._origin_peaks = Peaks(), Peaks()
        self._began = 0.0
        self._expected: float | None = None
        self._phase_began: float | None = None

    # ---- looking
    def plan(self, target: str) -> Plan:
        """What a switch would do now. Changes nothing."""
        mode = self._registry.mode(target)
        running = self._world.running()
        stale = {name for name, state in running.items() if state.stale}
        for tenant in mode.tenants:
            state = running.get(tenant.name)
            # One that is still starting is waited for; one that had its time and answers nothing is made anew.
            if state and not state.stale and state.age > tenant.ready_seconds and self._hangs(tenant):
                stale.add(tenant.name)
        return tenants.plan(self._registry, running.keys(), mode, stale)

    def _hangs(self, tenant: Tenant) -> bool:
        """Whether it answers nothing, although it does not merely work for others with all its places taken."""
        if not self._world.ready(tenant):
            return False
        made = self._world.made(tenant)
        if made is None or not self._world.busy(tenant):
            return True
        # Tokens that grow are an answer too: somebody else's.
        return not self._until(lambda: self._world.made(tenant) != made or not self._world.ready(tenant), HANG_SECONDS)

    def before(self) -> tuple[str, Intent | None]:
        """The last good mode, and a switch that has not come to its end. One that was committed has."""
        left, good = self._journal.intent(), self._journal.good()
        if left and left.phase == COMMIT and left.target == good:
            left = None
        return good or (left.origin if left else OFF), left

    def fits(self, mode: Mode) -> list[str]:
        """Refuse what the card cannot hold, also because of others on it; warnings about others whom it can hold.

        Raises:
            SovereignError: with the sum, or with the processes that are in the way.
        """
        memory = self._world.memory()
        self._registry.fits(mode, memory.total)
        there = tenants.strangers(self._registry, self._world.processes())
        told = ", ".join(process.words() for process in (*there.foreign, *there.guests))
        # What is in the way is more than the reserve then: with that the mode fits.
        if mode.tenants and mode.vram_mib + there.mib + memory.reserved > memory.total:
            driver = f"{memory.reserved} of the card's {memory.total} MiB are the driver's own"
            if not told:
                raise SovereignError(
                    f"mode {mode.name}",
                    f"it needs {mode.vram_mib} MiB, and {driver}",
                    f"Lower a budget, and set gpu_modes_reserve_mib to {memory.reserved} or more. "
                    "Nothing was stopped.",
                )
            raise SovereignError(
                f"mode {mode.name}",
                f"it needs {mode.vram_mib} MiB, {driver}, and others are held by {told}, which is no tenant of ours "
                "and is left alone",
                "End that program, or declare it as a tenant; then switch again. Nothing was stopped.",
            )
        return [f"on the card beside every mode: {process.words()}" for process in there.foreign]

    def can_begin(self, mode: Mode, plan: Plan) -> None:
        """Refuse what would fail for sure, before anything is stopped.

        Raises:
            SovereignError: something that a tenant needs is not on the machine, or a CPU floor of the mode is silent.
        """
        if missing := [f"{each.name}: {why}" for each in plan.start if (why := self._world.startable(each))]:
            raise SovereignError(
                f"mode {mode.name}", f"it cannot start: {'; '.join(missing)}", "Run site.yml. Nothing was stopped."
            )
        if silent := self._silent_floors(mode):
            raise SovereignError(
                f"mode {mode.name}",
                f"its CPU floor does not answer: {'; '.join(silent)}",
                "Look at systemctl status 'mushishi-sovereign-llama-*'. Nothing was stopped.",
            )

    # ---- switching
    def run(
        self, target: str, *, on_busy: str = "fail", drain_seconds: float | None = None, rollback: bool = True
    ) -> Result:
        """Make it so. The caller holds the lock.

        Raises:
            SovereignError: refused before anything was begun.
            SwitchFailed: it was begun; its outcome says where it ended.
        """
        if on_busy not in ON_BUSY:
            raise SovereignError("on_busy", f"it is {on_busy!r}", f"Choose one of {', '.join(ON_BUSY)}.")
        mode = self._registry.mode(target)
        self._began = self._world.now()
        self._expected = expected_seconds(self._journal.history(), target)
        origin, left = self.before()
        result = Result(origin, target, warnings=self.fits(mode))
        plan = self.plan(target)
        result.plan = plan.words()
        self.can_begin(mode, plan)
        if left is None and (done := self._journal.intent()):
            # It was committed, and its line could not be written any more.
            self._try(lambda: self._journal.end(done, "done"), result.warnings)
        good = self._journal.good()
        if left is None and plan.empty and good == target and not any(self._hangs(each) for each in plan.keep):
            return result
        intent = Intent(origin, target, "intent", self._world.time())
        if left:
            intent.closed, intent.stopped = list(left.closed), list(left.stopped)
            result.warnings.append(f"an earlier switch to {left.target} did not end ({left.phase}): this goes on")
        self._journal.note(intent)
        try:
            self._let_go(intent, plan, on_busy, drain_seconds)
        except SovereignError as error:
            self._unchanged(intent, result, error)
        try:
            self._go(intent, plan, mode)
            self._floors_answer(intent, mode)
            self._phase(intent, COMMIT)
            self._journal.commit(target)
        except SovereignError as error:
            self._failed(intent, result, error, rollback)
        self._over(intent)
        intent.peaks, intent.origin_peaks = dict(self._peaks.seen), dict(self._origin_peaks.seen)
        # The mode serves and is committed: a line that cannot be written is written by the next run.
        self._try(lambda: self._journal.end(intent, "done"), result.warnings)
        result.changed, result.outcome = True, "done"
        result.seconds, result.peaks = dict(intent.seconds), dict(self._peaks.seen)
        result.warnings += Peaks({**self._origin_peaks.seen, **self._peaks.seen}).drift(self._registry)
        return result

    def _phase(self, intent: Intent, phase: str, detail: str = "") -> None:
        """A new phase begins; it is on the disk before anything of it is done."""
        self._over(intent)
        intent.phase = phase
        self._phase_began = self._world.now()
        self._journal.note(intent)
        self._tell(phase, detail)

    def _over(self, intent: Intent) -> None:
        if self._phase_began is not None:
            took = self._world.now() - self._phase_began
            intent.seconds[intent.phase] = intent.seconds.get(intent.phase, 0.0) + took
        self._phase_began = None

    def _tell(self, phase: str, detail: str) -> None:
        self._report(Step(phase, detail, self._world.now() - self._began, self._expected))

    def _floors_answer(self, intent: Intent, mode: Mode) -> None:
        """The CPU floors that belong to the mode serve still."""
        if not mode.cpu_floors:
            return
        self._phase(intent, "floors", ", ".join(mode.cpu_floors))
        if not self._until(lambda: not self._silent_floors(mode), FLOOR_SECONDS):
            raise SovereignError(
                f"mode {mode.name}",
                f"its CPU floor does not answer any more: {'; '.join(self._silent_floors(mode))}",
                "Look at systemctl status 'mushishi-sovereign-llama-*'.",
            )

    def _silent_floors(self, mode: Mode) -> list[str]:
        return [f"{name}: {why}" for name in mode.cpu_floors if (why := self._world.floor(name))]

    def _until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Wait for something, no longer than so many seconds; whether it came."""
        deadline = self._world.now() + seconds
        while not done():
            if self._world.now() >= deadline:
                return False
            self._world.sleep(PAUSE)
        return True

    # ---- until nobody works: all of it can be taken back
    def _let_go(self, intent: Intent, plan: Plan, on_busy: str, drain_seconds: float | None) -> None:
        self._phase(intent, "busy")
        working = self._working(plan.stop)
        if working and on_busy == "fail" and self._until(lambda: not self._working(plan.stop), GLANCE_SECONDS):
            working = []
        if working and on_busy == "fail":
            raise SovereignError(
                f"mode {intent.origin}",
                f"it is at work: {'; '.join(working)}",
                "Wait for it, or switch with on_busy=wait (or force, which ends the work).",
            )
        self._phase(intent, "close")
        for tenant in plan.stop:
            if tenant.name not in intent.closed:
                intent.closed.append(tenant.name)
                self._journal.note(intent)
            self._world.close(tenant)
        self._phase(intent, "drain")
        most = max((tenant.drain_seconds for tenant in plan.stop), default=0.0)
        patience = most if drain_seconds is None else drain_seconds
        if not self._until(lambda: not self._working(plan.stop), patience) and on_busy != "force":
            raise SovereignError(
                f"mode {intent.origin}",
                f"its work did not end within {patience:.0f} s: {'; '.join(self._working(plan.stop))}",
                "Wait for it, give it more time (drain_timeout), or switch with on_busy=force, which ends the work.",
            )

    def _working(self, stop: Iterable[Tenant]) -> list[str]:
        found = [f"{tenant.name}: {what}" for tenant in stop for what in self._world.busy(tenant)]
        self._origin_peaks.note(self._world.processes())
        self._tell("drain" if found else "idle", "; ".join(found))
        return found

    def _unchanged(self, intent: Intent, result: Result, error: SovereignError) -> None:
        """Nothing was stopped by this run: the doors open again, and the intent is gone."""
        shut: list[str] = []
        running = self._try(self._world.running, shut) or {}
        for name in intent.closed:
            if name in running and name in self._registry.tenants:
                self._try(functools.partial(self._world.open, self._registry.tenants[name]), shut)
        problems = list(shut)
        self._over(intent)
        result.seconds, intent.origin_peaks = dict(intent.seconds), dict(self._origin_peaks.seen)
        if intent.stopped:
            # An earlier run had stopped some already: that is for the next run to bring to an end.
            result.outcome = "broken"
            remedy = "Switch to the mode you want; what an earlier switch had stopped is not running."
        else:
            result.outcome = "unchanged"
            remedy = error.remedy
            if shut:
                # The intent stays, so that the next switch does not take what runs for what serves.
                remedy += f" A door may be shut still: switch to {intent.origin} opens it."
            else:
                self._try(lambda: self._journal.end(intent, f"unchanged: {error}"), problems)
        raise SwitchFailed(error.thing, "; ".join([error.seen, *problems]), remedy, result) from error

    # ---- from the stop on: forward, or back to the last good mode
    def _go(self, intent: Intent, plan: Plan, mode: Mode) -> None:
        """Stop, prove the memory free, start, prove that it serves, open the doors."""
        self._phase(intent, "stop")
        for tenant in plan.stop:
            if tenant.name not in intent.stopped:
                intent.stopped.append(tenant.name)
                self._journal.note(intent)
            self._tell("stop", tenant.name)
            self._world.stop(tenant)
        self._phase(intent, "freed")
        self._freed(plan, intent.stopped)
        self._phase(intent, "start")
        for tenant in plan.start:
            self._tell("start", tenant.name)
            self._world.start(tenant)
            self._answers(tenant)
        for tenant in plan.keep:
            if self._hangs(tenant):
                self._answers(tenant)
        self._peaks.note(self._world.processes())
        self._phase(intent, "open")
        for tenant in mode.tenants:
            self._world.open(tenant)

    def _freed(self, plan: Plan, stopped: Iterable[str]) -> None:
        """The driver says, process by process, that who was stopped is off the card, and that there is room.

        ``stopped``: also by an earlier run, which did not wait for it.
        """
        need = sum(tenant.vram_mib for tenant in plan.start)
        names = {*stopped, *(tenant.name for tenant in plan.stop)} - {tenant.name for tenant in plan.keep}

        def free() -> bool:
            left = any(process.tenant in names for process in self._world.processes())
            return not left and self._world.memory().free >= need

        if not self._until(free, FREED_SECONDS):
            memory = self._world.memory()
            held = ", ".join(process.words() for process in self._world.processes()) or "nobody that the driver names"
            raise SovereignError(
                "the card's memory",
                f"{memory.free} of {memory.total} MiB are free after {FREED_SECONDS:.0f} s, and {need} are needed; "
                f"it is held by {held}",
                "Look at sovereignctl gpu; a process that does not end may need a restart of the machine.",
            )

    def _answers(self, tenant: Tenant) -> None:
        why = ""

        def served() -> bool:
            nonlocal why
            if not self._world.alive(tenant):
                raise SovereignError(
                    f"tenant {tenant.name}", f"it ended: {self._world.logs(tenant)}", "Look at what its log says."
                )
            self._peaks.note(self._world.processes())
            why = self._world.ready(tenant)
            self._tell("answers", f"{tenant.name}: {why or 'it serves'}")
            return not why

        if not self._until(served, tenant.ready_seconds):
            raise SovereignError(
                f"tenant {tenant.name}",
                f"it did not answer within {tenant.ready_seconds:.0f} s ({why}): {self._world.logs(tenant)}",
                "Look at what its log says.",
            )
        self._peaks.note(self._world.processes())

    def _failed(self, intent: Intent, result: Result, error: SovereignError, rollback: bool) -> None:
        """Back to the last good mode, whatever it takes; the first reason is told first."""
        problems: list[str] = []
        intent.why, intent.origin_peaks = str(error), dict(self._origin_peaks.seen)
        if rollback and intent.origin in self._registry.modes:
            back = self._registry.modes[intent.origin]
            try:
                self._over(intent)
                intent.phase = "back"
                self._phase_began = self._world.now()
                self._try(lambda: self._journal.note(intent), problems)
                self._back(back, intent, problems)
                result.outcome = "rolled back"
            except SovereignError as second:
                problems.append(f"and the way back to {back.name} failed: {second}")
                result.outcome = "broken"
        else:
            result.outcome = "broken"
        self._over(intent)
        result.seconds, result.peaks, result.changed = dict(intent.seconds), dict(self._peaks.seen), True
        if result.outcome == "rolled back":
            self._try(lambda: self._journal.end(intent, f"rolled back: {error}"), problems)
            remedy = f"{error.remedy} The mode {intent.origin} serves again."
        else:
            self._try(lambda: self._journal.note(intent), problems)
            there = self._try(self._world.running, problems)
            now = "is not known" if there is None else ", ".join(sorted(there)) or "nothing"
            remedy = f"{error.remedy} What runs of the card now: {now}. Switch to the mode you want when it is mended."
        raise SwitchFailed(error.thing, "; ".join([error.seen, *problems]), remedy, result) from error

    def _back(self, mode: Mode, intent: Intent, problems: list[str]) -> None:
        """The same steps without a word on the disk: the intent that stands there is enough after a crash."""
        running = self._world.running()
        stale = {name for name, each in running.items() if each.stale}
        plan = tenants.plan(self._registry, running.keys(), mode, stale)
        # Who is there and does not answer is no better than who is gone.
        dead = {tenant.name for tenant in plan.keep if self._hangs(tenant)}
        plan = tenants.plan(self._registry, running.keys(), mode, stale | dead)
        for tenant in plan.stop:
            self._tell("back", f"stop {tenant.name}")
            # Who goes needs no door for it.
            self._try(functools.partial(self._world.close, tenant), problems)
            self._world.stop(tenant)
        self._freed(plan, intent.stopped)
        for tenant in plan.start:
            self._tell("back", f"start {tenant.name}")
            self._world.start(tenant)
            self._answers(tenant)
        for tenant in mode.tenants:
            self._world.open(tenant)

    @staticmethod
    def _try(action: Callable[[], Any], problems: list[str]) -> Any:
        """Do it if it can be done; what goes wrong is told and stops nobody."""
        try:
            return action()
        except SovereignError as error:
            problems.append(str(error))
            return None
