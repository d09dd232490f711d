"""The retry budget that pipelines share."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from resilient.budget import RetryBudget


@pytest.fixture
def restless() -> Iterator[None]:
    """Let the interpreter switch between threads as often as it can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def in_threads(work: Callable[[], int], *, threads: int = 8) -> int:
    """What all of them did, added up."""
    done = [0] * threads
    start = threading.Barrier(threads)

    def run(index: int) -> None:
        start.wait()
        done[index] = work()

    running = [threading.Thread(target=run, args=(index,)) for index in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(done)


def test_by_default_ten_calls_pay_for_one_extra_attempt_beyond_one_a_second() -> None:
    budget = RetryBudget()
    assert budget.balance(0.0) == 10.0
    for _ in range(10):
        budget.deposit(0.0)
    assert [budget.withdraw(0.0) for _ in range(12)] == [True] * 11 + [False]
    assert budget.balance(0.0) == 0.0


def test_its_time_to_live_is_in_seconds_of_the_clock_that_is_given() -> None:
    budget = RetryBudget(ratio=1.0, floor=0.0, ttl=2.0)
    budget.deposit(1000.0)
    assert budget.balance(1001.9) == 1.0
    assert budget.balance(1002.2) == 0.0


def test_it_can_be_switched_off() -> None:
    budget = RetryBudget(ratio=0, floor=0)
    budget.deposit(0.0)
    assert not budget.withdraw(0.0)


@pytest.mark.usefixtures("restless")
def test_threads_never_withdraw_more_than_there_is() -> None:
    """Peers add up the account and then charge it: two threads then both find the same room."""
    budget = RetryBudget(ratio=0.0, floor=10.0)
    assert in_threads(lambda: sum(budget.withdraw(0.0) for _ in range(500))) == 100


@pytest.mark.usefixtures("restless")
def test_threads_lose_no_deposit() -> None:
    budget = RetryBudget(ratio=1.0, floor=0.0)

    def deposit() -> int:
        for _ in range(2_000):
            budget.deposit(0.0)
        return 2_000

    assert in_threads(deposit) == budget.balance(0.0) == 16_000


def test_a_time_that_cannot_be_counted_leaves_it_usable() -> None:
    """The lock is free again, whatever happened while it was held."""
    budget = RetryBudget()
    with pytest.raises(TypeError):
        budget.deposit("now")  # type: ignore[arg-type]  # the mistake is the test
    assert budget.withdraw(0.0)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        *[("ratio", value, "between 0 and 1") for value in (-0.1, 1.1, math.inf, math.nan)],
        *[("floor", value, "at least 0") for value in (-1, math.inf, math.nan)],
        *[("ttl", value, "more than 0") for value in (0, -1, math.inf, math.nan)],
    ],
)
def test_a_bad_argument_is_refused_by_name(name: str, value: float, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}={value!r}: a .*number of .*{allowed}$"):
        RetryBudget(**{name: value})


def test_it_shows_its_configuration_and_not_its_state() -> None:
    assert repr(RetryBudget(ratio=0.2)) == "RetryBudget(ratio=0.2, floor=1.0, ttl=10.0)"


def test_each_is_an_account_of_its_own() -> None:
    assert RetryBudget() != RetryBudget()
    assert len({RetryBudget(), RetryBudget()}) == 2
