"""The adaptive limit around calls: it follows what the far side can take, and no place is ever lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import TypeVar

import anyio
import anyio.lowlevel
import pytest

from resilient.call import Call, Next, Policy
from resilient.errors import ConcurrencyExceeded, DeadlineExceeded
from resilient.events import Event, LimitChanged
from resilient.instance import Instance
from resilient.pipeline import Pipeline
from resilient.policies.adaptive_limit import AdaptiveLimit
from resilient.policies.limit_rules import Aimd, Correlated, Gradient2, Limiter, Vegas
from resilient.policies.timeout import Timeout
from resilient.testing import virtual_time
from resilient.testing.cancellation import for_each_cancellation
from resilient.verdict import Verdict, classify_function
from tests.policies.breakers import outcomes_of

T = TypeVar("T")


class Server:
    """Workers with a line in front of them, which work on what nobody waits for any more."""

    def __init__(self, workers: int, seconds: float, tasks: anyio.abc.TaskGroup, seed: int = 0) -> None:
        self.seconds = seconds
        self._workers = anyio.Semaphore(workers)
        self._tasks = tasks
        self._random = Random(seed)

    async def __call__(self) -> None:
        done = anyio.Event()

        async def work() -> None:
            async with self._workers:
                await anyio.sleep(self._random.expovariate(1 / self.seconds))
            done.set()

        self._tasks.start_soon(work)
        await done.wait()


async def load(pipeline: Pipeline, server: Server, rate: float, seconds: float, seed: int = 1) -> Counter[str]:
    """Calls at random moments; what became of them."""
    random = Random(seed)
    outcomes: Counter[str] = Counter()

    async def one() -> None:
        try:
            await pipeline.run(server)
        except (ConcurrencyExceeded, DeadlineExceeded) as error:
            outcomes[type(error).__name__] += 1
        else:
            outcomes["done"] += 1

    end = anyio.current_time() + seconds
    async with anyio.create_task_group() as callers:
        while anyio.current_time() < end:
            callers.start_soon(one)
            await anyio.sleep(random.expovariate(rate))
    return outcomes


# How many


def test_no_more_than_the_limit_are_in_flight_and_the_rest_is_refused(backend):
    async def main():
        limit = AdaptiveLimit(initial=3)

        @Pipeline(limit)
        async def work() -> float:
            await anyio.sleep(1.0)
            return 0.0

        assert await outcomes_of(10, work) == {0.0: 3, "ConcurrencyExceeded": 7}
        assert limit.in_flight() == 0
        async with limit, limit, limit:
            with pytest.raises(
                ConcurrencyExceeded,
                match=r"^.*work: 3 calls are in flight, as many as are good for it, and none may wait$",
            ) as caught:
                await work()
        assert caught.value.policy is limit

    virtual_time.run(main, backend=backend)


def test_who_waits_gets_the_place_that_comes_free_or_that_is_new(backend):
    async def main():
        limit = AdaptiveLimit(Aimd(), initial=1, max_queue=5, max_wait=9.0, least=2, window=0.75)

        @Pipeline(limit)
        async def work() -> float:
            began = anyio.current_time()
            await anyio.sleep(0.5)
            return began

        # One at a time, until the second answer makes it two at a time, and every later window one more.
        assert await outcomes_of(6, work) == {0.0: 1, 0.5: 1, 1.0: 2, 1.5: 2}
        assert limit.limit() == 3
        assert limit.in_flight() == 0

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize(
    ("limiter", "backend"),
    [
        (Correlated(), "asyncio"),
        (Correlated(), "trio"),
        (Gradient2(), "asyncio"),
        (Vegas(), "asyncio"),
        (Aimd(), "asyncio"),
    ],
)
def test_under_twice_the_load_the_far_side_is_kept_busy_and_no_call_comes_too_late(limiter: Limiter, backend):
    events: list[Event] = []

    async def main():
        limit = AdaptiveLimit(limiter)
        async with anyio.create_task_group() as tasks:
            outcomes = await load(Pipeline(limit, Timeout(2.0)), Server(10, 0.1, tasks), rate=200.0, seconds=20.0)
        assert outcomes["done"] > 0.9 * 20 * 100
        assert outcomes["DeadlineExceeded"] < 0.02 * outcomes["done"]
        assert limit.in_flight() == 0
        changes = [event for event in events if isinstance(event, LimitChanged)]
        assert changes[0].before == 20
        assert all(later.before == earlier.limit for earlier, later in pairwise(changes))
        assert changes[-1].limit == limit.limit()

    virtual_time.run(main, backend=backend, emit=events.append)


def test_when_the_far_side_is_slower_than_the_calls_can_wait_the_limit_goes_down_to_what_is_answered():
    async def main():
        limit = AdaptiveLimit(highest=100, initial=100)
        pipeline = Pipeline(limit, Timeout(0.5))
        async with anyio.create_task_group() as tasks:
            server = Server(10, 0.1, tasks)
            first = await load(pipeline, server, rate=300.0, seconds=10.0)
            await load(pipeline, server, rate=300.0, seconds=30.0)  # what was abandoned is worked off
            later = await load(pipeline, server, rate=300.0, seconds=30.0)
        assert first["DeadlineExceeded"] > 100, "a hundred at once take a second"
        assert later["DeadlineExceeded"] < 0.02 * later["done"]
        assert later["done"] > 0.8 * 30 * 100

    virtual_time.run(main)


@pytest.mark.parametrize(
    ("verdict", "moves"),
    [
        (Verdict.OVERLOADED, True),
        (Verdict.REFUSED, True),
        (Verdict.FAILED, False),
        (Verdict.UNREACHABLE, False),
        (Verdict.LOCAL, False),
        (Verdict.PENDING, False),
    ],
)
def test_what_turns_calls_away_makes_the_limit_smaller_and_what_fails_does_not(verdict, moves):
    def judge(_error: BaseException) -> Verdict:
        assert isinstance(verdict, Verdict)
        return verdict

    async def fail() -> None:
        await anyio.sleep(0.02)
        raise OSError("broken")

    async def main():
        limit = AdaptiveLimit(least=10)
        pipeline = Pipeline(limit, classify=replace(classify_function, error=judge))
        for _ in range(100):
            with pytest.raises(OSError, match="broken"):
                await pipeline.run(fail)
        assert (limit.limit() < 20) == moves

    virtual_time.run(main)


# Whose


def test_each_instance_has_a_limit_of_its_own_unless_a_key_says_otherwise(backend):
    def to(name: str) -> Policy:
        async def policy(call: Call, nxt: Next[T]) -> T:
            return await nxt(call.evolve(instance=Instance(id=name, host="127.0.0.1", port=80)))

        return policy

    async def main():
        limit = AdaptiveLimit(initial=1)
        tenants = AdaptiveLimit(initial=1, key=lambda call: call.arguments[0][0])

        async def work(tenant: str) -> str:
            await anyio.sleep(1.0)
            return tenant

        a, b = Pipeline(to("a"), limit), Pipeline(to("b"), limit)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(a.run, work, "x")
            await anyio.sleep(0.5)
            assert (limit.in_flight("a"), limit.in_flight("b")) == (1, 0)
            with pytest.raises(ConcurrencyExceeded):
                await a.run(work, "x")
            tasks.start_soon(b.run, work, "x")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Pipeline(tenants).run, work, "x")
            tasks.start_soon(Pipeline(tenants).run, work, "y")
            await anyio.sleep(0.5)
            assert (tenants.in_flight("x"), tenants.in_flight("y")) == (1, 1)

    virtual_time.run(main, backend=backend)


# Places


def test_a_stream_holds_its_place_until_it_is_over_and_counts_to_its_beginning(backend):
    async def main():
        limit = AdaptiveLimit(initial=1)

        @Pipeline(limit)
        async def numbers() -> AsyncGenerator[int]:
            yield 1
            await anyio.sleep(100.0)
            yield 2

        async with aclosing(numbers()) as stream:
            assert await anext(stream) == 1
            assert limit.in_flight() == 1
        assert limit.in_flight() == 0

    virtual_time.run(main, backend=backend)


def test_a_cancelled_call_gives_its_place_back_wherever_it_is(backend):
    async def scenario(limit: AdaptiveLimit) -> None:
        guarded = Pipeline(limit)(anyio.sleep)
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(guarded, 0.1)

    def check(limit: AdaptiveLimit) -> None:
        assert limit.in_flight() == 0

    def fresh() -> AdaptiveLimit:
        return AdaptiveLimit(initial=1, max_queue=3)

    assert for_each_cancellation(fresh, scenario=scenario, check=check, backend=backend) > 5


def test_a_classifier_that_fails_costs_no_place(backend):
    def broken(_: object) -> Verdict:
        raise LookupError("no verdict")

    async def fail() -> None:
        raise OSError

    async def main():
        limit = AdaptiveLimit(initial=1)
        for classify in (replace(classify_function, error=broken), replace(classify_function, result=broken)):
            for step in (fail, anyio.lowlevel.checkpoint):
                with suppress(LookupError, OSError):
                    await Pipeline(limit, classify=classify).run(step)
                assert limit.in_flight() == 0

    virtual_time.run(main, backend=backend)


def test_plain_functions_and_blocks_hold_places_too():
    limit = AdaptiveLimit(initial=1)

    @Pipeline(limit)
    def work() -> int:
        assert limit.in_flight() == 1
        with pytest.raises(ConcurrencyExceeded), limit:
            pytest.fail("there is one place")
        return 7

    assert work() == 7
    with limit:
        assert limit.in_flight() == 1
    assert limit.in_flight() == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdaptiveLimit(lowest=0), "lowest=0, initial=20, highest=200: how many calls"),
        (lambda: AdaptiveLimit(initial=300), "initial=300"),
        (lambda: AdaptiveLimit(max_queue=-1), "max_queue=-1"),
        (lambda: AdaptiveLimit(max_wait=float("inf")), "max_wait=inf"),
        (lambda: AdaptiveLimit(window=0.0), "window=0.0: a finite number of seconds, at least 0.001"),
        (lambda: AdaptiveLimit(least=0), "least=0"),
        (lambda: Correlated(0.5), "most=0.5"),
        (lambda: Gradient2(tolerance=0.9), "tolerance=0.9"),
        (lambda: Gradient2(queue=0), "queue=0"),
        (lambda: Gradient2(smoothing=1.1), "smoothing=1.1"),
        (lambda: Vegas(probe=0), "probe=0"),
        (lambda: Aimd(backoff=1.0), "backoff=1.0"),
        (lambda: Aimd(slow=0.0), "slow=0.0"),
    ],
)
def test_bad_settings_are_refused_with_what_is_allowed(make, message):
    with pytest.raises(ValueError, match=message):
        make()
