"""What a server knows of its own load."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.machines.load import Load, LoadMeter, _level


def served(meter: LoadMeter, at: float, latency: float, found: int = 0) -> None:
    """A request that finds so many there."""
    ahead = [meter.begin() for _ in range(found)]
    mine = meter.begin()
    meter.end(mine, latency, at)
    for one in ahead:
        meter.end(one, None, at)


def test_a_server_that_has_served_nothing_knows_no_latency() -> None:
    assert LoadMeter().load(7.0) == Load(rps=0.0, eps=0.0, in_flight=0)


def test_the_latency_is_the_median_at_the_present_number_of_requests() -> None:
    meter = LoadMeter()
    for latency in (0.01, 0.02, 9.0):
        served(meter, 1.0, latency)
    for latency in (0.1, 0.2, 9.0):
        served(meter, 1.0, latency, found=5)
    assert meter.latency(1.0) == 0.02
    for _ in range(5):
        meter.begin()
    assert meter.load(1.0).latency == 0.2
    assert meter.in_flight == 5


def test_the_nearest_number_counts_where_there_was_none_like_it() -> None:
    meter = LoadMeter()
    served(meter, 1.0, 0.01, found=1)
    served(meter, 1.0, 0.5, found=12)
    for _ in range(9):
        meter.begin()
    assert meter.latency(1.0) == 0.5
    served(meter, 1.0, 0.03, found=0)  # at 9 now
    assert meter.latency(1.0) == 0.03


def test_what_was_long_ago_counts_only_where_there_is_nothing_else() -> None:
    meter = LoadMeter()
    served(meter, 0.0, 0.01)
    assert meter.latency(100.0) == 0.01
    served(meter, 95.0, 0.4, found=3)
    assert meter.latency(100.0) == 0.4
    served(meter, 99.0, 0.02)
    assert meter.latency(100.0) == 0.02


def test_only_the_last_ones_count() -> None:
    meter = LoadMeter()
    for _ in range(100):
        served(meter, 1.0, 0.01)
    for _ in range(32):
        served(meter, 1.0, 0.3)
    assert meter.latency(1.0) == 0.3


def test_failures_say_nothing_of_latencies() -> None:
    meter = LoadMeter()
    meter.end(meter.begin(), 0.0001, 1.0, failed=True)
    assert meter.latency(1.0) is None
    assert meter.load(1.0).eps == meter.load(1.0).rps
    assert meter.in_flight == 0


@pytest.mark.parametrize("rate", [5, 20, 300])
@pytest.mark.parametrize("seconds", [4, 10, 60])
def test_an_even_rate_is_measured_from_its_beginning(rate: int, seconds: int) -> None:
    meter = LoadMeter()
    for number in range(seconds * rate):
        meter.end(meter.begin(), 0.01, 5.0 + number / rate, failed=number % 4 == 0)
    load = meter.load(5.0 + seconds)
    assert load.rps == pytest.approx(rate, rel=0.15)
    assert load.eps == pytest.approx(rate / 4, rel=0.25)


def test_a_rate_fades() -> None:
    meter = LoadMeter()
    for number in range(1000):
        meter.end(meter.begin(), 0.01, number / 10)
    assert meter.load(200.0).rps == pytest.approx(0.0, abs=0.01)


def test_levels_rise_and_hold_together_what_differs_by_less_than_an_eighth() -> None:
    levels = [_level(number) for number in range(5000)]
    assert levels[:16] == list(range(16))
    assert all(0 <= later - earlier <= 1 for earlier, later in pairwise(levels))
    for number in range(16, 5000):
        first = levels.index(levels[number])
        assert number < first * 1.125


@given(st.lists(st.tuples(st.booleans(), st.floats(0.0, 10.0)), max_size=60))
def test_what_is_in_flight_is_what_has_begun_and_not_ended(steps: list[tuple[bool, float]]) -> None:
    meter = LoadMeter()
    inside: list[int] = []
    now = 0.0
    for begins, seconds in steps:
        now += seconds
        if begins or not inside:
            assert meter.begin() == len(inside)
            inside.append(len(inside))
        else:
            meter.end(inside.pop(), seconds, now)
        assert meter.in_flight == len(inside)
        assert meter.load(now).in_flight == len(inside)


def test_the_applications_own_measure_comes_first() -> None:
    assert Load(application_utilization=0.2, cpu_utilization=0.9).utilization == 0.2
    assert Load(cpu_utilization=0.9).utilization == 0.9
    assert Load().utilization is None
