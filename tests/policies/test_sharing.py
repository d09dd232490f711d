"""One stack of policies for many threads and several event loops: nothing is counted twice, nothing is lost."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import anyio
import anyio.lowlevel
import pytest

from resilient.call import Call
from resilient.context import current_call
from resilient.errors import ConcurrencyExceeded, RateLimited
from resilient.pipeline import Pipeline
from resilient.policies.adaptive_throttle import AdaptiveThrottle
from resilient.policies.base import OwnPolicy
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.rate_limit import RateLimit
from resilient.policies.retry import Backoff, Retry, RetryBudget
from resilient.policies.timeout import Timeout
from resilient.runtime import Runtime

THREADS, CALLS = 16, 50

frozen = Runtime(now=lambda: 0.0, pause=lambda seconds: None)
"""Time stands still, so that counts have only one right answer."""


@pytest.fixture(autouse=True)
def restless() -> Iterator[None]:
    """Threads that take turns as often as they can."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


def in_all_threads(work: Callable[[], object]) -> None:
    start = threading.Barrier(THREADS)

    def often() -> None:
        start.wait(30)
        for _ in range(CALLS):
            work()

    with ThreadPoolExecutor(THREADS) as threads:
        for done in [threads.submit(often) for _ in range(THREADS)]:
            done.result(60)


class Flaky:
    """Fails in every first attempt; counts attempts without losing one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.first = self.later = 0

    def __call__(self) -> str:
        call = current_call()
        assert call is not None
        with self._lock:
            if call.attempt == 1:
                self.first += 1
            else:
                self.later += 1
        if call.attempt == 1:
            raise ConnectionRefusedError
        return "answer"


def test_sixteen_threads_withdraw_from_a_budget_exactly_what_is_in_it():
    flaky, budget = Flaky(), RetryBudget(ratio=0.0, floor=10.0, ttl=10.0)
    work = Pipeline(Retry(budget=budget, backoff=Backoff(base=0)), runtime=frozen)(flaky)
    lost: list[int] = []

    def one() -> None:
        try:
            work()
        except ConnectionRefusedError:
            lost.append(1)

    in_all_threads(one)
    assert flaky.first == THREADS * CALLS
    assert flaky.later == 100
    assert len(lost) == THREADS * CALLS - 100
    assert budget.balance(0.0) == 0.0


def test_sixteen_threads_deposit_once_for_each_call():
    budget = RetryBudget(ratio=1.0, floor=0.0)
    in_all_threads(Pipeline(Retry(budget=budget), runtime=frozen)(lambda: None))
    assert budget.balance(0.0) == THREADS * CALLS


def test_sixteen_threads_go_through_a_whole_stack():
    flaky, bulkhead, breaker = Flaky(), Bulkhead(3, max_queue=THREADS, max_wait=30.0), CircuitBreaker(failure_ratio=1.0)
    stack = Pipeline(
        Timeout(60.0),
        Retry(budget=None, backoff=Backoff(base=0)),
        AdaptiveThrottle(),
        breaker,
        RateLimit("1000000/second", burst=1_000_000),
        bulkhead,
        Timeout(30.0),
    )
    in_all_threads(stack(flaky))
    assert (flaky.first, flaky.later) == (THREADS * CALLS, THREADS * CALLS)
    assert (bulkhead.in_flight, bulkhead.queued, breaker.state.value) == (0, 0, "closed")


def test_sixteen_threads_are_let_through_exactly_as_often_as_the_rate_limit_allows():
    limit, refused = Pipeline(RateLimit("1/hour", burst=100), runtime=frozen)(lambda: None), []

    def one() -> None:
        try:
            limit()
        except RateLimited:
            refused.append(1)

    in_all_threads(one)
    assert len(refused) == THREADS * CALLS - 100


def test_sixteen_threads_count_every_success_of_a_breaker():
    breaker = CircuitBreaker()
    guarded = Pipeline(breaker, runtime=frozen)

    def fail() -> None:
        raise KeyError

    in_all_threads(guarded(lambda: None))
    # Half of all calls must have failed before it opens: as many as have succeeded.
    for failures in range(THREADS * CALLS):
        assert breaker.state.value == "closed", failures
        with pytest.raises(KeyError):
            guarded.call(fail)
    assert breaker.state.value == "open"


def shared() -> tuple[Bulkhead, Pipeline]:
    bulkhead = Bulkhead(2, max_queue=100, max_wait=30.0)
    own: list[OwnPolicy] = [Timeout(60.0), Retry(), CircuitBreaker(), RateLimit("1000000/second", burst=1000), bulkhead]
    return bulkhead, Pipeline(*own)


def test_loops_of_asyncio_and_trio_share_a_stack_with_plain_threads():
    bulkhead, stack = shared()
    answers: list[str] = []

    async def one(name: str) -> None:
        await anyio.lowlevel.checkpoint()
        answers.append(name)

    async def in_a_loop(name: str) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(stack(one), name)

    def in_a_loop_of(name: str) -> None:
        anyio.run(in_a_loop, name, backend=name)

    def in_a_thread(name: str) -> None:
        for _ in range(20):
            stack.call(answers.append, name)

    with ThreadPoolExecutor(5) as threads:
        running = [threads.submit(in_a_loop_of, name) for name in ("asyncio", "trio") * 2]
        running.append(threads.submit(in_a_thread, "thread"))
        for done in running:
            done.result(60)
    assert {name: answers.count(name) for name in set(answers)} == {"asyncio": 40, "trio": 40, "thread": 20}
    assert (bulkhead.in_flight, bulkhead.queued) == (0, 0)


def test_no_policy_keeps_a_loop_or_a_call_alive():
    bulkhead, stack = shared()
    queueing = Pipeline(Timeout(5.0), bulkhead)
    calls: list[weakref.ref[object]] = []

    class Argument:
        pass

    async def work(argument: Argument) -> None:
        calls.append(weakref.ref(argument))
        await anyio.lowlevel.checkpoint()

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(queueing(work), Argument())
        await stack(work)(Argument())

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    gone = weakref.ref(loop)
    del loop
    gc.collect()
    assert gone() is None
    assert [ref() for ref in calls] == [None] * 11
    assert bulkhead.in_flight == 0


def test_a_pipeline_made_before_any_loop_serves_one_after_another(backend):
    bulkhead, stack = shared()

    @stack
    async def work() -> Call | None:
        await anyio.lowlevel.checkpoint()
        return current_call()

    for _ in range(3):
        assert anyio.run(work, backend=backend) is not None
    assert bulkhead.in_flight == 0


def test_a_full_bulkhead_refuses_in_every_place_alike(backend):
    bulkhead = Bulkhead(1)

    async def refused() -> None:
        with pytest.raises(ConcurrencyExceeded, match="none may wait"):
            await Pipeline(bulkhead).run(anyio.lowlevel.checkpoint)

    with bulkhead:
        anyio.run(refused, backend=backend)
        with pytest.raises(ConcurrencyExceeded, match="none may wait"):
            Pipeline(bulkhead).call(sorted, [])
