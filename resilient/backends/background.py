"""A task that belongs to an object, not to the block that began it."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from typing import Any, final

import anyio

from resilient.context import detached
from resilient.waiting import running

__all__ = ["Background", "start"]

_log = logging.getLogger("resilient")

_LONGEST_STOP = 5.0
"""Seconds to wait for a task that was told to end: closing connections takes no longer."""

_tasks: set[asyncio.Task[Any]] = set()
"""An event loop holds its tasks weakly."""


@final
class Background:
    """Runs `work` in a task of its own until it ends, `stop` is called, or `owner` is garbage.

    It begins at once, in the running event loop of asyncio or trio, without the deadline and the options of the caller.
    `work` must not refer to `owner`, which would never become garbage. What it raises is logged. It is for an iterator
    that may be left at any point without being closed, which no task group allows; where there is a block, a task
    group is right.
    """

    def __init__(self, work: Callable[[], Awaitable[None]], owner: object) -> None:
        self._ended = ended = anyio.Event()
        self._cancel = start(lambda: _guard(work, ended))
        # Whatever thread collects the garbage.
        self._forgotten = weakref.finalize(owner, self._cancel)
        self._forgotten.atexit = False

    async def stop(self) -> None:
        """Cancel the task and wait until it has ended, at most 5 seconds."""
        self._forgotten.detach()
        self._cancel()
        with anyio.move_on_after(_LONGEST_STOP, shield=True):
            await self._ended.wait()


async def _guard(work: Callable[[], Awaitable[None]], ended: anyio.Event) -> None:
    try:
        await work()
    except Exception:  # noqa: BLE001 - nobody waits for it, and on trio it would end the whole run
        _log.exception("a task in the background failed")
    finally:
        ended.set()


def start(work: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Begin `work`, which raises nothing, in a task of its own, without the deadline and the options of the caller.

    Returns what cancels it, from whatever thread.
    """
    home: Any = running()
    with detached():
        if isinstance(home, asyncio.AbstractEventLoop):
            task = home.create_task(work())
            _tasks.add(task)
            task.add_done_callback(_tasks.discard)
            cancel: Callable[[], object] = task.cancel
            schedule = home.call_soon_threadsafe
        else:
            import trio

            scope = trio.CancelScope()
            trio.lowlevel.spawn_system_task(_work_in, scope, work, context=copy_context())
            cancel = scope.cancel
            schedule = home.run_sync_soon

    def cancel_later() -> None:
        with suppress(RuntimeError):  # its event loop is gone, and the task with it
            schedule(cancel)

    return cancel_later


async def _work_in(scope: Any, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with scope:
        await work()
