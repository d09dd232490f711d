"""A call may be cancelled at every await of every policy: nothing is left behind, and nothing of it is swallowed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from resilient import deadline
from resilient.call import Call, Next
from resilient.context import ambient, current_runtime, options
from resilient.errors import DeadlineExceeded, Rejected
from resilient.pipeline import Pipeline
from resilient.policies.adaptive_throttle import AdaptiveThrottle
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.hedge import Hedge
from resilient.policies.honoured import Honoured
from resilient.policies.rate_limit import RateLimit
from resilient.policies.retry import Retry
from resilient.policies.timeout import Timeout
from resilient.testing.cancellation import for_each_cancellation
from resilient.verdict import Classifier, Verdict, classify_function


class Opened:
    """A result that has to be closed by whoever has it last."""

    def __init__(self, book: list[Opened], verdict: Verdict = Verdict.OK) -> None:
        self.verdict = verdict
        self.closed = False
        book.append(self)

    def close(self) -> None:
        self.closed = True


class State:
    """One of each policy, and what was opened."""

    def __init__(self) -> None:
        self.bulkhead = Bulkhead(1, max_queue=10, max_wait=5.0)
        self.inner_bulkhead = Bulkhead(2)
        self.breaker = CircuitBreaker(minimum_calls=1, cooldown=1.0)
        self.rate = RateLimit("1/second", max_wait=5.0)
        self.throttle = AdaptiveThrottle()
        self.opened: list[Opened] = []
        self.attempts = 0
        self.running = 0

    async def work(self, *, wait: float = 1.0, fail: int = 0) -> str:
        """Fail that often, then answer; count who is inside."""
        self.attempts += 1
        failing = self.attempts <= fail
        self.running += 1
        try:
            await anyio.sleep(wait)
        finally:
            self.running -= 1
        if failing:
            raise OSError
        return "answer"


async def nothing_is_left(state: State) -> None:
    assert state.running == 0
    assert (state.bulkhead.in_flight, state.bulkhead.queued, state.inner_bulkhead.in_flight) == (0, 0, 0)
    assert [opened.closed for opened in state.opened] == [True] * len(state.opened)
    assert ambient.get() is current_runtime_only()
    armed = deadline._here.deadlines()
    if armed is not None:
        assert [entry for entry in (*armed.young, *(item.entry for item in armed.heap)) if entry.task is not None] == []
        assert armed.held == {}
    if state.breaker.state.value == "half_open":  # the place of a probe that went is free at once
        await Pipeline(state.breaker).run(anyio.lowlevel.checkpoint)
    await anyio.sleep(100.0)
    await Pipeline(state.breaker).run(anyio.lowlevel.checkpoint)
    assert state.breaker.state.value == "closed"


def current_runtime_only() -> object:
    """The surroundings outside of any call and any block."""
    here = ambient.get()
    assert not isinstance(here, Call)
    assert (here.options, here.deadline, here.call) == (None, None, None)
    return here


Scenario = Callable[[State], Awaitable[object]]


async def waiting_in_line(state: State) -> None:
    """Three callers share one place: each hand-over is a moment at which its receiver may go."""
    guarded = Pipeline(state.bulkhead)(state.work)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(guarded)
        tasks.start_soon(guarded)
        await anyio.lowlevel.checkpoint()
        await guarded()


async def waiting_in_line_too_long(state: State) -> None:
    guarded = Pipeline(Timeout(0.5), state.bulkhead)(state.work)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Pipeline(state.bulkhead)(state.work))
        await anyio.lowlevel.checkpoint()
        with suppress(DeadlineExceeded):
            await guarded()


async def waiting_for_a_turn(state: State) -> None:
    guarded = Pipeline(state.rate)(state.work)
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(guarded)


async def probing(state: State) -> None:
    """A circuit that was opened and cooled down: whoever probes may go."""
    guarded = Pipeline(state.breaker)(state.work)
    with suppress(OSError):
        await guarded(fail=1)
    await anyio.sleep(1.5)
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(_rejected_or_not, guarded)


async def _rejected_or_not(guarded: Callable[[], Awaitable[object]]) -> None:
    with suppress(Rejected):
        await guarded()


async def backing_off(state: State) -> None:
    async def patient(_: object) -> bool:
        await anyio.sleep(0.1)
        return True

    retry = Retry(on=patient, attempts=3, backoff=lambda _: 1.0, before_sleep=patient)
    with suppress(OSError):
        await Pipeline(retry, state.bulkhead).run(state.work, fail=99)


async def giving_results_up(state: State) -> None:
    """Results that have to be closed: those of attempts that others replace, and the last one by the caller."""
    verdicts = [Verdict.FAILED, Verdict.OVERLOADED, Verdict.REFUSED, Verdict.OK]

    async def close(opened: Opened) -> bool:
        try:
            await anyio.sleep(0.1)
        finally:
            opened.close()
        return False

    async def open_one() -> Opened:
        await anyio.sleep(0.1)
        return Opened(state.opened, verdicts[len(state.opened)])

    judging = Classifier(error=classify_function.error, result=lambda opened: opened.verdict, discard=close)
    with options(idempotent=True):
        result = await Pipeline(Retry(attempts=9), state.bulkhead, classify=judging).run(open_one)
    result.close()


async def hedging(state: State) -> None:
    """The first attempt hangs, the second answers; whoever loses is cancelled and awaited, and what it got closed."""

    async def close(opened: Opened) -> bool:
        try:
            await anyio.sleep(0.1)
        finally:
            opened.close()
        return False

    async def open_one() -> Opened:
        state.attempts += 1
        await anyio.sleep(1.0 if state.attempts == 1 else 0.5)
        return Opened(state.opened)

    classify = Classifier(error=classify_function.error, result=lambda _: Verdict.OK, discard=close)
    pipeline = Pipeline(Hedge(0.5), state.inner_bulkhead, classify=classify)
    with options(idempotent=True):
        result = await pipeline.run(open_one)  # both answer in the same instant
    result.close()


async def hedging_among_many(state: State) -> None:
    """One fails, two hang, one wins, and all take their time to leave: there is always somebody to wait for."""

    async def close(opened: Opened) -> bool:
        try:
            await anyio.sleep(0.1)
        finally:
            opened.close()
        return False

    async def open_one() -> Opened:
        state.attempts += 1
        number = state.attempts
        state.running += 1
        try:
            await anyio.sleep((9.0, 0.05, 0.2, 9.0)[number - 1])
            if number == 2:
                raise OSError
        finally:
            try:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0.15)
            finally:
                state.running -= 1
        return Opened(state.opened)

    classify = Classifier(error=classify_function.error, result=lambda _: Verdict.OK, discard=close)
    pipeline = Pipeline(Hedge(0.1, max_hedges=3), Bulkhead(9), classify=classify)
    with options(idempotent=True):
        result = await pipeline.run(open_one)
    result.close()


async def hedging_in_vain(state: State) -> None:
    """The first attempt fails while others run, and its caller waits for them; they fail too."""
    pipeline = Pipeline(Hedge(0.1, max_hedges=2), state.breaker, state.inner_bulkhead, Timeout(0.5))

    async def work() -> None:
        state.attempts += 1
        number = state.attempts
        state.running += 1
        try:
            await anyio.sleep(0.25 if number == 1 else 9.0)
        finally:
            state.running -= 1
        raise OSError

    with options(idempotent=True), suppress(OSError, Rejected):
        await pipeline.run(work)


async def running_out_of_time(state: State) -> None:
    """Limits of ours within and around a foreign policy, all at one instant, and a clean-up that takes time."""

    async def foreign(call: Call, nxt: Next[Any]) -> Any:
        try:
            return await nxt(call)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.1)

    with suppress(DeadlineExceeded):
        await Pipeline(Timeout(1.0), foreign, state.breaker, Timeout(1.0), foreign, state.bulkhead).run(
            state.work, wait=9.0
        )


async def streaming(state: State) -> None:
    """An attempt fails before its first item, another is read; the consumer leaves early."""

    @Pipeline(Timeout(9.0), state.bulkhead, Retry(on=OSError), state.inner_bulkhead, CircuitBreaker())
    async def stream() -> AsyncGenerator[int, None]:
        state.attempts += 1
        state.running += 1
        try:
            await anyio.sleep(0.1)
            if state.attempts == 1:
                raise ConnectionRefusedError
            for number in range(10):
                yield number
                await anyio.sleep(0.1)
        finally:
            state.running -= 1

    async with aclosing(stream()) as items:
        async for item in items:
            if item == 2:
                break


async def in_a_block(state: State) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(_block, state)


async def _block(state: State) -> None:
    async with state.bulkhead, state.breaker, state.rate:
        await state.work()


async def everything_at_once(state: State) -> None:
    """All policies on top of each other, with failures, hedges, queues and waits."""
    guarded = Pipeline(
        Timeout(20.0),
        Honoured(),
        Retry(attempts=5, backoff=lambda _: 0.5),
        Hedge(0.3),
        state.throttle,
        state.breaker,
        state.rate,
        state.bulkhead,
        Timeout(2.0),
    )(state.work)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_rejected_or_not, guarded)
        with suppress(Rejected, OSError):
            await guarded(wait=0.7, fail=1)


@pytest.mark.parametrize(
    "scenario",
    [
        waiting_in_line,
        waiting_in_line_too_long,
        waiting_for_a_turn,
        probing,
        backing_off,
        giving_results_up,
        hedging,
        hedging_among_many,
        hedging_in_vain,
        running_out_of_time,
        streaming,
        in_a_block,
        everything_at_once,
    ],
    ids=lambda scenario: scenario.__name__,
)
def test_nothing_is_left_behind_wherever_it_is_cancelled(backend: str, scenario: Scenario) -> None:
    runs = for_each_cancellation(State, scenario=scenario, check=nothing_is_left, backend=backend)
    assert runs > 5


def test_a_turn_that_was_waited_for_in_vain_is_given_back(backend: str) -> None:
    """The last in line goes: the next to come does not wait for a place that nobody uses."""

    async def scenario(rate: RateLimit) -> None:
        await Pipeline(rate).run(anyio.lowlevel.checkpoint)
        await Pipeline(rate).run(anyio.lowlevel.checkpoint)

    async def check(rate: RateLimit) -> None:
        now = current_runtime().now()
        tries = int(now > 0.0)  # whether the second one was made
        await Pipeline(rate).run(anyio.lowlevel.checkpoint)
        assert current_runtime().now() <= max(1.0, now) + tries

    def fresh() -> RateLimit:
        return RateLimit("1/second", max_wait=5.0)

    assert for_each_cancellation(fresh, scenario=scenario, check=check, backend=backend) >= 2
