"""The circuit breaker around streams, blocks and plain functions, and shared by threads and event loops."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace

import anyio
import anyio.to_thread
import pytest

from resilient.context import current_runtime, use_runtime
from resilient.errors import CircuitOpen
from resilient.pipeline import Pipeline
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.testing import virtual_time
from tests.policies.breakers import (
    CLOSED,
    COOLDOWN,
    HALF_OPEN,
    OPEN,
    Ending,
    outcome_of,
    outcomes_of,
    ready_to_probe,
    remote,
    sensitive,
)

# Streams


WELL: list[Ending] = ["well"] * 5


async def items(*endings: Ending, every: float = 1.0) -> AsyncGenerator[str, None]:
    for ending in endings:
        yield await remote(ending, every)


def test_a_stream_that_fails_between_its_items_is_a_failure(backend):
    async def main():
        breaker = sensitive()
        stream = Pipeline(breaker)(items)("well", "well", "badly")
        assert [await anext(stream), await anext(stream)] == ["an answer"] * 2
        assert breaker.state is CLOSED
        with pytest.raises(OSError, match="it failed"):
            await anext(stream)
        assert breaker.state is OPEN

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize("end", ["its last item", "a consumer that has enough", "a consumer that fails"])
def test_a_probe_that_is_a_stream_holds_its_place_to_the_end_and_closes_the_circuit(backend, end):
    async def main():
        breaker = ready_to_probe()
        streamed = Pipeline(breaker)(items)
        with pytest.raises(KeyError) if end == "a consumer that fails" else anyio.CancelScope():
            async with aclosing(streamed("well", "well")) as stream:
                assert await anext(stream) == "an answer"
                assert await outcome_of(Pipeline(breaker)(remote)) == "CircuitOpen"
                assert breaker.state is HALF_OPEN
                if end == "its last item":
                    assert [item async for item in stream] == ["an answer"]
                    assert breaker.state is CLOSED
                elif end == "a consumer that fails":
                    raise KeyError("its own")
        assert breaker.state is CLOSED

    virtual_time.run(main, backend=backend)


def test_a_stream_is_slow_when_its_first_item_is(backend):
    async def main():
        for every, state in ((1.0, CLOSED), (1.1, OPEN)):
            breaker = CircuitBreaker(slow_call=1.0, slow_ratio=1.0, minimum_calls=1)
            assert len([item async for item in Pipeline(breaker)(items)(*WELL, every=every)]) == 5
            assert breaker.state is state

    virtual_time.run(main, backend=backend)


def test_a_stream_that_nobody_reads_takes_no_place(backend):
    async def main():
        breaker = ready_to_probe()
        unread = Pipeline(breaker)(items)("well")
        assert await Pipeline(breaker).run(remote) == "an answer"
        await unread.aclose()

    virtual_time.run(main, backend=backend)


# Blocks


def test_it_guards_a_block(backend):
    async def main():
        breaker = sensitive(slow_call=1.0)
        async with breaker:
            await anyio.sleep(0.1)
        with pytest.raises(OSError, match="it failed"):
            async with breaker:
                await remote("badly")
        assert breaker.state is OPEN
        with pytest.raises(CircuitOpen, match="a block of CircuitBreaker: the circuit is open for 5 s more"):
            async with breaker:
                raise AssertionError("not entered")
        await anyio.sleep(COOLDOWN)
        async with breaker:
            pass
        assert breaker.state is CLOSED

    virtual_time.run(main, backend=backend)


def test_a_block_that_takes_too_long_is_slow(backend):
    async def main():
        for seconds, state in ((1.0, CLOSED), (1.1, OPEN)):
            breaker = CircuitBreaker(slow_call=1.0, minimum_calls=1)
            async with breaker:
                await anyio.sleep(seconds)
            assert breaker.state is state

    virtual_time.run(main, backend=backend)


def test_many_blocks_of_one_breaker_are_told_apart(backend):
    async def main():
        breaker = ready_to_probe(probes=3)

        async def block() -> str:
            async with breaker:
                return await remote("well", 1.0)

        assert await outcomes_of(50, block) == {"an answer": 3, "CircuitOpen": 47}
        assert breaker.state is CLOSED

        async with breaker:
            with pytest.raises(OSError, match="it failed"):
                async with breaker:  # the same task, the same breaker: the inner block is the one that fails
                    await remote("badly")
            assert breaker.state is OPEN

    virtual_time.run(main, backend=backend)


# Plain functions and threads


def plain(ending: str = "well") -> str:
    if ending == "badly":
        raise OSError("it failed")
    return "an answer"


def test_plain_functions_and_blocks_are_guarded_without_an_event_loop():
    with use_runtime(virtual_time.runtime()):
        breaker = sensitive()
        guarded = Pipeline(breaker)(plain)
        assert guarded() == "an answer"
        with pytest.raises(OSError, match="it failed"):
            guarded("badly")
        with pytest.raises(CircuitOpen), breaker:
            raise AssertionError("not entered")
        current_runtime().pause(COOLDOWN)
        with breaker:
            pass
        assert breaker.state is CLOSED


THREADS = 16


def test_sixteen_threads_lose_no_result(restless):
    at_least = 1600
    breaker = CircuitBreaker(failure_ratio=1.0, minimum_calls=at_least, window=3600.0)
    guarded = Pipeline(breaker)(plain)

    def fail_until_it_opens(_: int) -> int:
        failed = 0
        while True:
            try:
                guarded("badly")
            except CircuitOpen:
                return failed
            except OSError:
                failed += 1

    with ThreadPoolExecutor(THREADS) as threads:
        failed = sum(threads.map(fail_until_it_opens, range(THREADS)))
    assert at_least <= failed < at_least + THREADS  # beyond that only what was underway when it opened


@pytest.mark.parametrize("probes", [1, 3])
def test_of_sixteen_threads_exactly_the_probes_get_through(restless, probes):
    class SlowSum(float):
        """A moment that takes long to add to: the others come between a look at the places and the taking of one."""

        def __add__(self, other: float) -> float:
            time.sleep(0.002)
            return float(self) + other

    runtime = virtual_time.runtime()
    with use_runtime(runtime):
        breaker = ready_to_probe(probes=probes)
    runtime = replace(runtime, now=lambda: SlowSum(COOLDOWN))
    together, others_are_refused = threading.Barrier(THREADS), threading.Event()
    refused: list[int] = []

    @Pipeline(breaker, runtime=runtime)
    def probe() -> None:
        assert others_are_refused.wait(10)

    def call(number: int) -> bool:
        together.wait()
        try:
            probe()
        except CircuitOpen:
            refused.append(number)
            if len(refused) == THREADS - probes:
                others_are_refused.set()
            return False
        return True

    with ThreadPoolExecutor(THREADS) as threads:
        assert sum(threads.map(call, range(THREADS))) == probes
    assert breaker.state is CLOSED


def test_probes_that_fail_in_several_threads_at_once_open_it_once():
    def draw_slowly() -> float:
        time.sleep(0.02)  # the others settle meanwhile, or wait until it is done
        return 0.0

    runtime = replace(virtual_time.runtime(), random=draw_slowly)
    with use_runtime(runtime):
        breaker = ready_to_probe(probes=4)
    guarded, together = Pipeline(breaker, runtime=runtime), threading.Barrier(4)

    @guarded
    def probe() -> None:
        together.wait()
        raise OSError("it failed")

    with ThreadPoolExecutor(4) as threads:
        failed = [threads.submit(probe) for _ in range(4)]
    assert {type(one.exception()) for one in failed} == {OSError}
    with pytest.raises(CircuitOpen) as caught:
        guarded.call(plain)
    assert caught.value.retry_after == 2 * COOLDOWN


def test_of_the_callers_in_several_loops_exactly_the_probes_get_through(backend):
    runtime = virtual_time.runtime()
    with use_runtime(runtime):
        breaker = ready_to_probe(probes=3)
    others_are_refused = threading.Event()
    refused: list[int] = []

    @Pipeline(breaker, runtime=runtime)
    async def probe() -> str:
        assert await anyio.to_thread.run_sync(others_are_refused.wait, 30)
        return "an answer"

    async def call() -> str:
        try:
            return await probe()
        except CircuitOpen:
            refused.append(1)
            if len(refused) == 40 - 3:
                others_are_refused.set()
            raise

    def in_a_loop(name: str) -> Counter[str]:
        return anyio.run(outcomes_of, 20, call, backend=name)

    with ThreadPoolExecutor(2) as threads:
        outcomes = sum(threads.map(in_a_loop, [backend, "asyncio"]), Counter[str]())
    assert outcomes == {"an answer": 3, "CircuitOpen": 37}
    assert breaker.state is CLOSED
