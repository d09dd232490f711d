"""Attempts that run at the same time: what ends them all, and what becomes of losers that do not just go."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref

import anyio
import anyio.lowlevel
import pytest

from resilient.context import serving
from resilient.errors import DeadlineExceeded
from resilient.events import Event
from resilient.policies.hedge import Hedge
from resilient.testing import virtual_time
from resilient.verdict import Classifier, Verdict, classify_function
from tests.policies.races import answer, attempts, hangs, hedged, me, now


def test_no_other_attempt_is_begun_for_a_call_that_is_out_of_time(backend):
    """It would be paid for and announced, and never sent."""
    events: list[Event] = []

    async def takes_its_time_to_leave() -> None:
        try:
            await hangs()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(5)

    async def main():
        with serving(deadline=1.0), pytest.raises(DeadlineExceeded):
            await hedged(takes_its_time_to_leave)
        assert now() == 6.0

    virtual_time.run(main, backend=backend, emit=events.append)
    assert events == []


def test_a_loser_that_answers_late_is_closed_and_the_first_success_is_returned(backend):
    """It is in a section that no cancellation ends."""
    closed: list[tuple[str, float]] = []

    async def close(opened: str) -> bool:
        closed.append((opened, now()))
        return False

    async def stubborn() -> str:
        try:
            await anyio.sleep(100)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.5)
        return "first"

    async def main():
        classify = Classifier(error=classify_function.error, discard=close)
        assert await hedged(attempts(stubborn, answer(0.5, "second")), classify=classify) == "second"
        assert now() == 2.0
        assert closed == [("first", 2.0)]
        await anyio.lowlevel.checkpoint()

    virtual_time.run(main, backend=backend)


def test_a_loser_that_fails_on_its_way_out_loses_all_the_same(backend):
    async def fails() -> None:
        try:
            await hangs()
        finally:
            raise KeyError

    async def main():
        for hedge in (Hedge(1.0), Hedge(1.0, max_hedges=2)):
            assert await hedged(attempts(fails, answer(1.5, "second"), fails), hedge=hedge) == "second"

    virtual_time.run(main, backend=backend)


def test_a_loser_whose_children_fail_on_their_way_out_loses_all_the_same(backend):
    """It ends with a group of cancellations and failures."""

    async def child() -> None:
        try:
            await hangs()
        finally:
            raise KeyError

    async def parent() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child)
            tasks.start_soon(hangs)
            await hangs()

    async def main():
        assert await hedged(attempts(parent, answer(0.5, "second"))) == "second"
        bodies = (parent, answer(1.5, "second"), parent)
        assert await hedged(attempts(*bodies), hedge=Hedge(1.0, max_hedges=2)) == "second"

    virtual_time.run(main, backend=backend)


def test_a_group_of_cancellations_and_failures_by_hand_loses_too():
    async def groups() -> None:
        try:
            await hangs()
        except asyncio.CancelledError as cancelled:
            raise BaseExceptionGroup("by hand", [cancelled, KeyError()]) from None

    async def cancelled_only() -> None:
        try:
            await hangs()
        except asyncio.CancelledError as cancelled:
            raise BaseExceptionGroup("by hand", [cancelled]) from None

    complaints: list[object] = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        hedge = Hedge(1.0, max_hedges=2)
        assert await hedged(attempts(groups, answer(1.5, "second"), groups), hedge=hedge) == "second"
        assert await hedged(attempts(cancelled_only, answer(1.5, "second"), cancelled_only), hedge=hedge) == "second"
        gc.collect()

    virtual_time.run(main)
    assert complaints == []


@pytest.mark.parametrize("who", [1, 2])
def test_a_group_with_an_exit_surfaces_as_it_is(backend, who):
    group = BaseExceptionGroup("of an attempt", [SystemExit(3), KeyError()])

    async def main():
        bodies = [answer(10.0, "loses"), answer(10.0, "loses")]
        bodies[who - 1] = answer(2.0, group)
        with pytest.raises(BaseExceptionGroup) as caught:
            await hedged(attempts(*bodies))
        assert caught.value is group

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize("surfaces", [KeyboardInterrupt(), SystemExit(3)])
def test_an_exit_goes_before_everything_else(backend, surfaces):
    async def exits_on_its_way_out() -> None:
        try:
            await hangs()
        finally:
            raise surfaces

    async def main():
        with pytest.raises(type(surfaces)) as caught:
            await hedged(attempts(exits_on_its_way_out, answer(0.5, "second")))
        assert caught.value is surfaces
        assert now() == 1.5
        with pytest.raises(type(surfaces)) as caught:
            await hedged(attempts(answer(1.5, "first"), exits_on_its_way_out))
        assert caught.value is surfaces

    virtual_time.run(main, backend=backend)


def test_an_exit_goes_before_the_callers_cancellation():
    async def exits_on_its_way_out() -> None:
        try:
            await hangs()
        finally:
            await asyncio.sleep(1)
            raise SystemExit(3)

    async def main():
        caller = asyncio.current_task()
        assert caller is not None
        asyncio.get_running_loop().call_later(2.0, caller.cancel)
        with pytest.raises(SystemExit):
            await hedged(attempts(answer(1.5, "first"), exits_on_its_way_out))
        assert caller.uncancel() == 0
        assert now() == 2.5

    virtual_time.run(main)


@pytest.mark.parametrize("when", ["asked", "judged"])
def test_a_classifier_that_fails_ends_the_call_and_all_attempts(backend, when):
    def spent(_: object) -> str | None:
        if when == "asked":
            raise ZeroDivisionError
        return None

    def judge(_: object) -> Verdict:
        raise ZeroDivisionError

    left: list[int] = []

    async def work() -> None:
        try:
            await anyio.sleep(100 if me() == 1 else 0.5)
        finally:
            left.append(me())

    async def main():
        classify = Classifier(error=classify_function.error, result=judge, spent=spent)
        with pytest.raises(ZeroDivisionError):
            await hedged(work, classify=classify)
        assert now() == (1.0 if when == "asked" else 1.5)
        assert left == ([1] if when == "asked" else [2, 1])

    virtual_time.run(main, backend=backend)


class Heavy(Exception):
    """An error that would be noticed if it stayed."""


class HeavyExit(SystemExit):
    """Likewise."""


@pytest.mark.parametrize(("kind", "raised"), [(Heavy, 4), (HeavyExit, 3)])
def test_errors_are_not_kept_alive_by_the_race_that_raised_them(backend, kind, raised):
    gone: list[weakref.ref[BaseException]] = []

    async def fails_at_once() -> None:
        error = kind()
        gone.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    async def fails() -> None:
        await anyio.sleep(2.0 - 0.75 * (me() - 1))
        await fails_at_once()

    async def main():
        gc.collect()
        gc.disable()
        try:
            for work in (fails, fails_at_once, attempts(fails_at_once, answer(0.5, "second"))):
                with contextlib.suppress(kind):
                    await hedged(work)
        finally:
            gc.enable()

    virtual_time.run(main, backend=backend)
    assert len(gone) == raised
    assert [ref() for ref in gone] == [None] * raised
