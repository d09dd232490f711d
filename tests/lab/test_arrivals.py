"""When calls are due."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.lab.arrivals import bursts, poisson, ramp, replay, spike, varying


def chance(seed=1):
    return random.Random(seed).random


def between(instants, low, high):
    return sum(low <= instant < high for instant in instants)


KINDS = {
    "poisson": lambda random, duration: poisson(20, random, duration=duration),
    "varying": lambda random, duration: varying(lambda t: 10 + 10 * math.sin(t), 20, random, duration=duration),
    "ramp": lambda random, duration: ramp(5, 50, random, duration=duration),
    "spike": lambda random, duration: spike(20, 3, random, at=2, seconds=1, duration=duration),
    "bursts": lambda random, duration: bursts(5, 50, random, quiet_for=2, busy_for=1, duration=duration),
}


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(), duration=st.floats(0, 20))
def test_arrivals_rise_stay_within_their_time_and_are_the_same_again(kind, seed, duration):
    instants = list(KINDS[kind](chance(seed), duration))
    assert instants == sorted(instants)
    assert all(0 < instant < duration for instant in instants)
    assert instants == list(KINDS[kind](chance(seed), duration))


@pytest.mark.parametrize("kind", KINDS)
def test_arrivals_without_an_end_do_not_end(kind):
    if kind != "ramp":  # which goes from somewhere to somewhere
        assert len(list(itertools.islice(KINDS[kind](chance(), math.inf), 1000))) == 1000


def test_a_rate_varies_as_it_is_told():
    instants = list(varying(lambda t: 100 if int(t) % 2 else 20, 100, chance(), duration=1000))
    odd = sum(int(instant) % 2 for instant in instants)
    assert odd == pytest.approx(50_000, abs=4 * math.sqrt(50_000))
    assert len(instants) - odd == pytest.approx(10_000, abs=4 * math.sqrt(10_000))


@pytest.mark.parametrize("rate", [101.0, -1.0, math.nan])
def test_a_rate_beyond_its_bounds_is_an_error(rate):
    with pytest.raises(ValueError, match=r"highest=100: at .* the rate is"):
        list(varying(lambda _t: rate, 100, chance(), duration=10))


@pytest.mark.parametrize(("first", "last"), [(100, 900), (900, 100)])
def test_a_ramp_goes_evenly_from_one_rate_to_the_other(first, last):
    instants = list(ramp(first, last, chance(), duration=100))
    for quarter in range(4):
        expected = 25 * (first + (last - first) * (quarter + 0.5) / 4)
        assert between(instants, 25 * quarter, 25 * quarter + 25) == pytest.approx(
            expected, abs=4 * math.sqrt(expected)
        )


@pytest.mark.parametrize("factor", [5, 0.2])
def test_a_spike_is_a_spike(factor):
    instants = list(spike(100, factor, chance(), at=20, seconds=10, duration=50))
    for low, expected in [(0, 2000), (20, 1000 * factor), (30, 2000)]:
        high = low + (10 if low == 20 else 20)
        assert between(instants, low, high) == pytest.approx(expected, abs=4 * math.sqrt(expected))


def test_bursts_come_in_crowds():
    """A third of the time is busy, and counts spread much more than those of a Poisson process."""
    instants = list(bursts(20, 200, chance(), quiet_for=10, busy_for=5, duration=20_000))
    rate = (2 * 20 + 200) / 3
    assert len(instants) / 20_000 == pytest.approx(rate, rel=0.05)
    counts = [0] * 20_000
    for instant in instants:
        counts[int(instant)] += 1
    mean = sum(counts) / len(counts)
    assert sum((count - mean) ** 2 for count in counts) / len(counts) > 20 * mean


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quiet": 0}, "quiet=0"),
        ({"busy": math.inf}, "busy=inf"),
        ({"quiet_for": 0}, "quiet_for=0"),
        ({"busy_for": math.inf}, "busy_for=inf"),
        ({"duration": -1}, "duration=-1"),
    ],
)
def test_bursts_are_checked_at_once(options, message):
    given = {"quiet": 1.0, "busy": 2.0, "quiet_for": 1.0, "busy_for": 1.0} | options
    with pytest.raises(ValueError, match=message):
        bursts(random=chance(), **given)


def test_what_was_recorded_comes_again():
    assert list(replay([0, 0.5, 0.5, 7])) == [0, 0.5, 0.5, 7]


@pytest.mark.parametrize("instants", [[-1.0], [1.0, 0.5], [math.nan], [0.0, math.inf]])
def test_what_was_recorded_is_checked(instants):
    with pytest.raises(ValueError, match="instants: "):
        list(replay(instants))
