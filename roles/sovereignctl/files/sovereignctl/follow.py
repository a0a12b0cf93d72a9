# SPDX-License-Identifier: MIT
"""What is shown of a switch while it runs: its phase in words, how far it is, how long it will take. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.switch import Step

#: Phase of a switch → what a person reads, in the order in which they come.
WORDS = {
    "intent": "writing down what is to be done",
    "busy": "is anyone at work",
    "idle": "nobody is at work",
    "close": "closing the door to new requests",
    "drain": "waiting for work to end",
    "stop": "stopping",
    "freed": "waiting until the memory is free",
    "start": "starting",
    "answers": "waiting for an answer",
    "open": "opening the door",
    "floors": "asking the CPU floor",
    "commit": "done",
}
BACK = "back"
_ORDER = list(WORDS)
#: No bar is full before the end is known.
_MOST = 0.99


@dataclass(frozen=True)
class Shown:
    """One look: times are seconds, ``share`` is 0 to 1, ``left`` is None when nobody knows."""

    phase: str
    detail: str
    elapsed: float
    left: float | None
    share: float

    @property
    def title(self) -> str:
        """The phase, and whom it is about."""
        return f"{self.phase}: {self.detail}" if self.detail else self.phase

    @property
    def times(self) -> str:
        """How long so far, and how long still."""
        if self.left is None:
            rest = "no switch to this mode was measured yet"
        elif self.left > 0:
            rest = f"about {clock(self.left)} left"
        else:
            rest = "longer than usual"
        return f"{clock(self.elapsed)}, {rest}"


def clock(seconds: float) -> str:
    """``75`` → ``1:15``."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Follow:
    """Follows the steps of one switch. ``now`` of the calls: a clock that only goes forward."""

    def __init__(self) -> None:
        self._last = Step("busy", "", 0.0, None)
        self._at: float | None = None
        self._share = 0.0
        self._back = False

    def step(self, step: Step, now: float) -> None:
        """Take a step in."""
        self._back = self._back or step.phase == BACK
        self._last, self._at = step, now

    def shown(self, now: float) -> Shown:
        """What to show now, also between two steps. The share never goes down."""
        elapsed = self._last.elapsed + (0.0 if self._at is None else max(0.0, now - self._at))
        expected = self._last.expected
        if not self._back:
            self._share = max(self._share, self._of(elapsed, expected))
        phase = WORDS.get(self._last.phase, self._last.phase)
        if self._back:
            phase = "going back to the last good mode"
        left = None if expected is None or self._back else max(0.0, expected - elapsed)
        return Shown(phase, self._last.detail, elapsed, left, self._share)

    def _of(self, elapsed: float, expected: float | None) -> float:
        if expected:
            return min(_MOST, elapsed / expected)
        place = _ORDER.index(self._last.phase) if self._last.phase in _ORDER else 0
        return min(_MOST, place / (len(_ORDER) - 1))
