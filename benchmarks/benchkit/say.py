# SPDX-License-Identifier: MIT
"""Where a benchmark is, and when it will be done."""

from __future__ import annotations

import sys
import time

#: Without a terminal a line is written no more often than this, seconds.
QUIET = 15.0


class Progress:
    """Steps of one benchmark with weights (seconds as expected); says which one runs and how long it will all take."""

    def __init__(self, name: str, expected: float) -> None:
        self.name, self.expected = name, max(1.0, expected)
        self._begun = time.monotonic()
        self._spoken = 0.0
        self._live = sys.stdout.isatty()

    def say(self, text: str, done: float = 0.0) -> None:
        """What happens now; ``done`` is the expected time of everything finished so far, seconds."""
        now = time.monotonic()
        if not self._live and now - self._spoken < QUIET:
            return
        self._spoken = now
        line = f"{self.name}: {text} · {clock(now - self._begun)} · {self.left(now, done)}"
        print(f"\r\x1b[2K{line[:150]}" if self._live else line, end="" if self._live else "\n", flush=True)

    def left(self, now: float, done: float) -> str:
        """The time that is left, from the expectation at first and from the speed seen later."""
        took = now - self._begun
        share = min(1.0, done / self.expected)
        rest = self.expected - done if share < 0.1 else took * (1 - share) / share
        return f"about {clock(max(0.0, rest))} left"

    def end(self) -> None:
        """Leave the line."""
        if self._live:
            print("\r\x1b[2K", end="", flush=True)


def clock(seconds: float) -> str:
    """``75`` → ``1:15``."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
