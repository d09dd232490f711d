"""One bulkhead for threads and event loops together: places pass between them, and survive the end of a loop."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from resilient.errors import ConcurrencyExceeded
from resilient.pipeline import Pipeline
from resilient.policies.bulkhead import Bulkhead

PLACES = ["asyncio", "trio", "a plain thread"]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def wait_for_a_line(bulkhead: Bulkhead, length: int) -> None:
    wait_until(lambda: bulkhead.queued == length)


def call_in(place: str, bulkhead: Bulkhead, step: Callable[[], Any]) -> Any:
    """Call `step` through the bulkhead in an event loop, or in this thread."""
    if place == "a plain thread":
        return Pipeline(bulkhead).call(step)

    async def in_a_loop() -> Any:
        return step()

    return anyio.run(Pipeline(bulkhead)(in_a_loop), backend=place)


@contextmanager
def a_place_is_held(bulkhead: Bulkhead) -> Iterator[Callable[[], None]]:
    """Hold a place until what this yields is called, or to the end of the block."""
    end = threading.Event()
    with ThreadPoolExecutor(1) as thread:
        held = thread.submit(call_in, "a plain thread", bulkhead, lambda: end.wait(30))
        wait_until(lambda: bulkhead.in_flight == 1)

        def release() -> None:
            end.set()
            assert held.result(30)

        try:
            yield release
        finally:
            end.set()


def assert_nothing_is_held(bulkhead: Bulkhead) -> None:
    assert (bulkhead.in_flight, bulkhead.queued) == (0, 0)


# Hand-over


@pytest.mark.parametrize(("giver", "receiver"), list(itertools.product(PLACES, PLACES)))
def test_a_place_is_handed_over_from_one_thread_to_another(giver, receiver):
    bulkhead = Bulkhead(1, max_queue=1, max_wait=30.0)
    order: list[str] = []

    def give() -> None:
        wait_for_a_line(bulkhead, 1)
        order.append("given")

    with ThreadPoolExecutor(2) as threads:
        giving = threads.submit(call_in, giver, bulkhead, give)
        wait_until(lambda: bulkhead.in_flight == 1)
        receiving = threads.submit(call_in, receiver, bulkhead, lambda: order.append("received"))
        giving.result(30)
        receiving.result(30)
    assert order == ["given", "received"]
    assert_nothing_is_held(bulkhead)


def test_a_thread_waits_no_longer_than_it_may():
    bulkhead = Bulkhead(1, max_queue=1, max_wait=0.01)
    with a_place_is_held(bulkhead):
        with pytest.raises(ConcurrencyExceeded, match=r"none came free within 0\.01 s"):
            call_in("a plain thread", bulkhead, lambda: None)
        assert bulkhead.queued == 0
    assert_nothing_is_held(bulkhead)


def test_threads_are_served_in_the_order_in_which_they_came():
    bulkhead = Bulkhead(1, max_queue=9, max_wait=30.0)
    served: list[int] = []
    with ThreadPoolExecutor(9) as threads, a_place_is_held(bulkhead):
        for number in range(9):
            threads.submit(call_in, PLACES[number % 3], bulkhead, partial(served.append, number))
            wait_for_a_line(bulkhead, number + 1)
    assert served == list(range(9))


# Stress


class Crowd:
    """Counts who is inside at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self.most = 0
        self.entered = 0

    def enter(self) -> None:
        with self._lock:
            self.entered += 1
            self._inside += 1
            self.most = max(self.most, self._inside)

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1

    def pass_through(self) -> None:
        self.enter()
        time.sleep(0)
        self.leave()

    async def stroll_through(self) -> None:
        self.enter()
        await anyio.lowlevel.checkpoint()
        self.leave()


THREADS, CALLS = 16, 100


def test_sixteen_threads_never_exceed_the_limit_and_all_are_served(restless):
    bulkhead, crowd = Bulkhead(3, max_queue=THREADS, max_wait=30.0), Crowd()
    guarded = Pipeline(bulkhead)(crowd.pass_through)

    def call_often(_: int) -> None:
        for _ in range(CALLS):
            guarded()

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(call_often, range(THREADS)))
    assert crowd.entered == THREADS * CALLS
    assert crowd.most <= 3
    assert_nothing_is_held(bulkhead)


