"""The circuit breaker around calls: what counts, what does not, and that nothing keeps it from recovering."""

from __future__ import annotations

import traceback
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest

from resilient.call import Call, Next
from resilient.errors import CircuitOpen, DeadlineExceeded
from resilient.events import CallRejected, CircuitClosed, CircuitHalfOpened, CircuitIsolated, CircuitOpened, Event
from resilient.http import classify_http
from resilient.machines.circuit import CircuitState
from resilient.pipeline import Pipeline
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.timeout import Timeout
from resilient.testing import virtual_time
from resilient.testing.cancellation import for_each_cancellation
from tests.policies.breakers import (
    CLOSED,
    COOLDOWN,
    HALF_OPEN,
    ISOLATED,
    OPEN,
    opened,
    outcome_of,
    outcomes_of,
    ready_to_probe,
    remote,
    sensitive,
)

# Its life


def test_it_opens_on_the_share_of_failures_cools_down_probes_and_closes(backend):
    async def main():
        breaker = CircuitBreaker(failure_ratio=0.5, minimum_calls=20, cooldown=COOLDOWN)
        guarded = Pipeline(breaker)(remote)
        assert await outcomes_of(10, guarded) == {"an answer": 10}
        assert await outcomes_of(9, guarded, "badly") == {"OSError": 9}
        assert breaker.state is CLOSED
        assert await outcome_of(guarded, "badly") == "OSError"
        assert breaker.state is OPEN

        await anyio.sleep(3.0)
        with pytest.raises(CircuitOpen, match="remote: the circuit is open for 2 s more") as caught:
            await guarded()
        assert caught.value.policy is breaker
        assert caught.value.retry_after == 2.0

        await anyio.sleep(caught.value.retry_after)
        assert await guarded() == "an answer"
        assert breaker.state is CLOSED
        assert await outcomes_of(19, guarded, "badly") == {"OSError": 19}
        assert breaker.state is CLOSED  # it begins anew with each state

    virtual_time.run(main, backend=backend)


def test_a_failed_probe_opens_it_again_for_longer(backend):
    async def main():
        breaker = ready_to_probe()
        guarded = Pipeline(breaker)(remote)
        assert await outcome_of(guarded, "badly") == "OSError"
        assert breaker.state is OPEN
        with pytest.raises(CircuitOpen) as caught:
            await guarded()
        assert caught.value.retry_after is not None
        assert 2 * COOLDOWN <= caught.value.retry_after <= 2.4 * COOLDOWN

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize("probes", [1, 3])
def test_of_fifty_concurrent_callers_exactly_the_probes_get_through(backend, probes):
    async def main():
        breaker = ready_to_probe(probes=probes)
        outcomes = await outcomes_of(50, Pipeline(breaker)(remote), "well", 1.0)
        assert outcomes == {"an answer": probes, "CircuitOpen": 50 - probes}
        assert breaker.state is CLOSED

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize("ending", ["well", "badly"])
def test_what_began_before_the_opening_neither_decides_anything_nor_takes_the_place_of_a_probe(backend, ending):
    async def main():
        breaker = sensitive()
        guarded = Pipeline(breaker)(remote)

        async def state_at(second: float) -> CircuitState:
            await anyio.sleep(second - anyio.current_time())
            return breaker.state

        async with anyio.create_task_group() as tasks:
            for end in (2.0, 7.0, 9.0):
                tasks.start_soon(outcome_of, guarded, ending, end)
            tasks.start_soon(outcome_of, guarded, "badly", 1.0)
            assert await state_at(2.5) is OPEN
            assert await state_at(6.5) is OPEN
            tasks.start_soon(outcome_of, guarded, "well", 1.5)
            assert await state_at(7.5) is HALF_OPEN
            assert await state_at(8.5) is CLOSED
            assert await state_at(9.5) is CLOSED
            assert breaker.consecutive == 0

    virtual_time.run(main, backend=backend)


