# SPDX-License-Identifier: MIT
"""The prober's judgement, second by second, and what must hold whatever is seen."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prober.judge import Act, Action, Change, Judge, Outcome, Settings, Verdict

GPU = Settings(idle=30, patience=1.5)
CPU = Settings(idle=300, patience=10, work_first=True)


class Bench:
    """A judge with a clock. ``advance`` gives it every moment at which it has something to do."""

    def __init__(self, setting: Settings = GPU, *, first: bool = True) -> None:
        self.now = 100.0
        self.poll_at = self.now + 0.25
        self.judge = Judge(setting, self.now)
        self.log: list[tuple[float, Action]] = []
        self.counters: dict[str, Any] = {"in_flight": 0, "callers": 0, "errors": 0, "moved": False}
        if first:
            self.note(self.judge.tick(self.now))
            self.answer(Outcome.SERVED)
            self.log.clear()

    def note(self, actions: list[Action]) -> None:
        self.log += [(round(self.now - 100.0, 3), action) for action in actions]
        if Act.KNOCK in actions:
            self.note(self.judge.knocked(self.now, Outcome.SERVED))

    def advance(self, seconds: float) -> None:
        """Let time pass, with the door's counters read every quarter of a second."""
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now = min(end, self.poll_at, max(self.judge.due(), self.now + 0.001))
            if self.now >= self.poll_at - 1e-9:
                self.poll_at += 0.25
                self.note(self.judge.seen(self.now, **self.counters))
                self.counters["moved"] = False
            self.note(self.judge.tick(self.now))

    def caller(self, count: int = 1) -> None:
        self.counters["in_flight"] += count
        self.counters["callers"] += count

    def answer(self, outcome: Outcome, detail: str = "") -> None:
        self.note(self.judge.answered(self.now, outcome, detail))

    def acts(self, wanted: Act) -> list[float]:
        """When an action came, in seconds since the start."""
        return [at for at, action in self.log if action is wanted]

    @property
    def changes(self) -> list[tuple[float, Verdict]]:
        return [(at, action.after) for at, action in self.log if isinstance(action, Change)]


def test_an_engine_is_asked_at_once_and_then_only_when_it_was_idle() -> None:
    bench = Bench(first=False)
    bench.advance(0.01)
    assert len(bench.acts(Act.PROBE)) == 1
    bench.answer(Outcome.SERVED)
    bench.advance(29)
    assert len(bench.acts(Act.PROBE)) == 1
    bench.advance(2)
    assert len(bench.acts(Act.PROBE)) == 2
    assert bench.changes == []


def test_traffic_is_proof_of_life() -> None:
    bench = Bench()
    bench.caller()
    for _ in range(480):
        bench.counters["moved"] = True
        bench.advance(0.25)
    assert bench.acts(Act.PROBE) == [] and bench.changes == []


def test_a_hang_is_known_in_time_for_the_next_link() -> None:
    bench = Bench()
    bench.advance(10)
    bench.caller()
    arrived = bench.now - 100
    bench.advance(3)
    assert bench.acts(Act.PROBE)[0] - arrived <= 0.25 + GPU.silence + 0.01
    assert bench.changes[0][1] is Verdict.HUNG
    assert bench.changes[0][0] - arrived <= 0.25 + GPU.silence + GPU.patience + 0.02 <= 2.5
    out = bench.log.index((bench.changes[0][0], Act.OUT))
    assert bench.log[out + 1][1] is Act.CUT
    assert isinstance(bench.log[out + 2][1], Change), "steered first, said afterwards"


def test_a_hang_is_found_when_nobody_is_there() -> None:
    bench = Bench()
    bench.advance(32)
    assert [verdict for _, verdict in bench.changes] == [Verdict.HUNG]


def test_callers_who_come_all_the_time_do_not_put_it_off() -> None:
    bench = Bench()
    arrived = bench.now - 100
    for _ in range(8):
        bench.caller()
        bench.advance(0.4)
    assert bench.changes and bench.changes[0][0] - arrived <= 2.5


