"""Losers on asyncio: their caller waits for them, whoever cancels whom meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import anyio
import pytest

from resilient.policies.hedge import Hedge
from resilient.testing import virtual_time
from resilient.verdict import Classifier, Verdict, classify_function
from tests.policies.races import Body, Closing, Observed, answer, attempts, hangs, hedged, now, this_task

# Whoever waits for the losers may be cancelled too


def stubborn(seconds: float, left: list[float]) -> Body:
    """Takes its time to leave."""

    async def body() -> None:
        try:
            await hangs()
        finally:
            await asyncio.sleep(seconds)
            left.append(now())

    return body


@pytest.mark.parametrize("times", [1, 3])
def test_a_caller_that_is_cancelled_while_it_waits_for_a_loser_waits_on_and_goes_then(times):
    closing, left = Closing(), list[float]()

    async def scenario() -> None:
        for number in range(times):
            asyncio.get_running_loop().call_later(1.6 + number / 10, this_task().cancel)
        await hedged(attempts(answer(1.5, "first"), stubborn(1.0, left)), classify=closing.classify)

    assert Observed(scenario).summary == (asyncio.CancelledError, 2.5, times, False)
    assert left == [2.5]
    assert closing.closed == ["first"]


def test_a_scope_that_is_cancelled_while_its_caller_waits_for_a_loser_waits_on_too():
    """anyio would cancel the wait again in every round of the loop, which time could never leave."""
    left: list[float] = []

    async def scenario() -> str:
        with anyio.CancelScope() as scope:
            asyncio.get_running_loop().call_later(1.6, scope.cancel)
            await hedged(attempts(answer(1.5, "first"), stubborn(1.0, left)))
            await anyio.sleep(1)
        return "caught" if scope.cancelled_caught else "not caught"

    assert Observed(scenario).summary == ("caught", 2.5, 0, False)
    assert left == [2.5]


@pytest.mark.parametrize("how", ["natively", "by a scope"])
def test_a_caller_that_is_cancelled_while_it_waits_for_a_success_ends_the_others(how):
    left: list[float] = []

    async def scenario() -> None:
        with anyio.CancelScope() as scope:
            cancel = this_task().cancel if how == "natively" else scope.cancel
            asyncio.get_running_loop().call_later(2.5, cancel)
            await hedged(attempts(answer(1.5, KeyError()), stubborn(1.0, left)))
        assert scope.cancelled_caught

    expected = (asyncio.CancelledError, 3.5, 1, False) if how == "natively" else (None, 3.5, 0, False)
    assert Observed(scenario).summary == expected
    assert left == [3.5]


def test_a_caller_that_is_cancelled_again_while_results_are_closed_closes_all():
    closed: list[str] = []

    async def close(result: str) -> bool:
        try:
            await asyncio.sleep(0.5)
        finally:
            closed.append(result)
        return False

    async def late(value: str) -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await hangs()
        return value

    async def scenario() -> None:
        for at in (2.6, 2.7, 2.8):
            asyncio.get_running_loop().call_later(at, this_task().cancel)
        bodies = (lambda: late("first"), answer(1.5, "second"), lambda: late("third"))
        classify = Classifier(error=classify_function.error, discard=close)
        await hedged(attempts(*bodies), hedge=Hedge(1.0, max_hedges=2), classify=classify)

    observed = Observed(scenario)
    assert observed.summary[0] is asyncio.CancelledError
    assert observed.summary[2:] == (3, False)
    assert sorted(closed) == ["first", "second", "third"]


def test_a_caller_that_is_cancelled_after_the_classifier_failed_goes_all_the_same():
    left: list[float] = []

    def judge(_: object) -> Verdict:
        raise ZeroDivisionError

    async def scenario() -> None:
        asyncio.get_running_loop().call_later(2.0, this_task().cancel)
        classify = Classifier(error=classify_function.error, result=judge)
        await hedged(attempts(answer(1.5, "first"), stubborn(1.0, left)), classify=classify)

    assert Observed(scenario).summary == (asyncio.CancelledError, 2.5, 1, False)
    assert left == [2.5]


# Whoever else cancels an attempt


def test_a_second_attempt_that_a_stranger_cancels_is_out_of_the_race():
    async def second() -> None:
        asyncio.get_running_loop().call_later(0.25, this_task().cancel)
        await hangs()

    work = attempts(answer(2.0, "first"), second)
    assert Observed(lambda: hedged(work)).summary == ("first", 2.0, 0, False)
    work = attempts(answer(2.0, KeyError()), second)
    assert Observed(lambda: hedged(work)).summary == (KeyError, 2.0, 0, False)
    work = attempts(hangs, second, answer(0.5, "third"))
    assert Observed(lambda: hedged(work, hedge=Hedge(1.0, max_hedges=2))).summary == ("third", 2.5, 0, False)


def test_a_first_attempt_that_waits_for_what_was_cancelled_ends_as_it_would_alone():
    left: list[float] = []

    async def first() -> None:
        gone = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(1.5, gone.cancel)
        await gone

    observed = Observed(lambda: hedged(attempts(first, stubborn(0.5, left))))
    assert observed.summary == (asyncio.CancelledError, 2.0, 0, False)
    assert left == [2.0]


def test_a_call_in_an_attempt_of_a_hedged_call_is_a_race_of_its_own():
    async def inner(seconds: float) -> Any:
        return await hedged(attempts(hangs, answer(seconds, "inner")))

    work = attempts(lambda: inner(100.0), lambda: inner(0.5))
    assert Observed(lambda: hedged(work)).summary == ("inner", 2.5, 0, False)
    work = attempts(lambda: inner(1.5), lambda: inner(0.5))  # both win in the same instant
    assert Observed(lambda: hedged(work)).summary == ("inner", 2.5, 0, False)


def test_a_run_that_is_shut_down_ends_all_attempts():
    left: list[int] = []

    async def work(number: int) -> None:
        try:
            await hangs()
        finally:
            left.append(number)

    async def main() -> None:
        background.add(asyncio.create_task(hedged(attempts(lambda: work(1), lambda: work(2)))))
        await anyio.sleep(1.5)

    background: set[asyncio.Task[Any]] = set()
    virtual_time.run(main)
    assert sorted(left) == [1, 2]
    assert background.pop().cancelled()


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_loser_that_cannot_be_closed_does_not_hide_its_callers_cancellation(cancelled):
    closed: list[str] = []

    async def close(result: str) -> bool:
        closed.append(result)
        await asyncio.sleep(0.5)
        raise KeyError(result)

    async def late() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await hangs()
        return "first"

    async def scenario() -> None:
        if cancelled:
            asyncio.get_running_loop().call_later(1.75, this_task().cancel)
        classify = Classifier(error=classify_function.error, discard=close)
        await hedged(attempts(late, answer(0.5, "second")), classify=classify)

    expected = (asyncio.CancelledError, 2.25, 1, False) if cancelled else (KeyError, 2.5, 0, False)
    assert Observed(scenario).summary == expected
    assert closed == ["first", "second"]
