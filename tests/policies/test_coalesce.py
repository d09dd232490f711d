"""Coalescing: one flight for all who ask the same, which belongs to those who wait for it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import pytest

from resilient.call import Call
from resilient.context import current_call, options
from resilient.errors import DeadlineExceeded
from resilient.events import Event, StaleServed
from resilient.pipeline import Pipeline
from resilient.policies.coalesce import Coalesce
from resilient.policies.retry import Retry
from resilient.policies.timeout import Timeout
from resilient.testing import virtual_time
from resilient.testing.cancellation import for_each_cancellation
from resilient.verdict import Verdict, classify_function


def by_arguments(call: Call) -> object:
    positional, _ = call.arguments
    return positional or None


class FarSide:
    """Counts what it is asked, and answers after a second."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.cancelled = 0
        self.error: Exception | None = None

    async def get(self, what: str = "") -> str:
        self.asked[what] += 1
        number = self.asked[what]
        try:
            await anyio.sleep(1.0)
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return f"{what} {number}"


async def gather(*steps: Any) -> list[Any]:
    """Results and errors, in order."""
    found: list[Any] = [None] * len(steps)

    async def one(index: int, step: Any) -> None:
        try:
            found[index] = await step()
        except Exception as error:
            found[index] = error

    async with anyio.create_task_group() as tasks:
        for index, step in enumerate(steps):
            tasks.start_soon(one, index, step)
    return found


# One flight


def test_equal_calls_at_the_same_time_are_one_call(backend):
    async def main():
        far_side = FarSide()
        get = Pipeline(Coalesce(by_arguments))(far_side.get)
        found = await gather(*[partial(get, what) for what in ("a", "a", "b", "a")])
        assert found == ["a 1", "a 1", "b 1", "a 1"]
        assert anyio.current_time() == 1.0
        assert await get("a") == "a 2", "a flight that has landed takes nobody along"
        assert await gather(get, get) == [" 1", " 2"], "without a key everybody flies alone"

    virtual_time.run(main, backend=backend)


def test_different_operations_are_different_calls(backend):
    async def main():
        pipeline = Pipeline(Coalesce(by_arguments))

        @pipeline
        async def price(_sku: str) -> str:
            await anyio.sleep(1.0)
            return "a price"

        @pipeline
        async def stock(_sku: str) -> str:
            await anyio.sleep(1.0)
            return "a stock"

        assert await gather(partial(price, "x"), partial(stock, "x")) == ["a price", "a stock"]

    virtual_time.run(main, backend=backend)


def test_an_error_is_everybodys(backend):
    async def main():
        far_side = FarSide()
        far_side.error = OSError("down")
        get = Pipeline(Coalesce(by_arguments))(far_side.get)
        found = await gather(*[partial(get, "a")] * 3)
        assert found == [far_side.error] * 3
        assert far_side.asked["a"] == 1

    virtual_time.run(main, backend=backend)


def test_an_error_tells_where_it_happened_and_nothing_of_those_who_wait(backend):
    async def main():
        async def fail(_what: str) -> None:
            await anyio.sleep(1.0)
            raise OSError("down")

        get = Pipeline(Coalesce(by_arguments))(fail)
        found = await gather(*[partial(get, "a")] * 30)
        frames = []
        trace = found[-1].__traceback__
        while trace is not None:
            frames.append(trace.tb_frame.f_code.co_name)
            trace = trace.tb_next
        assert frames.count("fail") == 1
        assert len(frames) < 20

    virtual_time.run(main, backend=backend)


def test_a_classifier_that_fails_is_everybodys_error_and_nobodys_end(backend):
    def broken(_: object) -> Verdict:
        raise LookupError("no verdict")

    async def main():
        far_side = FarSide()
        pipeline = Pipeline(Coalesce(by_arguments), classify=replace(classify_function, result=broken))
        found = await gather(*[partial(pipeline(far_side.get), "a")] * 3)
        assert [str(error) for error in found] == ["no verdict"] * 3
        assert far_side.asked["a"] == 1

    virtual_time.run(main, backend=backend)


# Whose it is


