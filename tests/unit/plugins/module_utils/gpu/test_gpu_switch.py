# SPDX-License-Identifier: MIT
"""A switch is a transaction: every pair of modes, every fault, a kill at every step."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.journal import Journal, Places
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.switch import (
    FREED_SECONDS,
    HANG_SECONDS,
    Step,
    Switch,
    SwitchFailed,
    expected_seconds,
)
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.tenants import Memory, Mode, Process, Registry
from gpu_world import CARD, MODES, SIZES, Killed, Played, registry
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ALL = [*MODES, "off"]
TENANTS = {**MODES, "off": []}


class Machine:
    """A world, a journal, and switches of it."""

    def __init__(self, folder: Path, mode: str = "agent") -> None:
        self.world = Played()
        self.journal = Journal(Places(folder / "state", folder / "lock"))
        self.world.has(*TENANTS[mode])
        self.journal.commit(mode)
        self.steps: list[Step] = []

    def switch(self) -> Switch:
        return Switch(registry(), self.world, self.journal, self.steps.append)

    def fails(self, target: str, **options: Any) -> SwitchFailed:
        with pytest.raises(SwitchFailed) as failed:
            self.switch().run(target, **options)
        return failed.value

    def did(self) -> list[str]:
        """What was done to tenants and doors, in order."""
        return [call for call in self.world.calls if call.split()[0] in ("close", "stop", "start", "open")]

    def serves(self, mode: str) -> None:
        """Exactly this mode is there, answers, with its doors open, its memory to the MiB, and no switch under way."""
        assert set(self.world.up) == set(TENANTS[mode])
        assert not self.world.shut & set(TENANTS[mode])
        assert self.world.memory().used == sum(SIZES[name] for name in TENANTS[mode]) + self.foreign
        assert self.journal.good() == mode and self.journal.intent() is None

    @property
    def foreign(self) -> int:
        return sum(process.mib for process in self.world.foreign)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize(("origin", "target"), list(itertools.permutations(ALL, 2)), ids=" to ".join)
def test_every_pair(tmp_path: Path, origin: str, target: str) -> None:
    machine = Machine(tmp_path, origin)
    machine.world.foreign.append(Process(7, 90, "Xorg", "me"))
    result = machine.switch().run(target)
    machine.serves(target)
    assert (result.changed, result.outcome, result.origin, result.target) == (True, "done", origin, target)
    # Who is in both stays up.
    both = set(TENANTS[origin]) & set(TENANTS[target])
    assert not any(f"stop {name}" in machine.world.calls for name in both)
    machine.world.calls.clear()
    again = machine.switch().run(target)
    assert not again.changed and machine.did() == []


def test_the_order(machine: Machine) -> None:
    """The door is shut before anybody is stopped; nobody starts before the memory is free; it opens at the end."""
    result = machine.switch().run("forensic")
    assert machine.did() == [
        *("close tts", "close vllm-agent", "stop tts", "stop vllm-agent", "start vllm-forensic", "open vllm-forensic"),
    ]
    assert list(result.seconds) == ["busy", "close", "drain", "stop", "freed", "start", "open", "commit"]
    assert result.seconds["start"] >= machine.world.start_seconds
    assert result.peaks == {"vllm-forensic": SIZES["vllm-forensic"]}
    assert [step.phase for step in machine.steps][-1] == "commit"


def test_check_mode_says_the_plan_and_does_nothing(machine: Machine) -> None:
    assert machine.switch().plan("audio").words() == ["stop vllm-agent (22000 MiB)", "keep tts (4000 MiB)"]
    assert machine.did() == []


# ---- refused before anything is touched
def test_what_does_not_fit_is_refused_with_the_sum() -> None:
    words = r"music 26000 \+ tts 4000 \+ reserve 3000 = 33000 MiB, and the card has 32607"
    with pytest.raises(SovereignError, match=words):
        registry(modes={"loud": {"tenants": ["music", "tts"], "cpu_floors": []}}, reserve_mib=3000)


def test_the_card_that_is_there_counts(tmp_path: Path) -> None:
    """Nothing was declared: what NVML says is the limit."""
    machine = Machine(tmp_path, "off")
    bare = Switch(registry(card_mib=None, reserve_mib=6000), machine.world, machine.journal)
    with pytest.raises(SovereignError, match="and the card has 32607 MiB"):
        bare.run("forensic")
    assert machine.journal.intent() is None and not machine.world.up


def test_a_foreign_process_is_named_and_left_alone(machine: Machine) -> None:
    machine.world.foreign.append(Process(4242, 9000, "blender", "alice"))
    with pytest.raises(SovereignError, match=r"blender \(pid 4242, user alice, 9000 MiB\)") as refused:
        machine.switch().run("forensic")
    assert "Nothing was stopped" in str(refused.value)
    assert set(machine.world.up) == {"vllm-agent", "tts"} and machine.journal.intent() is None


def test_what_the_driver_keeps_is_not_free(machine: Machine) -> None:
    """A mode that fits by the sum, and not beside what the driver keeps for itself: nobody is stopped for it."""
    machine.world.reserved = CARD - SIZES["vllm-forensic"] + 1
    with pytest.raises(SovereignError, match=r"5608 of the card's 32607 MiB are the driver's own.*Nothing was stopped"):
        machine.switch().run("forensic")
    machine.world.reserved -= 1
    # Whoever else is there counts on top.
    machine.world.foreign.append(Process(4242, 1, "blender", "alice"))
    with pytest.raises(SovereignError, match=r"5607 .*the driver's own, and others are held by blender \(pid 4242"):
        machine.switch().run("forensic")
    assert machine.did() == []
    machine.serves("agent")
    machine.world.foreign.clear()
    assert machine.switch().run("forensic").outcome == "done", "control: to the MiB"
    assert Memory(100, 60, 10).free == 30


def test_a_small_foreign_process_is_told(machine: Machine) -> None:
    machine.world.foreign.append(Process(4242, 300, "blender", "alice"))
    result = machine.switch().run("forensic")
    assert any("blender (pid 4242" in words for words in result.warnings)
    machine.serves("forensic")


def test_an_unknown_mode_and_an_unknown_word(machine: Machine) -> None:
    with pytest.raises(SovereignError, match="agent, audio, coding, creative, forensic, music, off"):
        machine.switch().run("forensics")
    with pytest.raises(SovereignError, match="fail, wait, force"):
        machine.switch().run("off", on_busy="ask")


# ---- at work
def test_work_is_not_ended_unasked(machine: Machine) -> None:
    machine.world.at_work["vllm-agent"] = machine.world.clock + 8
    failed = machine.fails("forensic")
    assert failed.result.outcome == "unchanged" and "vllm-agent: 2 requests run" in str(failed)
    machine.serves("agent")


def test_work_is_waited_for_behind_a_shut_door(machine: Machine) -> None:
    machine.world.at_work["vllm-agent"] = machine.world.clock + 8
    result = machine.switch().run("forensic", on_busy="wait")
    assert result.seconds["drain"] >= 7
    machine.serves("forensic")


def test_work_that_does_not_end_leaves_all_as_it_was(machine: Machine) -> None:
    machine.world.at_work["vllm-agent"] = machine.world.clock + 500
    failed = machine.fails("forensic", on_busy="wait", drain_seconds=5)
    assert failed.result.outcome == "unchanged" and "did not end within 5 s" in str(failed)
    machine.serves("agent")
    assert machine.switch().run("forensic", on_busy="force", drain_seconds=2).outcome == "done"
    machine.serves("forensic")


# ---- what goes wrong after the stop
FAULTS = {
    "never ready": lambda world: world.hang.add("vllm-forensic"),
    "dies at its start": lambda world: world.die.add("vllm-forensic"),
    "cannot be started": lambda world: world.broken.__setitem__("start vllm-forensic", "no such image"),
    "the door does not open": lambda world: world.broken.__setitem__("open vllm-forensic", "no door"),
    "cannot be stopped": lambda world: world.broken.__setitem__("stop vllm-agent", "Docker says no"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_leads_back_to_the_last_good_mode(machine: Machine, fault: str) -> None:
    FAULTS[fault](machine.world)
    failed = machine.fails("forensic")
    if fault == "cannot be stopped":
        # It is still there: nobody had to stop it, so nobody has to start it.
        machine.world.broken.clear()
    assert failed.result.outcome == "rolled back" and "The mode agent serves again" in str(failed)
    machine.serves("agent")
    assert machine.journal.history()[-1]["outcome"].startswith("rolled back")


def test_the_log_is_told(machine: Machine) -> None:
    machine.world.hang.add("vllm-forensic")
    failed = machine.fails("forensic")
    assert "did not answer within 100 s (it takes the request and says nothing)" in str(failed)
    assert "the last words of vllm-forensic" in str(failed)


def test_memory_that_is_not_given_back(machine: Machine) -> None:
    """Nobody is started into a card that is full; who holds it is named."""
    machine.world.clings["vllm-agent"] = FREED_SECONDS + 20
    failed = machine.fails("forensic")
    assert "python3 (pid " in str(failed) and "22000 MiB" in str(failed)
    assert not any(call == "start vllm-forensic" for call in machine.world.calls)
    assert failed.result.outcome == "rolled back"
    machine.serves("agent")


def test_a_card_that_is_lost_before_the_stop_changes_nothing(machine: Machine) -> None:
    machine.world.broken["memory"] = "the GPU is lost"
    with pytest.raises(SovereignError, match="the GPU is lost"):
        machine.switch().run("forensic")
    machine.world.broken.clear()
    machine.serves("agent")


def test_no_way_back_is_said_and_mended_by_the_next_switch(machine: Machine) -> None:
    machine.world.hang.add("vllm-forensic")
    machine.world.broken["start vllm-agent"] = "no such image"
    failed = machine.fails("forensic")
    assert failed.result.outcome == "broken" and "and the way back to agent failed" in str(failed)
    assert machine.journal.intent() is not None
    machine.world.broken.clear()
    result = machine.switch().run("agent")
    assert any("did not end" in words for words in result.warnings)
    machine.serves("agent")


def test_without_a_rollback_the_machine_is_left_to_be_looked_at(machine: Machine) -> None:
    machine.world.die.add("vllm-forensic")
    failed = machine.fails("forensic", rollback=False)
    assert failed.result.outcome == "broken" and "start vllm-agent" not in machine.world.calls
    assert "What runs of the card now: vllm-forensic." in str(failed), "dead, and there to be looked at"


def test_what_runs_is_told_when_there_is_no_way_back(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.journal, "commit", full_disk)
    failed = machine.fails("forensic", rollback=False)
    assert "What runs of the card now: vllm-forensic." in str(failed), "it does serve"
    machine.world.broken["start"] = "no such image"
    assert "What runs of the card now: nothing." in str(machine.fails("music"))


def test_one_that_hangs_is_made_anew(machine: Machine) -> None:
    """Green health proves nothing: the mode that runs is asked, and who had its time and is silent is replaced."""
    machine.world.hang.add("vllm-agent")
    old = machine.world.up["vllm-agent"].pid

    def healed(_number: int, call: str) -> bool:
        if call == "start vllm-agent":
            machine.world.hang.clear()
        return False

    machine.world.kill_at = healed
    assert machine.switch().run("agent").changed
    machine.serves("agent")
    assert machine.world.up["vllm-agent"].pid != old and "stop tts" not in machine.world.calls


def test_one_whose_places_are_all_taken_does_not_hang(machine: Machine) -> None:
    """Two long answers, and none has a place for our question: nothing is shut, nobody is made anew."""
    machine.world.full.add("vllm-agent")
    assert machine.switch().plan("agent").empty
    for on_busy in ("fail", "wait", "force"):
        assert machine.switch().run("agent", on_busy=on_busy).outcome == "nothing to do"
    assert machine.did() == []
    # Kept by a mode that has more beside it, and on the way back.
    machine.world.full = {"tts"}
    assert machine.switch().run("audio").outcome == "done"
    machine.world.die.add("vllm-agent")
    failed = machine.fails("agent")
    assert failed.result.outcome == "rolled back" and "stop tts" not in machine.world.calls
    machine.world.full.clear()
    machine.serves("audio")


def test_one_that_hangs_with_work_in_it_is_made_anew(machine: Machine) -> None:
    """Requests are in it, and no token comes: that is no work."""
    machine.world.hang.add("vllm-agent")
    machine.world.at_work["vllm-agent"] = machine.world.clock + 500
    before = machine.world.clock
    assert [tenant.name for tenant in machine.switch().plan("agent").stop] == ["vllm-agent"]
    assert machine.world.clock - before >= HANG_SECONDS, "it was asked again first"


def test_one_that_answers_late_does_not_hang(machine: Machine) -> None:
    machine.world.hang.add("vllm-agent")
    machine.world.at_work["vllm-agent"] = machine.world.clock + 500
    asked = len(machine.world.calls)

    def healed(number: int, _call: str) -> bool:
        if number > asked + 20:
            machine.world.hang.clear()
        return False

    machine.world.kill_at = healed
    assert machine.switch().plan("agent").empty


def test_one_of_another_project_is_made_anew(machine: Machine) -> None:
    machine.world.up["vllm-agent"].stale = True
    assert machine.switch().plan("agent").words() == [
        *("stop vllm-agent (22000 MiB)", "keep tts (4000 MiB)", "start vllm-agent (22000 MiB)"),
    ]
    machine.switch().run("agent")
    machine.serves("agent")


def test_a_peak_above_the_declaration_is_told(machine: Machine) -> None:
    result = machine.switch().run("audio")
    assert not [words for words in result.warnings if "declares" in words]
    machine.world.up["tts"].mib = 5000
    result = machine.switch().run("agent")
    assert any(words == "tts held 5000 MiB and declares 4000" for words in result.warnings)


def test_what_the_tenants_that_go_held_is_measured(machine: Machine) -> None:
    """An engine that has worked holds more than one that has just answered; that is known when it goes."""
    machine.world.up["vllm-agent"].mib = 22500
    result = machine.switch().run("forensic")
    assert any(words == "vllm-agent held 22500 MiB and declares 22000" for words in result.warnings)
    (entry,) = machine.journal.history()
    assert entry["origin_peaks"] == {"vllm-agent": 22500, "tts": 4000}
    assert entry["peaks"] == {"vllm-forensic": SIZES["vllm-forensic"]}
    machine.world.at_work["vllm-forensic"] = machine.world.clock + 500
    machine.fails("agent")
    assert machine.journal.history()[-1]["origin_peaks"] == {"vllm-forensic": SIZES["vllm-forensic"]}


def test_a_full_disk(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the stop nothing is changed; after it the way back needs no disk."""
    written = {"count": 0}
    note = machine.journal.note

    def full(intent: Any) -> None:
        written["count"] += 1
        if written["count"] > limit:
            raise SovereignError("file intent.json", "it cannot be written (No space left on device)", "Make room.")
        note(intent)

    monkeypatch.setattr(machine.journal, "note", full)
    for limit in range(1, 12):
        written["count"] = 0
        failed = machine.fails("forensic")
        assert failed.result.outcome in ("unchanged", "rolled back"), (limit, failed)
        assert set(machine.world.up) == {"vllm-agent", "tts"} and not machine.world.shut & {"vllm-agent", "tts"}
    monkeypatch.undo()
    assert machine.switch().run("forensic").outcome == "done", "control"
    machine.serves("forensic")


