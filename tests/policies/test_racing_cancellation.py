"""A race on asyncio cancels its caller's task and takes that back. Nothing of anybody else's is taken back with it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from resilient.context import current_runtime
from resilient.errors import DeadlineExceeded
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.hedge import Hedge
from resilient.policies.timeout import Timeout
from tests.policies.races import Body, Closing, Observed, answer, attempts, hangs, hedged, now, soon, this_task

# One's own cancellation is taken back


def test_a_won_race_leaves_no_cancellation_on_its_callers_task():
    assert Observed(lambda: hedged(attempts(hangs, answer(0.5, "second")))).summary == ("second", 1.5, 0, False)


async def in_a_timeout_of_asyncio(body: Body) -> Any:
    async with asyncio.timeout(1.5):
        return await body()


async def in_a_scope_of_anyio(body: Body) -> Any:
    with anyio.fail_after(1.5):
        return await body()


async def in_a_deadline_of_ours(body: Body) -> Any:
    return await hedged(body, Timeout(1.5), hedge=Hedge(1000.0))


INSIDE = [in_a_timeout_of_asyncio, in_a_scope_of_anyio, in_a_deadline_of_ours]


@pytest.mark.parametrize("inside", INSIDE)
@pytest.mark.parametrize("later", [0.0, 1e-9])
def test_a_timeout_in_the_first_attempt_that_ends_with_the_race_changes_nothing(inside, later):
    scenario = attempts(lambda: inside(hangs), answer(0.5 + later, "second"))
    assert Observed(lambda: hedged(scenario)).summary == ("second", 1.5 + later, 0, False)


@pytest.mark.parametrize("outside", INSIDE)
def test_a_timeout_around_the_call_that_ends_with_the_race_is_kept(outside):
    """Both are right: the answer came in time, or it did not. Nothing is left on the task."""

    async def call() -> Any:
        return await hedged(attempts(hangs, answer(0.5, "second")))

    observed = Observed(lambda: outside(call))
    assert observed.came_to == "second" or isinstance(observed.came_to, TimeoutError)
    assert observed.summary[1:] == (1.5, 0, False)


@pytest.mark.parametrize("ticks", range(5))
def test_a_timeout_of_asyncio_around_the_call_that_ends_near_the_race_is_kept(ticks):
    async def scenario() -> Any:
        async with asyncio.timeout(100) as timeout:

            async def second() -> str:
                await anyio.sleep(0.5)
                soon(lambda: timeout.reschedule(now()), ticks=ticks)
                return "second"

            result = await hedged(attempts(hangs, second))
            await asyncio.sleep(1)
        return result

    assert Observed(scenario).summary == (TimeoutError, 1.5, 0, False)


def test_a_lost_race_is_no_deadline_and_a_deadline_no_lost_race():
    """A breaker that took the one for the other would trip on what was only slow, or never on what hangs."""
    breaker = CircuitBreaker(minimum_calls=1)

    async def just_in_time() -> str:
        await anyio.sleep(0.25)
        current_runtime().pause(0.25)  # the timers are late: the deadline fires once this attempt has won
        await asyncio.sleep(0)
        return "second"

    async def scenario() -> Any:
        winner = await hedged(attempts(hangs, just_in_time), breaker, Timeout(1.5))
        assert breaker.state.value == "closed"
        with contextlib.suppress(DeadlineExceeded):
            await hedged(attempts(hangs, hangs), breaker, Timeout(1.5))
        assert breaker.state.value == "open"
        return winner

    assert Observed(scenario).summary == ("second", 1.5 + 2.5, 0, False)


# Others' cancellations are not


@pytest.mark.parametrize("ticks", range(4))
def test_a_cancellation_from_outside_in_the_moment_of_the_hedges_success_surfaces(ticks):
    closing = Closing()

    async def scenario() -> None:
        caller = this_task()

        async def slow_to_leave() -> None:
            try:
                await hangs()
            finally:
                await asyncio.sleep(0.5)

        async def second() -> str:
            await anyio.sleep(0.5)
            soon(caller.cancel, ticks=ticks)
            return "second"

        await hedged(attempts(slow_to_leave, second), classify=closing.classify)

    observed = Observed(scenario)
    # The last ones come when the attempt cleans up, and end that, as they would without a race.
    assert observed.summary in {(asyncio.CancelledError, at, 1, False) for at in (1.5, 2.0)}
    assert closing.closed == ["second"]


@pytest.mark.parametrize("ticks", range(4))
def test_a_failing_sibling_in_the_moment_of_the_hedges_success_is_not_lost(ticks):
    async def scenario() -> None:
        failing = asyncio.Event()

        async def fails() -> None:
            await failing.wait()
            raise KeyError

        async def second() -> str:
            await anyio.sleep(0.5)
            soon(failing.set, ticks=ticks)
            return "second"

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fails())
            await hedged(attempts(hangs, second))
            await asyncio.sleep(1)

    observed = Observed(scenario)
    assert observed.summary == (ExceptionGroup, 1.5, 0, False)


@pytest.mark.parametrize("ticks", range(6))
@pytest.mark.parametrize("keeps", ["nothing", "the cancellation", "all cancellations"])
def test_a_scope_that_is_cancelled_in_the_moment_of_the_hedges_success_catches_its_own(ticks, keeps):
    closing = Closing()

    async def scenario() -> str:
        with anyio.CancelScope() as scope:

            async def first() -> Any:
                try:
                    await hangs()
                except asyncio.CancelledError:
                    if keeps == "nothing":
                        raise
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.sleep(0)
                        await asyncio.sleep(0)
                    if keeps == "the cancellation":
                        raise
                return "first"

            async def second() -> str:
                await anyio.sleep(0.5)
                soon(scope.cancel, ticks=ticks)
                return "second"

            assert await hedged(attempts(first, second), classify=closing.classify) == "second"
            await anyio.lowlevel.checkpoint()
            await anyio.sleep(1)
        return "caught" if scope.cancelled_caught else "not caught"

    assert Observed(scenario).summary == ("caught", 1.5, 0, False)


def test_a_cancellation_that_an_attempt_kept_to_itself_together_with_ours_surfaces():
    """asyncio makes one error of two cancellations: the attempt cannot have known of the other one."""
    closing = Closing()

    async def scenario() -> None:
        caller = this_task()

        async def first() -> str:
            with contextlib.suppress(asyncio.CancelledError):
                await hangs()
            return "first"

        async def second() -> str:
            await anyio.sleep(0.5)
            asyncio.get_running_loop().call_soon(caller.cancel)
            return "second"

        await hedged(attempts(first, second), classify=closing.classify)

    assert Observed(scenario).summary == (asyncio.CancelledError, 1.5, 1, False)
    assert sorted(closing.closed) == ["first", "second"]


def test_a_cancellation_that_an_attempt_kept_to_itself_alone_stays_there():
    async def scenario() -> Any:
        caller = this_task()
        asyncio.get_running_loop().call_later(0.5, caller.cancel)

        async def first() -> str:
            with contextlib.suppress(asyncio.CancelledError):
                await hangs()
            await asyncio.sleep(2)
            return "first"

        return await hedged(attempts(first, hangs))

    assert Observed(scenario).summary == ("first", 2.5, 1, False)


def test_a_clean_up_after_a_cancellation_from_outside_is_not_disturbed_by_a_success():
    cleaned_up: list[float] = []
    closing = Closing()

    async def scenario() -> None:
        asyncio.get_running_loop().call_later(1.25, this_task().cancel)

        async def first() -> None:
            try:
                await hangs()
            finally:
                await asyncio.sleep(3)
                cleaned_up.append(now())

        await hedged(attempts(first, answer(0.5, "second")), classify=closing.classify)

    assert Observed(scenario).summary == (asyncio.CancelledError, 4.25, 1, False)
    assert cleaned_up == [4.25]
    assert closing.closed == ["second"]


def test_an_attempt_that_goes_on_after_a_timeout_of_its_own_is_ended_when_that_has_cleaned_up():
    cleaned_up: list[float] = []

    async def first() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.25):
                try:
                    await hangs()
                finally:
                    await asyncio.sleep(0.5)
                    cleaned_up.append(now())
        await hangs()

    observed = Observed(lambda: hedged(attempts(first, answer(0.5, "second"))))
    assert (observed.came_to, observed.left, observed.late) == ("second", 0, False)
    assert 1.75 <= observed.at < 1.85
    assert cleaned_up == [1.75]
