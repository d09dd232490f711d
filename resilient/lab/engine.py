"""The cheapest ways to wait, to be told, and to run at the same time, on asyncio and trio.

A simulated world makes millions of little appointments. A task group costs ten times what a task costs, and a sleeping
task ten times what a timer costs; so callbacks are timers, answers are futures, and only what must be a task is one.
What a call inherits (its context) is always that in which the engine was opened, never that of whoever happened to
schedule it.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from contextvars import copy_context
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVarTuple, cast, final

from resilient.waiting import library

if TYPE_CHECKING:
    import trio

__all__ = ["Engine", "Signal", "open_engine"]

Ts = TypeVarTuple("Ts")


class Signal(Protocol):
    """Something that is told once: await it to learn what."""

    def done(self) -> bool:
        """Whether it was told, or whoever waited has gone."""
        ...

    def set_result(self, result: Any, /) -> None:
        """Tell it. Not where it is done."""
        ...

    def __await__(self) -> Generator[Any, None, Any]: ...


class Engine(Protocol):
    """What runs a world."""

    def now(self) -> float:
        """Seconds on the event loop's own clock."""
        ...

    def at(self, when: float, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """Call the plain function at second `when`; in the past means as soon as possible. It must not raise."""
        ...

    def spawn(self, fn: Callable[[*Ts], Coroutine[Any, Any, object]], *args: *Ts) -> None:
        """Run the async function as a task. What it raises ends the engine's block with that error."""
        ...

    def signal(self) -> Signal:
        """Make a signal, for one task to wait for."""
        ...


@asynccontextmanager
async def open_engine() -> AsyncGenerator[Engine]:
    """Open an engine on the running event loop. At the end of the block its tasks are cancelled and awaited."""
    if library.name == "trio":
        import trio

        try:
            async with trio.open_nursery() as nursery:
                engine = _TrioEngine(nursery)
                nursery.start_soon(engine.keep_time)
                yield engine
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _first(group) from None
    else:
        asyncio_engine = _AsyncioEngine()
        try:
            yield asyncio_engine
        except asyncio.CancelledError:
            if asyncio_engine.error is None:
                raise
        finally:
            await asyncio_engine.close()
        if asyncio_engine.error is not None:
            raise asyncio_engine.error


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first(cast("BaseExceptionGroup[BaseException]", first)) if isinstance(first, BaseExceptionGroup) else first


@final
class _AsyncioEngine:
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._owner = asyncio.current_task()
        self._context = copy_context()
        self._tasks: dict[asyncio.Task[Any], None] = {}  # in the order of their beginning, which a set has not
        self.now = self._loop.time
        self.signal = self._loop.create_future
        self.error: BaseException | None = None
        self._closed = False

    def at(self, when: float, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        self._loop.call_at(when, callback, *args, context=self._context)

    def spawn(self, fn: Callable[[*Ts], Coroutine[Any, Any, object]], *args: *Ts) -> None:
        task = self._loop.create_task(fn(*args), context=self._context.copy())
        self._tasks[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        del self._tasks[task]
        if task.cancelled() or (error := task.exception()) is None:
            return
        if self.error is None:
            self.error = error
            if not self._closed and self._owner is not None:
                self._owner.cancel()

    async def close(self) -> None:
        self._closed = True
        if self.error is not None and self._owner is not None:
            self._owner.uncancel()
        while self._tasks:
            tasks = [*self._tasks]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


class _Appointment(NamedTuple):
    when: float
    order: int
    callback: Callable[..., object]
    args: tuple[Any, ...]


@final
class _TrioEngine:
    def __init__(self, nursery: trio.Nursery) -> None:
        import trio

        self._nursery = nursery
        self._context = copy_context()
        self._heap: list[_Appointment] = []
        self._order = count()
        self._sleep = trio.CancelScope()
        self.now = trio.current_time

    def at(self, when: float, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        heapq.heappush(self._heap, _Appointment(when, next(self._order), callback, args))
        self._sleep.deadline = min(self._sleep.deadline, when)

    async def keep_time(self) -> None:
        """Call what is due, for ever."""
        import trio

        heap = self._heap
        while True:
            now = trio.current_time()
            while heap and heap[0].when <= now:
                _, _, callback, args = heapq.heappop(heap)
                callback(*args)
            # Before the scope is entered: whoever is quicker than the sleep moves its deadline.
            self._sleep = trio.CancelScope(deadline=heap[0].when if heap else math.inf)
            with self._sleep:
                await trio.sleep_forever()

    def spawn(self, fn: Callable[[*Ts], Coroutine[Any, Any, object]], *args: *Ts) -> None:
        start_soon: Callable[..., None] = self._nursery.start_soon
        self._context.copy().run(start_soon, fn, *args)

    def signal(self) -> _TrioSignal:
        return _TrioSignal()


@final
class _TrioSignal:
    __slots__ = ("_done", "_result", "_task")

    def __init__(self) -> None:
        self._done = False
        self._result: Any = None
        self._task: trio.lowlevel.Task | None = None

    def done(self) -> bool:
        return self._done

    def set_result(self, result: Any, /) -> None:
        self._done = True
        self._result = result
        if self._task is not None:
            import trio

            trio.lowlevel.reschedule(self._task)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        import trio

        if not self._done:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._gone)
        return self._result

    def _gone(self, _raise: Any) -> trio.lowlevel.Abort:
        import trio

        self._task = None
        self._done = True
        return trio.lowlevel.Abort.SUCCEEDED
