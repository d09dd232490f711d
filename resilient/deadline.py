"""The one timer of an attempt.

Policies only lower `call.deadline`; the innermost step, `send`, enforces it, so that every layer above sees
`DeadlineExceeded` and not a cancellation: a circuit breaker that saw cancellations would never trip on a service that
hangs.

On asyncio a timer of our own does it: one exact `call_at` a loop, armed for the earliest deadline, and one list entry
an attempt. Cancelling the task and taking the cancellation back follows `asyncio.timeout` to the letter, at
less than half its cost. On trio a cancel scope does it. The same timer serves what is only to begin after a while
(see `Alarm`), and is mostly not needed after all.

Where two limits of one task end at the same instant (a call inside a call, a foreign policy between two of ours), the
inner one speaks and the outer one waits until it has spoken, or the layers in between would see a cancellation.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import sys
import threading
import time
from abc import ABC, abstractmethod
from asyncio import current_task
from collections.abc import Awaitable, Callable
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, final
from weakref import ref

from resilient.call import Call, Next
from resilient.context import ambient
from resilient.errors import DeadlineExceeded
from resilient.waiting import library

if TYPE_CHECKING:
    import trio

__all__ = ["Alarm", "bounded", "deadlines_here", "limited", "no_time_left", "send"]

A = TypeVar("A")
T = TypeVar("T")

_SWEEP = 256
_OVERSLEPT = 0.25
"""A limit that speaks this much of its length too late was overslept. Less is the lag of a busy loop, in which what
does not answer must still be found out."""
_modules = sys.modules
_set_ambient, _reset_ambient = ambient.set, ambient.reset


class _Nobody:
    _thread_id = None


@final
class _Entry:
    """An attempt that must end by `when`. `task` is None once it ended, or once it was told to: at `when`, then."""

    __slots__ = ("task", "when")  # and no `__init__`: see Call
    when: float
    task: asyncio.Task[Any] | None


class Alarm(ABC):
    """Something that is to begin at `when`, on the loop's own clock, unless `task` gets on without it.

    `ring` is called then, as a callback of the loop, in the context that the alarm was made in. Whoever does not need
    it any more sets `task` and `context` to None, since the alarm itself is kept until the timer comes by.
    """

    __slots__ = ("context", "task", "when")

    def __init__(self, when: float, task: asyncio.Task[Any]) -> None:
        self.when = when
        self.task: asyncio.Task[Any] | None = task
        self.context: Context | None = copy_context()

    @abstractmethod
    def ring(self) -> None:
        """Begin what was to begin."""


class _Item(NamedTuple):
    when: float
    order: int
    """Of their beginning: of two entries of a task the later one is the inner one."""
    entry: _Entry | Alarm


@final
class _Deadlines:
    """All deadlines and alarms of one event loop, behind one armed timer.

    Most attempts end long before their deadline, so an entry costs an append and is forgotten in place; the
    timer is left armed and sorts the survivors only when it fires. The armed timer is also all that keeps this
    object alive, and it belongs to the loop: no loop is kept alive by it.
    """

    __slots__ = (
        "__weakref__",
        "armed",
        "clock",
        "context",
        "handle",
        "heap",
        "heap_limit",
        "held",
        "limit",
        "loop",
        "order",
        "thread",
        "witness",
        "young",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        # Whether a loop runs in this very thread is told by an attribute that asyncio's own loops have (looking up the
        # running loop costs more than the rest of `bounded`); of any other loop it is asked every time.
        self.witness: Any = loop if hasattr(loop, "_thread_id") else _Nobody
        self.thread = threading.get_ident()
        # A runtime on this clock gives deadlines that the loop can be armed with as they are.
        usual = getattr(loop.time, "__func__", None) is asyncio.BaseEventLoop.time
        self.clock = time.monotonic if usual else loop.time
        self.context = Context()  # the timer must not keep alive what the call that armed it has in its own
        self.armed = math.inf
        self.handle: asyncio.TimerHandle | None = None
        self.young: list[_Entry | Alarm] = []
        self.heap: list[_Item] = []
        self.held: dict[_Entry, list[_Item]] = {}
        self.order = itertools.count()
        self.limit = self.heap_limit = _SWEEP

    def watch(self, entry: _Entry | Alarm) -> None:
        """Keep an eye on the entry until its `task` is None."""
        self.young.append(entry)
        if len(self.young) > self.limit:
            self.sweep()
        if entry.when < self.armed:
            self.arm(entry.when)

    def arm(self, when: float) -> None:
        if self.handle is not None:
            self.handle.cancel()
        self.armed = when
        self.handle = self.loop.call_at(when, self.fire, context=self.context)

    def sweep(self) -> None:
        """Drop what ended; twice the survivors may gather before the next time, so it costs O(1) an entry."""
        self.young = [entry for entry in self.young if entry.task is not None]
        self.limit = 2 * len(self.young) + _SWEEP

    def fire(self) -> None:
        now = self.loop.time() + getattr(self.loop, "_clock_resolution", 0.0)
        due: list[_Item] = []
        heap = self._sorted()
        while heap and (heap[0].when <= now or heap[0].entry.task is None):
            due.append(heapq.heappop(heap))
        due.sort(key=_by_order)
        told: dict[asyncio.Task[Any], _Entry] = {}
        for item in reversed(due):
            entry, task = item.entry, item.entry.task
            if task is None or isinstance(entry, Alarm):
                continue
            if task in told:
                self.held.setdefault(told[task], []).append(item)
            else:
                told[task] = entry
                entry.task = None
                entry.when = now
                task.cancel()
        for _, _, entry in due:
            if isinstance(entry, Alarm) and entry.task is not None:
                self.loop.call_soon(entry.ring, context=entry.context)
        self.handle = None
        self.armed = math.inf
        if heap:
            self.arm(heap[0].when)

    def _sorted(self) -> list[_Item]:
        """All entries that have not ended, in the order of their deadlines."""
        heap = self.heap
        for entry in self.young:
            if entry.task is not None:
                heapq.heappush(heap, _Item(entry.when, next(self.order), entry))
        self.young = []
        self.limit = _SWEEP
        if len(heap) > self.heap_limit:
            heap[:] = [item for item in heap if item.entry.task is not None]
            heapq.heapify(heap)
            self.heap_limit = 2 * len(heap) + _SWEEP
        return heap

    def spoken(self, entry: _Entry) -> None:
        """Let those speak that were held back for this entry: it has unwound."""
        for item in self.held.pop(entry, ()):
            heapq.heappush(self.heap, item)
            if item.when < self.armed:
                self.arm(item.when)


def _by_order(item: _Item) -> int:
    return item.order


def _nothing() -> None:
    return None


class _Here(threading.local):
    deadlines: Callable[[], _Deadlines | None] = staticmethod(_nothing)
    """A weak reference to those of the loop that ran last in this thread."""


_here = _Here()


def deadlines_here() -> _Deadlines | None:
    """Those of the asyncio loop that runs here; None on trio."""
    deadlines = _here.deadlines()
    if deadlines is None or deadlines.witness._thread_id != deadlines.thread or library.name == "trio":  # noqa: SLF001 - see _Deadlines
        deadlines = _find()
    return deadlines


def _find() -> _Deadlines | None:
    """What `deadlines_here` returns, when the loop is another one than the last time."""
    if library.name == "trio":  # even inside a running asyncio loop: somebody called trio.run there
        return None
    loop = asyncio.get_running_loop()
    deadlines = _here.deadlines()
    if deadlines is None or deadlines.loop is not loop:
        deadlines = _Deadlines(loop)
        _here.deadlines = ref(deadlines)
    return deadlines


def no_time_left(call: Call) -> DeadlineExceeded:
    """The error of a call that comes too late to be sent."""
    return DeadlineExceeded(f"{call.name}: no time left to send it", sent=False)


def _exceeded(call: Call, late: float, length: float) -> DeadlineExceeded:
    """The error of a limit of `length` seconds that spoke `late`."""
    where = "" if call.instance is None else f" to {call.instance.id}"
    message = f"{call.name}: no answer within the deadline (attempt {call.attempt}{where})"
    if late <= _OVERSLEPT * length:
        return DeadlineExceeded(message)
    return DeadlineExceeded(f"{message}, which this process noticed {late:.3g} s late", overslept=True)


async def send(call: Call, step: Next[T] | None = None) -> T:
    """Run the call's innermost step (or another `step` of it) as the current call, no longer than its deadline.

    Raises `DeadlineExceeded` only when this limit ended it; every other cancellation passes unchanged. In a plain
    function nothing can be interrupted: there the deadline is only checked before the step.
    """
    if step is None:
        step = call.invoke
    token = _set_ambient(call)
    try:
        if call.deadline is None:
            return await step(call)
        if not call.blocking:
            return await limited(call, step)
        if call.deadline <= call.runtime.now():
            raise no_time_left(call)
        return await step(call)
    finally:
        _reset_ambient(token)


async def limited(call: Call, step: Next[T]) -> T:
    """Run a step of what is the current call already, no longer than its deadline, in an event loop: see `send`."""
    deadline, now = call.deadline, call.runtime.now
    assert deadline is not None
    remaining = deadline - now()
    if remaining <= 0.0:
        raise no_time_left(call)

    deadlines = _here.deadlines()
    if (
        deadlines is None
        or deadlines.witness._thread_id != deadlines.thread  # noqa: SLF001 - see _Deadlines
        or ("trio" in _modules and library.name == "trio")  # what is a thread's own takes longer to read
    ):
        deadlines = _find()
    if deadlines is None or (task := current_task(deadlines.loop)) is None:
        return await _limited_by_scope(call, remaining, step)
    when = deadline if deadlines.clock == now else deadlines.loop.time() + remaining

    cancelling = task.cancelling()
    entry = _Entry()
    entry.when = when
    entry.task = task
    young = deadlines.young
    young.append(entry)
    if len(young) > deadlines.limit:
        deadlines.sweep()
    if when < deadlines.armed:
        deadlines.arm(when)
    try:
        result = await step(call)
    except BaseException as error:
        if entry.task is None:
            deadlines.spoken(entry)
            if task.uncancel() <= cancelling and isinstance(error, asyncio.CancelledError):
                raise _exceeded(call, entry.when - when, remaining) from error
        else:
            entry.task = None
        raise
    if entry.task is None:
        deadlines.spoken(entry)
        task.uncancel()
    else:
        entry.task = None
    return result


async def bounded(call: Call, step: Callable[[A], Awaitable[T]], argument: A) -> T:
    """Await `step(argument)` as the current call, no longer than its deadline: see `send`."""
    return await send(call, lambda _: step(argument))


class _Scope(NamedTuple):
    """The limit of an attempt on trio: in its task, by a deadline on its call's scale."""

    scope: trio.CancelScope
    task: trio.lowlevel.Task
    deadline: float


_enclosing: ContextVar[_Scope | None] = ContextVar("resilient.scope", default=None)


async def _limited_by_scope(call: Call, remaining: float, step: Next[T]) -> T:
    import trio

    assert call.deadline is not None
    task = trio.lowlevel.current_task()
    outer = _enclosing.get()
    when = math.inf
    scope = trio.CancelScope(deadline=(ends := trio.current_time() + remaining))
    token = _enclosing.set(_Scope(scope, task, call.deadline))
    if outer is not None and outer.task is task and outer.deadline <= call.deadline:
        # It would end at the same instant, and trio lets the outer one speak. It rests until we have spoken.
        when, outer.scope.deadline = outer.scope.deadline, math.inf
    try:
        with scope:
            return await step(call)
    finally:
        _enclosing.reset(token)
        if outer is not None and when < math.inf:
            outer.scope.deadline = when
    # Trio does not say when it spoke: what the step took to unwind is in here too.
    raise _exceeded(call, trio.current_time() - ends, remaining)
