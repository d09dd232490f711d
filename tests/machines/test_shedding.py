"""Whom to turn away first: those who matter least, of those that came lately."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.machines.shedding import COHORTS, Pressure, PriorityGate


def half() -> float:
    return 0.5


def read_for(pressure: Pressure, seconds: float, queued: int, begin: float = 0.0) -> float:
    """What it says at the end of so many seconds in which so many waited, at a limit of 20."""
    *_, found = [pressure.read(queued, 20, begin + step / 100) for step in range(1, int(seconds * 100) + 1)]
    return found


def test_a_short_queue_turns_nobody_away_and_a_long_one_more_and_more():
    assert read_for(Pressure(0.5), 60.0, queued=1) == pytest.approx(0.0, abs=1e-6)
    assert read_for(Pressure(0.5), 1.0, queued=10) == pytest.approx(0.3 * 0.9 + 0.5 * 0.9, abs=0.05)
    assert read_for(Pressure(0.5), 9.0, queued=10) == 1.0
    assert read_for(Pressure(0.5), 1.0, queued=99) == read_for(Pressure(0.5), 1.0, queued=10)


def test_a_share_that_was_found_is_held_while_the_queue_is_empty_now_and_then_and_forgotten_when_it_stays_so():
    pressure = Pressure(0.5)
    assert read_for(pressure, 2.0, queued=10) > 0.9
    held = read_for(pressure, 1.0, queued=0, begin=2.0)
    assert 0.4 < held < 0.6, "without the part of the burst"
    assert read_for(pressure, 20.0, queued=0, begin=3.0) == 0.0


def test_few_that_wait_are_no_queue_where_the_limit_is_small():
    pressure = Pressure(0.5)
    *_, found = [pressure.read(1, 1, step / 100) for step in range(1000)]
    assert found < 0.35


def test_a_clock_that_stood_still_or_goes_back_is_no_overload():
    pressure = Pressure(0.5)
    pressure.read(10, 20, 0.0)
    assert pressure.read(10, 20, 1e6) < 0.8
    assert pressure.read(0, 20, 5.0) <= 1.0


def test_without_pressure_everybody_passes_and_under_all_of_it_nobody():
    gate = PriorityGate()
    assert all(gate.admit(level, 0.0, half) for level in range(4 * COHORTS))
    assert not any(gate.admit(level, 1.0, half) for level in range(4 * COHORTS))


def served(gate: PriorityGate, share: float, levels: list[int]) -> Counter[int]:
    return Counter(level // COHORTS for level in levels if gate.admit(level, share, half))


@pytest.mark.parametrize("share", [0.1, 0.25, 0.6, 0.9])
def test_as_many_go_as_have_to_and_whole_priorities_before_the_next(share):
    random, gate = Random(1), PriorityGate()
    levels = [random.randrange(4 * COHORTS) for _ in range(20_000)]
    served(gate, share, levels[:1000])
    passed = served(gate, share, levels[1000:])
    came = Counter(level // COHORTS for level in levels[1000:])
    assert sum(passed.values()) / 19_000 == pytest.approx(1 - share, abs=0.03)
    part = int(share * 4)  # the priority in which the line is drawn
    for priority in range(4):
        rate = passed[priority] / came[priority]
        if priority < part:
            assert rate < 0.1
        elif priority > part:
            assert rate > 0.9


def test_within_a_priority_it_is_always_the_same_users_who_are_served():
    random, gate = Random(1), PriorityGate()
    for _ in range(1000):
        gate.admit(random.randrange(COHORTS), 0.5, half)
    outcomes = {level: Counter[bool]() for level in range(COHORTS)}
    for _ in range(20_000):
        level = random.randrange(COHORTS)
        outcomes[level][gate.admit(level, 0.5, half)] += 1
    torn = [level for level, counts in outcomes.items() if min(counts[True], counts[False]) > 5]
    assert len(torn) < COHORTS / 6, "only about the middle"


def test_what_is_served_follows_what_comes():
    gate = PriorityGate()
    for _ in range(1000):
        gate.admit(0, 0.5, half)
    assert gate.admit(COHORTS, 0.9, half)
    for _ in range(1000):
        gate.admit(3 * COHORTS, 0.5, half)
    assert not gate.admit(COHORTS, 0.5, half)


def test_among_equals_chance_decides():
    random, gate = Random(1), PriorityGate()
    passed = sum(gate.admit(COHORTS, 0.3, random.random) for _ in range(5000))
    assert passed / 5000 == pytest.approx(0.7, abs=0.03)


@given(st.lists(st.tuples(st.integers(0, 4 * COHORTS - 1), st.floats(0.0, 1.0)), max_size=1500))
def test_it_counts_the_last_thousand_exactly(steps):
    gate = PriorityGate()
    recent: list[int] = []
    for level, share in steps:
        recent = [*recent, level][-1000:]
        below, equal = sum(other < level for other in recent), recent.count(level)
        passes = share <= 0 or (share < 1 and below + equal / 2 >= share * len(recent))
        assert gate.admit(level, share, half) == passes
