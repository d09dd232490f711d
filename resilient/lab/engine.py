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
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from contextvars import copy_context
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVarTuple, cast, final

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
        """Call the plain function at second `when`; in the past means as soon as possible.

        Of two at the same instant the one that was arranged first comes first. What it raises ends the engine's block
        with that error.
        """
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
                trio_engine = _TrioEngine(nursery)
                with trio_engine.attended():
                    yield trio_engine
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _first(group) from None
        if trio_engine.error is not None:
            raise trio_engine.error
    else:
        asyncio_engine = _AsyncioEngine()
        try:
            with asyncio_engine.attended():
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


_Appointment: TypeAlias = "tuple[float, int, Callable[..., object], tuple[Any, ...]]"
"""When, how many were made before it, and what is to be called."""


class _Agenda(ABC):
    """Appointments in the order of their instants, and of their making where instants are equal.

    Virtual time asks when the next one is, and lets it be kept once the clock is there: without the handles and rounds
    of an event loop's own timers, which cost more than most of what is called. In real time the event loop is asked to
    wait for the next one.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._context = copy_context()
        self._heap: list[_Appointment] = []
        self._order = count()

    def at(self, when: float, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        heapq.heappush(self._heap, (when, next(self._order), callback, args))

    def next(self) -> float:
        return self._heap[0][0] if self._heap else math.inf

    def keep(self, now: float) -> None:
        """Call what is due."""
        self._context.run(self._keep, now)

    def _keep(self, now: float) -> None:
        heap = self._heap
        try:
            while heap and heap[0][0] <= now:
                _, _, callback, args = heapq.heappop(heap)
                callback(*args)
        except BaseException as error:  # noqa: BLE001 - it ends the engine's block
            self._fail(error)

    @abstractmethod
    def _fail(self, error: BaseException) -> None:
        """Let the engine's block end with this error."""


@final
class _AsyncioEngine(_Agenda):
    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._owner = asyncio.current_task()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.now = self._loop.time
        self.signal = self._loop.create_future

    @contextmanager
    def attended(self) -> Generator[None]:
        """Keep appointments in the block."""
        loop: Any = self._loop
        if hasattr(loop, "attend"):
            with loop.attend(self):
                yield
            return
        self.at = self._at_real_time  # type: ignore[method-assign]
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _at_real_time(self, when: float, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        earlier = when < self.next()
        super().at(when, callback, *args)
        if earlier:
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self.next(), self._ring) if self._heap else None

    def _ring(self) -> None:
        self.keep(self.now())
        self._arm()

    def spawn(self, fn: Callable[[*Ts], Coroutine[Any, Any, object]], *args: *Ts) -> None:
        number = next(self._numbers)
        # asyncio itself does not keep a task alive.
        self._tasks[number] = self._loop.create_task(self._run(number, fn, args), context=self._context.copy())

    async def _run(self, number: int, fn: Callable[..., Coroutine[Any, Any, object]], args: tuple[Any, ...]) -> None:
        try:
            await fn(*args)
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - it ends the engine's block
            self._fail(error)
        finally:
            self._tasks.pop(number, None)

    def _fail(self, error: BaseException) -> None:
        if self.error is None:
            self.error = error
            if not self._closed and self._owner is not None:
                self._owner.cancel()

    async def close(self) -> None:
        self._closed = True
        if self.error is not None and self._owner is not None:
            self._owner.uncancel()
        while self._tasks:
            tasks = [*self._tasks.values()]
            self._tasks.clear()  # a task that never began does not take itself off
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


@final
class _TrioEngine(_Agenda):
    def __init__(self, nursery: trio.Nursery) -> None:
        import trio

        super().__init__()
        self._nursery = nursery
        self._sleep = trio.CancelScope()
        self.now = trio.current_time

    @contextmanager
    def attended(self) -> Generator[None]:
        """Keep appointments in the block."""
        import trio

        clock: Any = trio.lowlevel.current_clock()
        if hasattr(clock, "attend"):
            with clock.attend(self):
                yield
            return
        self.at = self._at_real_time  # type: ignore[method-assign]
        self._nursery.start_soon(self._keep_time)
        yield

    def _at_real_time(self, when: float, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        super().at(when, callback, *args)
        self._sleep.deadline = min(self._sleep.deadline, when)

    async def _keep_time(self) -> None:
        import trio

        while True:
            self.keep(trio.current_time())
            # Before the scope is entered: whoever is quicker than the sleep moves its deadline.
            self._sleep = trio.CancelScope(deadline=self.next())
            with self._sleep:
                await trio.sleep_forever()

    def spawn(self, fn: Callable[[*Ts], Coroutine[Any, Any, object]], *args: *Ts) -> None:
        start_soon: Callable[..., None] = self._nursery.start_soon
        self._context.copy().run(start_soon, fn, *args)

    def signal(self) -> _TrioSignal:
        return _TrioSignal()

    def _fail(self, error: BaseException) -> None:
        if self.error is None:
            self.error = error
            self._nursery.cancel_scope.cancel()


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
