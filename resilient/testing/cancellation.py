"""Cancels a scenario at every moment at which it can be cancelled, and checks what is left.

Code that is right while it runs to its end is often wrong when it is cancelled: a permit that was handed over
while its receiver was being cancelled is lost for ever, a task goes on without anyone who waits for it. Such a
moment is a single step of the scheduler long, and no test finds it by chance. `for_each_cancellation` runs a
scenario once for each step: cancelled before the first, before the second, and so on, until it finishes undisturbed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeAlias, TypeVar, final

import anyio

from resilient.testing import virtual_time
from resilient.testing.clock import describe_wait

__all__ = ["CancellationBug", "for_each_cancellation"]

S = TypeVar("S")

_GRACE = 60.0
"""Virtual seconds in which a task that outlives the scenario has to end."""


class CancellationBug(AssertionError):
    """The scenario did not take its cancellation as it should."""


def for_each_cancellation(
    fresh: Callable[[], S],
    *,
    scenario: Callable[[S], Awaitable[object]],
    check: Callable[[S], Awaitable[None] | None],
    backend: str = "asyncio",
    seed: int = 0,
    max_runs: int = 10_000,
) -> int:
    """Run `scenario` in virtual time, cancelled before each step in turn, and `check` what it leaves behind.

    `fresh`
        Makes the state of one run, for example the policy under test. It is called inside the event loop.
    `scenario`
        The async function that is cancelled. Undisturbed, it has to end without an exception.
    `check`
        Raises if an invariant is broken: a permit is still out, a waiter still queues. It gets the state after each
        run, cancelled or not, in the same event loop, and may be async.
    `backend`
        On "asyncio" each step is tried twice: with `task.cancel()`, which also hits a task that has already been
        woken up and pierces anyio's shields, and with a cancel scope. On "trio" with a cancel scope.
    `max_runs`
        The number of steps at which a scenario counts as endless: 10,000 take some ten seconds.

    Returns the number of cancelled runs. Besides what `check` raises it raises `CancellationBug` when the scenario
    swallows a `task.cancel()` or leaves a task behind that does not end within a minute, and any exception but the
    cancellation that comes out of a cancelled scenario. A note on each says where the scenario was cancelled.

    ```python
    import anyio
    from resilient.testing.cancellation import for_each_cancellation

    async def scenario(limiter: anyio.CapacityLimiter) -> None:
        async with limiter:
            await anyio.sleep(1)

    def check(limiter: anyio.CapacityLimiter) -> None:
        assert limiter.borrowed_tokens == 0

    for_each_cancellation(lambda: anyio.CapacityLimiter(1), scenario=scenario, check=check)
    ```
    """
    runs = 0
    for cancelling in (_with_task_cancel, _with_a_scope) if backend == "asyncio" else (_with_a_scope,):
        for step in range(1, max_runs + 1):
            trigger = _Trigger(step)
            main = partial(_run_once, backend, trigger, cancelling, fresh, scenario, check)
            try:
                virtual_time.run(main, backend=backend, seed=seed, on_step=trigger.on_step)
            except BaseException as error:
                if trigger.fired_at is not None:
                    how = cancelling.__name__.strip("_").replace("_", " ")
                    error.add_note(f"when cancelled {how} before step {step}, at\n{trigger.fired_at}")
                raise
            if trigger.fired_at is None:  # the scenario ended before that step: this was the undisturbed run
                break
            runs += 1
        else:
            raise CancellationBug(f"max_runs={max_runs!r}: the scenario does not end within so many steps")
    return runs


@final
class _Trigger:
    """Cancels what it is armed with before the given step from then on."""

    def __init__(self, step: int) -> None:
        self.fired_at: str | None = None
        self._steps_left = step
        self._target: tuple[object, Callable[[], object]] | None = None

    def arm(self, coroutine: object, cancel: Callable[[], object]) -> None:
        self._target = (coroutine, cancel)

    def disarm(self) -> None:
        self._target = None

    def on_step(self) -> None:
        if self._target is None:
            return
        self._steps_left -= 1
        if self._steps_left == 0:
            coroutine, cancel = self._target
            self._target = None
            self.fired_at = describe_wait(coroutine)
            cancel()


_Cancelling: TypeAlias = Callable[[_Trigger, Coroutine[Any, Any, None]], Awaitable[None]]


async def _run_once(
    backend: str,
    trigger: _Trigger,
    cancelling: _Cancelling,
    fresh: Callable[[], S],
    scenario: Callable[[S], Awaitable[object]],
    check: Callable[[S], Awaitable[None] | None],
) -> None:
    state = fresh()

    async def body() -> None:
        try:
            await scenario(state)
        finally:
            trigger.disarm()

    await cancelling(trigger, body())
    if backend == "asyncio":
        await _end_of_other_tasks()
    checked = check(state)
    if checked is not None:
        await checked


async def _with_task_cancel(trigger: _Trigger, body: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(body)
    trigger.arm(body, task.cancel)
    await asyncio.wait([task])
    if trigger.fired_at is None or not task.cancelled():
        task.result()
        if trigger.fired_at is not None:
            raise CancellationBug("the scenario swallowed its cancellation: it ended as if nothing had happened")


async def _with_a_scope(trigger: _Trigger, body: Coroutine[Any, Any, None]) -> None:
    with anyio.CancelScope() as scope:
        trigger.arm(body, scope.cancel)
        await body


async def _end_of_other_tasks() -> None:
    """A task may outlive whoever started it on asyncio, for example to finish a commit; but not for ever."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if not others:
        return
    _, left = await asyncio.wait(others, timeout=_GRACE)
    if left:
        dumps = [f"{task.get_name()}\n{describe_wait(task.get_coro())}" for task in sorted(left, key=hash)]
        raise CancellationBug("the scenario left tasks that do not end:\n\n" + "\n\n".join(dumps))
