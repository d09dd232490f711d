"""What an execution runs in: an event loop of asyncio or trio, or the thread of a plain function."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from contextvars import copy_context
from types import TracebackType
from typing import Any, Protocol, TypeVar, final

import anyio

from resilient.backends.faces import DirectStore
from resilient.backends.memory import MemoryStore
from resilient.backends.store import Store
from resilient.context import detached
from resilient.idempotency.pacemaker import after
from resilient.runtime import Runtime
from resilient.waiting import drive

__all__ = ["Host", "LoopHost", "ThreadHost"]

T = TypeVar("T")

_log = logging.getLogger("resilient.idempotency")

_USUAL = Runtime()


class Host(Protocol):
    """How to wait, to shelter and to repeat."""

    def face(self, store: Store) -> Store:
        """The face of `store` that fits."""
        ...

    def turn(self) -> AbstractAsyncContextManager[object]:
        """A lock: one step of an execution at a time."""
        ...

    async def shelter(
        self, step: Callable[[], Coroutine[Any, Any, T]], undo: Callable[[T], Coroutine[Any, Any, object]] | None = None
    ) -> T:
        """Run `step` to its end, whatever becomes of the caller; `undo` it when the caller did not wait for it."""
        ...

    async def rest(self, seconds: float, runtime: Runtime) -> None:
        """Let `seconds` pass."""
        ...

    def repeat(
        self, step: Callable[[], Coroutine[Any, Any, None]], interval: float, runtime: Runtime
    ) -> Callable[[], object]:
        """Run `step` every `interval` seconds until the returned function is called."""
        ...


@final
class LoopHost:
    """In an event loop: for one execution. A task of its own does what must not be torn."""

    def __init__(self) -> None:
        self._left: set[asyncio.Task[None]] = set()
        """What goes on without its caller."""
        self._suspends = True

    def face(self, store: Store) -> Store:
        """The store as it is."""
        self._suspends = not isinstance(store, MemoryStore)
        return store

    def turn(self) -> anyio.Lock:
        """A lock of the event loop."""
        return anyio.Lock(fast_acquire=True)  # what it protects waits by itself where it has to

    async def shelter(
        self, step: Callable[[], Coroutine[Any, Any, T]], undo: Callable[[T], Coroutine[Any, Any, object]] | None = None
    ) -> T:
        """Run `step` to its end.

        A cancelled scope is made to wait. A native cancellation of asyncio pierces every shield: then the caller leaves
        at once, the step goes on without it and is undone, and only then the next step begins. A step that never
        suspends cannot be torn.
        """
        if not self._suspends:
            return await step()
        with anyio.CancelScope(shield=True):
            if not _on_asyncio():
                return await step()
            task = _start(_run_after(tuple(self._left), step))
            try:
                await asyncio.wait((task,))
            except asyncio.CancelledError:
                left = _start(_finish(task, undo))
                self._left.add(left)
                left.add_done_callback(self._left.discard)
                raise
            return task.result()
        raise AssertionError("a shield swallows nothing")

    async def rest(self, seconds: float, runtime: Runtime) -> None:
        """Suspend the coroutine."""
        await runtime.sleep(seconds)

    def repeat(
        self, step: Callable[[], Coroutine[Any, Any, None]], interval: float, runtime: Runtime
    ) -> Callable[[], object]:
        """Run `step` in a background task. Most executions end before the first time, and never have one."""

        async def run() -> None:
            while True:
                await runtime.sleep(interval)
                await step()

        async def go_on() -> None:
            await step()
            await run()

        on_asyncio = _on_asyncio()
        if on_asyncio and runtime.sleep is _USUAL.sleep:  # the loop's timers are as good, and cheaper
            return _Later(interval, go_on).cancel
        with detached():
            if on_asyncio:
                return _start(run()).cancel
            import trio

            scope = trio.CancelScope()

            async def run_in_scope() -> None:
                with scope:
                    await run()

            trio.lowlevel.spawn_system_task(run_in_scope, context=copy_context())
            return scope.cancel


@final
class _Later:
    """A task of asyncio that begins after a while, unless it is cancelled before."""

    __slots__ = ("_stop",)

    def __init__(self, seconds: float, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._stop: Callable[[], object] = asyncio.get_running_loop().call_later(seconds, self._begin, run).cancel

    def _begin(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        with detached():
            self._stop = _start(run()).cancel

    def cancel(self) -> None:
        """Do not begin, or end."""
        self._stop()


@final
class ThreadHost:
    """In the thread of a plain function, where nothing is cancelled; a second thread repeats."""

    def face(self, store: Store) -> Store:
        """The store without its worker threads."""
        return DirectStore(store.blocking)

    def turn(self) -> AbstractAsyncContextManager[object]:
        """A lock between the two threads."""
        return _ThreadTurn()

    async def shelter(
        self, step: Callable[[], Coroutine[Any, Any, T]], undo: Callable[[T], Coroutine[Any, Any, object]] | None = None
    ) -> T:
        """Run `step`."""
        return await step()

    async def rest(self, seconds: float, runtime: Runtime) -> None:
        """Block the thread."""
        runtime.pause(seconds)

    def repeat(
        self, step: Callable[[], Coroutine[Any, Any, None]], interval: float, runtime: Runtime
    ) -> Callable[[], object]:
        """Run `step` in a daemon thread. Most executions end before the first time, and never have one."""
        stopped = threading.Event()

        def run() -> None:
            while not stopped.is_set():
                drive(step())
                stopped.wait(interval)

        with detached():
            context = copy_context()
        cancel = after(interval, lambda: context.run(run))

        def stop() -> None:
            stopped.set()
            cancel()

        return stop


@final
class _ThreadTurn:
    def __init__(self) -> None:
        self._lock = threading.Lock()

    async def __aenter__(self) -> None:
        self._lock.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


_tasks: set[asyncio.Task[Any]] = set()
"""An event loop holds its tasks weakly."""


def _on_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _start(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    task = asyncio.create_task(coroutine)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return task


async def _run_after(others: tuple[asyncio.Task[None], ...], step: Callable[[], Coroutine[Any, Any, T]]) -> T:
    if others:
        await asyncio.wait(others)
    return await step()


async def _finish(task: asyncio.Task[T], undo: Callable[[T], Coroutine[Any, Any, object]] | None) -> None:
    """What is left to do when the caller of a step has gone."""
    await asyncio.wait((task,))
    if task.cancelled():
        return
    error = task.exception()
    if error is not None:
        _log.warning("a step failed after its caller had been cancelled: %r", error)
    elif undo is not None:
        await undo(task.result())
