"""The cancellation harness: it must catch what is broken and pass what is right."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque

import anyio
import anyio.lowlevel
import pytest

from resilient.context import current_runtime
from resilient.testing.cancellation import CancellationBug, for_each_cancellation


class Semaphore:
    """Hands a permit over to its first waiter, and gives it on where that waiter was cancelled meanwhile."""

    def __init__(self) -> None:
        self.free = 1
        self.waiters: deque[anyio.Event] = deque()

    async def acquire(self) -> None:
        if self.free and not self.waiters:
            self.free -= 1
            return
        turn = anyio.Event()
        self.waiters.append(turn)
        try:
            await turn.wait()
        except BaseException:
            self.abandon(turn)
            raise

    def abandon(self, turn: anyio.Event) -> None:
        if turn in self.waiters:
            self.waiters.remove(turn)
        else:
            self.release()  # it had been handed over

    def release(self) -> None:
        if self.waiters:
            self.waiters.popleft().set()
        else:
            self.free += 1


class ForgetsItsWaiter(Semaphore):
    """Hands a permit over to a waiter that has gone."""

    def abandon(self, turn: anyio.Event) -> None:
        pass


class LosesThePermitHandedOver(Semaphore):
    """Wrong for one step of the scheduler only: between the hand-over and the waiter's waking up."""

    def abandon(self, turn: anyio.Event) -> None:
        if turn in self.waiters:
            self.waiters.remove(turn)


async def contend(semaphore: Semaphore) -> None:
    """Two tasks want the permit; the main one gets it second."""

    async def first() -> None:
        await semaphore.acquire()
        try:
            await anyio.sleep(1)
        finally:
            semaphore.release()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first)
        await anyio.lowlevel.checkpoint()
        await semaphore.acquire()
        try:
            await anyio.sleep(1)
        finally:
            semaphore.release()


async def contend_without_finally(semaphore: Semaphore) -> None:
    await semaphore.acquire()
    await anyio.sleep(1)
    semaphore.release()


def check(semaphore: Semaphore) -> None:
    assert semaphore.free == 1, "a permit is out"
    assert not semaphore.waiters, "a waiter queues"


def test_a_right_semaphore_passes(backend):
    runs = for_each_cancellation(Semaphore, scenario=contend, check=check, backend=backend)
    assert runs > 5


def test_a_missing_finally_is_caught(backend):
    with pytest.raises(AssertionError, match="a permit is out") as caught:
        for_each_cancellation(Semaphore, scenario=contend_without_finally, check=check, backend=backend)
    (note,) = caught.value.__notes__
    assert "before step" in note
    assert "await anyio.sleep(1)" in note


def test_a_waiter_that_stays_in_the_queue_is_caught(backend):
    with pytest.raises(AssertionError, match=r"a permit is out|a waiter queues"):
        for_each_cancellation(ForgetsItsWaiter, scenario=contend, check=check, backend=backend)


def test_a_permit_that_is_lost_between_hand_over_and_waking_up_is_caught(backend):
    with pytest.raises(AssertionError, match="a permit is out") as caught:
        for_each_cancellation(LosesThePermitHandedOver, scenario=contend, check=check, backend=backend)
    (note,) = caught.value.__notes__
    assert note.startswith("when cancelled with")
    assert "await turn.wait()" in note


def test_a_task_cancel_hits_a_task_that_has_already_been_woken_up():
    class Box:
        content: object = None

    async def scenario(box: Box) -> None:
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(1, future.set_result, "sent")
        box.content = future
        box.content = await future

    def check(box: Box) -> None:
        assert not (isinstance(box.content, asyncio.Future) and not box.content.cancelled()), "the result is lost"

    with pytest.raises(AssertionError, match="the result is lost") as caught:
        for_each_cancellation(Box, scenario=scenario, check=check)
    assert "when cancelled with task cancel" in caught.value.__notes__[0]


def test_a_swallowed_cancellation_is_caught():
    async def scenario(_: None) -> None:
        try:
            await anyio.sleep(1)
        except asyncio.CancelledError:
            return

    with pytest.raises(CancellationBug, match="swallowed its cancellation"):
        for_each_cancellation(lambda: None, scenario=scenario, check=lambda _: None)


def test_an_error_in_place_of_the_cancellation_is_caught(backend):
    async def scenario(_: None) -> None:
        try:
            await anyio.sleep(1)
        except anyio.get_cancelled_exc_class():
            raise OSError("in its place") from None

    with pytest.raises(OSError, match="in its place"):
        for_each_cancellation(lambda: None, scenario=scenario, check=lambda _: None, backend=backend)


def test_a_task_left_behind_is_caught():
    async def forever() -> None:
        for _ in itertools.count():
            await anyio.sleep(1)

    async def scenario(tasks: set[asyncio.Task[None]]) -> None:
        task = asyncio.create_task(forever(), name="the forgotten one")
        tasks.add(task)
        await anyio.sleep(1)
        task.cancel()

    with pytest.raises(CancellationBug, match=r"do not end:\s+the forgotten one"):
        for_each_cancellation(set, scenario=scenario, check=lambda _: None)


def test_a_task_that_outlives_the_scenario_to_finish_its_work_is_awaited():
    class Commit:
        done = 0
        started = 0

        async def run(self) -> None:
            self.started += 1
            await anyio.sleep(5)
            self.done += 1

    async def scenario(commit: Commit) -> None:
        await asyncio.shield(asyncio.create_task(commit.run()))

    def check(commit: Commit) -> None:
        assert commit.done == commit.started

    assert for_each_cancellation(Commit, scenario=scenario, check=check) > 3


def test_the_steps_of_child_tasks_are_moments_too(backend):
    """The main task waits in one place while its child goes through three."""
    seen = set()

    class Progress:
        steps = 0

    async def scenario(progress: Progress) -> None:
        async def child() -> None:
            for _ in range(3):
                await anyio.sleep(1)
                progress.steps += 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child)

    def check(progress: Progress) -> None:
        seen.add(progress.steps)

    for_each_cancellation(Progress, scenario=scenario, check=check, backend=backend)
    assert seen == {0, 1, 2, 3}


def test_the_check_may_use_the_event_loop(backend):
    async def check(semaphore: Semaphore) -> None:
        before = current_runtime().now()
        with anyio.fail_after(1):
            await semaphore.acquire()
        await anyio.sleep(1)
        assert current_runtime().now() >= before + 1

    assert for_each_cancellation(Semaphore, scenario=contend, check=check, backend=backend) > 5


def test_an_undisturbed_scenario_that_fails_is_reported_as_it_is(backend):
    async def scenario(_: None) -> None:
        raise LookupError("its own")

    with pytest.raises(LookupError, match="its own"):
        for_each_cancellation(lambda: None, scenario=scenario, check=lambda _: None, backend=backend)


def test_an_endless_scenario_is_given_up(backend):
    async def scenario(_state: None) -> None:
        for _ in itertools.count():
            await anyio.sleep(1)

    with pytest.raises(CancellationBug, match="max_runs=20"):
        for_each_cancellation(lambda: None, scenario=scenario, check=lambda _: None, backend=backend, max_runs=20)
