"""Waiting and waking: in loops, in threads, and between them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trio
import trio.lowlevel

from resilient.call import Call
from resilient.context import current_runtime, use_runtime
from resilient.pipeline import Pipeline
from resilient.testing import virtual_time
from resilient.waiting import Waiter, drive, pause, waiter_for


async def step(call: Call) -> None: ...


def a_call(*, blocking: bool = False) -> Call:
    call = Pipeline().begin("work", step, None)
    call.blocking = blocking
    return call


def test_a_coroutine_sleeps(backend):
    async def main():
        await pause(a_call(), 2.5)
        return anyio.current_time()

    assert virtual_time.run(main, backend=backend) == 2.5


def test_a_plain_functions_thread_pauses():
    with use_runtime(virtual_time.runtime()):
        drive(pause(a_call(blocking=True), 2.5))
        assert current_runtime().now() == 2.5


def test_a_waiter_that_nobody_wakes_gives_up_in_time(backend):
    async def main():
        assert not await waiter_for(a_call()).wait(2.5)
        return anyio.current_time()

    assert virtual_time.run(main, backend=backend) == 2.5
    assert not drive(waiter_for(a_call(blocking=True)).wait(0.001))


def test_a_waiter_is_woken_now_or_as_soon_as_it_waits(backend):
    async def main():
        early, late = waiter_for(a_call()), waiter_for(a_call())
        early.wake()
        assert await early.wait(10)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_wake_after, late, 1.5)
            assert await late.wait(10)
        return anyio.current_time()

    assert virtual_time.run(main, backend=backend) == 1.5
    thread = waiter_for(a_call(blocking=True))
    thread.wake()
    assert drive(thread.wait(10))


async def _wake_after(waiter: Waiter, seconds: float) -> None:
    await anyio.sleep(seconds)
    waiter.wake()


async def _wait_and_tell(told: Callable[[Waiter], object]) -> bool:
    waiter = waiter_for(a_call())
    told(waiter)
    return await waiter.wait(30)


def _wake_from_a_thread(waiter: Waiter) -> None:
    threading.Thread(target=waiter.wake).start()


@pytest.mark.parametrize("waker", ["asyncio", "trio"])
def test_a_waiter_is_woken_from_the_loop_of_another_thread(backend, waker):
    waiters: list[Waiter] = []
    waiting = threading.Event()

    def told(waiter: Waiter) -> None:
        waiters.append(waiter)
        waiting.set()

    async def wake() -> None:
        await anyio.to_thread.run_sync(waiting.wait)
        waiters[0].wake()

    thread = threading.Thread(target=lambda: anyio.run(wake, backend=waker))
    thread.start()
    assert anyio.run(_wait_and_tell, told, backend=backend)
    thread.join()


def test_a_waiter_is_woken_from_a_thread_without_a_loop(backend):
    assert anyio.run(_wait_and_tell, _wake_from_a_thread, backend=backend)


def test_a_plain_functions_waiter_is_woken_from_a_loop(backend):
    waiter = waiter_for(a_call(blocking=True))

    async def main():
        waiter.wake()

    thread = threading.Thread(target=lambda: virtual_time.run(main, backend=backend))
    thread.start()
    assert drive(waiter.wait(30))
    thread.join()


def test_a_waiter_of_asyncio_is_woken_from_trio_inside_its_loop():
    async def main() -> None:
        waiter = waiter_for(a_call())

        async def wake() -> None:
            waiter.wake()

        trio.run(wake)
        assert await waiter.wait(30)

    asyncio.run(main())


def test_a_waiter_whose_loop_is_gone_is_left_alone(backend):
    waiters: list[Waiter] = []

    async def main() -> None:
        waiters.append(waiter_for(a_call()))

    anyio.run(main, backend=backend)
    waiters[0].wake()

    async def elsewhere() -> None:
        waiters[0].wake()

    anyio.run(elsewhere, backend=backend)


# drive


def test_what_never_suspends_is_driven_to_its_result_or_its_error():
    async def inner(value: int) -> int:
        return value + 1

    async def outer(value: int) -> int:
        return await inner(value) + 1

    async def fails() -> None:
        raise KeyError("it")

    class Ready:
        def __await__(self) -> Any:
            return iter(())

    assert drive(outer(1)) == 3
    assert drive(Ready()) is None
    with pytest.raises(KeyError, match="it"):
        drive(fails())


def test_what_does_suspend_is_unwound_and_refused():
    cleaned: list[int] = []

    async def waits() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            cleaned.append(1)

    with pytest.raises(RuntimeError, match="waits for an event loop, and a plain function has none: use `async def`"):
        drive(waits())
    assert cleaned == [1]
