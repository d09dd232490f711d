"""Timeouts: what they limit themselves becomes a `DeadlineExceeded`; whatever else ends a call passes unchanged."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any

import anyio
import pytest
import trio

from resilient.call import Call, Next, Policy
from resilient.context import current_runtime, options, serving, use_runtime
from resilient.errors import DeadlineExceeded
from resilient.pipeline import Pipeline
from resilient.policies.base import OwnPolicy, Role
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.rate_limit import RateLimit
from resilient.policies.retry import Retry
from resilient.policies.timeout import Timeout
from resilient.testing import virtual_time
from resilient.testing.cancellation import for_each_cancellation
from resilient.verdict import Verdict, classify_function

Guarded = Callable[[], Coroutine[Any, Any, Any]]


async def hang() -> None:
    await anyio.sleep(1000)


async def hang_for_a_word() -> str:
    await hang()
    return "too late"


async def work() -> str:
    await anyio.sleep(0.5)
    return "done"


async def foreign(call: Call, nxt: Next[Any]) -> Any:
    return await nxt(call)


class Spy(OwnPolicy):
    """One of our own policies that notes what passes, and the deadline before and after."""

    role = Role.ADMISSION

    def __init__(self) -> None:
        self.ended: list[BaseException | None] = []
        self.deadlines: list[tuple[float | None, float | None]] = []

    def link(self, nxt: Next[Any], below: Sequence[Policy]) -> Next[Any]:
        async def layer(call: Call) -> Any:
            before, error = call.deadline, None
            try:
                return await nxt(call)
            except BaseException as caught:
                error = caught
                raise
            finally:
                self.ended.append(error)
                self.deadlines.append((before, call.deadline))

        return layer


@pytest.fixture(params=[(), (foreign,)], ids=["our own below", "a foreign policy below"])
def below(request: pytest.FixtureRequest) -> tuple[Policy, ...]:
    """What stands below a timeout decides how it is enforced."""
    policies: tuple[Policy, ...] = request.param
    return policies


def test_a_call_is_ended_at_the_very_instant_and_was_sent(backend, below):
    async def main():
        with pytest.raises(DeadlineExceeded, match="hang: no answer within the deadline") as caught:
            await Pipeline(Timeout(1.5), *below).run(hang)
        assert anyio.current_time() == 1.5
        assert caught.value.sent
        assert isinstance(caught.value, TimeoutError)
        assert classify_function.error(caught.value) is Verdict.FAILED

    virtual_time.run(main, backend=backend)


def test_what_ends_in_time_leaves_no_timer_behind(backend, below):
    async def main():
        assert await Pipeline(Timeout(1.0), *below).run(work) == "done"
        await anyio.sleep(10)

    virtual_time.run(main, backend=backend)


# What others end


async def a_scope_is_cancelled(guarded: Guarded) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(guarded)
        await anyio.sleep(0.5)
        tasks.cancel_scope.cancel()


async def a_scope_of_anyio_ends(guarded: Guarded) -> None:
    with anyio.move_on_after(0.5) as scope:
        await guarded()
    assert scope.cancelled_caught


async def a_timeout_of_anyio_ends(guarded: Guarded) -> None:
    with pytest.raises(TimeoutError) as caught, anyio.fail_after(0.5):
        await guarded()
    assert not isinstance(caught.value, DeadlineExceeded)


async def a_timeout_of_asyncio_ends(guarded: Guarded) -> None:
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0.5):
            await guarded()
    assert not isinstance(caught.value, DeadlineExceeded)


async def a_wait_for_of_asyncio_ends(guarded: Guarded) -> None:
    with pytest.raises(TimeoutError) as caught:
        await asyncio.wait_for(guarded(), 0.5)
    assert not isinstance(caught.value, DeadlineExceeded)


async def its_task_is_cancelled(guarded: Guarded) -> None:
    task = asyncio.ensure_future(guarded())
    await asyncio.sleep(0.5)
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task
    assert task.cancelled()


async def a_timeout_of_trio_ends(guarded: Guarded) -> None:
    with pytest.raises(trio.TooSlowError), trio.fail_after(0.5):
        await guarded()


@pytest.mark.parametrize(
    ("backend", "ends"),
    [
        *itertools.product(["asyncio", "trio"], [a_scope_is_cancelled, a_scope_of_anyio_ends, a_timeout_of_anyio_ends]),
        ("asyncio", a_timeout_of_asyncio_ends),
        ("asyncio", a_wait_for_of_asyncio_ends),
        ("asyncio", its_task_is_cancelled),
        ("trio", a_timeout_of_trio_ends),
    ],
)
def test_what_ends_the_call_before_its_time_passes_unchanged(backend, ends, below):
    spy = Spy()

    async def main():
        await ends(Pipeline(spy, Timeout(1.0), *below)(hang))
        assert anyio.current_time() == 0.5
        assert [type(error) for error in spy.ended] == [anyio.get_cancelled_exc_class()]
        await anyio.sleep(10)  # nothing of ours comes later

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize("error", [TimeoutError("theirs"), DeadlineExceeded("another call's"), KeyError("it")])
def test_an_error_of_the_function_is_not_ours_even_if_it_is_a_timeout(backend, below, error):
    async def fail() -> None:
        raise error

    async def main():
        with pytest.raises(type(error)) as caught:
            await Pipeline(Timeout(1.0), *below).run(fail)
        assert caught.value is error

    virtual_time.run(main, backend=backend)


# What comes too late


def test_a_call_with_no_time_left_is_refused_before_anything_below(backend):
    async def main():
        spy = Spy()
        with serving(deadline=0.0), pytest.raises(DeadlineExceeded, match="no time left"):
            await Pipeline(Timeout(1.0), spy).run(work)
        assert spy.ended == []

    virtual_time.run(main, backend=backend)


def test_a_call_with_no_time_left_is_refused_at_once_and_nobody_is_to_blame(backend, below):
    invoked: list[int] = []
    breaker = CircuitBreaker(consecutive_failures=1)

    @Pipeline(breaker, Timeout(1.0), *below)
    async def guarded() -> None:
        invoked.append(1)

    async def main():
        await anyio.sleep(3.0)
        for deadline in (3.0, 2.9, -1.0):
            with serving(deadline=deadline), pytest.raises(DeadlineExceeded, match="no time left") as caught:
                await guarded()
            assert not caught.value.sent
            assert classify_function.error(caught.value) is Verdict.LOCAL
        assert anyio.current_time() == 3.0
        assert breaker.consecutive == 0
        await guarded()

    virtual_time.run(main, backend=backend)
    assert invoked == [1]


# The deadline of the call


def test_it_only_ever_lowers_the_deadline(backend, below):
    spy = Spy()

    async def main():
        guarded = Pipeline(Timeout(5.0), spy, *below)(work)
        await guarded()
        with options(timeout=1.0):
            await guarded()
        with serving(deadline=3.0):
            await guarded()
        assert [before for before, _ in spy.deadlines] == [5.0, 0.5 + 1.0, 3.0]

    virtual_time.run(main, backend=backend)


def test_a_policy_outside_finds_the_deadline_restored_however_the_call_ends(backend, below):
    deadlines: list[tuple[float | None, float | None]] = []

    async def outside(call: Call, nxt: Next[Any]) -> Any:
        before = call.deadline
        try:
            return await nxt(call)
        finally:
            deadlines.append((before, call.deadline))

    async def fail() -> None:
        raise KeyError

    async def main():
        pipeline = Pipeline(outside, RateLimit("100/second"), Timeout(1.0), *below)
        await pipeline.run(work)
        for fn in (fail, hang):
            with pytest.raises((KeyError, DeadlineExceeded)):
                await pipeline.run(fn)
        with anyio.move_on_after(0.5):
            await pipeline.run(hang)
        with options(timeout=20.0):
            await pipeline.run(work)

    virtual_time.run(main, backend=backend)
    assert deadlines == [(None, None)] * 4 + [(22.0, 22.0)]


def test_a_retry_outside_gives_every_attempt_its_full_time_within_its_own(backend, below):
    at: list[float] = []

    async def slow() -> None:
        at.append(anyio.current_time())
        await anyio.sleep(100)

    async def main():
        again = Retry(attempts=9, on=DeadlineExceeded, backoff=lambda state: 1.0)
        with pytest.raises(DeadlineExceeded) as caught:
            await Pipeline(Timeout(10.0), again, RateLimit("100/second"), Timeout(2.0), *below).run(slow)
        assert anyio.current_time() == 10.0
        assert caught.value.sent

    virtual_time.run(main, backend=backend)
    assert at == [0.0, 3.0, 6.0, 9.0]


def test_what_repeats_the_call_outside_gives_every_attempt_its_full_time(backend, below):
    ended: list[float] = []

    async def thrice(call: Call, nxt: Next[Any]) -> Any:
        for _ in range(3):
            with pytest.raises(DeadlineExceeded):
                await nxt(call)
            ended.append(anyio.current_time())

    virtual_time.run(lambda: Pipeline(thrice, Timeout(1.0), *below).run(hang), backend=backend)
    assert ended == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("order", [*itertools.permutations([Timeout(1.0), Timeout(2.0), Timeout(3.0), foreign])])
def test_nested_in_any_order_the_earliest_ends_it_and_every_layer_sees_that(backend, order):
    spies = [Spy() for _ in order]
    layers = itertools.chain.from_iterable(zip(spies, order, strict=True))

    async def main():
        with pytest.raises(DeadlineExceeded) as caught:
            await Pipeline(*layers).run(hang)
        assert anyio.current_time() == 1.0
        assert caught.value.sent
        earliest = order.index(Timeout(1.0))
        assert [spy.ended for spy in spies[: earliest + 1]] == [[caught.value]] * (earliest + 1)
        await anyio.sleep(10)

    virtual_time.run(main, backend=backend)


def test_one_timeout_may_stand_twice(backend):
    async def main():
        attempt = Timeout(1.0)
        assert await Pipeline(attempt, foreign, attempt).run(work) == "done"

    virtual_time.run(main, backend=backend)


# Policies of others


@pytest.mark.parametrize("between", [(), (RateLimit("100/second"), Bulkhead(1))], ids=["directly", "with ours between"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_foreign_policy_that_hangs_is_ended_too(backend, moment, between):
    seen: list[str] = []

    async def hangs(call: Call, nxt: Next[Any]) -> Any:
        try:
            if moment == "after":
                await nxt(call)
            await hang()
        except anyio.get_cancelled_exc_class():
            seen.append("cancelled")
            raise

    async def main():
        with pytest.raises(DeadlineExceeded):
            await Pipeline(Timeout(1.0), *between, hangs).run(work)
        assert anyio.current_time() == 1.0

    virtual_time.run(main, backend=backend)
    assert seen == ["cancelled"]


def test_a_foreign_policy_that_answers_when_the_time_is_over_has_answered(backend):
    async def answers(call: Call, nxt: Next[Any]) -> Any:
        with pytest.raises(DeadlineExceeded):
            await nxt(call)
        return "instead"

    async def main():
        assert await Pipeline(answers, Timeout(1.0))(hang_for_a_word)() == "instead"
        await anyio.sleep(10)

    virtual_time.run(main, backend=backend)


# Streams


def ticking(*policies: Policy) -> tuple[list[str], Callable[[], AsyncGenerator[int, None]]]:
    closed: list[str] = []

    @Pipeline(*policies)
    async def ticks() -> AsyncGenerator[int, None]:
        try:
            for number in itertools.count():
                await anyio.sleep(1.0)
                yield number
        finally:
            closed.append("closed")

    return closed, ticks


def test_each_read_of_a_stream_has_what_is_left(backend, below):
    async def main():
        closed, ticks = ticking(Timeout(2.5), *below)
        stream = ticks()
        assert [await anext(stream), await anext(stream)] == [0, 1]
        with pytest.raises(DeadlineExceeded) as caught:
            await anext(stream)
        assert anyio.current_time() == 2.5
        assert caught.value.sent
        assert closed == ["closed"]

    virtual_time.run(main, backend=backend)


def test_who_consumes_a_stream_is_never_interrupted_but_reads_no_more(backend, below):
    async def main():
        closed, ticks = ticking(Timeout(2.5), *below)
        async with aclosing(ticks()) as stream:
            assert await anext(stream) == 0
            await anyio.sleep(5.0)
            with pytest.raises(DeadlineExceeded, match="between two items") as caught:
                await anext(stream)
        assert anyio.current_time() == 6.0
        assert caught.value.sent
        assert closed == ["closed"]

    virtual_time.run(main, backend=backend)


def test_a_stream_whose_consumer_is_cancelled_passes_that_on(backend, below):
    async def main():
        spy = Spy()
        closed, ticks = ticking(spy, Timeout(2.5), *below)
        with anyio.move_on_after(1.5) as scope:
            async with aclosing(ticks()) as stream:
                async for _ in stream:
                    pass
        assert scope.cancelled_caught
        assert anyio.current_time() == 1.5
        assert closed == ["closed"]
        assert spy.deadlines == [(None, None)]

    virtual_time.run(main, backend=backend)


# Plain functions


def test_a_plain_function_that_comes_too_late_is_not_called(below):
    called: list[int] = []

    @Pipeline(Timeout(1.0), *below)
    def guarded() -> None:
        called.append(1)

    with use_runtime(virtual_time.runtime()):
        with serving(deadline=0.0), pytest.raises(DeadlineExceeded) as caught:
            guarded()
        assert not caught.value.sent
        assert called == []


def test_a_plain_function_cannot_be_interrupted_but_the_calls_that_it_makes_are_refused(below):
    made: list[str] = []

    @Pipeline(Timeout(100.0))
    def inner() -> None:
        made.append("inner")

    @Pipeline(Timeout(1.0), *below)
    def outer() -> str:
        inner()
        current_runtime().pause(5.0)
        with pytest.raises(DeadlineExceeded) as caught:
            inner()
        assert not caught.value.sent
        return "late, but it is the answer"

    with use_runtime(virtual_time.runtime()):
        assert outer() == "late, but it is the answer"
    assert made == ["inner"]


# And the rest


def test_nothing_is_left_behind_at_any_cancellation(backend):
    async def scenario(spy: Spy) -> None:
        guarded = Pipeline(spy, Timeout(3.0), foreign, Timeout(2.0), Bulkhead(1))(work)
        await guarded()
        with pytest.raises(DeadlineExceeded):
            await Pipeline(spy, Timeout(1.0), foreign, Timeout(1.0)).run(hang)

    async def check(spy: Spy) -> None:
        assert all(deadlines == (None, None) for deadlines in spy.deadlines)
        await anyio.sleep(10)

    assert for_each_cancellation(Spy, scenario=scenario, check=check, backend=backend) > 3


@pytest.mark.parametrize("seconds", [0, -1.0, float("inf"), float("nan")])
def test_seconds_that_are_none_are_refused(seconds):
    with pytest.raises(ValueError, match=r"^seconds=.*: a finite number of seconds, more than 0$"):
        Timeout(seconds)
