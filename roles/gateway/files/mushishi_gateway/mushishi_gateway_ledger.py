# SPDX-License-Identifier: MIT
"""What each cloud provider has cost in the running period, kept on disk before a request leaves the machine.

A request is *reserved* at the most it can cost, then *settled* at what the provider says it did cost, or *released*
when the provider refused it. What is never settled (a crash, a time-out, an answer cut off) stays counted at its worst
case. So the sum in the ledger is never below what the provider bills, and a budget is never passed, whatever happens to
this process.

Amounts are whole nanodollars (1e-9 USD): sums of them are exact. A period is a fixed window counted from 1970-01-01
UTC: ``1d`` starts anew at midnight UTC. Pure standard library.
"""

from __future__ import annotations

import math
import re
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

NANO = 1_000_000_000
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_PERIOD = re.compile(r"([1-9][0-9]{0,3})([smhd])")

#: Rows older than two of the longest possible periods are of no use to any budget; they are dropped at start.
_KEEP_SECONDS = 400 * 86400

#: Tokens that a chat template adds around each message, and around the whole: generous, so that a bound stays a bound.
_TOKENS_PER_MESSAGE = 16
_TOKENS_PER_REQUEST = 64

_SCHEMA = """
CREATE TABLE IF NOT EXISTS charge (
  id TEXT PRIMARY KEY, provider TEXT NOT NULL, at INTEGER NOT NULL, nanodollars INTEGER NOT NULL, state TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS charge_provider_at ON charge (provider, at);
"""


class BudgetSpent(Exception):
    """The provider's budget does not hold the request. ``retry_after``: seconds until the next period begins."""

    def __init__(self, provider: str, retry_after: int) -> None:
        super().__init__(
            f"The budget of provider {provider} for this period does not hold this request. "
            f"A new period begins in {retry_after} s."
        )
        self.provider = provider
        self.retry_after = retry_after


@dataclass(frozen=True)
class Budget:
    """What a provider may cost in a period of ``seconds``."""

    nanodollars: int
    seconds: int

    @classmethod
    def read(cls, usd: float, period: str) -> Budget:
        """From the policy's form: dollars and ``30m``, ``12h``, ``1d``. Raises :class:`ValueError` for others."""
        match = _PERIOD.fullmatch(period)
        if match is None or usd < 0:
            raise ValueError(f"budget {usd!r} per {period!r}: give dollars from 0 up and a period like 30m, 12h, 1d")
        return cls(to_nanodollars(Decimal(str(usd))), int(match[1]) * _UNITS[match[2]])

    def window(self, now: float) -> tuple[int, int]:
        """Start and end of the period that holds ``now``, in seconds since 1970."""
        start = int(now) // self.seconds * self.seconds
        return start, start + self.seconds


@dataclass(frozen=True)
class Price:
    """Nanodollars for a token, in and out (a price of 1 USD a million tokens is 1000)."""

    prompt: Decimal
    answer: Decimal

    @classmethod
    def read(cls, params: Mapping[str, object]) -> Price | None:
        """From a deployment's ``litellm_params``; ``None`` where no price is given or both are 0."""
        prompt, answer = params.get("input_cost_per_token"), params.get("output_cost_per_token")
        if not isinstance(prompt, (int, float)) or not isinstance(answer, (int, float)) or not prompt + answer:
            return None
        return cls(Decimal(str(prompt)) * NANO, Decimal(str(answer)) * NANO)

    def cost(self, prompt_tokens: int, answer_tokens: int) -> int:
        """Nanodollars, rounded up."""
        return math.ceil(self.prompt * prompt_tokens + self.answer * answer_tokens)


def to_nanodollars(usd: Decimal) -> int:
    """Dollars → whole nanodollars, rounded down."""
    return int(usd * NANO)


def prompt_bound(text: str, messages: int, most: int | None) -> int:
    """The most tokens a prompt can have: none is shorter than a byte. ``most``: what the model can hold, if known."""
    bound = len(text.encode()) + _TOKENS_PER_MESSAGE * messages + _TOKENS_PER_REQUEST
    return bound if most is None else min(bound, most)


class Ledger:
    """The charges of all providers, in one SQLite file. Each call is one transaction, on disk when it returns."""

    def __init__(self, path: Path, budgets: Mapping[str, Budget], clock: Callable[[], float] = time.time) -> None:
        self._budgets = dict(budgets)
        self._clock = clock
        self._database = sqlite3.connect(path, timeout=5, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.executescript(_SCHEMA)
        self._database.execute("DELETE FROM charge WHERE at < ?", (int(clock()) - _KEEP_SECONDS,))

    def has_budget(self, provider: str) -> bool:
        """True when the provider has a budget; one without is not limited and not counted."""
        return provider in self._budgets

    def reserve(self, charge: str, provider: str, worst: int) -> None:
        """Count ``worst`` nanodollars as ``charge``; else count nothing and raise :class:`BudgetSpent`."""
        budget, now = self._budgets[provider], self._clock()
        start, end = budget.window(now)
        self._database.execute("BEGIN IMMEDIATE")
        try:
            if self._sum(provider, start, end) + worst > budget.nanodollars:
                raise BudgetSpent(provider, max(1, math.ceil(end - now)))
            self._database.execute(
                "INSERT INTO charge VALUES (?, ?, ?, ?, 'reserved') ON CONFLICT (id) DO UPDATE"
                " SET nanodollars = nanodollars + excluded.nanodollars, state = 'reserved'",
                (charge, provider, int(now), worst),
            )
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def settle(self, charge: str, cost: int) -> None:
        """Replace a reservation by what the request did cost, in nanodollars; leave any other charge alone."""
        self._database.execute(
            "UPDATE charge SET nanodollars = ?, state = 'settled' WHERE id = ? AND state = 'reserved'", (cost, charge)
        )

    def release(self, charge: str) -> None:
        """Take back the reservation of a request that the provider refused. A settled charge is left alone."""
        self._database.execute("DELETE FROM charge WHERE id = ? AND state = 'reserved'", (charge,))

    def spent(self, provider: str) -> int:
        """Nanodollars counted in the running period, reservations included."""
        return self._sum(provider, *self._budgets[provider].window(self._clock()))

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _sum(self, provider: str, start: int, end: int) -> int:
        row = self._database.execute(
            "SELECT COALESCE(SUM(nanodollars), 0) FROM charge WHERE provider = ? AND at >= ? AND at < ?",
            (provider, start, end),
        ).fetchone()
        return int(row[0])
