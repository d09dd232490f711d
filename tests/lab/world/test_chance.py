"""Random numbers that runs have in common."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.lab.world.chance import Chance

NUMBERS = st.integers(0, 2**63)


@given(call=NUMBERS, attempt=st.integers(0, 1000), seed=st.integers())
def test_a_number_belongs_to_its_call_and_attempt(call, attempt, seed):
    draw = Chance(seed).of_call("here")
    for other in (0, call + 1, 7):
        draw(other, attempt)
    assert draw(call, attempt) == Chance(seed).of_call("here")(call, attempt)
    assert 0.0 < draw(call, attempt) < 1.0


def test_names_and_seeds_make_other_numbers():
    draws = [Chance(seed).of_call(name) for seed in (0, 1) for name in ("a", "b")]
    numbers = [draw(call, attempt) for draw in draws for call in range(100) for attempt in range(10)]
    assert len(set(numbers)) == 4000


def test_the_numbers_are_the_same_for_ever():
    """On every machine, and with every Python: what they are is of no interest."""
    draw = Chance(42).of_call("service times of db")
    assert [draw(call, attempt) for call, attempt in [(0, 0), (0, 1), (1, 0), (2**70, 3)]] == GOLDEN_CALLS
    stream = Chance(42).stream("arrivals")
    assert [stream.random() for _ in range(3)] == GOLDEN_STREAM


GOLDEN_CALLS = [0.9460180020811101, 0.8503574332240779, 0.5694952982413514, 0.7356299775802767]
GOLDEN_STREAM = [0.4210355407670592, 0.5000262684504895, 0.5864861663547276]


@pytest.mark.parametrize("which", ["of calls", "of attempts"])
def test_the_numbers_are_evenly_spread(which):
    """Chi-square over a hundred cells: 99 degrees of freedom, of which 149 are exceeded once in a thousand times."""
    draw, count = Chance(1).of_call("here"), 20_000
    cells = [0] * 100
    for number in range(count):
        cells[int(100 * (draw(number, 0) if which == "of calls" else draw(3, number)))] += 1
    assert math.fsum((cell - count / 100) ** 2 / (count / 100) for cell in cells) < 149


@pytest.mark.parametrize("step", [(1, 0), (0, 1), (1, 1), (64, 0), (1, -1)])
def test_neighbours_have_nothing_to_do_with_each_other(step):
    """The correlation of 20,000 pairs has a deviation of 0.007."""
    draw, count = Chance(1).of_call("here"), 20_000
    pairs = [(draw(number, 1), draw(number + step[0], 1 + step[1])) for number in range(count)]
    covariance = math.fsum((a - 0.5) * (b - 0.5) for a, b in pairs) / count
    assert abs(12 * covariance) < 0.025


def test_streams_do_not_share_their_numbers():
    one, again, other = (Chance(0).stream(name) for name in ("a", "a", "b"))
    first = [one.random() for _ in range(5)]
    assert [again.random() for _ in range(5)] == first
    assert not set(first) & {other.random() for _ in range(5)}
    assert all(a != b for a, b in itertools.pairwise(first))
