"""Every word of tenacity's vocabulary means here what it means there."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any, cast

import anyio
import pytest
import tenacity
import tenacity.asyncio.retry as aio

from resilient.context import current_runtime, use_runtime
from resilient.pipeline import Pipeline
from resilient.policies.retry import Backoff, Retry
from resilient.policies.tenacious import Tenacious, is_tenacious, judges_results
from resilient.runtime import Runtime
from resilient.testing import virtual_time

AT_ONCE = Backoff(base=0)


def run_here(retry: Retry, work: Callable[[], Any]) -> tuple[Any, list[float]]:
    """What comes of it, and when it was tried."""
    times: list[float] = []

    def timed() -> Any:
        times.append(current_runtime().now())
        return work()

    with use_runtime(virtual_time.runtime()):
        try:
            return Pipeline(retry).call(timed), times
        except Exception as error:
            return repr(error), times


def run_there(retrying: tenacity.Retrying, work: Callable[[], Any]) -> tuple[Any, list[float]]:
    """The same by tenacity itself, on a clock that its sleep moves."""
    times: list[float] = []
    clock = virtual_time.runtime()

    def timed() -> Any:
        times.append(clock.now())
        return work()

    try:
        return retrying.copy(sleep=clock.pause, reraise=True)(timed), times
    except tenacity.RetryError as error:  # a result that is still wanted otherwise; ours returns it
        return error.last_attempt.result(), times
    except Exception as error:
        return repr(error), times


class Cause(Exception):
    pass


def outcomes() -> Iterator[Any]:
    """Errors and results of many kinds."""
    with_cause = ValueError("with a cause")
    with_cause.__cause__ = Cause()
    yield from (OSError("reset"), None, with_cause, KeyError("gone"), "", OSError("again"), "answer", KeyError("late"))


def working() -> Callable[[], Any]:
    remaining = outcomes()

    def work() -> Any:
        outcome = next(remaining)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return work


def same(**arguments: Any) -> None:
    """Ours and tenacity's come to the same with these strategies."""
    retrying = tenacity.Retrying(**arguments)
    random.seed(1)  # tenacity's own jitter
    there = run_there(retrying, working())
    random.seed(1)
    here = run_here(Retry.from_tenacity(retrying), working())
    assert here[0] == there[0]
    assert here[1] == pytest.approx(there[1])
    assert len(there[1]) > 0


def begins_with_r(outcome: BaseException) -> bool:
    return str(outcome).startswith("r")


@pytest.mark.parametrize(
    "retry",
    [
        tenacity.retry_if_exception(begins_with_r),
        tenacity.retry_if_exception_type(),
        tenacity.retry_if_exception_type(OSError),
        tenacity.retry_if_exception_type((OSError, ValueError)),
        tenacity.retry_if_not_exception_type(KeyError),
        tenacity.retry_unless_exception_type(KeyError),
        tenacity.retry_if_exception_cause_type(Cause),
        tenacity.retry_if_exception_message(message="reset"),
        tenacity.retry_if_exception_message(match="re.*"),
        tenacity.retry_if_not_exception_message(match="'gone'"),
        tenacity.retry_if_result(lambda result: not result),
        tenacity.retry_if_not_result(bool),
        tenacity.retry_always,
        tenacity.retry_never,
        tenacity.retry_if_exception_type(OSError) | tenacity.retry_if_result(lambda result: result is None),
        tenacity.retry_if_exception_type(OSError) & tenacity.retry_if_exception_message(message="reset"),
        tenacity.retry_any(tenacity.retry_if_exception_type(KeyError), tenacity.retry_if_exception_type(OSError)),
        tenacity.retry_all(tenacity.retry_if_exception_type(), tenacity.retry_if_exception(begins_with_r)),
    ],
    ids=lambda strategy: type(strategy).__name__,
)
def test_what_is_repeated(retry: Any):
    same(retry=retry, stop=tenacity.stop_after_attempt(6))


@pytest.mark.parametrize(
    ("stop", "attempts"),
    [
        (tenacity.stop_after_attempt(3), 3),
        (tenacity.stop_after_delay(2), 4),
        (tenacity.stop_after_delay(timedelta(seconds=2)), 4),
        (tenacity.stop_before_delay(2), 3),
        (tenacity.stop_after_attempt(5) | tenacity.stop_after_delay(2), 4),
        (tenacity.stop_after_attempt(2) & tenacity.stop_after_delay(2), 4),
        (tenacity.stop_any(tenacity.stop_after_attempt(3), tenacity.stop_never), 3),
        (tenacity.stop_all(tenacity.stop_after_attempt(3), tenacity.stop_before_delay(3)), 4),
    ],
)
def test_when_it_stops(stop: Any, attempts: int):
    """Told in numbers, because tenacity itself would ask the real clock."""
    retry = Retry(on=tenacity.retry_always, backoff=tenacity.wait_fixed(0.75), stop=stop)
    assert run_here(retry, working())[1] == [0.75 * attempt for attempt in range(attempts)]


