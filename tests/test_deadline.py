"""The one timer of an attempt: exact, cheap, and on asyncio as considerate as `asyncio.timeout`."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio

from resilient import deadline
from resilient.call import Call, Next
from resilient.context import current_call, current_runtime, options, serving, use_runtime
from resilient.deadline import bounded, send
from resilient.errors import DeadlineExceeded
from resilient.pipeline import Pipeline
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.retry import Retry
from resilient.policies.timeout import Timeout
from resilient.runtime import Runtime
from resilient.testing import virtual_time
from resilient.verdict import Verdict, classify_function

Body = Callable[[], Awaitable[Any]]
Within = Callable[[float, Body], Awaitable[Any]]
D = 0.03


async def as_asyncio(seconds: float, body: Body) -> Any:
    async with asyncio.timeout(seconds):
        return await body()


async def as_ours(seconds: float, body: Body) -> Any:
    return await Pipeline(Timeout(seconds)).run(body)


async def foreign(call: Call, nxt: Next[Any]) -> Any:
    return await nxt(call)


async def as_ours_around_a_foreign_policy(seconds: float, body: Body) -> Any:
    return await Pipeline(Timeout(seconds), foreign).run(body)


async def as_ours_in_a_foreign_wait(seconds: float, body: Body) -> Any:
    async def waits(call: Call, nxt: Next[Any]) -> Any:
        return await body()

    return await Pipeline(Timeout(seconds), waits).run(body)


async def hang() -> None:
    await asyncio.sleep(1)


# Each of these is run with `asyncio.timeout` and with ours, and has to come to the same.


async def it_fires(within: Within) -> None:
    await within(D, hang)


async def it_does_not_fire(within: Within) -> None:
    await within(D, lambda: asyncio.sleep(0))
    await asyncio.sleep(2 * D)


async def the_body_raises(within: Within) -> None:
    async def body() -> None:
        raise KeyError

    await within(D, body)


async def the_body_swallows_the_cancellation(within: Within) -> None:
    async def body() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await hang()

    await within(D, body)
    await asyncio.sleep(0.01)


async def the_body_turns_the_cancellation_into_an_error(within: Within) -> None:
    async def body() -> None:
        try:
            await hang()
        except asyncio.CancelledError:
            raise KeyError from None

    await within(D, body)


async def a_scope_around_it_ends_first(within: Within) -> bool:
    with anyio.move_on_after(D / 3) as scope:
        await within(D * 3, hang)
    await asyncio.sleep(0)
    return scope.cancelled_caught


async def a_scope_around_it_ends_at_the_same_instant(within: Within) -> bool:
    with anyio.move_on_after(D) as scope:
        await within(D, hang)
    await asyncio.sleep(0)
    return scope.cancelled_caught


async def a_scope_around_it_ends_at_the_same_instant_in_a_sleep_of_anyio(within: Within) -> bool:
    with anyio.move_on_after(D) as scope:
        await within(D, lambda: anyio.sleep(1))
    await anyio.lowlevel.checkpoint()
    return scope.cancelled_caught


async def a_scope_inside_ends_at_the_same_instant(within: Within) -> Any:
    async def body() -> bool:
        with anyio.move_on_after(D) as scope:
            await hang()
        await asyncio.sleep(0)
        return scope.cancelled_caught

    result = await within(D, body)
    await asyncio.sleep(0)
    return result


async def a_scope_is_inside(within: Within) -> None:
    async def body() -> None:
        with anyio.CancelScope():
            await anyio.sleep(1)

    await within(D, body)


async def a_shield_is_inside(within: Within) -> None:
    async def body() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(4 * D)

    await within(D, body)


async def a_future_is_shielded_inside(within: Within) -> None:
    future = asyncio.ensure_future(asyncio.sleep(4 * D))
    try:
        await within(D, lambda: asyncio.shield(future))
    finally:
        await future


async def a_task_group_is_inside(within: Within) -> None:
    async def body() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 1)
            await anyio.sleep(1)

    await within(D, body)


async def it_runs_in_a_task_group(within: Within) -> list[str]:
    log: list[str] = []

    async def child() -> None:
        try:
            await it_fires(within)
        except TimeoutError:
            log.append("timeout")
        await anyio.sleep(0.01)
        log.append("went on")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(child)
    return log


async def a_scope_around_it_is_cancelled_in_the_same_tick(within: Within) -> bool:
    with anyio.CancelScope() as scope:
        asyncio.get_running_loop().call_later(D, scope.cancel)
        await within(D, lambda: anyio.sleep(1))
    await anyio.sleep(0.01)
    return scope.cancelled_caught


async def its_task_is_cancelled_in_the_same_tick(within: Within) -> None:
    me = asyncio.current_task()
    assert me is not None
    asyncio.get_running_loop().call_later(D, me.cancel)
    await within(D, hang)


async def its_task_is_cancelled_in_the_same_tick_just_after(within: Within) -> None:
    me = asyncio.current_task()
    assert me is not None

    async def body() -> None:
        asyncio.get_running_loop().call_later(D, me.cancel)
        await hang()

    await within(D, body)


async def its_task_is_cancelled_before(within: Within) -> None:
    me = asyncio.current_task()
    assert me is not None
    asyncio.get_running_loop().call_later(D / 2, me.cancel)
    await within(D, hang)


async def its_task_is_cancelled_in_its_clean_up(within: Within) -> None:
    me = asyncio.current_task()
    assert me is not None
    asyncio.get_running_loop().call_later(D + 0.005, me.cancel)

    async def body() -> None:
        try:
            await hang()
        finally:
            await asyncio.sleep(0.01)

    await within(D, body)


async def two_end_at_the_same_instant(within: Within) -> None:
    await within(D, lambda: within(D, hang))


async def the_inner_of_two_ends_first(within: Within) -> str:
    async def body() -> None:
        with contextlib.suppress(TimeoutError):
            await within(D, hang)
        await asyncio.sleep(0.01)

    await within(D * 4, body)
    return "the inner one only"


async def the_outer_of_two_ends_first(within: Within) -> None:
    await within(D, lambda: within(D * 4, hang))


async def the_outer_of_two_ends_in_the_clean_up_of_the_inner(within: Within) -> None:
    async def body() -> None:
        try:
            await hang()
        finally:
            await asyncio.sleep(D)

    await within(D * 1.5, lambda: within(D, body))


async def its_clean_up_waits(within: Within) -> None:
    async def body() -> None:
        try:
            await hang()
        finally:
            await asyncio.sleep(0.01)

    await within(D, body)


async def it_is_in_a_wait_for(within: Within) -> None:
    await asyncio.wait_for(within(D * 3, hang), D)


async def it_is_in_a_task_group_of_asyncio(within: Within) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(it_fires(within))


async def it_waits_for_a_lock(within: Within) -> int:
    lock = anyio.Lock()
    await lock.acquire()

    async def body() -> None:
        async with lock:
            pass

    with contextlib.suppress(TimeoutError):
        await within(D, body)
    await anyio.lowlevel.checkpoint()
    return lock.statistics().tasks_waiting


NESTINGS = [
    it_fires,
    it_does_not_fire,
    the_body_raises,
    the_body_swallows_the_cancellation,
    the_body_turns_the_cancellation_into_an_error,
    a_scope_around_it_ends_first,
    a_scope_around_it_ends_at_the_same_instant,
    a_scope_around_it_ends_at_the_same_instant_in_a_sleep_of_anyio,
    a_scope_inside_ends_at_the_same_instant,
    a_scope_is_inside,
    a_shield_is_inside,
    a_future_is_shielded_inside,
    a_task_group_is_inside,
    it_runs_in_a_task_group,
    a_scope_around_it_is_cancelled_in_the_same_tick,
    its_task_is_cancelled_in_the_same_tick,
    its_task_is_cancelled_in_the_same_tick_just_after,
    its_task_is_cancelled_before,
    its_task_is_cancelled_in_its_clean_up,
    two_end_at_the_same_instant,
    the_inner_of_two_ends_first,
    the_outer_of_two_ends_first,
    the_outer_of_two_ends_in_the_clean_up_of_the_inner,
    its_clean_up_waits,
    it_is_in_a_wait_for,
    it_is_in_a_task_group_of_asyncio,
    it_waits_for_a_lock,
]


def what_comes_of(nesting: Callable[[Within], Awaitable[Any]], within: Within) -> tuple[Any, ...]:
    """The result or error, when, the cancellations left on the task, and whether one arrives late."""

    async def observed() -> tuple[Any, ...]:
        me = asyncio.current_task()
        assert me is not None
        came_to: Any
        try:
            came_to = await nesting(within)
        except BaseException as error:
            came_to = TimeoutError if isinstance(error, TimeoutError) else type(error)
            if isinstance(error, BaseExceptionGroup):
                came_to = (came_to, [isinstance(inner, TimeoutError) for inner in error.exceptions])
        at, left, late = anyio.current_time(), me.cancelling(), False
        while me.cancelling():
            me.uncancel()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            late = True
        return came_to, at, left, late

    async def main() -> tuple[Any, ...]:
        task = asyncio.ensure_future(observed())
        await asyncio.wait([task])
        return task.result()

    return virtual_time.run(main, backend="asyncio")


@pytest.mark.parametrize("nesting", NESTINGS, ids=lambda nesting: nesting.__name__)
@pytest.mark.parametrize("within", [as_ours, as_ours_around_a_foreign_policy, as_ours_in_a_foreign_wait])
def test_it_nests_exactly_as_asyncio_timeout(nesting, within):
    assert what_comes_of(nesting, within) == what_comes_of(nesting, as_asyncio)


# On both backends


def test_the_deadline_passes_to_the_instant_with_an_error_that_says_so(backend):
    @Pipeline(Timeout(2.5))
    async def slow() -> None:
        await anyio.sleep(100)

    async def main():
        with pytest.raises(DeadlineExceeded, match=r"slow: no answer within the deadline \(attempt 1\)") as caught:
            await slow()
        assert caught.value.sent
        return current_runtime().now()

    assert virtual_time.run(main, backend=backend) == 2.5


def test_the_callers_cancellation_passes_unchanged(backend):
    seen: list[BaseException] = []

    @Pipeline(Timeout(2.0))
    async def slow() -> None:
        await anyio.sleep(100)

    async def main():
        with anyio.move_on_after(1.0) as scope:
            try:
                await slow()
            except BaseException as error:
                seen.append(error)
                raise
        assert scope.cancelled_caught
        assert isinstance(seen[0], anyio.get_cancelled_exc_class())

    virtual_time.run(main, backend=backend)


def test_a_timeout_error_of_the_function_is_not_ours(backend):
    @Pipeline(Timeout(2.0))
    async def slow() -> None:
        with anyio.fail_after(1.0):
            await anyio.sleep(100)

    async def main():
        with pytest.raises(TimeoutError) as caught:
            await slow()
        assert not isinstance(caught.value, DeadlineExceeded)

    virtual_time.run(main, backend=backend)


def test_what_comes_too_late_is_not_invoked(backend):
    ran: list[int] = []

    @Pipeline()
    async def work() -> None:
        ran.append(1)

    async def main():
        await anyio.sleep(5)
        with serving(deadline=5.0), pytest.raises(DeadlineExceeded, match="no time left to send it") as caught:
            await work()
        assert not caught.value.sent
        assert classify_function.error(caught.value) is Verdict.LOCAL

    virtual_time.run(main, backend=backend)
    assert ran == []


def test_a_policy_between_two_limits_of_the_same_instant_sees_the_limit_and_no_cancellation(backend):
    """Otherwise a breaker under a foreign policy would never trip on a service that hangs."""
    seen: list[BaseException] = []

    async def watching(call: Call, nxt: Next[Any]) -> Any:
        try:
            return await nxt(call)
        except BaseException as error:
            seen.append(error)
            raise

    @Pipeline(Timeout(1.0), watching, Timeout(1.0), watching)
    async def hangs_with_a_slow_clean_up() -> None:
        try:
            await anyio.sleep(100)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.5)

    async def main():
        with pytest.raises(DeadlineExceeded):
            await hangs_with_a_slow_clean_up()
        return current_runtime().now()

    assert virtual_time.run(main, backend=backend) == 1.5
    assert [type(error) for error in seen] == [DeadlineExceeded, DeadlineExceeded]


@pytest.mark.parametrize(("standstill", "overslept"), [(0.0, False), (0.7, False), (0.8, True), (30.0, True)])
def test_a_limit_that_speaks_late_because_everything_stood_still_says_so(backend, standstill, overslept):
    """The call is made at 0, everything stands still from 0.5 on, and the deadline is at 1."""

    @Pipeline(Timeout(1.0))
    async def hangs() -> None:
        await anyio.sleep(100)

    async def main():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stand_still)
            with pytest.raises(DeadlineExceeded, match="no answer within") as caught:
                await hangs()
        assert caught.value.sent
        assert caught.value.overslept is overslept
        assert ("noticed" in str(caught.value)) is overslept
        return current_runtime().now()

    async def stand_still() -> None:
        await anyio.sleep(0.5)
        current_runtime().pause(standstill)

    assert virtual_time.run(main, backend=backend) == pytest.approx(max(1.0, 0.5 + standstill))


def test_of_two_limits_that_were_overslept_together_both_say_so(backend):
    seen: list[BaseException] = []

    async def watching(call: Call, nxt: Next[Any]) -> Any:
        try:
            return await nxt(call)
        except BaseException as error:
            seen.append(error)
            raise

    @Pipeline(Timeout(1.0), watching, Timeout(1.0))
    async def stands_still() -> None:
        current_runtime().pause(30.0)
        await anyio.sleep(100)

    async def main():
        with pytest.raises(DeadlineExceeded) as caught:
            await stands_still()
        seen.append(caught.value)

    virtual_time.run(main, backend=backend)
    assert [error.overslept for error in seen if isinstance(error, DeadlineExceeded)] == [True, True]


def test_a_call_in_a_call_under_one_deadline_sees_the_limit_and_no_cancellation(backend):
    breaker = CircuitBreaker(minimum_calls=1)

    @Pipeline(breaker)
    async def inner() -> None:
        await anyio.sleep(100)

    @Pipeline(Timeout(1.0))
    async def outer() -> None:
        await inner()

    async def main():
        with pytest.raises(DeadlineExceeded):
            await outer()
        assert breaker.state.value == "open"

    virtual_time.run(main, backend=backend)


def test_an_outer_limit_that_was_held_back_still_ends_what_follows(backend):
    async def goes_on(call: Call, nxt: Next[Any]) -> Any:
        try:
            return await nxt(call)
        except DeadlineExceeded:
            await anyio.sleep(100)

    @Pipeline(Timeout(1.0), goes_on)
    async def hangs() -> None:
        await anyio.sleep(100)

    async def main():
        with pytest.raises(DeadlineExceeded):
            await hangs()
        return current_runtime().now()

    assert virtual_time.run(main, backend=backend) == 1.0


def test_nested_timeouts_need_no_arithmetic(backend):
    ended: list[float] = []

    async def main():
        for seconds in ((3.0, 1.0, 2.0), (1.0, 2.0, 3.0), (2.0, 3.0, 1.0), (1.0, 1.0, 1.0)):
            started = current_runtime().now()
            with pytest.raises(DeadlineExceeded):
                await Pipeline(*map(Timeout, seconds)).run(anyio.sleep, 100)
            ended.append(current_runtime().now() - started)

    virtual_time.run(main, backend=backend)
    assert ended == [1.0] * 4


def test_many_attempts_with_deadlines_of_every_length_end_exactly_on_time(backend):
    ended: dict[int, float] = {}

    async def one(number: int) -> None:
        seconds = 1 + (number * 7919) % 1000 / 100
        with pytest.raises(DeadlineExceeded):
            await Pipeline(Timeout(seconds)).run(anyio.sleep, 100)
        ended[number] = current_runtime().now() - seconds

    async def main():
        async with anyio.create_task_group() as tasks:
            for number in range(1000):
                tasks.start_soon(one, number)

    virtual_time.run(main, backend=backend)
    assert ended == pytest.approx(dict.fromkeys(range(1000), 0.0), abs=1e-9)


def test_the_deadline_is_restored_so_that_the_next_attempt_does_not_inherit_a_spent_one(backend):
    at: list[float] = []

    @Pipeline(Retry(attempts=3, on=DeadlineExceeded, backoff=lambda state: 0.5), Timeout(1.0))
    async def slow() -> None:
        at.append(current_runtime().now())
        await anyio.sleep(100)

    async def main():
        with pytest.raises(DeadlineExceeded):
            await slow()

    virtual_time.run(main, backend=backend)
    assert at == [0.0, 1.5, 3.0]


def test_bounded_awaits_a_step_of_the_call_as_the_current_call(backend):
    async def step(argument: str) -> tuple[str, Call | None]:
        await anyio.sleep(1)
        return argument, current_call()

    async def check(call: Call) -> None:
        assert await bounded(call, step, "answer") == ("answer", call)
        assert call.deadline is not None
        call.deadline -= 1.5
        with pytest.raises(DeadlineExceeded):
            await bounded(call, step, "too late")

    async def main():
        pipeline = Pipeline()
        call = pipeline.begin("work", check, None)
        call.deadline = 3.0
        await send(call)
        return current_runtime().now()

    assert virtual_time.run(main, backend=backend) == 1.5


# Whose clock, whose loop


def test_a_runtime_on_another_clock_than_the_loops_is_armed_with_what_remains(backend):
    skewed = 1_000_000.0

    async def main():
        now = current_runtime().now
        there = Runtime(now=lambda: now() + skewed)
        with serving(deadline=now() + 2.0), pytest.raises(DeadlineExceeded):
            await Pipeline(runtime=there).run(anyio.sleep, 100)
        assert now() == pytest.approx(2.0)
        with pytest.raises(DeadlineExceeded):
            await Pipeline(Timeout(3.0), runtime=there).run(anyio.sleep, 100)
        assert now() == pytest.approx(5.0)
        with use_runtime(there), options(deadline=skewed + 6.0), pytest.raises(DeadlineExceeded):
            await Pipeline().run(anyio.sleep, 100)
        assert now() == pytest.approx(6.0)

    virtual_time.run(main, backend=backend)


async def _ends_in_real_time() -> None:
    with pytest.raises(DeadlineExceeded):
        await Pipeline(Timeout(0.01)).run(anyio.sleep, 60)


def test_it_works_in_real_time(backend):
    anyio.run(_ends_in_real_time, backend=backend)


def test_trio_inside_a_running_asyncio_loop_is_bounded_too():
    async def main() -> None:
        async def body() -> None:
            trio.run(_ends_in_real_time)

        await Pipeline(Timeout(30.0)).run(body)
        await _ends_in_real_time()

    asyncio.run(main())


def test_a_loop_after_another_in_one_thread_gets_timers_of_its_own():
    for _ in range(3):
        asyncio.run(_ends_in_real_time())
        trio.run(_ends_in_real_time)


def test_a_loop_is_not_kept_alive():
    loop = asyncio.new_event_loop()
    loop.run_until_complete(_ends_in_real_time())
    loop.run_until_complete(Pipeline(Timeout(3600.0)).run(asyncio.sleep, 0))  # leaves a timer armed
    loop.close()
    gone = weakref.ref(loop)
    del loop
    gc.collect()
    assert gone() is None


def test_the_armed_timer_does_not_keep_a_call_alive():
    class Argument:
        pass

    @Pipeline(Timeout(3600.0))
    async def work(argument: Argument) -> None:
        pass

    async def main() -> None:
        argument = Argument()
        gone = weakref.ref(argument)
        await contextvars.copy_context().run(asyncio.create_task, work(argument))
        del argument
        await asyncio.sleep(0)
        gc.collect()
        assert gone() is None

    asyncio.run(main())


def test_a_loop_that_moved_to_another_thread_does_not_get_this_threads_deadlines():
    """The loop that this thread knows from before is now running elsewhere: its task is not ours to cancel."""
    elsewhere = asyncio.new_event_loop()
    elsewhere.run_until_complete(_ends_in_real_time())
    running, stop = threading.Event(), threading.Event()

    async def occupy() -> str:
        running.set()
        stop.wait(30)  # a task is its current one all the while
        await asyncio.sleep(0)
        return "unharmed"

    results: list[str] = []
    thread = threading.Thread(target=lambda: results.append(elsewhere.run_until_complete(occupy())))
    thread.start()
    try:
        assert running.wait(30)
        asyncio.run(_ends_in_real_time())
    finally:
        stop.set()
        thread.join()
        elsewhere.close()
    assert results == ["unharmed"]


class _LoopOfAnotherMake(asyncio.SelectorEventLoop):
    """Like uvloop's, it does not tell in which thread it runs, and has a clock of its own."""

    def __getattribute__(self, name: str) -> Any:
        if name == "_thread_id" and sys._getframe(1).f_globals["__name__"] == deadline.__name__:
            raise AttributeError(name)
        return super().__getattribute__(name)

    def time(self) -> float:
        return super().time() + 1000.0


