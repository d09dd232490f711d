"""The account of extra attempts: a share of recent calls and a floor, never savings."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from resilient.machines.budget import Budget

TTL = 10.0


class BudgetAgainstItsHistory(RuleBasedStateMachine):
    """The model keeps every deposit and withdrawal for ever, and computes in fractions."""

    @initialize(ratio=st.sampled_from([0.0, 0.1, 0.2, 0.6, 1.0]), floor=st.sampled_from([0.0, 0.1, 0.3]))
    def begin(self, ratio: float, floor: float) -> None:
        self.budget = Budget(ratio=ratio, floor=floor, ttl=TTL)
        self.ratio, self.reserve = Fraction(str(ratio)), Fraction(str(floor)) * int(TTL)
        self.now = 0.0
        self.deposits: list[float] = []
        self.withdrawals: list[float] = []

    @rule(quarters=st.one_of(st.integers(0, 8), st.integers(0, 60)))
    def time_passes(self, quarters: int) -> None:
        self.now += quarters / 4

    @rule(count=st.integers(1, 30))
    def calls_come(self, count: int) -> None:
        for _ in range(count):
            self.budget.deposit(self.now)
            self.deposits.append(self.now)

    @rule()
    def an_extra_attempt_is_asked_for(self) -> None:
        room = self.room()
        assert self.budget.withdraw(self.now) == (room >= 1)
        if room >= 1:
            self.withdrawals.append(self.now)

    def room(self) -> Fraction:
        """The window is ten buckets of a second and the present one."""
        since = math.floor(self.now) - TTL
        deposits, withdrawals = ([at for at in times if at >= since] for times in (self.deposits, self.withdrawals))
        return self.reserve + self.ratio * len(deposits) - len(withdrawals)

    @invariant()
    def the_balance_is_what_the_last_seconds_left(self) -> None:
        assert self.budget.balance(self.now) == pytest.approx(float(self.room()))

    @invariant()
    def no_span_holds_more_than_the_floor_and_the_ratio_of_its_calls(self) -> None:
        for end in self.withdrawals:
            extra = sum(end - TTL < at <= end for at in self.withdrawals)
            calls = sum(end - 1.1 * TTL <= at <= end for at in self.deposits)
            assert extra <= self.reserve + self.ratio * calls


TestBudget = BudgetAgainstItsHistory.TestCase


def withdrawn(budget: Budget, now: float, asked: int = 10_000) -> int:
    return sum(budget.withdraw(now) for _ in range(asked))


@pytest.mark.parametrize(
    ("ratio", "calls", "extra"), [(0.1, 10, 1), (0.1, 9, 0), (0.1, 30, 3), (0.6, 10, 6), (1.0, 7, 7)]
)
def test_calls_pay_for_their_ratio_beyond_the_floor(ratio: float, calls: int, extra: int) -> None:
    """A peer makes a whole attempt a call of a ratio of 0.6."""
    budget = Budget(ratio=ratio, floor=1.0, ttl=TTL)
    for _ in range(calls):
        budget.deposit(100.0)
    assert withdrawn(budget, 100.0) == 10 + extra


@given(calls=st.integers(0, 3000), percent=st.integers(0, 100))
@example(calls=100, percent=29)
def test_the_room_is_exact_for_every_ratio(calls: int, percent: int) -> None:
    """Also where it is rounded down: 0.29 * 100 is less than 29."""
    budget = Budget(ratio=percent / 100, floor=0.0, ttl=TTL)
    for _ in range(calls):
        budget.deposit(0.0)
    assert withdrawn(budget, 0.0, asked=calls + 1) == calls * percent // 100


def test_a_client_with_little_traffic_has_the_floor() -> None:
    budget = Budget(ratio=0.1, floor=2.0, ttl=TTL)
    assert withdrawn(budget, 0.0) == 20
    assert withdrawn(budget, 5.0) == 0
    assert withdrawn(budget, 11.0) == 20


def test_nothing_is_saved_up_beyond_the_time_to_live() -> None:
    budget = Budget(ratio=0.1, floor=0.0, ttl=TTL)
    for tenth in range(36_000):
        budget.deposit(tenth / 10)
    assert budget.balance(3600.0) == pytest.approx(10.0, abs=1.0)
    assert withdrawn(budget, 3600.0 + 1.1 * TTL) == 0


def test_a_pause_leaves_the_floor_and_nothing_else() -> None:
    budget = Budget(ratio=1.0, floor=1.0, ttl=TTL)
    for _ in range(1000):
        budget.deposit(0.0)
    assert budget.balance(30.0) == 10.0


def test_with_everything_failing_the_far_side_gets_a_tenth_more() -> None:
    """Three attempts a call would be three times the load, which keeps an overloaded service down."""
    budget = Budget(ratio=0.1, floor=1.0, ttl=TTL)
    calls = extra = 0
    for tick in range(100_000):
        budget.deposit(tick / 1000)
        calls += 1
        extra += budget.withdraw(tick / 1000) + budget.withdraw(tick / 1000)
    assert 1.09 < (calls + extra) / calls < 1.102


def test_an_empty_budget_refuses_and_is_not_charged_for_it() -> None:
    budget = Budget(ratio=0.5, floor=0.0, ttl=TTL)
    assert withdrawn(budget, 0.0) == 0
    assert budget.balance(0.0) == 0.0
    budget.deposit(0.0)
    budget.deposit(0.0)
    assert withdrawn(budget, 0.0) == 1
