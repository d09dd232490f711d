"""Quantiles of a stream: near the true ones, of recent numbers, in bounded memory."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.machines.sketch import RecentQuantile, Sketch

numbers = st.floats(1e-9, 1e9)
shares = st.floats(0.0, 1.0)


def true_quantile(found: list[float], share: float) -> float:
    return sorted(found)[math.floor(share * (len(found) - 1))]


@given(st.lists(numbers, min_size=1, max_size=200), shares)
def test_a_quantile_is_within_the_accuracy_of_the_true_one(found, share):
    sketch = Sketch(0.01)
    for number in found:
        sketch.add(number)
    assert sketch.quantile(share) == pytest.approx(true_quantile(found, share), rel=0.0101)


@given(st.lists(numbers, max_size=50), st.lists(numbers, min_size=1, max_size=50), shares)
def test_two_sketches_together_are_the_sketch_of_all(some, others, share):
    first, second, whole = Sketch(), Sketch(), Sketch()
    for number in some:
        first.add(number)
        whole.add(number)
    for number in others:
        second.add(number)
        whole.add(number)
    both = first.merged(second)
    assert both.quantile(share) == whole.quantile(share)
    assert both.count == len(some) + len(others)
    assert second.count == len(others)


@pytest.mark.parametrize(("number", "counts_as"), [(0.0, 1e-9), (-3.0, 1e-9), (1e300, 1e9), (math.inf, 1e9)])
def test_what_is_out_of_range_counts_as_the_nearest_that_is_in_it(number, counts_as):
    sketch = Sketch()
    sketch.add(number)
    assert sketch.quantile(0.5) == pytest.approx(counts_as, rel=0.01)


def test_of_nothing_there_is_no_quantile_and_cleared_there_is_nothing():
    sketch = Sketch()
    with pytest.raises(ValueError, match="no quantile of nothing"):
        sketch.quantile(0.5)
    sketch.add(1.0)
    sketch.clear()
    with pytest.raises(ValueError, match="no quantile of nothing"):
        sketch.quantile(0.5)


def recent(least: int = 10, most: int = 100, window: float = 60.0) -> RecentQuantile:
    return RecentQuantile(0.5, window=window, least=least, most=most, now=0.0)


def test_there_is_no_value_before_there_are_enough():
    quantile = recent(least=10)
    for number in range(9):
        quantile.add(1.0, float(number))
    assert quantile.value is None
    quantile.add(1.0, 9.0)
    assert quantile.value == pytest.approx(1.0, rel=0.01)


def test_numbers_that_are_long_ago_are_forgotten_by_count_and_by_age():
    by_count, by_age = recent(), recent(most=1_000_000)
    for number in range(1000):
        by_count.add(1.0 if number < 500 else 9.0, 0.0)
        by_age.add(1.0 if number < 500 else 9.0, float(number))
    assert by_count.value == pytest.approx(9.0, rel=0.01)
    assert by_age.value == pytest.approx(9.0, rel=0.01)


def test_after_a_silence_it_begins_anew():
    quantile = recent(least=10, window=60.0)
    for _ in range(20):
        quantile.add(1.0, 0.0)
    quantile.add(9.0, 500.0)
    assert quantile.value is None


@given(st.lists(st.tuples(numbers, st.floats(0.0, 30.0)), min_size=1, max_size=300))
def test_the_value_is_always_one_of_the_last_numbers(steps):
    quantile = recent(least=5, most=20, window=50.0)
    now = 0.0
    seen: list[float] = []
    for number, later in steps:
        now += later
        seen.append(number)
        quantile.add(number, now)
        if quantile.value is not None:
            assert any(quantile.value == pytest.approx(one, rel=0.0101) for one in seen[-40:])
