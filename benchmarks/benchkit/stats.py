# SPDX-License-Identifier: MIT
"""Percentiles, medians and how sure of them one may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A figure of n values, with its 95 % interval or its smallest and largest repeat."""

    value: float
    low: float
    high: float
    n: int


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which ``percent`` of the values lie, linear between neighbours. Raises ValueError for none."""
    if not values:
        raise ValueError("no values, no percentile")
    if not 0 <= percent <= 100:
        raise ValueError(f"{percent} is no per cent")
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median(values: Sequence[float]) -> float:
    """The 50th percentile."""
    return percentile(values, 50)


def percentile_estimate(values: Sequence[float], percent: float) -> Estimate:
    """A percentile with its 95 % interval, from the ranks of the order statistics (exact binomial, no resampling).

    With few values the interval of a high percentile ends at the largest value seen: more cannot be said.
    """
    ordered = sorted(values)
    count, share = len(ordered), percent / 100
    value = percentile(ordered, percent)
    # How many values lie below the true percentile is binomial: cut 2.5 % off each end of that.
    below, low, high = 0.0, 0, count - 1
    for rank in range(count):
        below += _binomial(count, rank, share)
        if below <= 0.025:
            low = rank
        if below >= 0.975:
            high = rank
            break
    return Estimate(value, ordered[low], ordered[high], count)


def _binomial(count: int, rank: int, share: float) -> float:
    """The probability of ``rank`` hits in ``count`` trials; ``share`` strictly between 0 and 1."""
    ways = math.lgamma(count + 1) - math.lgamma(rank + 1) - math.lgamma(count - rank + 1)
    return math.exp(ways + rank * math.log(share) + (count - rank) * math.log(1 - share))


def over_repeats(values: Sequence[float]) -> Estimate:
    """The median of a few repeats with the smallest and the largest of them."""
    return Estimate(median(values), min(values), max(values), len(values))


def ratio(values: Sequence[float], to: Sequence[float]) -> Estimate:
    """The ratio of two medians; its interval is the most careful one, smallest to largest and largest to smallest."""
    return Estimate(
        median(values) / median(to), min(values) / max(to), max(values) / min(to), min(len(values), len(to))
    )


def added(measured: Sequence[Sequence[float]], direct: Sequence[Sequence[float]]) -> list[float]:
    """What each measured value has more than the median of the direct values of the same block.

    ``measured`` and ``direct`` are blocks of the same number, measured in turn. Only the median is taken off, so that
    a slow moment of the direct way never makes the measured one look better. Raises ValueError for unpaired blocks.
    """
    if len(measured) != len(direct):
        raise ValueError(f"{len(measured)} blocks measured, {len(direct)} direct ones")
    return [value - median(base) for block, base in zip(measured, direct, strict=True) for value in block]
