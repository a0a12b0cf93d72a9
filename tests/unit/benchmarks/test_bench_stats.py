# SPDX-License-Identifier: MIT
"""Percentiles and their intervals, ratios, and what one way adds to another."""

from __future__ import annotations

import random

import pytest
from benchkit import stats
from hypothesis import given
from hypothesis import strategies as st

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50)


@pytest.mark.parametrize(
    ("values", "percent", "wanted"),
    [
        ([1.0], 99, 1.0),
        ([1.0, 3.0], 50, 2.0),
        ([5.0, 1.0, 3.0], 0, 1.0),
        ([5.0, 1.0, 3.0], 100, 5.0),
        ([0.0, 10.0], 95, 9.5),
    ],
)
def test_percentile(values: list[float], percent: float, wanted: float) -> None:
    assert stats.percentile(values, percent) == pytest.approx(wanted)


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], 101), ([1.0], -1)])
def test_no_percentile(values: list[float], percent: float) -> None:
    with pytest.raises(ValueError, match="no"):
        stats.percentile(values, percent)


@given(VALUES, st.sampled_from([50, 95, 99]))
def test_an_interval_holds_its_figure(values: list[float], percent: float) -> None:
    found = stats.percentile_estimate(values, percent)
    assert min(values) <= found.low <= found.high <= max(values)
    assert found.n == len(values)
    if len(values) > 2:
        assert found.low - 1e-6 <= found.value <= found.high + 1e-6


@pytest.mark.parametrize("percent", [50, 95])
def test_an_interval_holds_the_truth_as_often_as_it_says(percent: float) -> None:
    generator = random.Random(7)  # noqa: S311 - a sample, no secret
    hits = 0
    for _ in range(400):
        found = stats.percentile_estimate([generator.random() for _ in range(300)], percent)
        hits += found.low <= percent / 100 <= found.high
    assert 0.92 <= hits / 400 <= 0.99


def test_many_values_do_not_underflow() -> None:
    found = stats.percentile_estimate([float(value) for value in range(3000)], 99)
    assert 2950 < found.low < found.value < found.high < 2990


def test_a_ratio_is_careful() -> None:
    found = stats.ratio([10.0, 12.0, 11.0], [2.0, 1.0, 4.0])
    assert (found.value, found.low, found.high, found.n) == (5.5, 2.5, 12.0, 3)


def test_added_takes_off_the_median_of_the_same_block() -> None:
    # The slow direct answer of the first block must not make the measured ones look better.
    assert stats.added([[3.0, 4.0], [10.0]], [[1.0, 1.0, 100.0], [8.0]]) == [2.0, 3.0, 2.0]
    with pytest.raises(ValueError, match="1 blocks measured, 2 direct"):
        stats.added([[1.0]], [[1.0], [2.0]])
