"""The bulkhead around calls: a bound that holds, a line that is a line, and no place ever lost."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from resilient.call import Call, Next
from resilient.context import options, serving
from resilient.errors import ConcurrencyExceeded, DeadlineExceeded
from resilient.events import CallRejected, Event
from resilient.pipeline import Pipeline
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.line import Order, Ticket
from resilient.policies.retry import Retry
from resilient.policies.timeout import Timeout
from resilient.runtime import Runtime
from resilient.testing import virtual_time
from resilient.testing.cancellation import for_each_cancellation
from resilient.verdict import Verdict, classify_function
from resilient.waiting import Waiter, waiter_for
from tests.policies.breakers import CLOSED, outcome_of, outcomes_of


async def work(seconds: float = 1.0) -> float:
    """Return when it began."""
    began = anyio.current_time()
    await anyio.sleep(seconds)
    return began


def a_call() -> Call:
    return Pipeline().begin("work", lambda _: work(), ((), {}))


def in_between(monkeypatch: pytest.MonkeyPatch, step: Callable[[], object]) -> None:
    """Have another thread take `step` between a caller's look at the line and its own joining."""

    def waiter_and_step(call: Call) -> Waiter:
        step()
        return waiter_for(call)

    monkeypatch.setattr("resilient.policies.line.waiter_for", waiter_and_step)


def assert_nothing_is_held(bulkhead: Bulkhead) -> None:
    assert (bulkhead.in_flight, bulkhead.queued) == (0, 0)


# How many


def test_no_more_than_the_limit_are_in_flight_and_the_rest_is_refused(backend):
    events: list[Event] = []

    async def main():
        bulkhead = Bulkhead(3)
        guarded = Pipeline(bulkhead)(work)
        assert await outcomes_of(10, guarded) == {0.0: 3, "ConcurrencyExceeded": 7}
        assert_nothing_is_held(bulkhead)
        assert await outcomes_of(3, guarded) == {1.0: 3}
        async with bulkhead, bulkhead, bulkhead:
            with pytest.raises(ConcurrencyExceeded, match=r"^work: 3 calls are in flight and none may wait$") as caught:
                await guarded()
        assert caught.value.policy is bulkhead
        assert caught.value.retry_after is None

    virtual_time.run(main, backend=backend, emit=events.append)
    rejected = CallRejected(at=0.0, name="work", policy="Bulkhead", retry_after=None)
    assert events[:7] == [rejected] * 7


def test_as_many_may_wait_as_the_queue_holds(backend):
    async def main():
        bulkhead = Bulkhead(2, max_queue=3, max_wait=60.0)
        guarded = Pipeline(bulkhead)(work)
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(guarded)
            await anyio.sleep(0.5)
            assert (bulkhead.in_flight, bulkhead.queued) == (2, 3)
            with pytest.raises(ConcurrencyExceeded, match=r"^work: 2 calls are in flight and 3 more wait$"):
                await guarded()
            assert anyio.current_time() == 0.5
        assert anyio.current_time() == 3.0
        assert_nothing_is_held(bulkhead)

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_call_that_fails_gives_its_place_back(backend, error):
    async def fail() -> None:
        raise error

    async def main():
        bulkhead = Bulkhead(1)
        for _ in range(3):
            with pytest.raises(error):
                await Pipeline(bulkhead).run(fail)
            assert_nothing_is_held(bulkhead)

    virtual_time.run(main, backend=backend)


# In line


def test_first_come_first_served_and_nobody_overtakes(backend):
    async def main():
        bulkhead = Bulkhead(1, max_queue=10, max_wait=60.0)
        served: list[str] = []

        @Pipeline(bulkhead)
        async def serve(name: str) -> None:
            served.append(name)
            await anyio.sleep(1.0)

        async def come_twice() -> None:
            """At the end of the first call the place is free, but not for who has not waited."""
            await serve("first")
            await serve("first again")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(come_twice)
            for name in ("second", "third", "fourth"):
                await anyio.sleep(0.25)
                tasks.start_soon(serve, name)
            await anyio.sleep(1.0)
            tasks.start_soon(serve, "fifth")
        assert served == ["first", "second", "third", "fourth", "first again", "fifth"]

    virtual_time.run(main, backend=backend)