def test_slow_is_not_hung_while_the_engine_answers_the_probe() -> None:
    """A prompt of 60 s to its first token; the engine serves others meanwhile."""
    bench = Bench()
    bench.caller()
    for _ in range(600):
        bench.advance(0.1)
        if bench.judge.probing_since is not None:
            bench.answer(Outcome.SERVED)
    assert bench.changes == []
    assert 5 <= len(bench.acts(Act.PROBE)) <= 10, "asked, and ever more seldom"


def test_slow_is_not_hung_while_its_counters_move() -> None:
    """The prompt's chunks fill every step, so that the probe waits as long as the caller; the cache grows."""
    bench = Bench()
    bench.caller()
    for _ in range(60):
        bench.advance(1.0)
        bench.note(bench.judge.worked(bench.now))
    assert bench.changes == [] and len(bench.acts(Act.PROBE)) == 1
    bench.advance(3)
    assert [verdict for _, verdict in bench.changes] == [Verdict.HUNG], "control: the counters stand still"


def test_on_the_cpu_work_is_looked_for_before_a_token_is_asked_for() -> None:
    bench = Bench(CPU)
    bench.caller()
    for _ in range(240):
        bench.advance(0.25)
        bench.note(bench.judge.worked(bench.now))
    assert bench.acts(Act.PROBE) == []
    bench.advance(1)
    assert len(bench.acts(Act.PROBE)) == 1, "control: without a sign of work it is asked"
    bench.advance(9.5)
    assert bench.changes == []
    bench.advance(1)
    assert [verdict for _, verdict in bench.changes] == [Verdict.HUNG]


def test_a_hung_engine_is_back_the_moment_it_answers() -> None:
    bench = Bench()
    bench.caller()
    bench.advance(4)
    assert bench.judge.out and bench.judge.probing_since is not None, "one request stays open"
    bench.counters["in_flight"] = 0
    bench.log.clear()
    bench.advance(95)
    assert len(bench.acts(Act.DROP)) == len(bench.acts(Act.PROBE)) == 3, "renewed every 30 s"
    bench.answer(Outcome.SERVED)
    assert bench.log[-2][1] is Act.IN and not bench.judge.out
    bench.log.clear()
    bench.advance(29)
    assert bench.acts(Act.PROBE) == []


@pytest.mark.parametrize("outcome", [Outcome.ANSWERED, Outcome.BROKEN])
def test_only_a_completion_puts_an_engine_back(outcome: Outcome) -> None:
    bench = Bench()
    bench.advance(32)
    assert bench.judge.verdict is Verdict.HUNG
    for _ in range(20):
        bench.answer(outcome, "500")
        bench.advance(1)
        assert bench.judge.out
    bench.answer(Outcome.SERVED)
    assert not bench.judge.out


def test_a_refusal_is_known_by_a_knock_and_the_return_within_half_a_second() -> None:
    bench = Bench()
    bench.note(bench.judge.knocked(bench.now, Outcome.REFUSED))
    assert [verdict for _, verdict in bench.changes] == [Verdict.REFUSED] and bench.acts(Act.OUT)
    bench.log.clear()
    for _ in range(4):
        bench.advance(0.51)
        assert bench.judge.probing_since is not None
        bench.answer(Outcome.REFUSED)
    assert len(bench.acts(Act.PROBE)) == 4 and bench.acts(Act.KNOCK) == []
    bench.advance(0.51)
    bench.answer(Outcome.SERVED)
    assert bench.log[-2][1] is Act.IN


def test_an_engine_that_listens_again_and_hangs_stays_out() -> None:
    bench = Bench()
    bench.note(bench.judge.knocked(bench.now, Outcome.REFUSED))
    bench.advance(40)
    assert [verdict for _, verdict in bench.changes] == [Verdict.REFUSED, Verdict.HUNG]
    assert len(bench.acts(Act.OUT)) == 1 and bench.acts(Act.IN) == []


