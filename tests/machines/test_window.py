"""The windows count what is recent: neither less nor, beyond a bucket, more."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from resilient.machines.window import CallWindow, TimeWindow

KINDS = 3
kinds = st.integers(0, KINDS - 1)


class TimeWindowAgainstItsHistory(RuleBasedStateMachine):
    """The model keeps every event for ever. All times are quarters of a second and the buckets are a second long,
    so that no sum is rounded."""

    @initialize()
    def begin(self) -> None:
        self.window = TimeWindow(10.0, KINDS)
        self.now = 0.0
        self.history: list[tuple[float, int]] = []

    @rule(quarters=st.one_of(st.integers(0, 8), st.integers(0, 60)))
    def time_passes(self, quarters: int) -> None:
        self.now += quarters / 4

    @rule(kind=kinds)
    def something_happens(self, kind: int) -> None:
        self.window.add(kind, self.now)
        self.history.append((self.now, kind))

    @rule(kind=kinds)
    def something_happens_on_the_hot_path(self, kind: int) -> None:
        if self.now >= self.window.edge:
            self.window.roll(self.now)
        self.window.counts[kind] += 1
        self.history.append((self.now, kind))

    @rule(kind=kinds, quarters=st.integers(1, 60))
    def a_thread_brings_an_older_time(self, kind: int, quarters: int) -> None:
        self.window.totals(self.now)
        self.window.add(kind, self.now - quarters / 4)
        self.history.append((self.now, kind))

    @rule()
    def it_is_cleared(self) -> None:
        self.window.clear()
        self.history.clear()

    @invariant()
    def it_counts_the_present_bucket_and_the_ten_before(self) -> None:
        recent = [kind for at, kind in self.history if math.floor(at) >= math.floor(self.now) - 10]
        assert self.window.totals(self.now) == [recent.count(kind) for kind in range(KINDS)]


TestTimeWindow = TimeWindowAgainstItsHistory.TestCase


@given(
    length=st.floats(1e-3, 1e5),
    start=st.floats(0, 1e9),
    steps=st.lists(st.floats(0, 0.5), min_size=1, max_size=40),
)
def test_what_is_younger_than_the_length_counts_and_what_is_a_tenth_older_does_not(
    length: float, start: float, steps: list[float]
) -> None:
    window = TimeWindow(length, 1)
    times = list(accumulate((step * length for step in steps), initial=start))
    for now in times:
        window.add(0, now)
    (count,) = window.totals(now)
    ages = [Fraction(now) - Fraction(at) for at in times]
    rounding = Fraction(1e-9) * Fraction(length) + 4 * Fraction(math.ulp(now))
    assert sum(age < Fraction(length) - rounding for age in ages) <= count
    assert count <= sum(age < Fraction(length) * 11 / 10 + rounding for age in ages)


@pytest.mark.parametrize("pause", [12.0, 30.0, 86_400.0])
def test_after_a_pause_everything_is_forgotten(pause: float) -> None:
    window = TimeWindow(10.0, 1)
    for tenth in range(100):
        window.add(0, 1000.0 + tenth / 10)
    assert window.totals(1010.0) == [100]
    assert window.totals(1010.0 + pause) == [0]
    window.add(0, 1010.0 + pause)
    assert window.totals(1010.0 + pause) == [1]


def test_a_month_of_traffic_does_not_drift() -> None:
    window = TimeWindow(10.0, 2)
    for minute in range(30 * 24 * 60):
        window.add(0, minute * 60.0)
        window.add(1, minute * 60.0 + 0.1)
        assert window.totals(minute * 60.0 + 0.1) == [1, 1]


def test_it_keeps_no_more_than_its_buckets_where_an_edge_is_rounded_down() -> None:
    """0.7 is a little less than seven tenths: its multiples, rounded, may be in the bucket that they seem to end."""
    window = TimeWindow(7.0, 1)
    now, already_over = 0.0, 0
    for bucket in range(1, 200):
        now = bucket * 0.7
        for _ in range(20):
            window.add(0, now)
            already_over += now >= window.edge
        assert len(window._marks) <= 11
    assert already_over > 0
    assert 200 <= window.totals(now)[0] <= 240


@given(length=st.integers(1, 20), events=st.lists(kinds, max_size=60), cleared=st.integers(0, 60))
def test_a_call_window_counts_the_last_calls(length: int, events: list[int], cleared: int) -> None:
    window = CallWindow(length, KINDS)
    for kind in events[:cleared]:
        window.add(kind, 0.0)
    window.clear()
    for kind in events[cleared:]:
        window.add(kind, 0.0)
    last = events[cleared:][-length:]
    assert window.totals(0.0) == [last.count(kind) for kind in range(KINDS)]


def test_a_call_window_does_not_look_at_the_clock() -> None:
    window = CallWindow(3, 1)
    window.add(0, 0.0)
    assert window.totals(1e9) == [1]
