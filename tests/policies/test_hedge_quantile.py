"""Hedging by a quantile: how often it sends twice, when it begins to, and when it had better not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import chain, repeat
from random import Random

import anyio
import pytest

from resilient.context import current_call, options
from resilient.errors import CircuitOpen, DeadlineExceeded
from resilient.events import Event, HedgeStarted
from resilient.pipeline import Pipeline
from resilient.policies.adaptive_throttle import AdaptiveThrottle
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.hedge import Hedge
from resilient.policies.timeout import Timeout
from resilient.testing import virtual_time


class FarSide:
    """Answers after random times; whoever is sent again is answered as quickly as anybody."""

    def __init__(self, mean: float = 0.01, seed: int = 1) -> None:
        self.mean = mean
        self.attempts = 0
        self._random = Random(seed)

    async def __call__(self) -> None:
        self.attempts += 1
        await anyio.sleep(self._random.expovariate(1 / self.mean))


async def ask(step: Callable[[], Awaitable[object]], times: int) -> None:
    with options(idempotent=True):
        for _ in range(times):
            await step()


def test_about_as_many_calls_are_sent_twice_as_the_quantile_leaves(backend):
    async def main():
        far_side, hedge = FarSide(), Hedge()
        guarded = Pipeline(hedge)(far_side.__call__)
        await ask(guarded, 100)
        assert far_side.attempts == 100, "nothing is known yet"
        await ask(guarded, 5000)
        assert 1.03 < (far_side.attempts - 100) / 5000 < 1.07
        delay = hedge.current_delay("FarSide.__call__")
        assert delay == pytest.approx(0.03, rel=0.2), "the 95th percentile of that distribution is 3 times its mean"

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize("change", [5.0, 0.2])
def test_it_follows_a_far_side_that_becomes_slower_or_faster(change):
    async def main():
        far_side, hedge = FarSide(), Hedge()
        guarded = Pipeline(hedge)(far_side.__call__)
        await ask(guarded, 2000)
        far_side.mean *= change
        await ask(guarded, 8000)
        before = far_side.attempts
        await ask(guarded, 2000)
        assert 1.02 < (far_side.attempts - before) / 2000 < 1.12

    virtual_time.run(main)


def test_each_operation_has_a_delay_of_its_own_unless_a_key_says_otherwise(backend):
    async def main():
        quick, slow = FarSide(0.01), FarSide(1.0)
        hedge, together = Hedge(), Hedge(key=lambda call: "all")

        async def fetch() -> None:
            await quick()

        async def report() -> None:
            await slow()

        for one in (hedge, together):
            for step in (fetch, report):
                await ask(Pipeline(one)(step), 200)
        found, other = hedge.current_delay(fetch.__qualname__), hedge.current_delay(report.__qualname__)
        assert found is not None
        assert other is not None
        assert found < 0.1
        assert other > 1.0
        assert together.current_delay("all") == pytest.approx(2.0, rel=0.5)

    virtual_time.run(main, backend=backend)


def test_what_answers_at_once_is_not_hedged_within_a_millisecond():
    async def main():
        far_side, hedge = FarSide(1e-6), Hedge()
        guarded = Pipeline(hedge)(far_side.__call__)
        await ask(guarded, 500)
        assert hedge.current_delay("FarSide.__call__") == 0.001
        assert far_side.attempts == 500

    virtual_time.run(main)


def test_calls_that_run_out_of_time_count_as_slow():
    async def main():
        hedge, waits = Hedge(), chain(repeat(0.01, 90), repeat(9.0))

        async def fetch() -> None:
            await anyio.sleep(next(waits))

        guarded = Pipeline(Timeout(0.5), hedge, Timeout(0.2))(fetch)
        with options(idempotent=True):
            for _ in range(90):
                await guarded()
            for _ in range(20):
                with pytest.raises(DeadlineExceeded):
                    await guarded()
        delay = hedge.current_delay(fetch.__qualname__)
        assert delay == pytest.approx(0.2, rel=0.02)

    virtual_time.run(main)


async def slow() -> str:
    call = current_call()
    assert call is not None
    await anyio.sleep(1.0)
    return f"attempt {call.attempt}"


def test_no_call_is_hedged_while_a_breaker_below_is_not_closed(backend):
    events: list[Event] = []

    async def main():
        breaker = CircuitBreaker(cooldown=5.0)
        guarded = Pipeline(Hedge(0.1), breaker)(slow)
        with options(idempotent=True):
            await guarded()
            assert len(events) == 1
            breaker.isolate()
            with pytest.raises(CircuitOpen):
                await guarded()
            breaker.reset()
            await guarded()

    virtual_time.run(main, backend=backend, emit=events.append)
    assert sum(isinstance(event, HedgeStarted) for event in events) == 2


def test_no_call_is_hedged_while_the_circuit_is_probed(backend):
    events: list[Event] = []
    healthy = False

    async def answer() -> str:
        if not healthy:
            raise OSError("down")
        await anyio.sleep(1.0)
        return "well"

    async def main():
        nonlocal healthy
        breaker = CircuitBreaker(consecutive_failures=1, cooldown=5.0)
        guarded = Pipeline(Hedge(0.1), breaker)(answer)
        with options(idempotent=True):
            with pytest.raises(OSError, match="down"):
                await guarded()
            healthy = True
            await anyio.sleep(5.0)
            assert await guarded() == "well"
            assert not any(isinstance(event, HedgeStarted) for event in events)
            assert await guarded() == "well"
        assert any(isinstance(event, HedgeStarted) for event in events)

    virtual_time.run(main, backend=backend, emit=events.append)


def test_no_call_is_hedged_while_a_throttle_below_rejects(backend):
    events: list[Event] = []

    async def main():
        throttle = AdaptiveThrottle(k=1.0)
        guarded = Pipeline(Hedge(0.1), throttle)(slow)
        with options(idempotent=True):
            await guarded()
            assert sum(isinstance(event, HedgeStarted) for event in events) == 1
            machine = throttle._machines[2]
            machine.refused(anyio.current_time())
            await guarded()
        assert sum(isinstance(event, HedgeStarted) for event in events) == 1

    virtual_time.run(main, backend=backend, emit=events.append)


def test_what_may_not_be_repeated_is_neither_hedged_nor_counted(backend):
    async def main():
        far_side, hedge = FarSide(), Hedge()
        guarded = Pipeline(hedge)(far_side.__call__)
        for _ in range(300):
            await guarded()
        assert far_side.attempts == 300
        assert hedge.current_delay("FarSide.__call__") is None

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize("quantile", [0.0, 1.0, -1.0, 2.0, float("nan")])
def test_a_quantile_is_a_share(quantile):
    with pytest.raises(ValueError, match=r"quantile=.*: a share of the calls, more than 0 and less than 1"):
        Hedge(quantile=quantile)


def test_it_says_what_it_does_for_a_given_delay():
    assert Hedge(0.25).current_delay("anything") == 0.25
