# SPDX-License-Identifier: MIT
"""One switch, however it is asked for: its options, its end, and how it is called off.

Who calls it off is heard at the next step. Before the stop everything stays as it was, after it the switch goes back to
the last good mode: the same two ways that an error goes. On the way back nobody is heard any more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.switch import Result, Step, SwitchFailed

from sovereignctl.card import Card
from sovereignctl.follow import BACK

#: What a program says at its end. 2 is argparse's: the call could not be read.
DONE, REFUSED, USAGE, ROLLED_BACK, BROKEN, NOT_ALLOWED, CANCELLED = 0, 1, 2, 3, 4, 5, 130
_BY_OUTCOME = {"rolled back": ROLLED_BACK, "broken": BROKEN}


@dataclass(frozen=True)
class How:
    """The options of a switch; seconds. ``drain_seconds``: None is what each tenant declares."""

    on_busy: str = "fail"
    drain_seconds: float | None = None
    rollback: bool = True
    wait_seconds: float = 0.0
    #: Who asks, for those who have to wait: written into the lock.
    who: str = "sovereignctl"


class Cancelled(SovereignError):
    """A person called it off."""


@dataclass(frozen=True)
class Ended:
    """How it ended: a result, an error, or both. ``working``: why it was refused, when that is somebody's work."""

    result: Result | None
    error: SovereignError | None = None
    cancelled: bool = False
    working: str = ""

    @property
    def code(self) -> int:
        """The exit status."""
        if self.error is None:
            return DONE
        found = _BY_OUTCOME.get(self.result.outcome, REFUSED) if self.result else REFUSED
        return CANCELLED if self.cancelled and found != BROKEN else found


def attempt(
    card: Card,
    target: str,
    how: How,
    report: Callable[[Step], None],
    cancel: threading.Event,
) -> Ended:
    """Switch, and say how it ended. Never raises SovereignError."""
    told: list[Step] = []
    thrown = False

    def heard(step: Step) -> None:
        nonlocal thrown
        told.append(step)
        report(step)
        if cancel.is_set() and not thrown and not any(each.phase == BACK for each in told):
            thrown = True
            raise Cancelled(f"switch to {target}", "it was called off", "Switch again when you want it.")

    try:
        result = card.switch(
            target,
            on_busy=how.on_busy,
            drain_seconds=how.drain_seconds,
            rollback=how.rollback,
            wait_seconds=how.wait_seconds,
            report=heard,
            who=how.who,
        )
        return Ended(result)
    except SwitchFailed as error:
        return Ended(error.result, error, thrown, "" if thrown else _working(told, error.result))
    except SovereignError as error:
        return Ended(None, error)


def _working(told: list[Step], result: Result) -> str:
    """What is at work, when that is why nothing was done: no phase but the first looks was begun."""
    last = told[-1] if told else None
    if result.outcome != "unchanged" or last is None or last.phase != "drain":
        return ""
    return last.detail