def test_a_refusal_cuts_nothing_that_flows() -> None:
    """An engine that is told to stop closes its port and ends what it has begun."""
    bench = Bench()
    bench.caller()
    bench.note(bench.judge.knocked(bench.now, Outcome.REFUSED))
    assert bench.acts(Act.OUT) and bench.acts(Act.CUT) == []
    for _ in range(60):
        bench.counters["moved"] = True
        bench.advance(0.5)
        if bench.judge.probing_since is not None:
            bench.answer(Outcome.REFUSED)
    assert bench.judge.out and bench.acts(Act.CUT) == []
    quiet = bench.now - 100
    for _ in range(8):
        bench.advance(0.25)
        if bench.judge.probing_since is not None:
            bench.answer(Outcome.REFUSED)
    assert bench.acts(Act.CUT), "control: nothing moves any more"
    assert GPU.patience - 0.3 <= bench.acts(Act.CUT)[0] - quiet <= GPU.patience + 0.3
    assert bench.acts(Act.OUT) == [0.0], "it is out already"


def test_a_refusal_cuts_who_waits_for_nothing_after_the_patience() -> None:
    bench = Bench()
    bench.caller()
    bench.note(bench.judge.knocked(bench.now, Outcome.REFUSED))
    bench.counters["in_flight"] = 0
    for _ in range(12):
        bench.advance(0.25)
        bench.answer(Outcome.REFUSED)
    assert bench.acts(Act.CUT) == [], "nobody is there"
    bench.caller()
    bench.advance(0.25)
    assert len(bench.acts(Act.CUT)) == 1, "who slipped in meanwhile"


def test_on_the_cpu_work_goes_on_behind_a_closed_port() -> None:
    bench = Bench(CPU)
    bench.caller()
    bench.advance(0.25)
    assert bench.judge.waited_for
    bench.note(bench.judge.knocked(bench.now, Outcome.REFUSED))
    assert bench.judge.waited_for, "CPU time is still looked at"
    for _ in range(120):
        bench.advance(0.25)
        bench.note(bench.judge.worked(bench.now))
        bench.answer(Outcome.REFUSED)
    assert bench.judge.out and bench.acts(Act.CUT) == []
    bench.counters["in_flight"] = 0
    bench.advance(0.25)
    assert not bench.judge.waited_for


def test_who_slips_in_to_a_hung_engine_is_cut_at_the_next_reading() -> None:
    bench = Bench()
    bench.advance(32)
    assert bench.judge.verdict is Verdict.HUNG and len(bench.acts(Act.CUT)) == 1
    bench.caller()
    bench.advance(0.25)
    assert len(bench.acts(Act.CUT)) == 2 and len(bench.acts(Act.OUT)) == 1


def test_one_lost_packet_is_no_verdict() -> None:
    bench = Bench()
    bench.note(bench.judge.knocked(bench.now, Outcome.UNREACHABLE))
    assert bench.changes == [] and bench.acts(Act.PROBE), "it is asked at once"
    bench.answer(Outcome.SERVED)
    assert bench.changes == []
    bench.note(bench.judge.knocked(bench.now, Outcome.UNREACHABLE))
    bench.answer(Outcome.UNREACHABLE)
    assert [verdict for _, verdict in bench.changes] == [Verdict.REFUSED]


def test_a_failed_connection_of_a_caller_asks_at_once() -> None:
    bench = Bench()
    bench.advance(5)
    bench.counters["errors"] += 1
    at = bench.now - 100
    bench.advance(0.3)
    assert bench.acts(Act.PROBE)[0] - at <= 0.26


@pytest.mark.parametrize("status", ["404", "500", "401"])
def test_an_error_is_an_answer(status: str) -> None:
    """Another model is loaded, or the engine core is dead: the gateway takes the next link by itself, at once."""
    bench = Bench()
    bench.caller()
    bench.advance(1)
    bench.answer(Outcome.ANSWERED, status)
    assert bench.changes == [(1.0, Verdict.FAILING)] and not bench.judge.out
    assert bench.acts(Act.OUT) == []
    change = next(action for _, action in bench.log if isinstance(action, Change))
    assert status in change.why
    bench.advance(3)
    bench.answer(Outcome.SERVED)
    assert bench.judge.verdict is Verdict.SERVING and bench.acts(Act.IN) == []


