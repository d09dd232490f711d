"""The one timer of an attempt.

Policies only lower `call.deadline`; the innermost step, `send`, enforces it, so that every layer above sees
`DeadlineExceeded` and not a cancellation: a circuit breaker that saw cancellations would never trip on a service that
hangs.

On asyncio a timer of our own does it: one exact `call_at` a loop, armed for the earliest deadline, and one list entry
an attempt. Cancelling the task and taking the cancellation back follows `asyncio.timeout` to the letter, at
less than half its cost. Everywhere else an anyio scope does it.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import threading
import time
from asyncio import current_task
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar, final
from weakref import WeakValueDictionary

import anyio

from resilient.call import Call
from resilient.context import ambient
from resilient.errors import DeadlineExceeded


class _Library(threading.local):
    name: str | None = None


_library: Any = _Library()
with suppress(ImportError):  # without sniffio there is no trio
    from sniffio import thread_local as _library

__all__ = ["bounded", "no_time_left", "send"]

A = TypeVar("A")
T = TypeVar("T")

_SWEEP = 256
_set_ambient, _reset_ambient = ambient.set, ambient.reset


@final
class _Entry:
    """An attempt that must end by `when`. `task` is None once it ended, or once it was told to."""

    __slots__ = ("task", "when")

    def __init__(self, when: float, task: asyncio.Task[Any]) -> None:
        self.when = when
        self.task: asyncio.Task[Any] | None = task


@final
class _Deadlines:
    """All deadlines of one event loop, behind one armed timer.

    Most attempts end long before their deadline, so an entry costs an append and is forgotten in place; the
    timer is left armed and sorts the survivors only when it fires.
    """

    __slots__ = ("__weakref__", "armed", "handle", "heap", "limit", "loop", "monotonic", "order", "young")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        # A loop on the usual clock can be armed with a deadline as it is.
        self.monotonic = time.monotonic if type(loop).time is asyncio.BaseEventLoop.time else None
        self.armed = math.inf
        self.handle: asyncio.TimerHandle | None = None
        self.young: list[_Entry] = []
        self.heap: list[tuple[float, int, _Entry]] = []
        self.order = itertools.count()
        self.limit = _SWEEP

    def arm(self, when: float) -> None:
        if self.handle is not None:
            self.handle.cancel()
        self.armed = when
        self.handle = self.loop.call_at(when, self.fire)

    def sweep(self) -> None:
        """Drop what ended; twice the survivors may gather before the next time, so it costs O(1) an entry."""
        self.young = [entry for entry in self.young if entry.task is not None]
        self.limit = 2 * len(self.young) + _SWEEP

    def fire(self) -> None:
        now = self.loop.time() + getattr(self.loop, "_clock_resolution", 0.0)
        heap = self.heap
        for entry in self.young:
            if entry.task is not None:
                heapq.heappush(heap, (entry.when, next(self.order), entry))
        self.young = []
        self.limit = _SWEEP
        due: dict[asyncio.Task[Any], tuple[float, int, _Entry]] = {}
        later: list[tuple[float, int, _Entry]] = []
        while heap and (heap[0][0] <= now or heap[0][2].task is None):
            item = heapq.heappop(heap)
            task = item[2].task
            if task is not None:
                # Of two scopes of a task that end together the inner one speaks first: its error passes
                # through the outer one, while the reverse would reach the inner layers as a cancellation.
                if task in due:
                    later.append(due[task])
                due[task] = item
        for task, (_, _, entry) in due.items():
            entry.task = None
            task.cancel()
        for item in later:
            heapq.heappush(heap, item)
        self.handle = None
        self.armed = math.inf
        if heap:
            self.arm(heap[0][0])


class _Here(threading.local):
    deadlines: _Deadlines | None = None


_here = _Here()
# Weak, so that a loop is not kept alive; what still has something to do is held by its armed timer.
_by_loop: WeakValueDictionary[int, _Deadlines] = WeakValueDictionary()


def _find() -> tuple[_Deadlines, asyncio.Task[Any]] | None:
    """The deadlines of the running loop and its current task; None where this is no asyncio task."""
    if _library.name == "trio":  # even inside a running asyncio loop: somebody called trio.run there
        return None
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    task = current_task(loop)
    if task is None:
        return None
    deadlines = _by_loop.get(id(loop))
    if deadlines is None or deadlines.loop is not loop:
        deadlines = _by_loop[id(loop)] = _Deadlines(loop)
    _here.deadlines = deadlines
    return deadlines, task


def no_time_left(call: Call) -> DeadlineExceeded:
    """The error of a call that comes too late to be sent."""
    return DeadlineExceeded(f"{call.name}: no time left to send it", sent=False)


def _exceeded(call: Call) -> DeadlineExceeded:
    where = "" if call.instance is None else f" to {call.instance.id}"
    return DeadlineExceeded(f"{call.name}: no answer within the deadline (attempt {call.attempt}{where})")


async def bounded(call: Call, step: Callable[[A], Awaitable[T]], argument: A) -> T:
    """Await `step(argument)`, no longer than `call.deadline` (which must be set).

    Raises `DeadlineExceeded` only when this limit ended it; every other cancellation passes unchanged. In a plain
    function nothing can be interrupted: there the deadline is only checked before the step.
    """
    deadline = call.deadline
    assert deadline is not None
    remaining = deadline - call.runtime.now()
    if remaining <= 0.0:
        raise no_time_left(call)
    if call.blocking:
        return await step(argument)

    deadlines = _here.deadlines
    task = None if deadlines is None or _library.name == "trio" else current_task(deadlines.loop)
    if task is None or deadlines is None:
        found = _find()
        if found is None:
            return await _bounded_by_scope(call, remaining, step, argument)
        deadlines, task = found
    when = deadline if deadlines.monotonic is call.runtime.now else deadlines.loop.time() + remaining

    cancelling = task.cancelling()
    entry = _Entry(when, task)
    deadlines.young.append(entry)
    if len(deadlines.young) > deadlines.limit:
        deadlines.sweep()
    if when < deadlines.armed:
        deadlines.arm(when)
    try:
        result = await step(argument)
    except BaseException as error:
        if entry.task is None:
            if task.uncancel() <= cancelling and isinstance(error, asyncio.CancelledError):
                raise _exceeded(call) from error
        else:
            entry.task = None
        raise
    if entry.task is None:
        task.uncancel()
    else:
        entry.task = None
    return result


async def _bounded_by_scope(call: Call, remaining: float, step: Callable[[A], Awaitable[T]], argument: A) -> T:
    with anyio.CancelScope(deadline=anyio.current_time() + remaining) as scope:
        return await step(argument)
    if scope.cancelled_caught:
        raise _exceeded(call)
    raise AssertionError("unreachable: the scope returns, raises or was cancelled")


async def send(call: Call) -> Any:
    """The innermost step: invoke the call as the current one, within its deadline."""
    token = _set_ambient(call)
    try:
        if call.deadline is None:
            return await call.invoke(call)
        return await bounded(call, call.invoke, call)
    finally:
        _reset_ambient(token)
