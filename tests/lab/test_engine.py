"""The engine that a world runs on: appointments, tasks and signals, in virtual and in real time."""

from __future__ import annotations

from contextvars import ContextVar

import anyio
import anyio.lowlevel
import pytest

from resilient.lab.engine import open_engine
from resilient.testing import virtual_time
from resilient.testing.clock import Deadlock
from tests.lab.virtual import in_virtual_time

place: ContextVar[str] = ContextVar("place", default="nowhere")


async def forever() -> None:
    await anyio.sleep_forever()


# -- appointments ---------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_appointments_are_kept_at_their_instants_and_in_their_order():
    seen = []
    async with open_engine() as engine:
        for when, name in [(2.0, "c"), (1.0, "a"), (2.0, "d"), (1.0, "b"), (0.1 + 0.2, "first")]:
            engine.at(when, lambda name: seen.append((engine.now(), name)), name)
        await anyio.sleep(5)
    assert seen == [(0.1 + 0.2, "first"), (1.0, "a"), (1.0, "b"), (2.0, "c"), (2.0, "d")]


@in_virtual_time
async def test_many_appointments_at_one_instant_keep_the_order_of_their_making():
    seen: list[int] = []
    async with open_engine() as engine:
        for number in range(500):
            engine.at(1.0, seen.append, number)
        await anyio.sleep(1.5)
    assert seen == [*range(500)]


@in_virtual_time
async def test_an_appointment_in_the_past_is_kept_as_soon_as_possible():
    seen = []
    async with open_engine() as engine:
        await anyio.sleep(3)
        engine.at(1.0, lambda: seen.append(engine.now()))
        await anyio.sleep(1)
        assert engine.now() == 4.0
    assert seen == [3.0]


@in_virtual_time
async def test_an_appointment_may_make_others():
    seen: list[object] = []
    async with open_engine() as engine:

        def tick(left: int) -> None:
            seen.append(engine.now())
            if left:
                engine.at(engine.now() + 0.5, tick, left - 1)

        engine.at(1.0, tick, 2)
        engine.at(1.0, lambda: engine.at(1.0, seen.append, "at once"))
        await anyio.sleep(10)
    assert seen == [1.0, "at once", 1.5, 2.0]


@in_virtual_time
async def test_sleepers_and_appointments_share_one_clock():
    seen = []

    async def sleeper() -> None:
        for _ in range(3):
            await anyio.sleep(1.0)
            seen.append(("task", engine.now()))

    async with open_engine() as engine:
        engine.spawn(sleeper)
        for when in (0.5, 1.5, 2.5):
            engine.at(when, seen.append, ("appointment", when))
        await anyio.sleep(3.5)
    assert [when for _, when in seen] == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]


@in_virtual_time
async def test_engines_do_not_take_each_others_appointments():
    seen: list[str] = []
    async with open_engine() as one:
        one.at(1.0, seen.append, "one")
        async with open_engine() as other:
            other.at(0.5, seen.append, "other")
            other.at(9.0, seen.append, "never: its block is over by then")
            await anyio.sleep(2)
        one.at(3.0, seen.append, "one")
        await anyio.sleep(10)
    assert seen == ["other", "one", "one"]


def test_nothing_to_wait_for_is_a_deadlock(backend):
    async def main() -> None:
        async with open_engine() as engine:
            engine.at(1.0, int)
            await engine.signal()

    with pytest.raises(Deadlock, match="at virtual second 1 nothing is scheduled"):
        virtual_time.run(main, backend=backend)


# -- what goes wrong ------------------------------------------------------------------------------------------------


def fail() -> None:
    raise LookupError("a mistake of the scenario")


async def fail_later() -> None:
    await anyio.sleep(1)
    fail()


@pytest.mark.parametrize("in_virtual_time", [True, False])
@pytest.mark.parametrize("how", ["appointment", "task"])
def test_an_error_ends_the_block_and_the_other_tasks(backend, how, in_virtual_time):
    cleaned: list[str] = []

    async def other() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cleaned.append("other")

    async def main() -> None:
        async with open_engine() as engine:
            engine.spawn(other)
            if how == "task":
                engine.spawn(fail_later if in_virtual_time else failing)
            else:
                engine.at(engine.now() + 0.001, fail)
            await anyio.sleep_forever()

    async def failing() -> None:
        await anyio.lowlevel.checkpoint()
        fail()

    run = virtual_time.run if in_virtual_time else anyio.run
    with pytest.raises(LookupError, match="a mistake of the scenario"):
        run(main, backend=backend)
    assert cleaned == ["other"]