def test_an_answer_that_breaks_off_twice_is_a_failure_and_no_hang() -> None:
    bench = Bench()
    bench.advance(31)
    bench.answer(Outcome.BROKEN)
    assert bench.judge.probing_since is not None and bench.changes == []
    bench.answer(Outcome.BROKEN)
    assert [verdict for _, verdict in bench.changes] == [Verdict.FAILING]


def test_the_door_started_anew_counts_from_nothing() -> None:
    bench = Bench()
    bench.counters.update(callers=50, errors=9)
    bench.advance(0.5)
    bench.answer(Outcome.SERVED)
    bench.log.clear()
    bench.counters.update(callers=0, errors=0)
    bench.advance(5)
    assert bench.acts(Act.PROBE) == [] and bench.changes == []


EVENTS = st.one_of(
    st.tuples(st.just("wait"), st.floats(0.01, 8)),
    st.tuples(st.just("caller"), st.integers(-3, 3)),
    st.tuples(st.just("moved"), st.none()),
    st.tuples(st.just("error"), st.none()),
    st.tuples(st.just("worked"), st.none()),
    st.tuples(st.just("answer"), st.sampled_from(Outcome)),
    st.tuples(st.just("knock"), st.sampled_from(Outcome)),
)


@settings(max_examples=400, deadline=None, database=None)
@given(setting=st.sampled_from([GPU, CPU]), events=st.lists(EVENTS, max_size=40))
def test_whatever_happens(setting: Settings, events: list[tuple[str, Any]]) -> None:
    bench = Bench(setting, first=False)
    last_sign = open_probe = None
    for kind, value in [("wait", 0.01), *events]:
        before = len(bench.log)
        if kind == "wait":
            bench.advance(value)
        elif kind == "caller":
            bench.counters["in_flight"] = max(0, bench.counters["in_flight"] + value)
            bench.counters["callers"] += max(0, value)
        elif kind == "moved":
            bench.note(bench.judge.seen(bench.now, **{**bench.counters, "moved": True}))
            last_sign = bench.now
        elif kind == "error":
            bench.counters["errors"] += 1
        elif kind == "worked":
            bench.note(bench.judge.worked(bench.now))
            last_sign = bench.now
        elif kind == "answer":
            pending, open_probe = bench.judge.probing_since is not None, None
            bench.answer(value)
            if pending and value is Outcome.SERVED:
                assert not bench.judge.out, "an engine that completes is in service"
        else:
            bench.note(bench.judge.knocked(bench.now, value))
        for at, action in bench.log[before:]:
            if isinstance(action, Change) and action.after is Verdict.HUNG and action.before is not Verdict.REFUSED:
                quiet = at + 100 - (last_sign or 0)
                assert quiet >= setting.patience - 0.01, "never hung within its patience of a sign of work"
            if action is Act.PROBE:
                assert open_probe is None, "one at a time"
                open_probe = at
            elif action is Act.DROP:
                open_probe = None
        open_probe = None if bench.judge.probing_since is None else (open_probe or 0.0)
    steered = [action for _, action in bench.log if action in (Act.OUT, Act.IN)]
    assert steered == [(Act.OUT, Act.IN)[at % 2] for at in range(len(steered))], "out and in take turns"
    assert bench.judge.out is bool(len(steered) % 2)
    changes = [action for _, action in bench.log if isinstance(action, Change)]
    for earlier, later in itertools.pairwise(changes):
        assert earlier.after is later.before and later.seconds >= 0
    assert bench.judge.due() > bench.now - 1 or bench.judge.due() <= bench.now


@settings(max_examples=50, deadline=None, database=None)
@given(minutes=st.integers(1, 30))
def test_an_idle_engine_is_never_asked_more_than_its_interval_says(minutes: int) -> None:
    bench = Bench()
    for _ in range(minutes * 6):
        bench.advance(10)
        if bench.judge.probing_since is not None:
            bench.answer(Outcome.SERVED)
    assert len(bench.acts(Act.PROBE)) <= minutes * 60 / GPU.idle + 1