def test_a_set_event_stops_it():
    event = threading.Event()
    event.set()
    same(retry=tenacity.retry_always, stop=tenacity.stop_when_event_set(event))


def test_never_stopping_goes_on_until_it_succeeds():
    same(retry=tenacity.retry_if_exception_type() | tenacity.retry_if_not_result(bool), stop=tenacity.stop_never)


@pytest.mark.parametrize(
    "wait",
    [
        tenacity.wait_none(),
        tenacity.wait_fixed(1.5),
        tenacity.wait_fixed(timedelta(seconds=2)),
        tenacity.wait_random(1, 3),
        tenacity.wait_incrementing(1, 2, 4),
        tenacity.wait_exponential(multiplier=0.5, max=3),
        tenacity.wait_exponential(min=2, max=3),
        tenacity.wait_random_exponential(multiplier=0.5, max=3),
        tenacity.wait_exponential_jitter(multiplier=0.5, max=3, jitter=0.1),
        tenacity.wait_fixed(1) + tenacity.wait_random(0, 1),
        tenacity.wait_combine(tenacity.wait_fixed(1), tenacity.wait_fixed(2)),
        tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(3)),
        lambda retry_state: retry_state.attempt_number / 2,
    ],
    ids=lambda strategy: type(strategy).__name__,
)
def test_how_long_it_waits(wait: Any):
    same(retry=tenacity.retry_always, stop=tenacity.stop_after_attempt(5), wait=wait)


def test_an_exception_says_how_long_to_wait():
    class Busy(Exception):
        pass

    def busy() -> None:
        raise Busy("2.5")

    wait = tenacity.wait_exception(lambda error: float(str(error)))
    retry = Retry(on=Busy, backoff=wait, stop=tenacity.stop_after_attempt(3))
    assert run_here(retry, busy)[1] == [0.0, 2.5, 5.0]


async def _soon(value: Any) -> Any:
    await anyio.sleep(0.5)
    return value


@pytest.mark.parametrize(
    "retry",
    [
        aio.retry_if_exception(lambda error: _soon(isinstance(error, KeyError))),
        aio.retry_if_result(lambda result: _soon(result is None)),
        aio.retry_if_exception(lambda error: _soon(False)) | tenacity.retry_if_exception_type(OSError),
        tenacity.retry_if_exception_type(OSError) | aio.retry_if_result(lambda result: _soon(result is None)),
        aio.retry_if_exception(lambda error: _soon(True)) & tenacity.retry_if_exception_type(OSError),
    ],
    ids=lambda strategy: type(strategy).__name__,
)
def test_asynchronous_strategies_are_awaited(backend, retry):
    async def run(decorate: Callable[[Callable[[], Awaitable[Any]]], Callable[[], Awaitable[Any]]]) -> Any:
        work, tries = working(), []

        async def counted() -> Any:
            tries.append(1)
            return work()

        try:
            result = await decorate(counted)()
        except Exception as error:  # both come to the same one
            result = repr(error)
        return result, len(tries)

    async def main():
        retrying = tenacity.AsyncRetrying(
            retry=retry, stop=tenacity.stop_after_attempt(5), sleep=anyio.sleep, reraise=True
        )
        here = await run(Pipeline(Retry.from_tenacity(retrying)))
        there = await run(cast("Any", retrying.wraps))
        assert here == there

    virtual_time.run(main, backend=backend)


def test_a_callback_before_each_wait_may_be_asynchronous_and_take_its_time(backend):
    waited: list[float] = []

    async def before(state: tenacity.RetryCallState) -> None:
        waited.append(state.upcoming_sleep)
        await anyio.sleep(1)

    async def fails() -> None:
        raise KeyError

    async def main():
        retry = Retry(on=KeyError, backoff=tenacity.wait_fixed(2), before_sleep=before)
        with pytest.raises(KeyError):
            await Pipeline(retry).run(fails)
        return current_runtime().now()

    assert virtual_time.run(main, backend=backend) == 6.0
    assert waited == [2.0, 2.0]


def test_its_log_before_a_wait_names_the_function_and_the_reason(caplog: pytest.LogCaptureFixture):
    logger = logging.getLogger("test_tenacious")
    retry = Retry(
        on=lambda outcome: not outcome or isinstance(outcome, KeyError),
        backoff=tenacity.wait_fixed(2),
        before_sleep=tenacity.before_sleep_log(logger, logging.INFO, exc_info=True),
    )
    results = iter([KeyError("gone"), None, "answer"])

    def quote() -> Any:
        result = next(results)
        if isinstance(result, Exception):
            raise result
        return result

    with caplog.at_level(logging.INFO), use_runtime(virtual_time.runtime()):
        assert Pipeline(retry)(quote)() == "answer"
    first, second = (record.getMessage() for record in caplog.records)
    assert "quote in 2 seconds as it raised KeyError: 'gone'." in first
    assert "Traceback" in first
    assert second.endswith("quote in 2 seconds as it returned None.")


