"""Rate limiters to compare with: each by its own definition, worst case included."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.context import current_runtime, use_runtime
from resilient.errors import RateLimited
from resilient.lab.limiters import FixedWindow, Limiter, MovingWindow, SlidingWindowCounter, TokenBucket
from resilient.lab.metrics import most_within
from resilient.pipeline import Pipeline
from resilient.testing import virtual_time

KINDS = [FixedWindow, SlidingWindowCounter, MovingWindow, TokenBucket]
gaps = st.lists(st.floats(0.0, 15.0), max_size=200)


def admitted(limiter: Limiter, instants: list[float]) -> list[float]:
    return [instant for instant in instants if limiter.admit(instant)]


def rising(gaps: list[float]) -> list[float]:
    instants, now = [], 0.0
    for gap in gaps:
        now += gap
        instants.append(now)
    return instants


@pytest.mark.parametrize("kind", KINDS)
def test_each_admits_its_limit_at_once_and_no_more(kind: Callable[[int, float], Limiter]):
    assert len(admitted(kind(10, 60.0), [30.0] * 50)) == 10


@given(gaps)
def test_no_window_of_a_moving_window_has_more_than_the_limit(gaps):
    assert most_within(admitted(MovingWindow(5, 10.0), rising(gaps)), 10.0) <= 5


@given(gaps)
def test_a_moving_window_refuses_only_what_would_be_too_many(gaps):
    instants = rising(gaps)
    taken = admitted(MovingWindow(5, 10.0), instants)
    for instant in instants:
        if instant not in taken:
            assert sum(0.0 <= instant - other < 10.0 for other in taken) == 5


@given(gaps)
def test_a_fixed_window_has_the_limit_between_its_edges_and_twice_that_across_one(gaps):
    taken = admitted(FixedWindow(5, 10.0), rising(gaps))
    assert all(sum(instant // 10.0 == index for instant in taken) <= 5 for index in range(300))
    assert most_within(taken, 10.0) <= 10


@given(gaps)
def test_a_token_bucket_admits_its_burst_and_its_rate(gaps):
    assert most_within(admitted(TokenBucket(5, 10.0), rising(gaps)), 10.0) <= 10


def test_a_sliding_counter_spreads_the_last_window_evenly():
    limiter = SlidingWindowCounter(100, 60.0)
    assert len(admitted(limiter, [59.0] * 200)) == 100
    assert admitted(limiter, [60.0]) == []  # all of the last window still counts,
    assert len(admitted(limiter, [75.0] * 100)) == 25  # three quarters of it,
    assert len(admitted(limiter, [90.0] * 100)) == 25  # half of it,
    assert len(admitted(limiter, [180.0] * 200)) == 100  # and nothing, after a whole window without calls


def test_a_bucket_on_the_wall_clock_owes_what_the_clock_was_set_back():
    with use_runtime(virtual_time.runtime()):

        @Pipeline(TokenBucket(1, 1.0, wall=True))
        def send() -> str:
            return "sent"

        assert send() == "sent"
        virtual_time.shift_wall(-3600.0)
        current_runtime().pause(3600.0)
        with pytest.raises(RateLimited):
            send()
        current_runtime().pause(1.1)
        assert send() == "sent"
