# SPDX-License-Identifier: MIT
"""What is to be thought of one engine, from what was seen of it. Pure: times come in, actions go out.

Slow is not hung. A long prompt keeps its caller waiting for minutes, and the engine may even leave a one-token probe
standing meanwhile. An engine counts as hung only when a real completion of one token stays unanswered for the whole of
its patience *and* nothing shows work in that time: no byte for any caller, no counter that moved, no CPU time.

Every time is in seconds of one monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """What is thought of an engine. The last two keep it out of the door."""

    SERVING = "serving"
    FAILING = "failing"  # it answers, but with an error: the gateway takes the next link by itself, and at once
    HUNG = "hung"
    REFUSED = "refused"


OUT_OF_SERVICE = frozenset({Verdict.HUNG, Verdict.REFUSED})


class Outcome(Enum):
    """How an attempt to reach an engine ended."""

    SERVED = "served"  # a completion came; of a knock: the connection was taken
    ANSWERED = "answered"  # something else came: an error, another model
    BROKEN = "broken"  # the connection ended before the answer did
    REFUSED = "refused"  # nobody listens
    UNREACHABLE = "unreachable"  # nobody is at that address, or nobody takes the connection


class Act(Enum):
    """What is to be done for an engine."""

    PROBE = "probe"  # ask it for one token, and leave the request open
    DROP = "drop"  # give up the open request
    KNOCK = "knock"  # open a connection and close it
    OUT = "out"  # take it out of the door; what flows goes on flowing
    CUT = "cut"  # end what is under way to it
    IN = "in"  # put it back


@dataclass(frozen=True)
class Change:
    """A verdict that changed: what was thought before and for how long, and why it is no longer."""

    before: Verdict
    after: Verdict
    seconds: float
    why: str


Action = Act | Change


@dataclass(frozen=True)
class Settings:
    """How long what may take. ``work_first``: signs of work are looked for before a probe is sent, not after it."""

    idle: float
    patience: float
    work_first: bool = False
    silence: float = 0.6
    knock: float = 1.0
    retry: float = 0.5
    renew: float = 30.0
    first_pause: float = 2.0
    longest_pause: float = 10.0


class Judge:
    """The judgement of one engine. Each call takes the time and returns what is to be done, in order."""

    def __init__(self, settings: Settings, now: float) -> None:
        self.settings = settings
        self.verdict = Verdict.SERVING
        self.probing_since: float | None = None
        self._since = now
        self._sign_at = now  # last proof of life: a byte for a caller, a served probe
        self._work_at = now  # last sign of work; a sign of life is one, too
        self._probe_now: float | None = now  # a probe is wanted at this time, whatever else is
        self._knock_at = now
        self._knocking = False
        self._misses = 0
        self._pause = 0.0  # between probes while somebody waits for a slow answer
        self._in_flight = 0
        self._waiting_since = now
        self._newcomer_at: float | None = None  # first caller since the last proof of life
        self._callers = 0
        self._errors = 0

    @property
    def out(self) -> bool:
        """Is the engine kept out of the door?"""
        return self.verdict in OUT_OF_SERVICE

    @property
    def waited_for(self) -> bool:
        """Does somebody wait for it, a caller or the prober? Then signs of work are worth looking for."""
        if self.out:
            return self.verdict is Verdict.REFUSED and self._in_flight > 0
        return self._in_flight > 0 or self.probing_since is not None

    # --- what is seen

    def seen(self, now: float, *, in_flight: int, callers: int, errors: int, moved: bool) -> list[Action]:
        """The door's counters: requests under way, callers and failed connections so far, and whether bytes came."""
        if moved:
            self._sign(now)
            self._pause = 0.0
        if in_flight and not self._in_flight:
            self._waiting_since = now
        if in_flight and callers > self._callers and self._newcomer_at is None:
            self._newcomer_at = now
        if errors > self._errors and not self.out and self.probing_since is None:
            self._probe_now = now
        if not in_flight:
            self._pause, self._newcomer_at = 0.0, None
        self._in_flight, self._callers, self._errors = in_flight, callers, errors
        return self._cut(now) + self.tick(now)

    def worked(self, now: float) -> list[Action]:
        """A sign of work: a counter of the engine moved, or it used CPU time."""
        self._work_at = now
        return self.tick(now)

    def answered(self, now: float, outcome: Outcome, detail: str = "") -> list[Action]:
        """The open probe ended."""
        if self.probing_since is None:
            return []
        began, self.probing_since = self.probing_since, None
        took = f"after {now - began:.2f} s"
        if outcome is Outcome.SERVED:
            return self._alive(now, Verdict.SERVING, f"a completion {took}")
        if outcome is Outcome.ANSWERED and not self.out:
            return self._alive(now, Verdict.FAILING, f"the probe was answered {detail} {took}")
        return self._missed(now, outcome, f"the probe {took}{': ' if detail else ''}{detail}")

    def knocked(self, now: float, outcome: Outcome) -> list[Action]:
        """The connection attempt ended."""
        self._knocking = False
        if self.out:
            return []
        if outcome is Outcome.SERVED:
            if self.probing_since is None:
                self._misses = 0
            return self.tick(now)
        return self._missed(now, outcome, "a connection attempt")

    def tick(self, now: float) -> list[Action]:
        """Time has passed."""
        actions: list[Action] = []
        if self.probing_since is not None:
            actions += self._judge_wait(now, self.probing_since)
        elif now >= self._probe_due():
            self._probe_now = None
            self.probing_since = now
            actions.append(Act.PROBE)
        if not self.out and not self._knocking and now >= self._knock_at + self.settings.knock:
            self._knocking, self._knock_at = True, now
            actions.append(Act.KNOCK)
        return actions

    def due(self) -> float:
        """When :meth:`tick` has something to do at the latest, if nothing is seen before."""
        times = [self._probe_due() if self.probing_since is None else self._wait_ends(self.probing_since)]
        if not self.out and not self._knocking:
            times.append(self._knock_at + self.settings.knock)
        return min(times)

    # --- what follows

    def _cut(self, now: float) -> list[Action]:
        """Who waits for an engine that is out waits for nothing, but what still moves may come to its end.

        An engine that is told to stop closes its port first and then ends what it has begun.
        """
        if not self._in_flight or not self.out:
            return []
        quiet = now - max(self._since, self._work_at)
        return [Act.CUT] if self.verdict is Verdict.HUNG or quiet >= self.settings.patience else []

    def _probe_due(self) -> float:
        if self._probe_now is not None:
            return self._probe_now
        settings = self.settings
        if not self._in_flight:
            return self._sign_at + settings.idle
        quiet_since = max(self._sign_at, self._waiting_since)
        if settings.work_first:
            quiet_since = max(quiet_since, self._work_at)
        due = quiet_since + settings.silence + self._pause
        if self._newcomer_at is not None and not (settings.work_first and self._work_at > self._newcomer_at):
            due = min(due, self._newcomer_at + settings.silence)
        return due

    def _wait_ends(self, began: float) -> float:
        if self.verdict is Verdict.HUNG:
            return began + self.settings.renew
        if self.verdict is Verdict.REFUSED:
            return began + self.settings.patience
        return max(began, self._work_at) + self.settings.patience

    def _judge_wait(self, now: float, began: float) -> list[Action]:
        if now < self._wait_ends(began):
            return []
        if self.verdict is Verdict.HUNG:
            self.probing_since = now
            return [Act.DROP, Act.PROBE]
        why = f"a probe of {now - began:.2f} s unanswered, no work seen for {now - max(began, self._work_at):.2f} s"
        return self._judge(now, Verdict.HUNG, why)

    def _sign(self, now: float) -> None:
        self._sign_at = self._work_at = now
        self._newcomer_at = None

    def _alive(self, now: float, verdict: Verdict, why: str) -> list[Action]:
        self._sign(now)
        self._misses = 0
        if self._in_flight:
            self._pause = min(max(2 * self._pause, self.settings.first_pause), self.settings.longest_pause)
        return self._judge(now, verdict, why) + self.tick(now)

    def _missed(self, now: float, outcome: Outcome, why: str) -> list[Action]:
        """An attempt that ended without an answer. One refusal is enough; anything else must happen twice in a row."""
        if self.out:
            self._probe_now = now + self.settings.retry
            gone = outcome in (Outcome.REFUSED, Outcome.UNREACHABLE)
            return self._judge(now, Verdict.REFUSED, why) if gone else []
        self._misses += 1
        if outcome is not Outcome.REFUSED and self._misses < 2:
            if self.probing_since is None:
                self._probe_now = now
            return self.tick(now)
        self._misses = 0
        if outcome is Outcome.BROKEN:
            return self._alive(now, Verdict.FAILING, why)
        dropped: list[Action] = [Act.DROP] if self.probing_since is not None else []
        self.probing_since = None
        self._probe_now = now + self.settings.retry
        return dropped + self._judge(now, Verdict.REFUSED, why)

    def _judge(self, now: float, verdict: Verdict, why: str) -> list[Action]:
        before, was_out = self.verdict, self.out
        if verdict is before:
            return []
        change = Change(before, verdict, now - self._since, why)
        self.verdict, self._since = verdict, now
        if self.out and not was_out:
            return [Act.OUT, *([Act.CUT] if verdict is Verdict.HUNG else []), change]
        if was_out and not self.out:
            self._probe_now, self._knock_at, self._misses = None, now, 0
            return [Act.IN, change]
        return [change]
