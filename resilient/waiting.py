"""Waiting, in whatever a call runs in: an event loop of asyncio or trio, or a thread without one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar, final

import anyio

from resilient.call import Call

__all__ = ["Waiter", "drive", "pause", "waiter_for"]

T = TypeVar("T")


async def pause(call: Call, seconds: float) -> None:
    """Let `seconds` pass for this call: the coroutine sleeps, or the plain function's thread does."""
    if call.blocking:
        call.runtime.pause(seconds)
    else:
        await call.runtime.sleep(seconds)


class Waiter(Protocol):
    """Somebody who waits for one wake-up. `wake` may come from any thread and any event loop."""

    async def wait(self, seconds: float) -> bool:
        """Wait until woken, no longer than `seconds`; tell whether it was."""
        ...

    def wake(self) -> None:
        """Wake the waiter, now or as soon as it waits."""
        ...


@final
class _ThreadWaiter:
    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = threading.Event()

    async def wait(self, seconds: float) -> bool:
        return self._event.wait(min(seconds, threading.TIMEOUT_MAX))

    def wake(self) -> None:
        self._event.set()


@final
class _LoopWaiter:
    __slots__ = ("_event", "_home", "_schedule")

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._home = threading.get_ident()
        self._schedule = _scheduler()

    async def wait(self, seconds: float) -> bool:
        with anyio.move_on_after(seconds):
            await self._event.wait()
        return self._event.is_set()

    def wake(self) -> None:
        if threading.get_ident() == self._home:
            self._event.set()
            return
        try:
            self._schedule(self._event.set)
        except RuntimeError:
            # The waiter's loop is gone, and the waiter with it: it abandons its place as it unwinds.
            return


def _scheduler() -> Callable[[Callable[[], None]], object]:
    """What runs a function in this event loop, from any thread."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        import trio

        return trio.lowlevel.current_trio_token().run_sync_soon
    return loop.call_soon_threadsafe


def waiter_for(call: Call) -> Waiter:
    """A waiter that fits what the call runs in."""
    return _ThreadWaiter() if call.blocking else _LoopWaiter()


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends to its end, without an event loop.

    The library's own policies are such coroutines around a plain function: their waits block the thread instead.
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError(
        "a policy of this pipeline waits for an event loop, and a plain function has none: use `async def`"
    )
