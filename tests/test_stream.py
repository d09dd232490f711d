"""Async generators behind policies: the call is over when the stream is."""

from __future__ import annotations

import gc
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import anyio
import pytest

from resilient.call import Call, Next
from resilient.context import current_call, current_runtime, options
from resilient.errors import ConcurrencyExceeded, DeadlineExceeded
from resilient.pipeline import Pipeline
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.retry import Backoff, Retry
from resilient.policies.timeout import Timeout
from resilient.testing import virtual_time
from resilient.verdict import Classifier, classify_function
from resilient.waiting import drive

AT_ONCE = Backoff(base=0)


async def numbers(to: int, wait: float = 0.0) -> AsyncGenerator[int, None]:
    for number in range(to):
        await anyio.sleep(wait)
        yield number


class Log:
    """A policy that writes down how each attempt was settled."""

    def __init__(self) -> None:
        self.settled: list[str] = []

    async def __call__(self, call: Call, nxt: Next[Any]) -> Any:
        result = await nxt(call)
        assert call.ends is not None
        call.ends.append(lambda error: self.settled.append(f"{call.attempt}: {error!r}"))
        return result


def test_what_is_held_is_held_until_the_stream_is_exhausted(backend):
    bulkhead = Bulkhead(1)

    async def main():
        stream = Pipeline(bulkhead)(numbers)(2)
        assert bulkhead.in_flight == 0  # nothing has begun
        assert await anext(stream) == 0
        assert bulkhead.in_flight == 1
        assert await anext(stream) == 1
        assert bulkhead.in_flight == 1
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert bulkhead.in_flight == 0
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    virtual_time.run(main, backend=backend)


def test_an_empty_stream_is_over_at_once(backend):
    log = Log()

    async def main():
        assert [item async for item in Pipeline(log)(numbers)(0)] == []

    virtual_time.run(main, backend=backend)
    assert log.settled == ["1: None"]


def test_a_consumer_that_closes_after_an_item_had_what_it_wanted(backend):
    breaker, log = CircuitBreaker(minimum_calls=1), Log()
    closed: list[float] = []

    @Pipeline(breaker, log)
    async def stream() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await anyio.sleep(1)
            call = current_call()
            assert call is not None
            closed.append(current_runtime().now())

    async def main():
        async with aclosing(stream()) as items:
            assert await anext(items) == 1

    virtual_time.run(main, backend=backend)
    assert closed == [1.0]
    assert log.settled == ["1: None"]
    assert breaker.state.value == "closed"


def test_an_error_on_the_way_is_the_error_of_the_call(backend):
    breaker, log = CircuitBreaker(minimum_calls=1), Log()

    @Pipeline(Retry(on=OSError, backoff=AT_ONCE), breaker, log)
    async def stream() -> AsyncIterator[int]:
        yield 1
        raise OSError("broken")

    async def main():
        items: list[int] = []
        with pytest.raises(OSError, match="broken"):
            async for item in stream():
                items.append(item)  # noqa: PERF401 - what came before the error counts
        assert items == [1]  # nothing is repeated once an item reached the consumer

    virtual_time.run(main, backend=backend)
    assert log.settled == ["1: OSError('broken')"]
    assert breaker.state.value == "open"


def test_a_cancelled_consumer_is_nobodys_fault(backend):
    breaker, bulkhead = CircuitBreaker(minimum_calls=1), Bulkhead(1)

    async def main():
        with anyio.move_on_after(1.5):
            async for _ in Pipeline(breaker, bulkhead)(numbers)(10, wait=1.0):
                pass
        assert current_runtime().now() == 1.5
        assert bulkhead.in_flight == 0
        assert breaker.state.value == "closed"

    virtual_time.run(main, backend=backend)


def test_an_attempt_that_fails_before_its_first_item_is_repeated_and_settled_by_itself(backend):
    outer, inner = Bulkhead(1), Bulkhead(1)
    log = Log()
    attempts: list[int] = []

    @Pipeline(outer, Retry(on=OSError, backoff=AT_ONCE), log, inner)
    async def stream(fail: int) -> AsyncIterator[int]:
        call = current_call()
        assert call is not None
        attempts.append(call.attempt)
        assert (outer.in_flight, inner.in_flight) == (1, 1)
        if len(attempts) <= fail:
            raise OSError(len(attempts))
        yield 1
        assert (outer.in_flight, inner.in_flight) == (1, 1)

    async def main():
        assert [item async for item in stream(2)] == [1]

    virtual_time.run(main, backend=backend)
    assert attempts == [1, 2, 3]
    assert log.settled == ["3: None"]
    assert (outer.in_flight, inner.in_flight) == (0, 0)


