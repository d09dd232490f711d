"""Waiting, in whatever a call runs in: an event loop of asyncio or trio, or a thread without one."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, Protocol, TypeVar, final

import anyio

from resilient.call import Call


class _Library(threading.local):
    name: str | None = None


library: Any = _Library()
"""`library.name` is "trio" in a thread while trio runs in it, even from inside a running asyncio loop."""
with suppress(ImportError):  # sniffio comes with trio; without it there is none
    from sniffio import thread_local as library

__all__ = ["Waiter", "drive", "library", "loop_waiter", "pause", "running", "waiter_for"]

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
    __slots__ = ("_event", "_home")

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._home = running()

    async def wait(self, seconds: float) -> bool:
        if seconds == math.inf:
            await self._event.wait()
            return True
        with anyio.move_on_after(seconds):
            await self._event.wait()
        return self._event.is_set()

    def wake(self) -> None:
        if self._home is running():
            self._event.set()
            return
        home: Any = self._home
        schedule = home.call_soon_threadsafe if isinstance(home, asyncio.AbstractEventLoop) else home.run_sync_soon
        # Its loop may be gone. If that cancelled its tasks first, as it should, the waiter has given its place back.
        with suppress(RuntimeError):
            schedule(self._event.set)


def running() -> object:
    """What runs here and now: an event loop of asyncio, the token of a trio run, or None."""
    if library.name == "trio":
        import trio

        return trio.lowlevel.current_trio_token()
    with suppress(RuntimeError):
        return asyncio.get_running_loop()
    return None


def waiter_for(call: Call) -> Waiter:
    """A waiter that fits what the call runs in."""
    return _ThreadWaiter() if call.blocking else _LoopWaiter()


def loop_waiter() -> Waiter:
    """A waiter in the event loop that runs here."""
    return _LoopWaiter()


def drive(awaitable: Awaitable[T]) -> T:
    """Run what never suspends to its end, without an event loop.

    The library's own policies around a plain function are such coroutines: their waits block the thread instead.
    Raises `RuntimeError` where something does suspend.
    """
    steps = awaitable.__await__()
    try:
        next(steps)
    except StopIteration as stop:
        result: T = stop.value
        return result
    steps.close()
    raise RuntimeError(
        "a policy of this pipeline waits for an event loop, and a plain function has none: use `async def`"
    )
