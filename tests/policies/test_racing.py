"""Attempts that run at the same time: where each one runs, what it sees, and what it costs."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import sys
import weakref
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from resilient import deadline
from resilient.call import Call, Next
from resilient.context import current_call, current_runtime, options, serving
from resilient.errors import DeadlineExceeded
from resilient.pipeline import Pipeline
from resilient.policies.hedge import Hedge
from resilient.policies.timeout import Timeout
from resilient.testing import virtual_time
from tests.policies.races import answer, attempts, hangs, hedged, me, now, this_task

# Where each attempt runs


def test_the_first_attempt_runs_in_its_callers_task_and_each_other_in_one_of_its_own(backend):
    tasks: list[int] = []

    async def work() -> int:
        tasks.append(anyio.get_current_task().id)
        await anyio.sleep(100 if me() < 3 else 0)
        return me()

    async def main():
        assert await hedged(work, hedge=Hedge(1.0, max_hedges=2)) == 3
        assert tasks[0] == anyio.get_current_task().id
        assert len(set(tasks)) == 3

    virtual_time.run(main, backend=backend)


def test_an_attempt_that_answers_in_time_costs_no_task_and_leaves_nothing_behind():
    started: list[object] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        usual = loop.get_task_factory()
        assert usual is not None

        def factory(*arguments: Any, **rest: Any) -> Any:
            started.append(arguments)
            return usual(*arguments, **rest)

        loop.set_task_factory(factory)
        for seconds, hedge in ((0.5, Hedge(1.0)), (0.0, Hedge(3600.0))):
            for _ in range(2000):
                assert await hedged(answer(seconds, "first"), hedge=hedge) == "first"
        loop.set_task_factory(usual)
        found = deadline._here.deadlines()
        assert found is not None
        kept = [*found.young, *(item.entry for item in found.heap)]
        assert [entry for entry in kept if entry.task is not None] == []
        assert len(kept) < 1000

    virtual_time.run(main)
    assert started == []


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def test_each_attempt_sees_itself_and_what_its_caller_had_set(backend):
    seen: list[tuple[Any, ...]] = []

    async def work() -> None:
        call = current_call()
        assert call is not None
        assert call.parent is not None
        seen.append((call.attempt, call.parent.attempt, VARIABLE.get(), call.remaining))
        VARIABLE.set(f"set by attempt {me()}")
        await anyio.sleep(100)

    async def main():
        VARIABLE.set("set by the caller")
        before = current_call()
        with serving(deadline=5.0), pytest.raises(DeadlineExceeded):
            await hedged(work, hedge=Hedge(1.0, max_hedges=2))
        assert current_call() is before

    virtual_time.run(main, backend=backend)
    assert seen == [(number, 1, "set by the caller", 6.0 - number) for number in (1, 2, 3)]


def test_an_attempt_that_answered_is_not_kept_alive_by_the_alarm_that_was_set_for_it():
    class Argument:
        pass

    async def main() -> None:
        argument = Argument()
        held = contextvars.ContextVar[Argument]("held")

        async def call(argument: Argument) -> None:
            held.set(Argument())
            gone.append(weakref.ref(held.get()))
            with options(idempotent=True):
                await Pipeline(Hedge(3600.0)).run(asyncio.sleep, 0, argument)

        gone = [weakref.ref(argument)]
        await asyncio.create_task(call(argument))
        await asyncio.sleep(0)  # in a step of the loop that has nothing to do with it
        del argument
        gc.collect()
        assert [ref() for ref in gone] == [None, None]

    asyncio.run(main())


def test_a_race_that_is_over_leaves_no_timer():
    async def cleans_up() -> None:
        """A stranger cancels it; it is still cleaning up when the other one wins, and is told nothing."""
        asyncio.get_running_loop().call_later(0.25, this_task().cancel)
        try:
            await hangs()
        finally:
            await asyncio.sleep(0.5)

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        for bodies in ((hangs, answer(0.5, "second")), (answer(1.5, "first"), hangs), (answer(1.5, 1), cleans_up)):
            await hedged(attempts(*bodies), hedge=Hedge(1.0, max_hedges=2))
            live = [handle for handle in loop._scheduled if not handle.cancelled()]
            assert [handle for handle in live if handle._callback.__self__ is not deadline._here.deadlines()] == []

    virtual_time.run(main)


def test_an_attempt_that_fails_in_time_is_settled_at_once(backend):
    settled: list[BaseException | None] = []

    async def hold(call: Call, nxt: Next[Any]) -> Any:
        assert call.ends is not None
        call.ends.append(settled.append)
        return await nxt(call)

    async def main():
        error = KeyError()
        pipeline = Pipeline(Hedge(1.0), hold)
        root = pipeline.begin("work", lambda _: answer(0.5, error)(), None, repeatable=True)
        root.ends = []
        with pytest.raises(KeyError):
            await pipeline.chain(root)
        assert settled == [error]

    virtual_time.run(main, backend=backend)


def test_each_attempt_has_ends_of_its_own_and_only_the_winners_are_left(backend):
    settled: list[tuple[int, str]] = []

    async def hold(call: Call, nxt: Next[Any]) -> Any:
        assert call.ends is not None
        call.ends.append(lambda error: settled.append((call.attempt, type(error).__name__)))
        return await nxt(call)

    async def main():
        pipeline = Pipeline(Hedge(1.0, max_hedges=2), hold)
        bodies = (answer(2.25, KeyError()), answer(1.5, "second"), hangs)
        root = pipeline.begin("work", lambda _: attempts(*bodies)(), None, repeatable=True)
        root.ends = []
        assert await pipeline.chain(root) == "second"
        assert settled == [(3, "Cancelled" if backend == "trio" else "CancelledError"), (1, "KeyError")]

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize("steps", range(5))
def test_of_an_attempt_that_begins_at_the_end_of_the_first_nothing_is_left(backend, steps):
    """The first one answers just before the second one begins, in that very moment, or just after it."""
    running: set[int] = set()

    async def work() -> int:
        running.add(me())
        try:
            await anyio.sleep(1.0 if me() == 1 else 100)
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
        finally:
            running.remove(me())
        return me()

    async def main():
        assert await hedged(work) == 1
        assert now() == 1.0
        assert running == set()
        if backend == "asyncio":
            assert asyncio.all_tasks() == {asyncio.current_task()}
        await anyio.sleep(5)

    virtual_time.run(main, backend=backend, seed=steps)


@pytest.mark.parametrize("earlier", [False, True])
def test_an_alarm_that_is_about_to_ring_when_the_first_attempt_ends_does_nothing(earlier):
    complaints: list[object] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        answered = asyncio.Event()
        if earlier:
            loop.call_later(1.0, answered.set)

        async def work() -> int:
            if not earlier:
                loop.call_later(1.0, answered.set)
            await answered.wait()
            return me()

        assert await hedged(work) == 1
        await anyio.sleep(5)

    virtual_time.run(main)
    assert complaints == []


def test_of_many_alarms_at_one_instant_the_oldest_rings_first():
    order: list[str] = []

    async def call(name: str) -> None:
        async def work() -> None:
            if me() == 2:
                order.append(name)
            else:
                await hangs()

        await hedged(work)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for name in "abcdefgh":
                tasks.start_soon(call, name)

    virtual_time.run(main)
    assert order == [*"abcdefgh"]


def test_the_same_run_is_the_same_every_time(backend):
    def trace(seed: int) -> list[tuple[float, int, str]]:
        steps: list[tuple[float, int, str]] = []

        async def work() -> None:
            steps.append((now(), me(), "began"))
            try:
                await anyio.sleep(current_runtime().random() * 10)
            finally:
                steps.append((now(), me(), "left"))

        async def one() -> None:
            with contextlib.suppress(DeadlineExceeded):
                await hedged(work, Timeout(3.0), hedge=Hedge(1.0, max_hedges=3))

        async def main():
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(one)

        virtual_time.run(main, backend=backend, seed=seed)
        return steps

    assert trace(1) == trace(1) != trace(2)


# Loops of every make


class LoopOfAnotherMake(asyncio.SelectorEventLoop):
    """Like uvloop's, it does not tell what it has of its own."""

    def __getattribute__(self, name: str) -> Any:
        ours = sys._getframe(1).f_globals["__name__"].startswith("resilient.")
        if ours and name.startswith("_") and not name.startswith("__"):
            raise AttributeError(name)
        return super().__getattribute__(name)

    def time(self) -> float:
        return super().time() + 1000.0