def test_the_queue_of_sixteen_threads_never_exceeds_its_bound(restless):
    bulkhead, crowd = Bulkhead(2, max_queue=3, max_wait=30.0), Crowd()
    guarded = Pipeline(bulkhead)(crowd.pass_through)
    lengths: set[int] = set()

    def call_often(_: int) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        for _ in range(CALLS):
            try:
                guarded()
            except ConcurrencyExceeded:
                outcomes["refused"] += 1
            lengths.add(bulkhead.queued)
        return outcomes

    with ThreadPoolExecutor(THREADS) as threads:
        refused = sum(threads.map(call_often, range(THREADS)), Counter[str]())["refused"]
    assert crowd.entered + refused == THREADS * CALLS
    assert crowd.most <= 2
    assert max(lengths) <= 3
    assert_nothing_is_held(bulkhead)


def test_loops_and_plain_threads_share_the_limit_and_all_are_served(restless):
    bulkhead, crowd = Bulkhead(2, max_queue=100, max_wait=30.0), Crowd()
    tasks, calls = 5, 20

    def in_a_thread() -> None:
        guarded = Pipeline(bulkhead)(crowd.pass_through)
        for _ in range(tasks * calls):
            guarded()

    async def in_a_loop() -> None:
        guarded = Pipeline(bulkhead)(crowd.stroll_through)

        async def call_often() -> None:
            for _ in range(calls):
                await guarded()

        async with anyio.create_task_group() as group:
            for _ in range(tasks):
                group.start_soon(call_often)

    with ThreadPoolExecutor(6) as threads:
        running = [threads.submit(partial(anyio.run, in_a_loop, backend=name)) for name in ("asyncio", "trio") * 2]
        running += [threads.submit(in_a_thread) for _ in range(2)]
        for one in running:
            one.result(60)
    assert crowd.entered == 6 * tasks * calls
    assert crowd.most <= 2
    assert_nothing_is_held(bulkhead)


# The end of a loop


def test_a_loop_that_ends_while_its_waiter_queues_leaves_the_line(backend):
    bulkhead = Bulkhead(1, max_queue=2, max_wait=30.0)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Pipeline(bulkhead)(anyio.lowlevel.checkpoint))
            await anyio.wait_all_tasks_blocked()
            assert bulkhead.queued == 1
            raise KeyError("the end")

    with a_place_is_held(bulkhead):
        with pytest.raises(BaseExceptionGroup):
            anyio.run(main, backend=backend)
        assert bulkhead.queued == 0
    assert_nothing_is_held(bulkhead)


def test_a_loop_that_ends_as_its_waiter_gets_a_place_passes_it_on(backend):
    bulkhead = Bulkhead(1, max_queue=2, max_wait=30.0)

    async def main(release: Callable[[], None], other: Callable[[], Future[str]]) -> Future[str]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Pipeline(bulkhead)(anyio.lowlevel.checkpoint))
            await anyio.wait_all_tasks_blocked()
            queued = other()
            wait_for_a_line(bulkhead, 2)
            release()  # by another thread, to this loop's waiter, which does not run any more
            tasks.cancel_scope.cancel()
        return queued

    with ThreadPoolExecutor(1) as thread, a_place_is_held(bulkhead) as release:

        def other() -> Future[str]:
            return thread.submit(call_in, "a plain thread", bulkhead, lambda: "served")

        assert anyio.run(main, release, other, backend=backend).result(30) == "served"
    assert_nothing_is_held(bulkhead)


def test_a_task_that_asyncio_cancels_at_its_end_leaves_the_line():
    bulkhead = Bulkhead(1, max_queue=1, max_wait=30.0)
    left: list[Any] = []

    async def main() -> None:
        left.append(asyncio.create_task(Pipeline(bulkhead)(anyio.lowlevel.checkpoint)()))
        await asyncio.sleep(0)
        assert bulkhead.queued == 1

    with a_place_is_held(bulkhead):
        asyncio.run(main())
        assert left[0].cancelled()
        assert bulkhead.queued == 0
