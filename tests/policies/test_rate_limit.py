"""The rate limit around calls: how many, when, in whose turn, and in what units."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.lowlevel
import limits
import pytest

from resilient.call import Attribute, Call
from resilient.context import current_runtime, options, use_runtime
from resilient.errors import RateLimited
from resilient.events import CallRejected, Event
from resilient.pipeline import Pipeline
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.rate_limit import RateLimit
from resilient.policies.timeout import Timeout
from resilient.runtime import Runtime
from resilient.testing import virtual_time
from resilient.testing.cancellation import for_each_cancellation
from tests.policies.breakers import CLOSED, outcomes_of

DAY = 86_400


async def now(_label: object = None) -> float:
    return current_runtime().now()


def plain_now(_label: object = None) -> float:
    return current_runtime().now()


# The notation


@pytest.mark.parametrize(
    ("rate", "seconds"),
    [
        ("100/second", 0.01),
        ("10 per 5 minutes", 30.0),
        ("1/month", 30 * DAY),
        ("2 per 1 year", 360 * DAY / 2),
        ("3/2 days", 2 * DAY / 3),
        ("  50 PER hour ", 72.0),
        (limits.RateLimitItemPerMinute(10, 5), 30.0),
        (limits.parse("4/month"), 30 * DAY / 4),
    ],
    ids=str,
)
def test_a_rate_is_read_as_limits_reads_it(backend, rate, seconds):
    item = limits.parse(rate) if isinstance(rate, str) else rate
    assert item.get_expiry() / item.amount == seconds

    async def main():
        limited = Pipeline(RateLimit(rate, burst=1))(now)
        await limited()
        with pytest.raises(RateLimited) as caught:
            await limited()
        assert caught.value.retry_after == seconds

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize(
    "rate",
    ["", "fast", "10", "0/second", "-1/second", "1.5/second", "10/0 seconds", "10/fortnight", "1/second;9/minute"],
)
def test_what_is_no_rate_is_named(rate):
    with pytest.raises(ValueError, match=rf"^rate='{rate}': one limit in the notation of `limits`"):
        RateLimit(rate)


def test_an_item_that_admits_nothing_is_named():
    with pytest.raises(ValueError, match=r"^rate=.*: one limit in the notation"):
        RateLimit(limits.RateLimitItemPerSecond(0))


@pytest.mark.parametrize("rate", [None, 10, 0.5, object()])
def test_what_cannot_be_a_rate_is_named(rate):
    with pytest.raises(TypeError, match=r"^rate=.*: one limit in the notation of `limits`"):
        RateLimit(rate)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("burst", 0), ("burst", -1), *(("max_wait", value) for value in (-1.0, *map(float, ("inf", "nan"))))],
)
def test_an_argument_out_of_its_range_is_refused_by_name(argument, value):
    with pytest.raises(ValueError, match=f"^{argument}={value}: .*at least [01]"):
        RateLimit("1/second", **{argument: value})


# How many


@pytest.mark.parametrize(
    ("rate", "burst", "at_once"),
    [
        ("100/second", None, 10),
        ("109/second", None, 10),
        ("5/second", None, 1),
        ("5/second", 7, 7),
        ("100/second", 1, 1),
    ],
)
def test_a_burst_is_a_tenth_of_the_amount_unless_told(backend, rate, burst, at_once):
    async def main():
        limit = RateLimit(rate, burst=burst)
        assert limit.burst == at_once
        assert await outcomes_of(50, Pipeline(limit)(now)) == {0.0: at_once, "RateLimited": 50 - at_once}

    virtual_time.run(main, backend=backend)


def test_no_second_ever_holds_more_than_the_amount_and_one_burst(backend):
    async def main():
        limited = Pipeline(RateLimit("50/second"))(now)
        admitted: list[float] = []
        while await now() < 3.0:
            try:
                admitted.append(await limited())
            except RateLimited:
                await anyio.sleep(0.001)
        assert 150 <= len(admitted) <= 155
        for begin in admitted:
            assert sum(begin <= moment < begin + 1.0 for moment in admitted) <= 55

    virtual_time.run(main, backend=backend)


def test_the_wait_that_it_tells_is_exact_and_to_be_refused_uses_nothing_up(backend):
    async def main():
        limited = Pipeline(RateLimit("4/second"))(now)
        await limited()
        await anyio.sleep(0.0625)
        for _ in range(100):
            with pytest.raises(RateLimited, match=r"^now: the rate limit 4/second has no room for 0\.188 s$") as caught:
                await limited()
            assert caught.value.retry_after == 0.1875
        await anyio.sleep(0.1875 - 1e-9)
        with pytest.raises(RateLimited):
            await limited()
        await anyio.sleep(1e-9)
        assert await limited() == 0.25

    virtual_time.run(main, backend=backend)


def test_a_refusal_is_an_event_a_fresh_exception_and_nobody_elses_failure(backend):
    events: list[Event] = []

    async def main():
        limit = RateLimit("1/second")
        breaker = CircuitBreaker(consecutive_failures=1)
        limited = Pipeline(breaker, limit)(now)
        await limited()
        caught = []
        for _ in range(3):
            with pytest.raises(RateLimited) as refused:
                await limited()
            assert refused.value.policy is limit
            caught.append(refused.value)
        assert len(set(caught)) == 3
        assert breaker.state is CLOSED

    virtual_time.run(main, backend=backend, emit=events.append)
    assert events == [CallRejected(at=0.0, name="now", policy="RateLimit", retry_after=1.0)] * 3


# In turn


def test_who_may_wait_waits_in_turn_and_who_would_wait_too_long_is_refused_at_once(backend):
    async def main():
        limited = Pipeline(RateLimit("1/second", max_wait=2.5))(now)
        moments: list[tuple[int, float]] = []

        async def call(number: int) -> None:
            moments.append((number, await limited(number)))

        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(call, number)
                await anyio.sleep(0.125)
            with pytest.raises(RateLimited) as caught:
                await limited()
            assert await now() == 0.375
            assert caught.value.retry_after == 2.625
        assert moments == [(0, 0.0), (1, 1.0), (2, 2.0)]
        assert await limited() == 3.0

    virtual_time.run(main, backend=backend)


def test_who_cannot_wait_to_its_deadline_is_refused_at_once_and_who_can_waits(backend):
    async def main():
        limit = RateLimit("1/second", max_wait=60.0)
        await Pipeline(limit).run(now)
        with pytest.raises(RateLimited) as caught:
            await Pipeline(Timeout(0.9), limit).run(now)
        assert caught.value.retry_after == 1.0
        assert await now() == 0.0
        assert await Pipeline(Timeout(1.1), limit).run(now) == 1.0

    virtual_time.run(main, backend=backend)


def test_a_cancelled_waiter_gives_its_place_back(backend):
    async def main():
        limited = Pipeline(RateLimit("1/second", max_wait=60.0))(now)
        await limited()
        with anyio.move_on_after(0.5) as scope:
            await limited()
        assert scope.cancelled_caught
        assert await limited() == 1.0

    virtual_time.run(main, backend=backend)


def test_who_leaves_the_line_moves_nobody_who_waits(backend):
    async def main():
        limited = Pipeline(RateLimit("1/second", max_wait=60.0))(now)
        moments: list[float] = []

        async def call() -> None:
            moments.append(await limited())

        await limited()
        async with anyio.create_task_group() as tasks:
            with anyio.move_on_after(0.5):
                async with anyio.create_task_group() as impatient:
                    impatient.start_soon(call)
                    await anyio.sleep(0.25)
                    tasks.start_soon(call)
        assert moments == [2.0]

    virtual_time.run(main, backend=backend)


def test_no_turn_is_lost_wherever_the_last_in_line_is_cancelled(backend):
    class State:
        def __init__(self) -> None:
            self.limited = Pipeline(RateLimit("1/second", max_wait=60.0))(now)
            self.last = -1.0

    async def scenario(state: State) -> None:
        for _ in range(3):
            state.last = await state.limited()

    async def check(state: State) -> None:
        here = await now()
        assert await state.limited() == max(here, state.last + 1.0)

    assert for_each_cancellation(State, scenario=scenario, check=check, backend=backend) > 3


# Keys

TENANT = Attribute("tenant", "nobody")


def tenant(call: Call) -> str:
    return call.get(TENANT)


def test_each_key_has_a_limit_of_its_own_and_waits_for_nobody_else(backend):
    async def main():
        limited = Pipeline(RateLimit("1/second", max_wait=60.0, key=tenant))(now)
        moments: list[tuple[str, float]] = []

        async def call(name: str) -> None:
            with options(attributes={TENANT: name}):
                moments.append((name, await limited()))

        async with anyio.create_task_group() as tasks:
            for name in ("a", "a", "a", "b", "c", "c"):
                tasks.start_soon(call, name)
        assert sorted(moments) == [("a", 0.0), ("a", 1.0), ("a", 2.0), ("b", 0.0), ("c", 0.0), ("c", 1.0)]

    virtual_time.run(main, backend=backend)


def first_argument(call: Call) -> Any:
    return call.arguments[0][0]


def test_beyond_ten_thousand_keys_the_one_that_was_unused_for_longest_is_forgotten():
    limit = RateLimit("1/hour", key=first_argument)
    limited = Pipeline(limit, runtime=virtual_time.runtime())(plain_now)
    for key in range(10_000):
        limited(key)
    with pytest.raises(RateLimited):
        limited(0)
    limited("one more")
    assert len(limit._keyed) == 10_000
    limited(1)  # the oldest, since 0 was asked for again
    with pytest.raises(RateLimited):
        limited(0)


def test_what_a_key_raises_surfaces_and_takes_no_place(backend):
    async def main():
        limited = Pipeline(RateLimit("1/second", key=first_argument))(now)
        with pytest.raises(IndexError):
            await limited()
        with pytest.raises(TypeError, match="unhashable"):
            await limited([])
        assert await limited("a") == 0.0

    virtual_time.run(main, backend=backend)


# Streams and blocks


@pytest.mark.parametrize("key", [None, lambda call: "all"], ids=["one limit", "by key"])
def test_a_stream_takes_its_place_when_it_begins(backend, key):
    async def stream() -> AsyncGenerator[float, None]:
        yield await now()
        yield await now()

    async def main():
        limited = Pipeline(RateLimit("1/second", max_wait=60.0, key=key))(stream)
        assert [item async for item in limited()] == [0.0, 0.0]
        assert [item async for item in limited()] == [1.0, 1.0]

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize("key", [None, lambda call: "all"], ids=["one limit", "by key"])
def test_a_call_that_fails_has_used_its_place(backend, key):
    async def fail() -> None:
        raise KeyError

    async def main():
        pipeline = Pipeline(RateLimit("1/second", max_wait=60.0, key=key))
        with pytest.raises(KeyError):
            await pipeline.run(fail)
        assert await pipeline.run(now) == 1.0

    virtual_time.run(main, backend=backend)


def test_it_serves_blocks_and_one_that_fails_has_used_its_place(backend):
    async def main():
        limit = RateLimit("1/second", max_wait=1.0)
        with pytest.raises(KeyError):
            async with limit:
                raise KeyError
        async with limit:
            assert await now() == 1.0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Pipeline(limit)(now))
            await anyio.sleep(0.5)
            with pytest.raises(RateLimited, match="a block of RateLimit: the rate limit 1/second has no room"):
                async with limit:
                    raise AssertionError("not entered")

    virtual_time.run(main, backend=backend)


# Plain functions, threads, and several loops


def test_plain_functions_and_blocks_wait_without_an_event_loop():
    with use_runtime(virtual_time.runtime()):
        limit = RateLimit("1/second", max_wait=1.0)
        limited = Pipeline(limit)(plain_now)
        assert [limited(), limited()] == [0.0, 1.0]
        with limit:
            assert plain_now() == 2.0
        with pytest.raises(RateLimited):
            Pipeline(Timeout(0.5), limit).call(plain_now)


THREADS = 16


@pytest.mark.parametrize("key", [None, lambda call: "all"], ids=["one limit", "by key"])
def test_threads_are_admitted_to_the_exact_number(restless, key):
    limit = RateLimit("1000/hour", burst=777, key=key)
    limited = Pipeline(limit, runtime=virtual_time.runtime())(plain_now)

    def call_often(_: int) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        for _ in range(100):
            try:
                limited()
            except RateLimited:
                outcomes["refused"] += 1
            else:
                outcomes["admitted"] += 1
        return outcomes

    with ThreadPoolExecutor(THREADS) as threads:
        outcomes = sum(threads.map(call_often, range(THREADS)), Counter[str]())
    assert outcomes == {"admitted": 777, "refused": THREADS * 100 - 777}


def test_threads_that_wait_get_turns_of_their_own(restless):
    waits: list[float] = []
    limit = RateLimit("4/second", burst=1, max_wait=3600.0)
    limited = Pipeline(limit, runtime=Runtime(now=lambda: 0.0, pause=waits.append))(plain_now)
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(limited, range(500)))
    assert sorted(waits) == [number / 4 for number in range(1, 500)]


def test_two_event_loops_in_two_threads_share_one_limit(backend):
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await anyio.lowlevel.checkpoint()

    limit = RateLimit("4/second", burst=20, max_wait=25.0)
    limited = Pipeline(limit, runtime=Runtime(now=lambda: 0.0, sleep=sleep))(now)

    def in_a_loop(name: str) -> Counter[str]:
        return anyio.run(outcomes_of, 100, limited, backend=name)

    with ThreadPoolExecutor(2) as threads:
        outcomes = sum(threads.map(in_a_loop, [backend, "asyncio"]), Counter[str]())
    assert outcomes["RateLimited"] == 200 - 20 - 100
    assert sorted(waits) == [number / 4 for number in range(1, 101)]