def test_a_mode_that_cannot_be_written_down_is_no_good_one(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.journal, "commit", full_disk)
    failed = machine.fails("forensic")
    assert failed.result.outcome == "rolled back" and "No space left" in str(failed)
    machine.serves("agent")


def full_disk(*_words: Any) -> None:
    raise SovereignError("file x", "it cannot be written (No space left on device)", "Make room.")


@pytest.mark.parametrize("end", ["the disk is full", "it is killed"])
def test_after_the_commit_the_new_mode_is_the_good_one(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Only the line in the history is missing: the next run writes it, and does not go back to the mode before."""
    if end == "it is killed":

        def killed(*_words: Any) -> None:
            raise Killed

        monkeypatch.setattr(machine.journal, "end", killed)
        with pytest.raises(Killed):
            machine.switch().run("forensic")
    else:
        monkeypatch.setattr(machine.journal, "end", full_disk)
        result = machine.switch().run("forensic")
        assert (result.changed, result.outcome) == (True, "done")
        assert any("No space left on device" in words for words in result.warnings)
    assert machine.journal.good() == "forensic" and set(machine.world.up) == {"vllm-forensic"}
    monkeypatch.setattr(machine.journal, "end", full_disk)
    # Nothing is left to do but a line, which still cannot be written.
    again = machine.switch().run("forensic")
    assert (again.changed, again.outcome) == (False, "nothing to do")
    assert any("No space left on device" in words for words in again.warnings)
    monkeypatch.undo()
    machine.world.die.add("vllm-coding")
    failed = machine.fails("coding")
    assert failed.result.outcome == "rolled back" and failed.result.origin == "forensic"
    machine.serves("forensic")
    outcomes = [(entry["target"], entry["outcome"].split(":")[0]) for entry in machine.journal.history()]
    assert outcomes == [("forensic", "done"), ("coding", "rolled back")]


def test_work_after_a_line_that_is_missing_changes_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.journal, "end", full_disk)
    machine.switch().run("forensic")
    monkeypatch.undo()
    machine.world.at_work["vllm-forensic"] = machine.world.clock + 500
    failed = machine.fails("agent")
    assert failed.result.outcome == "unchanged" and failed.result.origin == "forensic"
    machine.serves("forensic")


# ---- the door
def test_a_door_that_is_silent_does_not_stop_the_way_back(machine: Machine) -> None:
    machine.world.hang.add("vllm-forensic")
    machine.world.broken["close vllm-forensic"] = "the door does not answer"
    failed = machine.fails("forensic")
    assert failed.result.outcome == "rolled back" and "the door does not answer" in str(failed)
    machine.serves("agent")


def test_a_door_that_did_not_open_again_is_opened_by_the_next_switch(machine: Machine) -> None:
    machine.world.at_work["vllm-agent"] = machine.world.clock + 500
    machine.world.broken["open vllm-agent"] = "the door does not answer"
    failed = machine.fails("forensic", on_busy="wait", drain_seconds=5)
    assert failed.result.outcome == "unchanged"
    assert "the door does not answer" in str(failed) and "switch to agent opens it" in str(failed)
    assert machine.world.shut >= {"vllm-agent"} and machine.journal.intent() is not None
    machine.world.broken.clear()
    assert machine.switch().run("agent").outcome == "done"
    machine.serves("agent")
    assert machine.switch().run("agent").outcome == "nothing to do", "control"


# ---- killed
def steps_of(folder: Path, origin: str, target: str) -> int:
    machine = Machine(folder, origin)
    machine.switch().run(target)
    return len(machine.world.calls)


@pytest.mark.parametrize(
    ("origin", "target"), [("agent", "forensic"), ("agent", "audio"), ("off", "agent"), ("music", "off")]
)
def test_killed_at_every_step(tmp_path: Path, origin: str, target: str) -> None:
    """Whoever comes next, forward or back, ends where it was told, with no foreign thing touched."""
    steps = steps_of(tmp_path / "count", origin, target)
    for at, then in itertools.product(range(1, steps + 1), (origin, target)):
        machine = Machine(tmp_path / f"{at}-{then}", origin)
        machine.world.kill_at = lambda number, _call, at=at: number == at
        with pytest.raises(Killed):
            machine.switch().run(target)
        machine.world.kill_at = lambda _number, _call: False
        machine.switch().run(then, on_busy="force")
        machine.serves(then)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_history_ends_in_a_mode_that_serves(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Switches, kills, hangs, deaths, work, in any order; then the world is whole again, and one switch is enough."""
    machine = Machine(tmp_path_factory.mktemp("any"), data.draw(st.sampled_from(ALL)))
    machine.world.foreign.append(Process(7, 90, "Xorg", "me"))
    machine.world.bystander = "bystander"
    for _round in range(data.draw(st.integers(1, 5))):
        world = machine.world
        world.hang = set(data.draw(st.lists(st.sampled_from(list(SIZES)), max_size=2)))
        world.die = set(data.draw(st.lists(st.sampled_from(list(SIZES)), max_size=2)))
        world.at_work = dict.fromkeys(data.draw(st.lists(st.sampled_from(list(SIZES)), max_size=1)), world.clock + 9)
        at = len(world.calls) + data.draw(st.integers(1, 400))
        world.kill_at = lambda number, _call, at=at: number == at
        target, on_busy = data.draw(st.sampled_from(ALL)), data.draw(st.sampled_from(["fail", "wait", "force"]))
        with contextlib.suppress(SovereignError, Killed):
            machine.switch().run(target, on_busy=on_busy)
    machine.world.hang, machine.world.die, machine.world.at_work = set(), set(), {}
    machine.world.kill_at = lambda _number, _call: False
    target = data.draw(st.sampled_from(ALL))
    machine.switch().run(target, on_busy="force")
    machine.serves(target)
    assert machine.switch().run(target).changed is False
    assert not any("bystander" in call for call in machine.world.calls), "who is no tenant is left alone"


def test_how_long_it_took_before() -> None:
    history = [
        {"target": "agent", "outcome": "done", "seconds": {"stop": 2.0, "start": 90.0}},
        {"target": "agent", "outcome": "done", "seconds": {"stop": 1.0, "start": 99.0}},
        {"target": "agent", "outcome": "rolled back: x", "seconds": {"stop": 1.0}},
        {"target": "off", "outcome": "done", "seconds": {"stop": 1.0}},
        {"target": "agent", "outcome": "done", "seconds": {"start": 70.0}},
    ]
    assert expected_seconds(history, "agent") == 92.0 and expected_seconds(history, "music") is None


def test_the_card_holds_what_the_tests_say() -> None:
    """Control of the sums: agent fits beside the reserve, and two engines would not."""
    assert sum(SIZES[name] for name in MODES["agent"]) + 600 <= CARD < SIZES["vllm-agent"] + SIZES["vllm-coding"]


@pytest.mark.parametrize("what", ["an image", "a floor"])
def test_what_would_fail_for_sure_is_refused_before_anything_is_stopped(machine: Machine, what: str) -> None:
    given = registry()
    mode = Mode("coding", given.modes["coding"].tenants, ("cpu-coder",))
    with_floor = Registry(given.tenants, {**given.modes, "coding": mode}, given.reserve_mib)
    if what == "an image":
        machine.world.lacks["vllm-coding"] = "there is no image x"
    else:
        machine.world.silent_floors.add("cpu-coder")
    with pytest.raises(SovereignError, match=r"Nothing was stopped\.$") as refused:
        Switch(with_floor, machine.world, machine.journal).run("coding")
    assert not isinstance(refused.value, SwitchFailed)
    assert machine.did() == []
    machine.serves("agent")
    machine.world.lacks.clear()
    machine.world.silent_floors.clear()
    assert Switch(with_floor, machine.world, machine.journal).run("coding").outcome == "done"


def test_a_floor_that_falls_silent_meanwhile_leads_back(machine: Machine) -> None:
    given = registry()
    mode = Mode("coding", given.modes["coding"].tenants, ("cpu-coder",))
    with_floor = Registry(given.tenants, {**given.modes, "coding": mode}, given.reserve_mib)

    def told(step: Step) -> None:
        if step.phase == "start":
            machine.world.silent_floors.add("cpu-coder")

    with pytest.raises(SwitchFailed, match="its CPU floor does not answer any more") as failed:
        Switch(with_floor, machine.world, machine.journal, told).run("coding")
    assert failed.value.result.outcome == "rolled back"
    machine.serves("agent")


def test_a_glance_of_work_is_no_reason_to_refuse(machine: Machine) -> None:
    """The prober asks for one token now and then; a person's request is still there two seconds later."""
    machine.world.shut.add("vllm-agent")
    machine.world.at_work["vllm-agent"] = machine.world.clock + 1.0
    assert machine.switch().run("forensic").outcome == "done"
    machine.world.at_work["vllm-forensic"] = machine.world.clock + 30.0
    error = machine.fails("agent")
    assert "it is at work" in str(error) and error.result.outcome == "unchanged"
    machine.serves("forensic")
