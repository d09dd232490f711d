"""The latency estimate."""

from __future__ import annotations

from math import exp, isclose

from hypothesis import given
from hypothesis import strategies as st

from resilient.machines.ewma import LatencyEwma

TAU = 3.0
seconds = st.floats(0.0, 100.0)


def test_it_begins_at_its_seed() -> None:
    assert LatencyEwma(0.03, TAU, 7.0).read(7.0) == 0.03


def test_a_higher_latency_replaces_it_at_once() -> None:
    latency = LatencyEwma(0.03, TAU, 0.0)
    latency.observe(0.9, 1.0)
    assert latency.read(1.0) == 0.9


def test_a_lower_latency_is_averaged_in_by_age() -> None:
    latency = LatencyEwma(1.0, TAU, 0.0)
    latency.observe(0.1, 1.5)
    weight = exp(-1.5 / TAU)
    assert isclose(latency.read(1.5), weight * 1.0 + (1 - weight) * 0.1)


def test_two_observations_at_one_moment_keep_the_higher() -> None:
    latency = LatencyEwma(0.03, TAU, 0.0)
    latency.observe(0.5, 1.0)
    latency.observe(0.1, 1.0)
    assert latency.read(1.0) == 0.5


def test_it_decays_while_nothing_is_observed() -> None:
    latency = LatencyEwma(1.0, TAU, 0.0)
    assert isclose(latency.read(TAU), 1.0 / exp(1.0))


def test_reading_does_not_change_it() -> None:
    latency = LatencyEwma(1.0, TAU, 0.0)
    first = latency.read(2.0)
    latency.read(50.0)
    assert latency.read(2.0) == first


def test_it_never_reads_below_a_millisecond() -> None:
    """Or the instance that was idle a moment longer would look many times faster than the others."""
    latency = LatencyEwma(1.0, TAU, 0.0)
    assert latency.read(3600.0) == 0.001


def test_a_call_that_was_given_up_early_says_nothing() -> None:
    latency = LatencyEwma(0.2, TAU, 0.0)
    latency.at_least(0.01, 1.0)
    assert latency.read(1.0) == 0.2 * exp(-1.0 / TAU)


def test_a_call_that_was_given_up_late_raises_it() -> None:
    latency = LatencyEwma(0.2, TAU, 0.0)
    latency.at_least(0.7, 1.0)
    assert latency.read(1.0) == 0.7


def test_a_clock_reading_from_before_the_last_observation_does_no_harm() -> None:
    """Two threads read the clock in one order and settle in the other."""
    latency = LatencyEwma(0.2, TAU, 0.0)
    latency.observe(0.3, 5.0)
    latency.observe(0.1, 4.9)
    assert latency.read(4.9) == latency.read(5.0) == 0.3


@given(st.lists(st.tuples(seconds, st.floats(0.0, 10.0)), max_size=20), seconds)
def test_it_stays_between_the_floor_and_the_highest_latency(steps: list[tuple[float, float]], later: float) -> None:
    now = 0.0
    latency = LatencyEwma(0.03, TAU, now)
    for gap, observed in steps:
        now += gap
        latency.observe(observed, now)
    highest = max(0.03, *(observed for _, observed in steps), 0.001)
    assert 0.001 <= latency.read(now + later) <= highest


@given(st.lists(st.tuples(seconds, st.floats(0.0, 10.0)), max_size=20))
def test_it_is_the_projected_average_of_its_definition(steps: list[tuple[float, float]]) -> None:
    """Against the recurrence written out naively, with the time of each observation."""
    now, cost, stamp = 0.0, 0.03, 0.0
    latency = LatencyEwma(cost, TAU, now)
    for gap, observed in steps:
        now += gap
        latency.observe(observed, now)
        weight = exp(-(now - stamp) / TAU)
        cost = observed if observed >= cost else cost * weight + observed * (1 - weight)
        stamp = now
    assert isclose(latency.read(now), max(cost, 0.001), abs_tol=1e-12)