def test_a_probe_that_hangs_does_not_block_for_ever(backend):
    async def main():
        breaker = ready_to_probe()
        guarded = Pipeline(breaker)(remote)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(guarded, "never")
            await anyio.sleep(1.0)
            with pytest.raises(CircuitOpen, match="the circuit is half_open") as caught:
                await guarded()
            assert caught.value.retry_after == COOLDOWN - 1.0
            await anyio.sleep(caught.value.retry_after)
            assert await guarded() == "an answer"
            assert breaker.state is CLOSED
            tasks.cancel_scope.cancel()
        assert breaker.state is CLOSED

    virtual_time.run(main, backend=backend)


async def foreign(call: Call, nxt: Next[Any]) -> Any:
    return await nxt(call)


@pytest.mark.parametrize("place", ["below", "above", "above, with a foreign policy between"])
def test_a_far_side_that_hangs_trips_it_by_a_timeout(backend, place):
    async def main():
        breaker = CircuitBreaker(consecutive_failures=3, cooldown=COOLDOWN)
        below, above, between = (breaker, Timeout(1.0)), (Timeout(1.0), breaker), (Timeout(1.0), foreign, breaker)
        policies = {"below": below, "above": above}.get(place, between)
        guarded = Pipeline(*policies)(remote)
        for _ in range(3):
            assert breaker.state is CLOSED
            with pytest.raises(DeadlineExceeded):
                await guarded("never")
        assert breaker.state is OPEN
        await anyio.sleep(COOLDOWN)
        with pytest.raises(DeadlineExceeded):
            await guarded("never")
        assert breaker.state is OPEN

    virtual_time.run(main, backend=backend)


# What does not count


def test_a_cancelled_probe_frees_its_slot_and_decides_nothing(backend):
    async def scenario(breaker: CircuitBreaker) -> None:
        await Pipeline(breaker, Timeout(10.0))(remote)("well", 1.0)

    async def check(breaker: CircuitBreaker) -> None:
        assert await Pipeline(breaker).run(remote) == "an answer"
        assert breaker.state is CLOSED

    assert for_each_cancellation(ready_to_probe, scenario=scenario, check=check, backend=backend) > 1


def test_a_cancelled_block_or_stream_that_was_a_probe_frees_its_slot_too(backend):
    async def scenario(breaker: CircuitBreaker) -> None:
        async with breaker:
            await anyio.sleep(1.0)
        breaker.reset()

        @Pipeline(breaker)
        async def items() -> AsyncGenerator[int, None]:
            for item in range(3):
                await anyio.sleep(1.0)
                yield item

        async with aclosing(items()) as stream:
            assert [item async for item in stream] == [0, 1, 2]

    async def check(breaker: CircuitBreaker) -> None:
        assert await Pipeline(breaker).run(remote) == "an answer"
        assert breaker.state is CLOSED

    assert for_each_cancellation(ready_to_probe, scenario=scenario, check=check, backend=backend) > 3


def test_cancellations_by_the_caller_count_neither_as_failures_nor_as_successes(backend):
    async def main():
        breaker = CircuitBreaker(consecutive_failures=3)
        guarded = Pipeline(breaker)(remote)
        await outcomes_of(2, guarded, "badly")
        for _ in range(30):
            with anyio.move_on_after(0.1) as scope:
                await guarded("never")
            assert scope.cancelled_caught
        assert breaker.state is CLOSED
        assert breaker.consecutive == 2
        await outcome_of(guarded, "badly")
        assert breaker.state is OPEN

    virtual_time.run(main, backend=backend)


def test_leaving_the_program_is_not_a_failure_of_the_far_side():
    breaker = sensitive()
    for reason in (KeyboardInterrupt, SystemExit):
        with pytest.raises(reason), breaker:
            raise reason
    assert breaker.state is CLOSED


