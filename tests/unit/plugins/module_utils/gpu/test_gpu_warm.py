# SPDX-License-Identifier: MIT
"""Sleep instead of stop: proven first, doubted at every step, and never worse than stop and start."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import warm
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.journal import Journal, Places
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.switch import Result, Switch, SwitchFailed
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.tenants import Memory, Process, Registry, Tenant
from gpu_world import CARD, SIZES, Killed, Played, raw_registry, registry

ENGINES = ("vllm-agent", "vllm-forensic", "vllm-coding")
LEFT = 1500
PLACES = ("agent", "forensic", "coding", "off")
AGENT = registry().tenants["vllm-agent"]


@dataclass
class Drowsy(Played):
    """A machine whose engines can sleep. ``faults``: (engine, what it does wrong), for good or so many times."""

    sleepers: set[str] = field(default_factory=set)
    pinned: dict[str, bool] = field(default_factory=dict)
    faults: dict[tuple[str, str], int] = field(default_factory=dict)
    left: int = LEFT
    host: int = 120_000
    wakes: int = 0
    words: int = 0

    def wrong(self, name: str, what: str) -> bool:
        """Whether it does that now."""
        if self.faults.get((name, what), 0) == 0:
            return False
        self.faults[name, what] -= 1
        return True

    # ---- the World
    def start(self, tenant: Tenant) -> None:
        # A new container, as its project says.
        self.sleepers.discard(tenant.name)
        self.pinned.pop(tenant.name, None)
        super().start(tenant)

    def stop(self, tenant: Tenant) -> None:
        self.sleepers.discard(tenant.name)
        super().stop(tenant)

    def processes(self) -> Sequence[Process]:
        found = []
        for process in super().processes():
            if process.tenant in self.sleepers and not self.faults.get((process.tenant, "frees nothing")):
                process = Process(process.pid, self.left, process.name, process.user, process.tenant)
            found.append(process)
        return found

    def ready(self, tenant: Tenant) -> str:
        if tenant.name in self.sleepers:
            return "timed out"
        if self.faults.get((tenant.name, "hangs")) and self.wakes:
            return "timed out"
        return super().ready(tenant)

    # ---- the Sleeper
    def sleep_engine(self, tenant: Tenant) -> None:
        self._call(f"put {tenant.name} to sleep")
        if self.wrong(tenant.name, "refuses to sleep"):
            raise warm.Doubt("status 404")
        assert tenant.name in self.up
        self.sleepers.add(tenant.name)

    def wake_engine(self, tenant: Tenant) -> None:
        self._call(f"wake {tenant.name}")
        if self.wrong(tenant.name, "cannot wake"):
            raise warm.Doubt("status 500")
        self.wakes += 1
        if self.wrong(tenant.name, "dies waking"):
            self.up[tenant.name].dead = True
        if not self.wrong(tenant.name, "stays asleep"):
            self.sleepers.discard(tenant.name)
        taken = sum(process.mib for process in self.processes())
        assert taken <= CARD, f"{tenant.name} wakes into memory that is taken: {taken} of {CARD}"


class Sleeper:
    """The same machine, as sleep asks it."""

    def __init__(self, world: Drowsy) -> None:
        self.world = world

    def sleep(self, tenant: Tenant, level: int) -> None:
        assert level in warm.LEVELS
        self.world.sleep_engine(tenant)

    def wake(self, tenant: Tenant, level: int) -> None:
        assert level in warm.LEVELS
        self.world.wake_engine(tenant)

    def asleep(self, tenant: Tenant) -> bool:
        if self.world.wrong(tenant.name, "does not say"):
            raise warm.Doubt("timed out")
        return tenant.name in self.world.sleepers and not self.world.faults.get((tenant.name, "says awake"))

    def says(self, tenant: Tenant) -> str:
        self.world.words += 1
        if self.world.faults.get((tenant.name, "babbles")):
            return str(self.world.words)
        return "gibberish" if self.world.wakes and self.world.faults.get((tenant.name, "gibberish")) else "words"

    def restarts(self, tenant: Tenant, on: bool) -> None:
        self.world.pinned[tenant.name] = not on

    def host_free(self) -> int:
        return self.world.host


def drowsy(*up: str, **given: Any) -> Drowsy:
    world = Drowsy(**given)
    world.has(*up)
    return world


# ---- the proof
@pytest.mark.parametrize("level", warm.LEVELS)
def test_an_engine_that_sleeps_well_is_proven(level: int) -> None:
    world = drowsy("vllm-agent")
    proof = warm.prove(world, Sleeper(world), AGENT, level, "abc 580")
    assert proof.doubt == "" and (proof.level, proof.made_from) == (level, "abc 580")
    assert (proof.awake_mib, proof.asleep_mib) == (SIZES["vllm-agent"], LEFT)
    assert world.calls.count("wake vllm-agent") == warm.CYCLES == 2
    assert not world.pinned["vllm-agent"] and world.ready(AGENT) == ""
    assert not any(call.startswith(("stop", "start")) for call in world.calls), "it was never taken down"


#: What an engine does wrong → the sentence that says so.
FAULTS = {
    "frees nothing": "it says that it sleeps and holds 22000 of 22000 MiB, where 11000 were allowed",
    "refuses to sleep": "status 404",
    "says awake": "it took the order to sleep and says that it is awake",
    "does not say": "timed out",
    "cannot wake": "status 500",
    "stays asleep": "it woke and did not answer within 120 s (timed out)",
    "hangs": "it woke and did not answer within 120 s (timed out)",
    "dies waking": "it ended while it woke",
    "gibberish": "it answers differently after it was asleep",
    "babbles": "it answers the same question differently while it is awake",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_engine_that_sleeps_badly_is_not(fault: str) -> None:
    """Each says why, and the engine serves again afterwards, made anew."""
    world = drowsy("vllm-agent", faults={("vllm-agent", fault): 1 if fault == "dies waking" else 10_000})
    # What a new engine does is right again.
    real_start = world.start

    def start(tenant: Tenant) -> None:
        world.faults.clear()
        world.wakes = 0
        real_start(tenant)

    world.start = start  # type: ignore[method-assign]  # a fault of this test
    proof = warm.prove(world, Sleeper(world), AGENT, 1, "abc 580")
    assert FAULTS[fault] in proof.doubt
    assert world.ready(AGENT) == "" and world.calls.count("start vllm-agent") == 1


def test_the_second_time_counts_too() -> None:
    """One that wakes once and hangs the second time."""
    world = drowsy("vllm-agent")

    def wake(tenant: Tenant) -> None:
        Drowsy.wake_engine(world, tenant)
        if world.wakes == 2:
            world.sleepers.add(tenant.name)

    world.wake_engine = wake  # type: ignore[method-assign]  # a fault of this test
    assert "did not answer" in warm.prove(world, Sleeper(world), AGENT, 1, "x").doubt


def test_without_room_for_its_weights_nobody_is_asked() -> None:
    world = drowsy("vllm-agent", host=30_000)
    doubt = warm.prove(world, Sleeper(world), AGENT, 1, "x").doubt
    assert doubt == "its weights need some 33000 MiB of the machine, and 30000 are free"
    assert "put vllm-agent to sleep" not in world.calls
    # Level 2 keeps none.
    world = drowsy("vllm-agent", host=30_000)
    assert warm.prove(world, Sleeper(world), AGENT, 2, "x").doubt == ""


def test_memory_that_nobody_sees_proves_nothing() -> None:
    world = drowsy("vllm-agent", names={**SIZES, "vllm-agent": 0})
    assert "the driver names no memory" in warm.prove(world, Sleeper(world), AGENT, 1, "x").doubt


def test_one_that_cannot_be_made_anew_is_an_error() -> None:
    world = drowsy("vllm-agent", faults={("vllm-agent", "cannot wake"): 1})

    def start(tenant: Tenant) -> None:
        Drowsy.start(world, tenant)
        world.hang.add(tenant.name)

    world.start = start  # type: ignore[method-assign]  # a fault of this test
    with pytest.raises(SovereignError, match=r"does not answer: the last words of vllm-agent.*option to sleep away"):
        warm.prove(world, Sleeper(world), AGENT, 1, "x")


def test_proofs_are_kept_and_a_strange_file_proves_nothing() -> None:
    proofs = {"a": warm.Proof(1, "x", "", 2, 1, 0.5, 0.25), "b": warm.Proof(2, "y", "status 404")}
    assert warm.from_text(warm.text_of(proofs)) == proofs
    for text in ("", "[]", "{}", '{"version": 2, "proofs": {"a": {}}}', '{"version": 1, "proofs": {"a": {"x": 1}}}'):
        assert warm.from_text(text) == {}


# ---- at each switch
class Machine:
    """A switch of a machine whose engines may sleep."""

    def __init__(self, folder: Path, mode: str, **given: Any) -> None:
        self.registry: Registry = given.pop("registry", registry())
        self.world = drowsy(*(tenant.name for tenant in self.registry.modes[mode].tenants), **given)
        self.journal = Journal(Places(folder / "state", folder / "lock"))
        self.journal.commit(mode)
        self.proofs = {name: warm.Proof(1, "x", "", SIZES[name], LEFT) for name in ENGINES}
        self.distrusted: dict[str, str] = {}
        self.told: list[str] = []

    def run(self, target: str, **options: Any) -> Result:
        around = warm.WarmWorld(
            self.world, Sleeper(self.world), self.registry, self.proofs, self.distrusted.__setitem__
        )
        try:
            around.begin(self.registry.mode(target))
            return Switch(around.registry, around, self.journal).run(target, **options)
        finally:
            self.told = around.told

    def serves(self, mode: str) -> None:
        """Its tenants answer, all that is up besides sleeps, and the card holds no more than it has."""
        wanted = {tenant.name for tenant in self.registry.modes[mode].tenants}
        assert wanted <= set(self.world.up) and set(self.world.up) - wanted == self.world.sleepers
        assert all(self.world.ready(self.registry.tenants[name]) == "" for name in wanted)
        assert self.journal.good() == mode and self.journal.intent() is None
        # Who sleeps does not come back by itself after a boot; who serves does.
        assert all(self.world.pinned.get(name, False) == (name in self.world.sleepers) for name in self.world.up)

    def did(self, *verbs: str) -> list[str]:
        return [call for call in self.world.calls if call.split()[0] in verbs]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path, "agent")


def test_there_and_back_without_a_start(machine: Machine) -> None:
    result = machine.run("forensic")
    machine.serves("forensic")
    assert (result.outcome, machine.world.sleepers) == ("done", {"vllm-agent"})
    assert machine.world.memory() == Memory(CARD, SIZES["vllm-forensic"] + LEFT), "to the MiB"
    machine.world.calls.clear()
    machine.run("agent")
    machine.serves("agent")
    # The text-to-speech is no engine of vLLM: it went, and comes.
    assert machine.did("start", "stop") == ["start tts"]
    assert machine.told == ["vllm-forensic sleeps (0.0 s)", "vllm-agent woke (0.0 s)"]


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(PLACES, 2)))
def test_every_pair_and_back(tmp_path: Path, first: str, second: str) -> None:
    machine = Machine(tmp_path, first)
    for mode in (second, first, second):
        machine.run(mode)
        machine.serves(mode)
        machine.run(mode)
    assert not (machine.world.sleepers and second == "off")


def test_off_is_off(machine: Machine) -> None:
    """Nobody holds anything of the card, sleepers neither."""
    machine.run("forensic")
    machine.run("off")
    assert not machine.world.up and machine.world.memory().used == 0
    assert any("vllm-agent slept and is stopped: nobody shall hold the card" in words for words in machine.told)


def test_no_room_beside_a_sleeper(tmp_path: Path) -> None:
    """What it would leave on the card is part of the sum; then it goes, as without this option."""
    machine = Machine(tmp_path, "agent", left=6000)
    machine.proofs["vllm-agent"] = warm.Proof(1, "x", "", SIZES["vllm-agent"], 6000)
    machine.run("forensic")
    machine.serves("forensic")
    assert machine.world.sleepers == set() and "stop vllm-agent" in machine.did("stop")
    why = "vllm-agent is stopped instead of sleeping: forensic 27000 + vllm-agent asleep 6000 + reserve 600 = 33600 MiB"
    assert f"{why}, and the card has 32607" in machine.told


def test_a_sleeper_gives_way_to_a_mode_that_needs_it(tmp_path: Path) -> None:
    """It fitted beside the mode before, and does not beside the next one."""
    big = registry(modes={**raw_registry()["modes"], "loud": {"tenants": ["vllm-forensic", "tts"], "cpu_floors": []}})
    machine = Machine(tmp_path, "agent", registry=big)
    machine.run("coding")
    assert machine.world.sleepers == {"vllm-agent"}
    machine.run("loud")
    machine.serves("loud")
    assert "vllm-agent" not in machine.world.up, "31000 + 1500 + 600 are more than the card has"


def test_without_a_proof_nobody_sleeps(machine: Machine) -> None:
    machine.proofs = {"vllm-agent": warm.Proof(1, "x", "it answers differently after it was asleep")}
    machine.run("forensic")
    machine.serves("forensic")
    assert machine.world.sleepers == set() and "put vllm-agent to sleep" not in machine.world.calls


@pytest.mark.parametrize("fault", ["frees nothing", "refuses to sleep", "says awake"])
def test_a_sleep_that_fails_is_a_stop(machine: Machine, fault: str) -> None:
    machine.world.faults[("vllm-agent", fault)] = 10_000
    result = machine.run("forensic")
    machine.serves("forensic")
    assert result.outcome == "done" and machine.world.sleepers == set()
    assert list(machine.distrusted) == ["vllm-agent"]
    assert machine.told[-1].startswith("vllm-agent is stopped and started instead of sleeping, from now on: ")


@pytest.mark.parametrize("fault", ["cannot wake", "stays asleep", "dies waking"])
def test_a_wake_that_fails_is_a_start(machine: Machine, fault: str) -> None:
    machine.run("forensic")
    machine.world.faults[("vllm-agent", fault)] = 1
    result = machine.run("agent")
    machine.serves("agent")
    assert result.outcome == "done" and list(machine.distrusted) == ["vllm-agent"]
    assert machine.did("start").count("start vllm-agent") == 1


def test_a_sleeper_that_does_not_say_so_is_made_anew(machine: Machine) -> None:
    """It is taken for one that is awake, waited for as long as a start may take, and made anew: late, and right."""
    machine.run("forensic")
    machine.world.faults[("vllm-agent", "does not say")] = 10_000
    machine.world.clock += 1000
    machine.run("agent")
    machine.serves("agent")
    assert "start vllm-agent" in machine.world.calls


def test_the_way_back_wakes(machine: Machine) -> None:
    """The new mode does not come; the old one is awake again in no time, and the failed one does not sleep."""
    machine.world.hang.add("vllm-forensic")
    with pytest.raises(SwitchFailed) as failed:
        machine.run("forensic")
    assert failed.value.result.outcome == "rolled back"
    machine.serves("agent")
    assert "vllm-agent woke (0.0 s)" in machine.told and "vllm-forensic" not in machine.world.up


def test_a_foreign_program_is_still_named(machine: Machine) -> None:
    """Leftovers of sleepers are guests; others are not."""
    machine.run("forensic")
    machine.world.foreign.append(Process(4242, 9000, "blender", "alice"))
    there = set(machine.world.up)
    machine.world.calls.clear()
    with pytest.raises(SovereignError, match=r"blender \(pid 4242, user alice, 9000 MiB\)"):
        machine.run("coding")
    assert not any(call.startswith("start ") for call in machine.world.calls)
    assert "vllm-forensic" in machine.world.up and set(machine.world.up) <= there


def test_work_that_is_ended_by_force_is_no_time_to_sleep(machine: Machine) -> None:
    machine.world.at_work["vllm-agent"] = machine.world.clock + 10_000
    machine.run("forensic", on_busy="force", drain_seconds=1)
    machine.serves("forensic")
    assert machine.world.sleepers == set()
    assert "vllm-agent is stopped instead of sleeping: it is at work" in machine.told


@pytest.mark.parametrize("at", range(1, 60))
def test_a_kill_at_any_step_is_brought_to_an_end(tmp_path: Path, at: int) -> None:
    """To forensic and back to agent, killed at one call of the first; the next run asks the engines who sleeps."""
    machine = Machine(tmp_path, "agent")
    machine.world.kill_at = lambda number, _call: number == at
    try:
        machine.run("forensic")
    except Killed:
        machine.world.kill_at = lambda _number, _call: False
        machine.run("forensic")
    machine.world.kill_at = lambda _number, _call: False
    machine.serves("forensic")
    machine.run("agent")
    machine.serves("agent")


@pytest.mark.parametrize("at", range(1, 60))
def test_a_kill_at_any_step_can_be_taken_back(tmp_path: Path, at: int) -> None:
    """The same, and the next run goes back to where it came from."""
    machine = Machine(tmp_path, "agent")
    machine.world.kill_at = lambda number, _call: number == at
    with contextlib.suppress(Killed):
        machine.run("forensic")
    machine.world.kill_at = lambda _number, _call: False
    machine.run("agent")
    machine.serves("agent")


def test_a_doubt_that_nobody_planted_is_not_swallowed(machine: Machine) -> None:
    """Docker that does not answer is no doubt about an engine."""
    machine.world.broken["start tts"] = "Docker does not answer"
    machine.run("forensic")
    with pytest.raises(SwitchFailed):
        machine.run("agent")
    assert machine.distrusted == {}


def test_what_sleep_changes_nothing_of_is_the_worlds(machine: Machine) -> None:
    around = warm.WarmWorld(machine.world, Sleeper(machine.world), machine.registry, {})
    assert around.logs(AGENT) == "the last words of vllm-agent" and around.now() == machine.world.clock
    found: Mapping[str, Any] = around.running()
    assert set(found) == {"vllm-agent", "tts"}