def test_a_loop_of_another_make_is_served_too():
    loop = _LoopOfAnotherMake()
    try:
        loop.run_until_complete(_ends_in_real_time())
        loop.run_until_complete(_ends_in_real_time())
    finally:
        loop.close()


# What it costs


def _deadlines() -> deadline._Deadlines:
    found = deadline._here.deadlines()
    assert found is not None
    return found


def test_ended_attempts_do_not_pile_up_before_their_deadline():
    async def main():
        quick = Pipeline(Timeout(3600.0))
        for _ in range(5000):
            await quick.run(asyncio.sleep, 0)
        assert len(_deadlines().young) < 1000

    virtual_time.run(main)


def test_ended_attempts_do_not_pile_up_behind_a_timer_that_fires_often():
    async def main():
        long, longer, short = (Pipeline(Timeout(seconds)) for seconds in (1800.0, 3600.0, 0.001))
        async with anyio.create_task_group() as background:
            background.start_soon(long.run, asyncio.sleep, 1800)  # the next to end, in front of all that has ended
            for _ in range(200):
                async with anyio.create_task_group() as tasks:
                    for _ in range(20):
                        tasks.start_soon(longer.run, asyncio.sleep, 0.002)
                    with pytest.raises(DeadlineExceeded):
                        await short.run(asyncio.sleep, 1)
            found = _deadlines()
            assert len(found.heap) + len(found.young) < 1000
            assert found.held == {}
            background.cancel_scope.cancel()

    virtual_time.run(main)


def test_one_timer_serves_all_attempts_of_a_loop():
    async def main():
        loop: Any = asyncio.get_running_loop()
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(Pipeline(Timeout(10.0)).run, asyncio.sleep, 1)
            await asyncio.sleep(0.5)
            ours = [handle for handle in loop._scheduled if getattr(handle._callback, "__self__", None) is _deadlines()]
            assert len(ours) == 1

    virtual_time.run(main)