def test_rejections_of_our_own_below_it_are_not_failures_of_the_far_side(backend):
    async def main():
        breaker = ready_to_probe()
        full = Bulkhead(1)
        guarded = Pipeline(breaker, full)(remote)
        async with full:
            assert await outcomes_of(5, guarded) == {"ConcurrencyExceeded": 5}  # each gave the probe's place back
        assert breaker.state is HALF_OPEN
        assert await guarded() == "an answer"
        async with full:
            assert await outcomes_of(5, guarded) == {"ConcurrencyExceeded": 5}
        assert breaker.state is CLOSED

    virtual_time.run(main, backend=backend)


# What counts


def test_answers_that_are_too_slow_open_it(backend):
    async def main():
        breaker = CircuitBreaker(slow_call=1.0, slow_ratio=0.5, minimum_calls=4, cooldown=COOLDOWN)
        guarded = Pipeline(breaker)(remote)
        await outcomes_of(2, guarded, "well", 1.0)
        await outcome_of(guarded, "well", 1.1)
        assert breaker.state is CLOSED
        await outcome_of(guarded, "well", 1.1)
        assert breaker.state is OPEN
        await anyio.sleep(COOLDOWN)
        assert await guarded("well", 1.1) == "an answer"
        assert breaker.state is OPEN
        await anyio.sleep(2.4 * COOLDOWN)
        assert await guarded("well", 1.0) == "an answer"
        assert breaker.state is CLOSED

    virtual_time.run(main, backend=backend)


def test_a_window_of_calls_does_not_forget_by_time_and_one_of_seconds_does(backend):
    async def main():
        by_number = CircuitBreaker(window_calls=4, minimum_calls=4, window=10.0)
        by_time = CircuitBreaker(minimum_calls=4, window=10.0)
        for ending in ("badly", "well", "well", "well", "badly"):
            for breaker in (by_number, by_time):
                await outcome_of(Pipeline(breaker)(remote), ending, 60.0)
                assert breaker.state is CLOSED
        for breaker in (by_number, by_time):
            await outcome_of(Pipeline(breaker)(remote), "badly", 60.0)
        assert by_number.state is OPEN
        assert by_time.state is CLOSED

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize("status", [500, 502, 503, 408])
def test_a_response_that_says_that_the_server_failed_is_a_failure_and_the_result(backend, status):
    response = httpx.Response(status)

    async def ask() -> httpx.Response:
        return response

    async def main():
        breaker = sensitive()
        assert await Pipeline(breaker, classify=classify_http).run(ask) is response
        assert breaker.state is OPEN

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize(("status", "after_a_probe"), [(200, CLOSED), (404, CLOSED), (429, OPEN)])
def test_a_server_that_answers_is_well_though_one_that_turns_a_probe_away_is_not_yet(backend, status, after_a_probe):
    async def ask() -> httpx.Response:
        return httpx.Response(status)

    async def main():
        breaker = sensitive()
        pipeline = Pipeline(breaker, classify=classify_http)
        for _ in range(30):
            await pipeline.run(ask)
        assert breaker.state is CLOSED
        breaker = ready_to_probe()
        await Pipeline(breaker, classify=classify_http).run(ask)
        assert breaker.state is after_a_probe

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize(
    ("error", "state"),
    [(httpx.ConnectError, OPEN), (httpx.ReadTimeout, OPEN), (httpx.PoolTimeout, CLOSED), (httpx.ReadError, OPEN)],
)
def test_a_transport_error_is_the_far_sides_but_not_that_of_our_own_pool(backend, error, state):
    async def ask() -> httpx.Response:
        raise error("no answer")

    async def main():
        breaker = sensitive()
        with pytest.raises(error):
            await Pipeline(breaker, classify=classify_http).run(ask)
        assert breaker.state is state

    virtual_time.run(main, backend=backend)


# By hand