@in_virtual_time
async def test_the_first_of_several_errors_is_the_one_that_is_raised():
    with pytest.raises(LookupError, match="first"):
        async with open_engine() as engine:
            for message in ("first", "second"):

                def fail_so(message: str) -> None:
                    raise LookupError(message)

                engine.at(1.0, fail_so, message)
            await anyio.sleep_forever()


@in_virtual_time
async def test_an_error_of_the_block_is_raised_as_it_is():
    error = KeyError("of the block")
    with pytest.raises(KeyError) as caught:
        async with open_engine() as engine:
            engine.spawn(forever)
            raise error
    assert caught.value is error


@in_virtual_time
async def test_a_cancellation_from_outside_passes():
    with anyio.move_on_after(1) as scope:
        async with open_engine() as engine:
            engine.spawn(forever)
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert anyio.current_time() == 1.0


@in_virtual_time
async def test_the_end_of_the_block_ends_all_tasks():
    ended: list[int] = []

    async def wait(number: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(number)  # it is waited for
            ended.append(number)

    async with open_engine() as engine:
        for number in (3, 1, 2):
            engine.spawn(wait, number)
        await anyio.sleep(1)
        engine.spawn(wait, 4)  # it may not even have begun
    assert ended[:3] == [1, 2, 3]
    assert anyio.current_time() >= 4.0


@in_virtual_time
async def test_a_task_that_ends_is_forgotten():
    done: list[int] = []

    async def work(number: int) -> None:
        await anyio.sleep(number)
        done.append(number)

    async with open_engine() as engine:
        for number in range(10):
            engine.spawn(work, number)
        await anyio.sleep(100)
        assert not getattr(engine, "_tasks", {})
    assert done == [*range(10)]


# -- signals and surroundings ---------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_signal_is_told_before_or_after_somebody_waits():
    async with open_engine() as engine:
        before, after = engine.signal(), engine.signal()
        assert not before.done()
        before.set_result("early")
        assert before.done()
        assert await before == "early"
        engine.at(2.0, after.set_result, "late")
        assert await after == "late"
        assert engine.now() == 2.0


@in_virtual_time
async def test_a_signal_whose_waiter_has_gone_is_done():
    async with open_engine() as engine:
        signal = engine.signal()
        with anyio.move_on_after(1):
            await signal
        assert signal.done()


@in_virtual_time
async def test_everything_runs_in_the_context_that_the_engine_was_opened_in():
    seen = []

    async def look(how: str) -> None:
        seen.append((how, place.get()))

    async def elsewhere() -> None:
        place.set("elsewhere")
        engine.spawn(look, "task")
        engine.at(1.0, lambda: seen.append(("appointment", place.get())))
        engine.at(2.0, engine.spawn, look, "task of an appointment")

    token = place.set("here")
    async with open_engine() as engine:
        place.set("later")
        engine.spawn(elsewhere)
        await anyio.sleep(5)
    place.reset(token)
    assert seen == [("task", "here"), ("appointment", "here"), ("task of an appointment", "here")]


# -- real time ------------------------------------------------------------------------------------------------------


def test_in_real_time_appointments_are_kept_in_order_and_never_early(backend):
    async def main():
        seen: list[tuple[str, bool]] = []
        over = anyio.Event()

        async with open_engine() as engine:
            began = engine.now()

            def keep(name: str, after: float) -> None:
                seen.append((name, engine.now() >= began + after))

            for after, name in [(0.02, "c"), (0.01, "a"), (0.01, "b"), (-5.0, "past")]:
                engine.at(began + after, keep, name, after)
            engine.at(began + 0.03, over.set)
            with anyio.fail_after(30):
                await over.wait()
        return seen

    assert anyio.run(main, backend=backend) == [("past", True), ("a", True), ("b", True), ("c", True)]


def test_in_real_time_an_appointment_may_make_an_earlier_one_than_the_next(backend):
    async def main():
        seen: list[str] = []
        async with open_engine() as engine:
            over = engine.signal()
            engine.at(engine.now() + 3600, seen.append, "never")
            engine.at(engine.now() + 0.01, lambda: engine.at(engine.now() + 0.001, over.set_result, None))
            with anyio.fail_after(30):
                await over
        return seen

    assert anyio.run(main, backend=backend) == []
