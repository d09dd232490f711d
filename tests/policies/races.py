"""Attempts that take as long and come to what a test wants, and what comes of a race of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from resilient.context import current_call, current_runtime, options
from resilient.pipeline import Pipeline
from resilient.policies.hedge import Hedge
from resilient.testing import virtual_time
from resilient.verdict import Classifier, classify_function

Body = Callable[[], Awaitable[Any]]


def me() -> int:
    """The number of this attempt."""
    call = current_call()
    assert call is not None
    return call.attempt


def attempts(*bodies: Body) -> Body:
    """A function whose first attempt is the first of these, and so on."""

    async def work() -> Any:
        return await bodies[me() - 1]()

    return work


def answer(seconds: float, value: Any) -> Body:
    async def body() -> Any:
        await anyio.sleep(seconds)
        if isinstance(value, BaseException):
            raise value
        return value

    return body


async def hangs() -> None:
    await anyio.sleep(1000)


async def hedged(work: Body, *inner: Any, hedge: Hedge | None = None, classify: Classifier | None = None) -> Any:
    """Hedged after a second, unless `hedge` says otherwise."""
    with options(idempotent=True):
        return await Pipeline(hedge or Hedge(1.0), *inner, classify=classify).run(work)


def now() -> float:
    return current_runtime().now()


Scenario = Callable[[], Awaitable[Any]]


class Observed:
    """What comes of a scenario: its result or error, when, the cancellations left on its task, and one that is late."""

    def __init__(self, scenario: Scenario) -> None:
        self.came_to: Any = None
        self.late = False

        async def observe() -> None:
            task = asyncio.current_task()
            assert task is not None
            try:
                self.came_to = await scenario()
            except BaseException as error:
                self.came_to = error
            self.at, self.left = now(), task.cancelling()
            while task.cancelling():
                task.uncancel()
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                self.late = True

        async def main() -> None:
            task = asyncio.create_task(observe())
            await asyncio.wait([task])
            task.result()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        virtual_time.run(main)

    @property
    def summary(self) -> tuple[Any, float, int, bool]:
        came_to = type(self.came_to) if isinstance(self.came_to, BaseException) else self.came_to
        return came_to, self.at, self.left, self.late


def this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


def soon(action: Callable[[], object], *, ticks: int) -> None:
    """Do it after so many rounds of the loop: 0 is at once."""
    if ticks == 0:
        action()
    else:
        asyncio.get_running_loop().call_soon(lambda: soon(action, ticks=ticks - 1))


class Closing:
    """Results, and whether they were closed."""

    def __init__(self) -> None:
        self.closed: list[Any] = []
        self.classify = Classifier(error=classify_function.error, discard=self.close)

    async def close(self, result: Any) -> bool:
        self.closed.append(result)
        return False