def test_who_waits_too_long_is_refused_and_leaves_the_line(backend):
    async def main():
        bulkhead = Bulkhead(1, max_queue=2)
        guarded = Pipeline(bulkhead)(work)
        async with bulkhead:
            with pytest.raises(ConcurrencyExceeded, match=r"work: 1 calls are in flight and none came free within 1 s"):
                await guarded()
            assert anyio.current_time() == 1.0
            assert bulkhead.queued == 0
        assert await guarded() == 1.0

    virtual_time.run(main, backend=backend)


def test_who_may_not_wait_at_all_does_not(backend):
    async def main():
        bulkhead = Bulkhead(1, max_queue=2, max_wait=0.0)
        async with bulkhead:
            assert await outcomes_of(5, Pipeline(bulkhead)(work)) == {"ConcurrencyExceeded": 5}
        assert anyio.current_time() == 0.0
        assert_nothing_is_held(bulkhead)

    virtual_time.run(main, backend=backend)


def test_nobody_waits_past_the_deadline_and_nobody_is_to_blame_for_it(backend):
    async def main():
        breaker, bulkhead = CircuitBreaker(consecutive_failures=1), Bulkhead(1, max_queue=2, max_wait=60.0)
        async with bulkhead:
            with pytest.raises(DeadlineExceeded) as caught:
                await Pipeline(breaker, Timeout(0.5), bulkhead).run(work)
            assert anyio.current_time() == 0.5
            assert not caught.value.sent
            assert classify_function.error(caught.value) is Verdict.LOCAL
            for full in (bulkhead, Bulkhead(1)):
                with serving(deadline=0.5), pytest.raises(DeadlineExceeded) as caught:
                    await Pipeline(breaker, full).run(work)
                assert not caught.value.sent
        assert breaker.state is CLOSED
        assert_nothing_is_held(bulkhead)
        async with bulkhead:
            with pytest.raises(ConcurrencyExceeded):
                await Pipeline(Timeout(90.0), bulkhead).run(work)
        assert anyio.current_time() == 60.5

    virtual_time.run(main, backend=backend)


def test_a_limit_around_a_foreign_policy_that_ends_with_the_wait_costs_no_place(backend):
    async def foreign(call: Call, nxt: Next[Any]) -> Any:
        return await nxt(call)

    async def main():
        bulkhead = Bulkhead(1, max_queue=2, max_wait=60.0)
        async with bulkhead:
            with pytest.raises(DeadlineExceeded):
                await Pipeline(Timeout(0.5), foreign, bulkhead).run(work)
        assert anyio.current_time() == 0.5
        assert_nothing_is_held(bulkhead)
        await anyio.sleep(10)

    virtual_time.run(main, backend=backend)


# No place is lost


def test_a_waiter_that_is_cancelled_as_it_gets_its_place_passes_it_on(backend):
    async def main():
        bulkhead = Bulkhead(1, max_queue=2, max_wait=60.0)
        guarded = Pipeline(bulkhead)(work)
        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as lucky:
                    async with bulkhead:
                        lucky.start_soon(guarded)
                        await anyio.sleep(0.25)
                        tasks.start_soon(guarded)
                        await anyio.sleep(0.25)
                        assert bulkhead.queued == 2
                    assert bulkhead.queued == 1  # the place is handed over
                    scope.cancel()  # and its receiver has not run yet
        assert scope.cancelled_caught
        assert anyio.current_time() == 1.5
        assert_nothing_is_held(bulkhead)

    virtual_time.run(main, backend=backend)


async def a_line(bulkhead: Bulkhead) -> None:
    guarded = Pipeline(bulkhead)(work)
    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(guarded, 0.25)
            await anyio.lowlevel.checkpoint()
        await guarded()


async def a_line_of_the_impatient(bulkhead: Bulkhead) -> None:
    async def impatient() -> None:
        with suppress(DeadlineExceeded, ConcurrencyExceeded):
            await Pipeline(Timeout(1.0), bulkhead).run(work)

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(impatient)  # the next ones run out of time as they get their place
        await impatient()


async def a_line_of_blocks(bulkhead: Bulkhead) -> None:
    async def block() -> None:
        async with bulkhead:
            await work(0.25)

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(block)
        await block()


