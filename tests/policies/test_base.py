"""What all policies have in common: blocks, rejections, and being run by hand."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from resilient.call import Call, End, Next, Policy
from resilient.context import current_call, options, serving, use_runtime
from resilient.errors import CircuitOpen, ConcurrencyExceeded, DeadlineExceeded, RateLimited
from resilient.events import CallRejected, Event
from resilient.pipeline import Pipeline
from resilient.policies.base import Holder, OwnPolicy, Role
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.rate_limit import RateLimit
from resilient.testing import virtual_time


class Diary(Holder):
    """Writes down who is admitted and how that ended."""

    role = Role.ADMISSION

    def __init__(self, *, wait: float = 0.0) -> None:
        self.entries: list[str] = []
        self.admitted = 0
        self.order: list[int] = []
        self.wait = wait

    async def hold(self, call: Call) -> End:
        if self.wait:
            await anyio.sleep(self.wait)
        self.entries.append(f"in: {call.name}")
        self.admitted += 1
        number = self.admitted

        def settle(error: BaseException | None) -> None:
            self.entries.append(f"out: {error!r}")
            self.order.append(number)

        return settle


def test_a_block_is_admitted_like_a_call_and_judged_by_what_leaves_it(backend):
    diary = Diary()

    async def main():
        async with diary:
            await anyio.lowlevel.checkpoint()
        with pytest.raises(KeyError):
            async with diary:
                raise KeyError

    virtual_time.run(main, backend=backend)
    with diary:
        pass
    assert diary.entries == [
        "in: a block of Diary",
        "out: None",
        "in: a block of Diary",
        "out: KeyError()",
        "in: a block of Diary",
        "out: None",
    ]


def test_a_holder_holds_a_call_and_a_stream_until_it_is_over(backend):
    diary = Diary()

    @Pipeline(diary)
    async def stream() -> AsyncIterator[int]:
        yield 1
        diary.entries.append("in between")

    async def main():
        await Pipeline(diary).run(anyio.lowlevel.checkpoint)
        with pytest.raises(TimeoutError):
            with anyio.fail_after(1):
                await Pipeline(diary).run(anyio.sleep, 10)
        assert [item async for item in stream()] == [1]

    virtual_time.run(main, backend=backend)
    outs = [entry for entry in diary.entries if not entry.startswith("in: ")]
    assert outs[0] == "out: None"
    assert "Cancelled" in outs[1]
    assert outs[2:] == ["in between", "out: None"]


def test_blocks_of_one_object_are_told_apart_by_the_task_they_run_in(backend):
    bulkhead, diary = Bulkhead(20), Diary()

    async def nested(number: int) -> None:
        async with bulkhead, diary, bulkhead:
            await anyio.sleep(10 - number)

    async def main():
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(nested, number)
            await anyio.sleep(0.5)
            assert bulkhead.in_flight == 20
        assert bulkhead.in_flight == 0

    virtual_time.run(main, backend=backend)
    assert diary.entries.count("out: None") == 10


def test_of_nested_blocks_of_one_object_the_inner_one_ends_first(backend):
    diary = Diary()

    async def main():
        async with diary, Bulkhead(1), diary:
            async with diary:
                pass
            assert diary.order == [3]

    virtual_time.run(main, backend=backend)
    assert diary.order == [3, 2, 1]


def test_blocks_may_be_left_in_any_order():
    first, second = Bulkhead(1), Bulkhead(1)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert (first.in_flight, second.in_flight) == (0, 1)
    second.__exit__(None, None, None)
    assert second.in_flight == 0


def test_a_task_that_was_started_in_a_block_has_blocks_of_its_own(backend):
    bulkhead = Bulkhead(5)

    async def child() -> None:
        async with bulkhead:
            await anyio.sleep(1)
            assert bulkhead.in_flight == 2

    async def main():
        async with bulkhead, anyio.create_task_group() as tasks:
            tasks.start_soon(child)
        assert bulkhead.in_flight == 0

    virtual_time.run(main, backend=backend)


def test_a_block_that_is_rejected_is_not_entered(backend):
    bulkhead, breaker = Bulkhead(1), CircuitBreaker()
    breaker.isolate()

    async def main():
        async with bulkhead:
            with pytest.raises(ConcurrencyExceeded, match="a block of Bulkhead: 1 calls are in flight"):
                async with bulkhead:
                    raise AssertionError
        with pytest.raises(CircuitOpen, match="a block of CircuitBreaker: the circuit is isolated"):
            async with breaker:
                raise AssertionError

    virtual_time.run(main, backend=backend)
    with bulkhead, pytest.raises(ConcurrencyExceeded), bulkhead:
        raise AssertionError
    assert bulkhead.in_flight == 0


def test_a_block_waits_within_the_deadline_and_the_options_around_it(backend):
    bulkhead = Bulkhead(1, max_queue=1, max_wait=10.0)

    async def main():
        async with bulkhead:
            for around in (serving(deadline=anyio.current_time() + 2.0), options(timeout=3.0)):
                with around, pytest.raises(DeadlineExceeded):
                    async with bulkhead:
                        raise AssertionError
        return anyio.current_time()

    assert virtual_time.run(main, backend=backend) == 5.0


def test_a_block_is_no_call(backend):
    async def main():
        async with Bulkhead(1):
            assert current_call() is None

    virtual_time.run(main, backend=backend)


def test_a_block_left_in_another_context_than_it_was_entered_in_says_so():
    bulkhead = Bulkhead(1)
    contextvars.copy_context().run(bulkhead.__enter__)
    with pytest.raises(RuntimeError, match=r"Bulkhead\(.*the block was left in another context than it was entered in"):
        bulkhead.__exit__(None, None, None)


def test_threads_have_blocks_of_their_own():
    bulkhead = Bulkhead(2)
    both = threading.Barrier(2)

    def block() -> None:
        with bulkhead:
            both.wait(30)
            assert bulkhead.in_flight == 2
            both.wait(30)

    threads = [threading.Thread(target=block) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bulkhead.in_flight == 0


def test_a_plain_block_whose_policy_waits_for_a_loop_is_refused():
    diary = Diary(wait=1.0)

    async def main():
        with pytest.raises(RuntimeError, match="waits for an event loop"):
            diary.__enter__()

    asyncio.run(main())
    assert diary.entries == []


def test_rejections_of_every_kind_say_who_when_and_why():
    events: list[Event] = []
    with use_runtime(virtual_time.runtime(emit=events.append)):
        rate, bulkhead, breaker = RateLimit("1/second"), Bulkhead(1), CircuitBreaker()
        breaker.isolate()
        events.clear()
        with rate, bulkhead:
            for policy, error, retry_after in (
                (rate, RateLimited, 1.0),
                (bulkhead, ConcurrencyExceeded, None),
                (breaker, CircuitOpen, None),
            ):
                with pytest.raises(error) as caught:
                    Pipeline(policy).call(sorted, [])
                assert caught.value.policy is policy
                assert caught.value.retry_after == retry_after
                assert str(caught.value).startswith("sorted: ")
    assert events == [
        CallRejected(at=0.0, name="sorted", policy="RateLimit", retry_after=1.0),
        CallRejected(at=0.0, name="sorted", policy="Bulkhead", retry_after=None),
        CallRejected(at=0.0, name="sorted", policy="CircuitBreaker", retry_after=None),
    ]


def test_a_policy_can_be_run_by_hand(backend):
    diary = Diary()

    async def rest(call: Call) -> str:
        return f"{call.name} is done"

    async def main():
        call = Pipeline().begin("work", rest, None)
        assert await diary(call, rest) == "work is done"

    virtual_time.run(main, backend=backend)
    assert diary.entries == ["in: work", "out: None"]


def test_a_policy_has_to_say_how_it_is_linked_and_a_holder_how_it_admits():
    class Unlinked(OwnPolicy):
        pass

    class Unheld(Holder):
        pass

    incomplete: Sequence[Any] = (Unlinked, Unheld)
    for kind in incomplete:
        with pytest.raises(TypeError, match="abstract"):
            kind()


def test_a_policy_of_ones_own_is_linked_once_for_each_function(backend):
    linked: list[tuple[Policy, ...]] = []

    class Counting(OwnPolicy):
        role = Role.ADMISSION

        def link(self, nxt: Next[Any], below: Sequence[Policy]) -> Next[Any]:
            linked.append(tuple(below))
            return nxt

    innermost = Counting()
    pipeline = Pipeline(Counting(), innermost)
    before = len(linked)
    work = pipeline(anyio.lowlevel.checkpoint)

    async def main():
        after = len(linked)
        for _ in range(3):
            await work()
            await pipeline.run(anyio.lowlevel.checkpoint)
        assert len(linked) == after

    virtual_time.run(main, backend=backend)
    assert linked[:before] == [(), (innermost,)]