def test_an_opened_attempt_that_a_policy_gives_up_is_settled_with_its_error(backend):
    """A foreign policy between: it takes an open stream and then fails."""
    log, inner, closed = Log(), Bulkhead(1), []

    async def fails_afterwards(call: Call, nxt: Next[Any]) -> Any:
        result = await nxt(call)
        if call.attempt < 3:
            raise OSError(call.attempt)
        return result

    @Pipeline(Retry(on=OSError, backoff=AT_ONCE), fails_afterwards, log, inner)
    async def stream() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            closed.append(1)

    async def main():
        assert [item async for item in stream()] == [1]

    virtual_time.run(main, backend=backend)
    assert log.settled == ["1: OSError(1)", "2: OSError(2)", "3: None"]
    assert (inner.in_flight, len(closed)) == (0, 3)


def test_a_cancelled_policy_leaves_no_attempt_open(backend):
    log, inner, closed = Log(), Bulkhead(1), []

    async def sleeps_afterwards(call: Call, nxt: Next[Any]) -> Any:
        result = await nxt(call)
        await anyio.sleep(10)
        return result

    @Pipeline(Retry(), sleeps_afterwards, log, inner)
    async def stream() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            closed.append(1)

    async def main():
        with anyio.move_on_after(1):
            async for _ in stream():
                raise AssertionError

    virtual_time.run(main, backend=backend)
    assert len(log.settled) == 1
    assert "Cancelled" in log.settled[0]
    assert (inner.in_flight, closed) == (0, [1])


def test_what_is_streamed_is_no_result_to_be_judged(backend):
    def not_an_error(outcome: object) -> bool:
        assert isinstance(outcome, OSError)
        return True

    def never(value: object) -> Any:
        raise AssertionError(value)

    judging = Classifier(error=classify_function.error, result=never)

    async def main():
        for on in (not_an_error, OSError):
            assert [item async for item in Pipeline(Retry(on=on), classify=judging)(numbers)(2)] == [0, 1]

    virtual_time.run(main, backend=backend)


def test_values_and_errors_are_forwarded_to_the_generator(backend):
    @Pipeline(Timeout(5.0))
    async def echo() -> AsyncGenerator[str, str]:
        heard = "nothing"
        while True:
            try:
                heard = yield heard
            except KeyError as error:
                heard = f"caught {error}"

    async def main():
        stream = echo()
        assert await anext(stream) == "nothing"
        assert await stream.asend("one") == "one"
        assert await stream.athrow(KeyError("two")) == "caught 'two'"
        assert await stream.asend("three") == "three"
        with pytest.raises(ZeroDivisionError):
            await stream.athrow(ZeroDivisionError())
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    virtual_time.run(main, backend=backend)


def test_each_read_is_made_as_the_current_call_and_nothing_is_left_across_a_yield(backend):
    calls: list[Call | None] = []

    @Pipeline(Retry())
    async def stream() -> AsyncIterator[int]:
        for number in range(3):
            calls.append(current_call())
            yield number

    async def main():
        async for _ in stream():
            assert current_call() is None
        assert current_call() is None

    virtual_time.run(main, backend=backend)
    assert None not in calls
    assert len(set(calls)) == 1


def test_the_deadline_holds_for_each_read_but_not_across_a_yield(backend):
    async def main():
        started = current_runtime().now()
        items: list[int] = []
        with pytest.raises(DeadlineExceeded) as caught:
            async for item in Pipeline(Timeout(2.5))(numbers)(10, wait=1.0):
                items.append(item)  # noqa: PERF401 - what came before the error counts
        assert caught.value.sent
        assert (items, current_runtime().now() - started) == ([0, 1], 2.5)

        # A consumer that takes its time is not interrupted while it has the item.
        stream = Pipeline(Timeout(2.5))(numbers)(10)
        assert await anext(stream) == 0
        await anyio.sleep(100)
        with pytest.raises(DeadlineExceeded, match="the deadline passed between two items") as late:
            await anext(stream)
        assert late.value.sent

    virtual_time.run(main, backend=backend)