async def a_line_of_streams(bulkhead: Bulkhead) -> None:
    @Pipeline(bulkhead)
    async def stream() -> AsyncGenerator[int, None]:
        for item in range(2):
            await anyio.sleep(0.25)
            yield item

    async def read() -> None:
        async with aclosing(stream()) as items:
            assert [item async for item in items] == [0, 1]

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(read)
        await read()


@pytest.mark.parametrize(
    "scenario",
    [a_line, a_line_of_the_impatient, a_line_of_blocks, a_line_of_streams],
    ids=lambda scenario: scenario.__name__,
)
def test_no_place_is_lost_wherever_a_line_is_cancelled(backend, scenario):
    async def check(bulkhead: Bulkhead) -> None:
        assert_nothing_is_held(bulkhead)
        began = anyio.current_time()
        assert await outcomes_of(3, Pipeline(bulkhead)(work)) == {began: 2, began + 1.0: 1}

    def fresh() -> Bulkhead:
        return Bulkhead(2, max_queue=10, max_wait=60.0)

    assert for_each_cancellation(fresh, scenario=scenario, check=check, backend=backend) > 5


def test_who_leaves_the_line_moves_the_others_up(backend):
    async def main():
        guarded = Pipeline(Bulkhead(1, max_queue=3, max_wait=60.0))(work)
        began: list[float] = []

        async def call() -> None:
            began.append(await guarded())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await anyio.lowlevel.checkpoint()
            with anyio.move_on_after(0.5):
                async with anyio.create_task_group() as impatient:
                    impatient.start_soon(call)
                    await anyio.sleep(0.25)
                    tasks.start_soon(call)
                    tasks.start_soon(call)
        assert began == [0.0, 1.0, 2.0]

    virtual_time.run(main, backend=backend)


# Who is next


def queueing(order: Order, **settings: Any) -> tuple[Bulkhead, Callable[..., Any]]:
    bulkhead = Bulkhead(1, max_queue=10, max_wait=60.0, order=order, **settings)
    return bulkhead, Pipeline(bulkhead)(work)


async def in_turn(step: Callable[..., Any], calls: int, apart: float, **arguments: Any) -> dict[int, Any]:
    """What becomes of calls that come one after another: when they began, or why not."""
    found: dict[int, Any] = {}

    async def one(number: int) -> None:
        try:
            found[number] = await step(**arguments)
        except (ConcurrencyExceeded, DeadlineExceeded) as error:
            found[number] = (type(error).__name__, anyio.current_time())

    async with anyio.create_task_group() as tasks:
        for number in range(calls):
            tasks.start_soon(one, number)
            await anyio.sleep(apart)
    return dict(sorted(found.items()))


def test_once_a_queue_persists_the_newest_is_next_and_who_waited_long_is_refused(backend):
    async def main():
        bulkhead, step = queueing("adaptive-lifo")
        found = await in_turn(step, 5, 0.09375, seconds=0.25)
        # 0 runs, the others wait. At 0.25 the queue persists and 2 is next, at 0.5 it is 4, and at 0.75 1 is too old.
        assert found == {0: 0.0, 1: ("ConcurrencyExceeded", 0.75), 2: 0.25, 3: 0.75, 4: 0.5}
        assert_nothing_is_held(bulkhead)

    virtual_time.run(main, backend=backend)


def test_a_full_line_that_persists_gives_way_to_the_newest(backend):
    async def main():
        bulkhead = Bulkhead(1, max_queue=2, max_wait=60.0, order="adaptive-lifo")
        found = await in_turn(Pipeline(bulkhead)(work), 5, 0.09375, seconds=0.34375)
        assert found[1] == ("ConcurrencyExceeded", 0.28125)
        assert [found[number] for number in (0, 3, 4)] == [0.0, 0.34375, 0.6875]
        assert_nothing_is_held(bulkhead)

    virtual_time.run(main, backend=backend)


def test_codel_refuses_those_who_waited_long_while_nobody_waits_little(backend):
    async def main():
        bulkhead, step = queueing("codel")
        found = await in_turn(step, 8, 0.0625, seconds=0.125)
        refused = [number for number, outcome in found.items() if isinstance(outcome, tuple)]
        assert refused
        assert 0 not in refused
        assert_nothing_is_held(bulkhead)

    virtual_time.run(main, backend=backend)