def loops() -> list[Callable[[], asyncio.AbstractEventLoop]]:
    def eager() -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        loop.set_task_factory(vars(asyncio)["eager_task_factory"])
        return loop

    usual = [asyncio.new_event_loop, LoopOfAnotherMake]
    return [*usual, eager] if sys.version_info >= (3, 12) else usual


@pytest.mark.parametrize("make_loop", loops(), ids=lambda make: make.__name__)
def test_it_works_in_real_time_on_every_loop(make_loop):
    async def main() -> None:
        for bodies, winner in (
            ((answer(30.0, 1), answer(0.0, 2)), 2),
            ((hangs, lambda: asyncio.sleep(0, 2)), 2),
            ((answer(0.05, 1), hangs), 1),
            ((answer(0.05, KeyError()), answer(0.1, 2)), 2),
            ((answer(0.05, KeyError()), answer(0.0, OSError()), answer(0.1, 3)), OSError),
        ):
            work = asyncio.create_task(hedged(attempts(*bodies), hedge=Hedge(0.01)))
            await asyncio.wait([work])
            if isinstance(winner, type):
                assert isinstance(work.exception(), winner)
            else:
                assert work.result() == winner
            assert work.cancelling() == 0
            assert asyncio.all_tasks() == {asyncio.current_task()}

    async def immediate() -> int:
        if me() == 1:
            await hangs()
        return me()

    async def eagerly() -> None:
        assert await hedged(immediate, hedge=Hedge(0.01)) == 2

    loop = make_loop()
    try:
        loop.run_until_complete(main())
        loop.run_until_complete(eagerly())
    finally:
        loop.close()