def test_a_hang_between_two_items_trips_the_breaker_and_a_slow_consumer_does_not(backend):
    breaker = CircuitBreaker(minimum_calls=1)

    async def main():
        slow_consumer = Pipeline(Timeout(2.0), breaker)(numbers)(10)
        await anext(slow_consumer)
        await anyio.sleep(100)
        with pytest.raises(DeadlineExceeded):
            await anext(slow_consumer)
        assert breaker.state.value == "closed"
        with pytest.raises(DeadlineExceeded):
            async for _ in Pipeline(Timeout(2.0), breaker)(numbers)(10, wait=1.5):
                pass
        assert breaker.state.value == "open"

    virtual_time.run(main, backend=backend)


def test_an_attempts_timeout_is_that_of_all_its_reads(backend):
    at: list[tuple[int, float]] = []

    @Pipeline(Timeout(10.0), Retry(on=DeadlineExceeded, backoff=lambda state: 1.0), Timeout(2.0))
    async def stream() -> AsyncIterator[int]:
        call = current_call()
        assert call is not None
        at.append((call.attempt, current_runtime().now()))
        await anyio.sleep(5 if call.attempt == 1 else 1)
        yield 1
        await anyio.sleep(5)
        yield 2

    async def main():
        with pytest.raises(DeadlineExceeded):
            async for _ in stream():
                pass
        return current_runtime().now()

    assert virtual_time.run(main, backend=backend) == 5.0
    assert at == [(1, 0.0), (2, 3.0)]


def test_a_rejected_stream_holds_nothing(backend):
    bulkhead, log = Bulkhead(1), Log()

    async def main():
        first = Pipeline(bulkhead)(numbers)(3)
        await anext(first)
        with pytest.raises(ConcurrencyExceeded):
            await anext(Pipeline(log, bulkhead)(numbers)(3))
        assert bulkhead.in_flight == 1
        await first.aclose()
        assert bulkhead.in_flight == 0

    virtual_time.run(main, backend=backend)
    assert log.settled == []


def test_options_are_those_at_the_first_item(backend):
    @Pipeline()
    async def stream() -> AsyncIterator[str | None]:
        call = current_call()
        assert call is not None
        yield call.idempotency_key

    async def main():
        items = stream()
        with options(idempotency_key="key"):
            assert await anext(items) == "key"
        await items.aclose()

    virtual_time.run(main, backend=backend)


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")  # trio's, and right
def test_a_stream_that_is_dropped_is_settled_by_the_loops_finalizer(backend):
    bulkhead, log = Bulkhead(1), Log()

    async def main():
        async for _ in Pipeline(bulkhead, log)(numbers)(10):
            break
        gc.collect()
        await anyio.sleep(1)
        assert bulkhead.in_flight == 0

    virtual_time.run(main, backend=backend)
    assert log.settled == ["1: None"]


def test_a_stream_that_is_dropped_where_there_is_no_loop_is_settled_too():
    bulkhead = Bulkhead(1)

    @Pipeline(bulkhead)
    async def stream() -> AsyncIterator[int]:
        yield 1

    items = stream()
    assert drive(anext(items)) == 1
    assert bulkhead.in_flight == 1
    del items
    gc.collect()
    assert bulkhead.in_flight == 0


def test_a_clean_up_that_fails_does_not_keep_the_stream_from_being_settled(backend):
    bulkhead = Bulkhead(1)

    @Pipeline(bulkhead)
    async def stream() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            raise KeyError("clean-up")

    async def main():
        items = stream()
        await anext(items)
        with pytest.raises(KeyError, match="clean-up"):
            await items.aclose()
        assert bulkhead.in_flight == 0

    virtual_time.run(main, backend=backend)


def test_a_policy_that_answers_by_itself_with_no_stream_is_an_error_that_settles(backend):
    bulkhead = Bulkhead(1)

    async def answers(call: Call, nxt: Next[Any]) -> Any:
        return "not a stream"

    async def main():
        with pytest.raises(AttributeError):
            await anext(Pipeline(bulkhead, answers)(numbers)(1))
        assert bulkhead.in_flight == 0

    virtual_time.run(main, backend=backend)