def test_an_isolated_circuit_refuses_everything_until_it_is_reset(backend):
    async def main():
        breaker = sensitive()
        guarded = Pipeline(breaker)(remote)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(outcome_of, guarded, "well", 1.0)
            await anyio.sleep(0.5)
            breaker.isolate()
        assert breaker.state is ISOLATED
        await anyio.sleep(3600)
        with pytest.raises(CircuitOpen, match=r"^remote: the circuit is isolated$") as caught:
            await guarded()
        assert caught.value.retry_after is None
        breaker.reset()
        assert breaker.state is CLOSED
        assert await guarded() == "an answer"

    virtual_time.run(main, backend=backend)


def test_a_reset_closes_an_open_circuit_at_once(backend):
    async def main():
        breaker = opened()
        breaker.reset()
        assert await Pipeline(breaker).run(remote) == "an answer"
        assert breaker.state is CLOSED

    virtual_time.run(main, backend=backend)


# What it tells


def test_events_tell_of_every_transition_and_rejection(backend):
    events: list[Event] = []

    async def main():
        breaker = sensitive(name="stock")
        guarded = Pipeline(breaker)(remote)
        await outcome_of(guarded, "badly", 1.0)
        await anyio.sleep(1.0)
        await outcome_of(guarded)
        await anyio.sleep(4.0)
        await outcome_of(guarded, "well", 1.0)
        await anyio.sleep(1.0)
        breaker.isolate()
        await anyio.sleep(1.0)
        await outcome_of(guarded)
        await anyio.sleep(1.0)
        breaker.reset()

    virtual_time.run(main, backend=backend, emit=events.append)
    assert events == [
        CircuitOpened(at=1.0, name="stock", cooldown=COOLDOWN),
        CallRejected(at=2.0, name="remote", policy="CircuitBreaker", retry_after=4.0),
        CircuitHalfOpened(at=6.0, name="stock"),
        CircuitClosed(at=7.0, name="stock"),
        CircuitIsolated(at=8.0, name="stock"),
        CallRejected(at=9.0, name="remote", policy="CircuitBreaker", retry_after=None),
        CircuitClosed(at=10.0, name="stock"),
    ]


def test_who_listens_to_its_events_may_use_it(backend):
    breaker = sensitive()
    seen: list[tuple[str, CircuitState]] = []

    def listen(event: Event) -> None:
        seen.append((type(event).__name__, breaker.state))
        if isinstance(event, CircuitOpened):
            breaker.reset()

    async def main():
        guarded = Pipeline(breaker)(remote)
        await outcome_of(guarded, "badly")
        assert await guarded() == "an answer"

    virtual_time.run(main, backend=backend, emit=listen)
    assert seen == [("CircuitOpened", OPEN), ("CircuitClosed", CLOSED)]


def test_every_rejection_is_a_fresh_exception_that_collects_nothing(backend):
    async def main():
        guarded = Pipeline(opened())(remote)
        caught: list[CircuitOpen] = []
        for _ in range(100):
            try:
                await guarded()
            except CircuitOpen as error:
                caught.append(error)
        assert len(set(map(id, caught))) == 100
        assert len({len(traceback.extract_tb(error.__traceback__)) for error in caught}) == 1
        assert all(error.__context__ is error.__cause__ is None for error in caught)

    virtual_time.run(main, backend=backend)


# Arguments


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *((name, value) for name in ("failure_ratio", "slow_ratio") for value in (0.0, 1.01, float("nan"))),
        *((name, 0) for name in ("minimum_calls", "window_calls", "consecutive_failures", "probes")),
        *((name, value) for name in ("window", "slow_call", "cooldown") for value in (0.0, -1.0, float("inf"))),
        ("window_calls", 19),
    ],
)
def test_an_argument_out_of_its_range_is_refused_by_name(argument, value):
    with pytest.raises(ValueError, match=f"^{argument}={value}: .*at (least|most)|^{argument}={value}: .* more than 0"):
        CircuitBreaker(**{argument: value})