def test_who_would_not_be_done_before_their_deadline_is_refused_at_once(backend):
    async def main():
        bulkhead, step = queueing("fifo")
        for _ in range(3):
            await step(seconds=1.0)
        async with bulkhead:
            with options(timeout=0.9), pytest.raises(ConcurrencyExceeded, match="not be done before its deadline"):
                await step(seconds=1.0)
            assert anyio.current_time() == 3.0
        assert_nothing_is_held(bulkhead)

    virtual_time.run(main, backend=backend)


def test_a_place_passes_over_those_who_would_not_be_done_in_time(backend):
    async def main():
        bulkhead, step = queueing("fifo")
        await step(seconds=1.0)
        found: dict[str, Any] = {}

        async def call(name: str, within: float) -> None:
            with options(timeout=within):
                try:
                    found[name] = await step(seconds=1.0)
                except ConcurrencyExceeded:
                    found[name] = anyio.current_time()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(step, 1.0)  # from 1.0 to 2.0
            await anyio.sleep(0.25)
            tasks.start_soon(call, "short", 1.5)  # to 2.75: at 2.0 there is not a second left
            await anyio.sleep(0.25)
            tasks.start_soon(call, "long", 9.0)
        assert found == {"short": 2.0, "long": 2.0}
        assert anyio.current_time() == 3.0
        assert_nothing_is_held(bulkhead)

    virtual_time.run(main, backend=backend)


def test_a_deadline_is_judged_by_the_clock_of_its_own_call(backend):
    async def main():
        runtime = Runtime(now=lambda: anyio.current_time() - 1000.0, sleep=anyio.sleep)
        bulkhead = Bulkhead(1, max_queue=1, max_wait=60.0)
        pipeline = Pipeline(Timeout(5.0), bulkhead, runtime=runtime)  # its deadlines are long past on the other clock
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Pipeline(bulkhead).run, work)
            await anyio.sleep(0.5)
            assert await pipeline.run(work) == 1.0

    virtual_time.run(main, backend=backend)


# Between two steps of another thread


def test_who_finds_the_queue_full_after_looking_is_refused_too(backend, monkeypatch: pytest.MonkeyPatch):
    async def main():
        bulkhead = Bulkhead(1, max_queue=1, max_wait=60.0)
        async with bulkhead:
            other = Ticket(a_call(), 0.0)
            in_between(monkeypatch, lambda: bulkhead._line.slots.enqueue(other, 0.0))
            with pytest.raises(ConcurrencyExceeded, match="1 more wait"):
                await Pipeline(bulkhead).run(work)
            assert bulkhead.queued == 1

    virtual_time.run(main, backend=backend)


def test_who_queues_as_the_last_place_becomes_free_gets_it_at_once(backend, monkeypatch: pytest.MonkeyPatch):
    async def main():
        bulkhead = Bulkhead(1, max_queue=1, max_wait=60.0)
        bulkhead._line.slots.take()
        in_between(monkeypatch, bulkhead._line.slots.give)  # and there is nobody to hand it to
        assert await Pipeline(bulkhead).run(work) == 0.0
        assert_nothing_is_held(bulkhead)

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize("newcomer", ["a call", "a block"])
def test_nobody_overtakes_while_a_place_is_free_but_not_yet_handed_over(backend, newcomer):
    served: list[str] = []

    async def main():
        bulkhead = Bulkhead(1, max_queue=2, max_wait=60.0)

        @Pipeline(bulkhead)
        async def serve(name: str) -> None:
            served.append(name)
            await anyio.sleep(1.0)

        bulkhead._line.slots.take()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve, "who waited")
            await anyio.sleep(0.5)
            bulkhead._line.slots.give()
            if newcomer == "a call":
                await serve(newcomer)
            else:
                async with bulkhead:
                    served.append(newcomer)
        assert served == ["who waited", newcomer]
        assert_nothing_is_held(bulkhead)

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize("end", ["its wait ends", "it is cancelled"])
def test_a_place_that_was_handed_over_but_not_yet_announced_is_not_lost(backend, end):
    async def main():
        bulkhead = Bulkhead(1, max_queue=1, max_wait=1.0)
        bulkhead._line.slots.take()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Pipeline(bulkhead)(work))
            await anyio.sleep(0.5)
            bulkhead._line.slots.give()
            assert [len(those) for those in bulkhead._line.slots.hand_over(0.5)] == [1, 0]
            if end == "it is cancelled":
                tasks.cancel_scope.cancel()
        assert anyio.current_time() == (0.5 if end == "it is cancelled" else 2.0)
        assert_nothing_is_held(bulkhead)

    virtual_time.run(main, backend=backend)


