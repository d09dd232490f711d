"""Keeping up to date with a discovery, whatever becomes of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any, NoReturn, final

import anyio

from resilient.context import detached
from resilient.discovery.protocol import Discovery
from resilient.events import SnapshotStale, send_event
from resilient.machines.backoff import Backoff
from resilient.runtime import Runtime
from resilient.snapshot import Snapshot
from resilient.waiting import library

__all__ = ["Background", "Follower"]

_log = logging.getLogger("resilient.discovery")

_AGAIN = Backoff(base=0.5, cap=10.0)
_PATIENCE = 5.0


@final
class Follower:
    """Hands every snapshot of a discovery to `deliver`. A watch that breaks down or ends is begun again, with backoff.

    `name` is for events and the log.
    """

    def __init__(self, name: str, discovery: Discovery, deliver: Callable[[Snapshot], None], runtime: Runtime) -> None:
        self._name = name
        self._discovery = discovery
        self._deliver = deliver
        self._runtime = runtime
        self._snapshots: AsyncIterator[Snapshot] | None = None
        self._problem: str | None = None
        self._learned = False

    @property
    def trouble(self) -> str | None:
        """Why nothing new is learned at this moment, where that is known; None: all is well."""
        return self._problem or getattr(self._snapshots, "trouble", None)

    async def run(self) -> NoReturn:
        """Follow for ever."""
        failures = 0
        while True:
            self._learned = False
            problem = "it ended"
            try:
                await self._watch()
            except Exception as error:  # noqa: BLE001 - logged, and told to whoever asks
                _log.exception("%s: discovery failed; the last instances stay in use", self._name)
                problem = str(error) or repr(error)
            self._problem = problem
            failures = 1 if self._learned else failures + 1
            runtime = self._runtime
            if runtime.emit is not None:
                send_event(runtime.emit, SnapshotStale(at=runtime.now(), name=self._name, error=problem))
            await runtime.sleep(_AGAIN.delay(failures, runtime.random))

    async def _watch(self) -> None:
        self._snapshots = self._discovery.watch()
        try:
            async for snapshot in self._snapshots:
                self._deliver(snapshot)
                self._learned = True
                self._problem = None
        finally:
            snapshots, self._snapshots = self._snapshots, None
            close = getattr(snapshots, "aclose", None)  # a generator has to be closed, any other iterator need not
            if close is not None:
                await close()


@final
class Background:
    """A task that outlives the step in which it was started, until it is stopped. It runs without deadlines of others.

    A task group would have to be left in the block in which it was entered; an iterator has no block.
    """

    def __init__(self, run: Callable[[], Any]) -> None:
        self._run = run
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        with detached():
            if library.name == "trio":
                import trio

                self._schedule: Callable[..., object] = trio.lowlevel.current_trio_token().run_sync_soon
                trio.lowlevel.spawn_system_task(self._main, context=copy_context())
            else:
                loop = asyncio.get_running_loop()
                self._schedule = loop.call_soon_threadsafe
                self._task = loop.create_task(self._main())  # a loop holds its tasks only weakly

    async def _main(self) -> None:
        try:
            with self._scope:
                await self._run()
        finally:
            self._ended.set()

    def abandon(self) -> None:
        """End it soon; from any thread, also when its loop is gone."""
        with suppress(RuntimeError):
            self._schedule(self._scope.cancel)

    async def stop(self) -> None:
        """End it and wait until it has ended, whoever is cancelled meanwhile, but not for ever."""
        self._scope.cancel()
        with anyio.move_on_after(_PATIENCE, shield=True):
            await self._ended.wait()
