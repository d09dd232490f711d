"""The throttle: reject here what the far side would refuse."""

from __future__ import annotations

import math
from collections import deque
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.machines.throttle import Throttle


def never() -> float:
    """The draw with which whatever may be rejected is rejected."""
    return 0.0


def not_drawn() -> float:
    raise AssertionError("no chance is needed here")


def outage(throttle: Throttle, *, at: float, calls: int) -> None:
    """Requests that the far side refuses."""
    for _ in range(calls):
        throttle.refused(at)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["accepted", "refused", "call"])), max_size=60))
def test_the_probability_follows_the_formula_over_the_recent_history(steps: list[tuple[int, str]]) -> None:
    """The window is ten buckets of a second and the present one."""
    throttle = Throttle(k=2.0, window=10.0)
    now, history = 0, list[tuple[int, str]]()
    for seconds, event in steps:
        now += seconds
        match event:
            case "accepted":
                throttle.accepted(float(now))
                history.append((now, event))
            case "refused":
                throttle.refused(float(now))
                history.append((now, event))
            case _:
                if not throttle.admit(float(now), never):
                    history.append((now, "rejected here"))
        recent = [kind for at, kind in history if at >= now - 10]
        excess = len(recent) - 2.0 * recent.count("accepted")
        assert throttle.probability(float(now)) == max(0.0, excess / (len(recent) + 1))


@pytest.mark.parametrize("k", [1.1, 1.5, 2.0])
@pytest.mark.parametrize("latency", [0.0, 0.5])
def test_about_k_times_what_is_accepted_is_sent(k: float, latency: float) -> None:
    """1000 calls a second are offered to a far side that accepts 100, and answers after a while."""
    throttle, random = Throttle(k=k, window=30.0), Random(3).random
    answers: deque[tuple[float, bool]] = deque()
    sent, accepted = [0] * 300, [0] * 300
    for millisecond in range(300_000):
        now, second = millisecond / 1000, millisecond // 1000
        while answers and answers[0][0] <= now:
            (throttle.accepted if answers.popleft()[1] else throttle.refused)(now)
        if throttle.admit(now, random):
            sent[second] += 1
            accept = accepted[second] < 100
            accepted[second] += accept
            answers.append((now + latency, accept))
    assert sum(accepted[60:]) == pytest.approx(24_000, rel=0.02)
    assert sum(sent[60:]) / sum(accepted[60:]) == pytest.approx(k, rel=0.03)


@given(in_flight=st.integers(1, 1000))
def test_calls_in_flight_are_no_refusals(in_flight: int) -> None:
    """A client that just started, or was idle for long, may make many calls at once."""
    throttle = Throttle(k=2.0, window=10.0)
    assert all(throttle.admit(0.0, not_drawn) for _ in range(in_flight))


def test_without_refusals_nothing_is_rejected_and_no_chance_is_drawn() -> None:
    throttle = Throttle(k=2.0, window=10.0)
    for call in range(1000):
        assert throttle.admit(call / 100, not_drawn)
        throttle.accepted(call / 100)


def test_up_to_k_times_what_is_accepted_nothing_is_rejected() -> None:
    throttle = Throttle(k=2.0, window=10.0)
    for _ in range(10):
        throttle.accepted(0.0)
    outage(throttle, at=0.0, calls=10)
    assert throttle.admit(0.0, not_drawn)
    outage(throttle, at=0.0, calls=1)
    assert throttle.probability(0.0) == 1 / 22


def test_while_everything_is_refused_one_call_a_second_is_let_through() -> None:
    throttle = Throttle(k=2.0, window=10.0)
    outage(throttle, at=0.0, calls=10)
    sent = list[float]()
    for eighth in range(240):
        if throttle.admit(eighth / 8, never):
            throttle.refused(eighth / 8)
            sent.append(eighth / 8)
    assert sent == list(range(30))


def test_that_an_outage_is_over_is_noticed_without_luck() -> None:
    """Three calls in two seconds are offered; one a second is sent for certain, and accepted."""
    throttle = Throttle(k=2.0, window=10.0)
    outage(throttle, at=0.0, calls=100_000)
    assert throttle.probability(0.0) > 0.9999
    for call in range(1, 18):
        if throttle.admit(call * 2 / 3, never):
            throttle.accepted(call * 2 / 3)
    assert throttle.probability(11.5) == 0.0


@pytest.mark.parametrize("draw", [0.0, math.nextafter(0.25, 0.0), 0.25, 0.99])
def test_as_many_are_rejected_as_the_probability_says(draw: float) -> None:
    throttle = Throttle(k=2.0, window=10.0)
    throttle.accepted(0.0)
    outage(throttle, at=0.0, calls=2)
    assert throttle.probability(0.0) == 0.25
    assert throttle.admit(0.0, not_drawn)  # the one that this second is sure of
    assert throttle.admit(0.0, lambda: draw) == (draw >= 0.25)


def test_local_rejections_count_as_requests() -> None:
    """Else the share rejected would stop at what keeps the sent ones just below the limit."""
    throttle = Throttle(k=2.0, window=120.0)
    outage(throttle, at=0.0, calls=1)
    assert throttle.admit(0.0, not_drawn)  # the one that this second is sure of
    assert not any(throttle.admit(0.0, never) for _ in range(98))
    assert throttle.probability(0.0) == 99 / 100


def test_after_a_pause_nothing_is_held_against_the_far_side() -> None:
    throttle = Throttle(k=2.0, window=10.0)
    outage(throttle, at=0.0, calls=1000)
    assert throttle.probability(30.0) == 0.0
    assert throttle.admit(30.0, not_drawn)