# Streams and blocks


async def stream_of(*items: object) -> AsyncGenerator[object, None]:
    for item in items:
        await anyio.sleep(1.0)
        if isinstance(item, type):
            raise item
        yield item


async def to_its_end(stream: AsyncGenerator[object, None]) -> None:
    assert [item async for item in stream] == [2]


async def no_further(stream: AsyncGenerator[object, None]) -> None:
    await stream.aclose()


async def cancelled(stream: AsyncGenerator[object, None]) -> None:
    with anyio.move_on_after(0.5):
        await anext(stream)


async def into_an_error(stream: AsyncGenerator[object, None]) -> None:
    with pytest.raises(KeyError):
        await stream.athrow(KeyError())


@pytest.mark.parametrize("read", [to_its_end, no_further, cancelled, into_an_error], ids=lambda read: read.__name__)
def test_a_stream_holds_its_place_until_it_is_over(backend, read):
    async def main():
        bulkhead = Bulkhead(1)
        stream = Pipeline(bulkhead)(stream_of)(1, 2)
        assert bulkhead.in_flight == 0  # nobody reads it yet
        assert await anext(stream) == 1
        await anyio.sleep(10)
        assert bulkhead.in_flight == 1
        assert await outcome_of(Pipeline(bulkhead)(work)) == "ConcurrencyExceeded"
        await read(stream)
        assert_nothing_is_held(bulkhead)

    virtual_time.run(main, backend=backend)


def test_a_stream_that_fails_gives_its_place_back_and_its_next_attempt_takes_one(backend):
    bulkhead = Bulkhead(1)
    attempts: list[int] = []

    @Pipeline(Retry(on=OSError), bulkhead)
    async def stream() -> AsyncGenerator[int, None]:
        attempts.append(bulkhead.in_flight)
        if len(attempts) < 3:
            raise OSError
        yield 1
        raise OSError

    async def main():
        items = stream()
        assert await anext(items) == 1
        assert bulkhead.in_flight == 1
        with pytest.raises(OSError):  # noqa: PT011 - the function's own, which has no message
            await anext(items)
        assert_nothing_is_held(bulkhead)

    virtual_time.run(main, backend=backend)
    assert attempts == [1, 1, 1]


def test_it_guards_blocks_and_they_wait_in_the_same_line(backend):
    async def main():
        bulkhead = Bulkhead(1, max_queue=1, max_wait=60.0)
        async with anyio.create_task_group() as tasks:
            async with bulkhead:
                tasks.start_soon(Pipeline(bulkhead)(work))
                await anyio.sleep(0.5)
                with pytest.raises(ConcurrencyExceeded, match="a block of Bulkhead: 1 calls are in flight and 1 more"):
                    async with bulkhead:
                        raise AssertionError("not entered")
            async with bulkhead:
                assert anyio.current_time() == 1.5
                assert bulkhead.in_flight == 1
        assert_nothing_is_held(bulkhead)

    virtual_time.run(main, backend=backend)


# Arguments


@pytest.mark.parametrize(
    ("argument", "value", "allowed"),
    [
        ("limit", 0, "at least 1"),
        ("max_queue", -1, "at least 0"),
        ("max_wait", -0.1, "at least 0"),
        ("max_wait", float("inf"), "a finite number"),
        ("max_wait", float("nan"), "a finite number"),
        ("order", "lifo", "one of 'fifo', 'adaptive-lifo', 'codel'"),
    ],
)
def test_an_argument_out_of_its_range_is_refused_by_name(argument, value, allowed):
    arguments: dict[str, Any] = {"limit": 1, argument: value}
    with pytest.raises(ValueError, match=f"^{argument}={value!r}: .*{allowed}"):
        Bulkhead(**arguments)