def test_the_state_is_what_tenacitys_own_would_be():
    states: list[dict[str, Any]] = []
    kept: list[Any] = []

    def before(state: Any) -> None:
        kept.append(state)
        states.append(
            {
                name: getattr(state, name)
                for name in ("args", "kwargs", "attempt_number", "start_time", "outcome_timestamp", "idle_for")
            }
        )
        states[-1] |= {
            "since": state.seconds_since_start,
            "next": (state.next_action.sleep, state.upcoming_sleep),
            "failed": state.outcome.failed,
            "attempt": state.outcome.attempt_number,
            "seen": getattr(state, "seen", 0),
        }
        state.seen = states[-1]["seen"] + 1  # callbacks of one's own keep things on it

    def work(*args: Any, **kwargs: Any) -> None:
        current_runtime().pause(1.0)
        raise KeyError

    with use_runtime(virtual_time.runtime()):
        current_runtime().pause(10.0)
        with pytest.raises(KeyError):
            Pipeline(Retry(on=KeyError, backoff=tenacity.wait_fixed(2), before_sleep=before)).call(work, 1, two=2)
    common = {"args": (1,), "kwargs": {"two": 2}, "start_time": 10.0, "next": (2.0, 2.0), "failed": True}
    assert states == [
        {
            **common,
            "attempt_number": 1,
            "outcome_timestamp": 11.0,
            "idle_for": 0.0,
            "since": 1.0,
            "attempt": 1,
            "seen": 0,
        },
        {
            **common,
            "attempt_number": 2,
            "outcome_timestamp": 14.0,
            "idle_for": 2.0,
            "since": 4.0,
            "attempt": 2,
            "seen": 1,
        },
    ]
    assert isinstance(kept[0], Tenacious)
    assert kept[0].get_fn_name().endswith("work")


def test_no_strategy_ever_sees_a_cancellation(backend):
    asked: list[Any] = []

    def always(outcome: BaseException) -> bool:
        asked.append(outcome)
        return True

    async def main():
        for strategy in (
            tenacity.retry_if_exception(always),
            tenacity.retry_if_not_exception_type(KeyError),
            tenacity.retry_unless_exception_type(KeyError),
            tenacity.retry_always,
        ):
            with anyio.move_on_after(1) as scope:
                await Pipeline(Retry(on=strategy)).run(anyio.sleep, 10)
            assert scope.cancelled_caught

    virtual_time.run(main, backend=backend)
    assert asked == []


def test_a_tenacity_object_is_adopted_whole():
    def callback(state: tenacity.RetryCallState) -> None: ...

    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(KeyError),
        wait=tenacity.wait_fixed(1),
        stop=tenacity.stop_after_attempt(2),
        before_sleep=callback,
    )
    retry = Retry.from_tenacity(retrying)
    assert (retry.on, retry.backoff, retry.stop) == (retrying.retry, retrying.wait, retrying.stop)
    assert (retry.before_sleep, retry.attempts) == (callback, None)
    assert retry.budget is not None
    assert Retry.from_tenacity(tenacity.Retrying(), budget=retry.budget).budget is retry.budget


def test_the_budget_bounds_what_tenacity_would_never_stop():
    def fails() -> None:
        raise KeyError

    _, times = run_here(Retry.from_tenacity(tenacity.Retrying()), fails)
    assert len(times) == 11  # the floor of one retry a second over ten seconds


@pytest.mark.parametrize(
    ("strategy", "asked"),
    [
        (tenacity.retry_if_exception_type(OSError), False),
        (tenacity.retry_if_exception_message(message="x"), False),
        (aio.retry_if_exception(lambda error: _soon(True)), False),
        (tenacity.retry_never, False),
        (tenacity.retry_if_result(bool), True),
        (tenacity.retry_unless_exception_type(), True),
        (tenacity.retry_always, True),
        (bool, True),
    ],
)
def test_a_success_is_not_asked_about_where_only_errors_can_be_meant(strategy: object, asked: bool):
    assert judges_results(strategy) is asked


def test_a_strategy_is_told_by_its_class_and_one_of_ones_own_too():
    class Mine(tenacity.retry_base):
        def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
            return retry_state.attempt_number < 2

    assert is_tenacious(Mine())
    assert not is_tenacious(lambda outcome: True)
    assert not is_tenacious(None)
    assert len(run_here(Retry(on=Mine(), backoff=AT_ONCE), working())[1]) == 2


def test_real_time_is_not_touched():
    """tenacity's clock and sleep are never asked: everything comes from the runtime."""

    async def main() -> None:
        async def fails() -> None:
            raise KeyError

        with pytest.raises(KeyError):
            await Pipeline(
                Retry(on=KeyError, backoff=tenacity.wait_fixed(3600), stop=tenacity.stop_after_delay(7200))
            ).run(fails)
        assert current_runtime().now() == 7200.0

    virtual_time.run(main)
    assert isinstance(current_runtime(), Runtime)
    assert asyncio.iscoroutinefunction(main)