def test_who_began_the_flight_may_leave_it(backend):
    async def main():
        far_side = FarSide()
        get = Pipeline(Coalesce(by_arguments))(far_side.get)
        found: list[str] = []

        async def follow() -> None:
            await anyio.sleep(0.2)
            found.append(await get("a"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            with anyio.move_on_after(0.5) as first:
                await get("a")
            assert first.cancelled_caught
            assert anyio.current_time() == 0.5
        assert found == ["a 1"]
        assert (far_side.asked["a"], far_side.cancelled, anyio.current_time()) == (1, 0, 1.0)

    virtual_time.run(main, backend=backend)


def test_a_flight_that_everybody_has_left_is_cancelled(backend):
    async def main():
        far_side = FarSide()
        get = Pipeline(Coalesce(by_arguments))(far_side.get)
        with anyio.move_on_after(0.5):
            await gather(*[partial(get, "a")] * 3)
        await anyio.sleep(0.1)
        assert far_side.cancelled == 1
        assert await get("a") == "a 2", "nobody boards a flight that is being cancelled"

    virtual_time.run(main, backend=backend)


def test_everybody_waits_to_their_own_deadline_and_the_flight_to_the_latest(backend):
    async def main():
        far_side = FarSide()
        get = Pipeline(Coalesce(by_arguments))(far_side.get)

        async def within(seconds: float) -> str:
            with options(timeout=seconds):
                return await get("a")

        short, long = await gather(partial(within, 0.3), partial(within, 3.0))
        assert isinstance(short, DeadlineExceeded)
        assert short.sent
        assert long == "a 1"
        assert anyio.current_time() == 1.0
        with options(deadline=0.5), pytest.raises(DeadlineExceeded) as late:
            await get("a")
        assert not late.value.sent
        assert far_side.asked["a"] == 1

    virtual_time.run(main, backend=backend)


def test_what_stands_below_sees_one_call_without_the_deadline_of_one_of_them(backend):
    async def main():
        seen: list[float | None] = []

        async def fetch(_what: str) -> None:
            call = current_call()
            assert call is not None
            seen.append(call.remaining)
            await anyio.sleep(1.0)

        get = Pipeline(Timeout(5.0), Coalesce(by_arguments), Retry(on=OSError))(fetch)
        await gather(*[partial(get, "a")] * 3)
        bounded = Pipeline(Timeout(5.0), Coalesce(by_arguments), Timeout(2.0))(fetch)
        await bounded("a")
        assert seen == [None, 2.0]

    virtual_time.run(main, backend=backend)


def test_no_flight_is_left_behind_wherever_a_caller_is_cancelled(backend):
    class Scene:
        def __init__(self) -> None:
            self.coalesce = Coalesce(by_arguments)
            self.far_side = FarSide()

    async def scenario(scene: Scene) -> None:
        get = Pipeline(scene.coalesce)(scene.far_side.get)
        await gather(*[partial(get, "a")] * 3)

    async def check(scene: Scene) -> None:
        await anyio.sleep(2.0)
        assert scene.coalesce._flights == {}
        assert scene.far_side.asked["a"] in {0, 1}

    assert for_each_cancellation(Scene, scenario=scenario, check=check, backend=backend) > 3


# What is kept


def kept(**settings: Any) -> tuple[FarSide, Any]:
    far_side = FarSide()
    return far_side, Pipeline(Coalesce(by_arguments, **settings))(far_side.get)


def test_a_good_result_answers_later_calls_for_as_long_as_it_is_fresh(backend):
    async def main():
        _, get = kept(ttl=10.0)
        assert await get("a") == "a 1"
        await anyio.sleep(9.9)
        assert await get("a") == "a 1"
        await anyio.sleep(0.1)
        assert await get("a") == "a 2"

    virtual_time.run(main, backend=backend)


def test_an_error_is_not_kept(backend):
    async def main():
        far_side, get = kept(ttl=10.0)
        far_side.error = OSError("down")
        with pytest.raises(OSError, match="down"):
            await get("a")
        far_side.error = None
        assert await get("a") == "a 2"

    virtual_time.run(main, backend=backend)


def test_a_stale_result_is_the_answer_while_a_new_one_is_fetched(backend):
    events: list[Event] = []

    async def main():
        far_side, get = kept(ttl=10.0, stale_while_revalidate=5.0)
        await get("a")
        await anyio.sleep(12.0)
        began = anyio.current_time()
        assert await gather(*[partial(get, "a")] * 3) == ["a 1"] * 3
        assert anyio.current_time() == began
        await anyio.sleep(1.5)
        assert far_side.asked["a"] == 2
        assert await get("a") == "a 2"
        await anyio.sleep(16.0)
        assert await get("a") == "a 3", "too old"

    virtual_time.run(main, backend=backend, emit=events.append)
    assert [(type(event), event.at) for event in events] == [(StaleServed, 13.0)] * 3
    assert events[0] == StaleServed(at=13.0, name=events[0].name, age=12.0, reason="revalidating")


def test_a_new_one_is_not_fetched_for_longer_than_the_old_one_may_be_used(backend):
    async def main():
        far_side, get = kept(ttl=10.0, stale_while_revalidate=0.5)
        await get("a")
        await anyio.sleep(10.1)
        assert await get("a") == "a 1"
        await anyio.sleep(0.6)
        assert far_side.cancelled == 1

    virtual_time.run(main, backend=backend)


def test_a_stale_result_is_better_than_an_error_and_a_new_one_better_than_both(backend):
    async def main():
        far_side, get = kept(ttl=10.0, stale_if_error=60.0)
        await get("a")
        await anyio.sleep(20.0)
        far_side.error = OSError("down")
        assert await get("a") == "a 1"
        far_side.error = None
        assert await get("a") == "a 3"
        far_side.error = OSError("down")
        await anyio.sleep(80.0)
        with pytest.raises(OSError, match="down"):
            await get("a")

    virtual_time.run(main, backend=backend)


def test_no_more_results_are_kept_than_there_is_room_for(backend):
    async def main():
        far_side, get = kept(ttl=1000.0, max_entries=2)
        for what in ("a", "b", "a", "c", "a", "b"):
            await get(what)
        assert far_side.asked == {"a": 1, "b": 2, "c": 1}

    virtual_time.run(main, backend=backend)


# Threads


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Gate:
    """A plain far side that answers when it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.open = threading.Event()
        self.error: BaseException | None = None

    def get(self, what: str) -> str:
        self.asked += 1
        number = self.asked
        assert self.open.wait(30)
        error, self.error = self.error, None
        if error is not None:
            raise error
        return f"{what} {number}"


def joined(coalesce: Coalesce, number: int) -> bool:
    return sum(len(flight.waiting) for flight in coalesce._flights.values()) == number


def test_threads_share_a_call_that_one_of_them_makes():
    gate, coalesce = Gate(), Coalesce(by_arguments)
    get = Pipeline(coalesce)(gate.get)
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(get, "a") for _ in range(4)]
        wait_until(lambda: joined(coalesce, 4))
        gate.open.set()
        assert [call.result(30) for call in calls] == ["a 1"] * 4


def test_when_the_thread_that_makes_it_is_interrupted_another_one_does():
    gate, coalesce = Gate(), Coalesce(by_arguments)
    gate.error = KeyboardInterrupt()
    get = Pipeline(coalesce)(gate.get)
    with ThreadPoolExecutor(3) as threads:
        calls = [threads.submit(get, "a") for _ in range(3)]
        wait_until(lambda: joined(coalesce, 3))
        gate.open.set()
        wait_until(lambda: all(call.done() for call in calls))
        errors = [call.exception() for call in calls]
        assert sum(isinstance(error, KeyboardInterrupt) for error in errors) == 1
        assert {call.result() for call in calls if call.exception() is None} <= {"a 2", "a 3"}


def test_a_thread_that_is_out_of_time_ends_nobody_elses_wait():
    gate, coalesce = Gate(), Coalesce(by_arguments)
    gate.error = DeadlineExceeded("out of time")
    get = Pipeline(coalesce)(gate.get)

    def hurried() -> str:
        with options(timeout=60.0):
            return get("a")

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(hurried)
        wait_until(lambda: gate.asked == 1)
        second = threads.submit(get, "a")
        wait_until(lambda: joined(coalesce, 2))
        gate.open.set()
        with pytest.raises(DeadlineExceeded):
            first.result(30)
        assert second.result(30) == "a 2"


@pytest.mark.parametrize("other", ["asyncio", "trio"])
def test_event_loops_and_threads_share_a_flight(other):
    coalesce, gate = Coalesce(by_arguments), threading.Event()
    asked: list[str] = []
    pipeline = Pipeline(coalesce)

    async def fetch(what: str) -> str:
        asked.append(what)
        while not gate.is_set():
            await anyio.sleep(0.001)
        return what

    get = pipeline(fetch)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(anyio.run, get, "a")
        wait_until(lambda: joined(coalesce, 1))
        second = threads.submit(partial(anyio.run, get, "a", backend=other))
        wait_until(lambda: joined(coalesce, 2))
        gate.set()
        assert (first.result(30), second.result(30)) == ("a", "a")
    assert asked == ["a"]


def test_when_the_loop_of_a_flight_ends_the_others_begin_anew():
    coalesce, gate = Coalesce(by_arguments), threading.Event()
    asked: list[str] = []

    async def fetch(what: str) -> str:
        asked.append(what)
        while not gate.is_set():
            await anyio.sleep(0.001)
        return what

    get = Pipeline(coalesce)(fetch)

    async def leave_early() -> None:
        task = asyncio.create_task(get("a"))
        while not joined(coalesce, 2):
            await asyncio.sleep(0.001)
        task.cancel()  # and the loop cancels the flight when it ends

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(asyncio.run, leave_early())
        wait_until(lambda: joined(coalesce, 1))
        second = threads.submit(anyio.run, get, "a")
        assert first.result(30) is None
        gate.set()
        assert second.result(30) == "a"
    assert asked == ["a", "a"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ttl": -1.0}, r"ttl=-1\.0: a finite number of seconds, at least 0"),
        ({"stale_while_revalidate": float("inf")}, "stale_while_revalidate=inf"),
        ({"stale_if_error": float("nan")}, "stale_if_error=nan"),
        ({"max_entries": 0}, "max_entries=0: results that are kept, at least 1"),
    ],
)
def test_bad_settings_are_refused_with_what_is_allowed(settings, message):
    with pytest.raises(ValueError, match=message):
        Coalesce(by_arguments, **settings)
