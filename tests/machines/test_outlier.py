"""Who is out of use, and how many may be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.machines.circuit import Circuit, CircuitState, Judgement
from resilient.machines.outlier import Division, Ejection

RANDOM = Random(0).random


@dataclass(eq=False)
class Stub:
    circuit: Circuit
    passing: bool = True


def fleet(ejection: Ejection, count: int) -> list[Stub]:
    return [Stub(ejection.circuit()) for _ in range(count)]


def divide(ejection: Ejection, members: list[Stub], now: float) -> Division[Stub]:
    return ejection.divide(members, {one for one in members if one.circuit.closed is None or not one.passing}, now)


def settle(one: Stub, judgement: Judgement, now: float = 0.0) -> None:
    permit = one.circuit.admit(now)
    assert permit is not None
    one.circuit.settle(permit, judgement, 0.0, now, RANDOM)


def fail(one: Stub, times: int = 5, now: float = 0.0) -> None:
    for _ in range(times):
        settle(one, Judgement.BAD, now)


@pytest.mark.parametrize(
    ("share", "total", "limit"),
    [
        (0.5, 0, -1),
        (0.5, 1, 0),  # never the only one
        (0.5, 2, 1),
        (0.5, 3, 1),
        (0.5, 5, 2),
        (0.1, 3, 1),  # always one
        (0.1, 30, 3),
        (0.99, 2, 1),
        (1.0, 1, 1),  # unless that is what was asked for
        (1.0, 5, 5),
    ],
)
def test_how_many_may_be_out(share: float, total: int, limit: int) -> None:
    assert Ejection(max_ejected=share).limit(total) == limit


@given(st.floats(0.01, 0.99), st.integers(1, 500))
def test_the_last_one_is_never_taken_out(share: float, total: int) -> None:
    limit = Ejection(max_ejected=share).limit(total)
    assert min(1, total - 1) <= limit < total
    assert limit <= max(1, share * total)


def test_all_are_usable_while_none_fails() -> None:
    ejection = Ejection()
    members = fleet(ejection, 3)
    division = divide(ejection, members, 0.0)
    assert division.usable == tuple(members)
    assert (division.trial, division.panic, division.room, division.until) == ((), False, True, math.inf)


def test_nobody_is_nobody() -> None:
    nobody: list[Stub] = []
    division = divide(Ejection(), nobody, 0.0)
    assert (division.usable, division.panic, division.room) == ((), False, False)


def test_five_failures_in_a_row_take_one_out_until_its_time_is_over() -> None:
    ejection = Ejection(duration=5.0)
    members = bad, *rest = fleet(ejection, 3)
    fail(bad, 4)
    assert divide(ejection, members, 0.0).usable == tuple(members)
    fail(bad, 1)
    division = divide(ejection, members, 1.0)
    assert division.usable == tuple(rest)
    assert (division.trial, division.room, division.until) == ((), False, 5.0)
    division = divide(ejection, members, 5.0)
    assert (division.usable, division.trial, division.until) == (tuple(rest), (bad,), math.inf)


def test_half_of_twenty_calls_failing_take_one_out() -> None:
    """It never fails five times in a row."""
    ejection = Ejection()
    members = bad, _, _ = fleet(ejection, 3)
    for number in range(20):
        assert bad in divide(ejection, members, 0.0).usable
        settle(bad, Judgement.GOOD if number % 2 == 0 else Judgement.BAD, now=number * 0.1)
    assert bad not in divide(ejection, members, 2.0).usable


def test_shares_may_not_matter() -> None:
    ejection = Ejection(failure_ratio=None)
    (bad,) = members = fleet(ejection, 1)
    for number in range(200):
        settle(bad, Judgement.GOOD if number % 4 == 0 else Judgement.BAD)
    assert divide(ejection, members, 0.0).usable == (bad,)


def test_rows_may_not_matter() -> None:
    ejection = Ejection(consecutive_failures=None)
    (bad,) = members = fleet(ejection, 1)
    fail(bad, 19)
    assert divide(ejection, members, 0.0).usable == (bad,)


def test_failures_spread_over_more_than_the_window_take_nobody_out() -> None:
    ejection = Ejection(consecutive_failures=None)
    (slow,) = members = fleet(ejection, 1)
    for number in range(100):
        settle(slow, Judgement.BAD, now=number * 1.0)
    assert divide(ejection, members, 100.0).usable == (slow,)


def test_one_success_on_trial_is_enough_to_come_back() -> None:
    ejection = Ejection(duration=5.0)
    members = bad, _, _ = fleet(ejection, 3)
    fail(bad)
    settle(bad, Judgement.GOOD, now=5.0)
    assert divide(ejection, members, 5.0).usable == tuple(members)


def test_what_stood_still_for_a_moment_is_back_soon_and_what_stays_down_is_tried_ever_more_seldom() -> None:
    ejection = Ejection()
    bad, *_ = members = fleet(ejection, 3)
    fail(bad)
    tried = [divide(ejection, members, 0.0).until]
    while tried[-1] < 60.0:
        settle(bad, Judgement.BAD, now=tried[-1])
        tried.append(divide(ejection, members, tried[-1]).until)
    assert tried[0] == 1.0
    assert len(tried) == 6  # after 1, 3, 7, 15, 31 and 63 seconds, and what chance adds
    assert all(later > 2 * earlier for earlier, later in pairwise(tried))


@pytest.mark.parametrize("judgement", [Judgement.BAD, Judgement.TURNED_AWAY])
def test_a_trial_that_fails_takes_it_out_for_longer(judgement: Judgement) -> None:
    ejection = Ejection(duration=5.0)
    members = bad, _, _ = fleet(ejection, 3)
    fail(bad)
    settle(bad, judgement, now=5.0)
    assert 15.0 <= divide(ejection, members, 5.0).until <= 17.0


def test_somebody_on_trial_stays_there_until_a_probe_decides() -> None:
    ejection = Ejection()
    members = bad, _, _ = fleet(ejection, 3)
    fail(bad)
    settle(bad, Judgement.NOTHING, now=6.0)
    assert bad.circuit.state is CircuitState.HALF_OPEN
    assert divide(ejection, members, 6.0).trial == (bad,)


@pytest.mark.parametrize(("duration", "lease"), [(1.0, 5.0), (20.0, 20.0)])
def test_a_trial_that_hangs_is_not_followed_by_another_each_second(duration: float, lease: float) -> None:
    bad = Stub(Ejection(duration=duration).circuit())
    fail(bad)
    assert bad.circuit.admit(duration) is not None
    assert bad.circuit.admit(duration + lease - 0.1) is None
    assert bad.circuit.admit(duration + lease) is not None


def test_too_few_healthy_ones_are_a_panic() -> None:
    ejection = Ejection(max_ejected=1.0)
    members = one, other, third, _ = fleet(ejection, 4)
    fail(one)
    fail(other)
    assert not divide(ejection, members, 1.0).panic  # half of them is not less than half
    fail(third)
    division = divide(ejection, members, 1.0)
    assert division.panic
    assert division.usable == tuple(members)


def test_panic_can_be_turned_off() -> None:
    ejection = Ejection(max_ejected=1.0, panic=0.0)
    (only,) = members = fleet(ejection, 1)
    fail(only)
    division = divide(ejection, members, 1.0)
    assert (division.usable, division.panic) == ((), False)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("consecutive_failures", 0),
        ("minimum_calls", 0),
        ("probes", 0),
        ("failure_ratio", 0.0),
        ("failure_ratio", 1.1),
        ("max_ejected", 0.0),
        ("max_ejected", 2.0),
        ("window", 0.0),
        ("window", math.inf),
        ("duration", math.nan),
        ("panic", -0.1),
        ("panic", 1.5),
    ],
)
def test_a_bad_argument_is_refused_by_name(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{argument}={value}"):
        Ejection(**{argument: value})
