"""Keeping up to date with a discovery, whatever becomes of it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import NoReturn, final

from resilient.discovery.protocol import Discovery
from resilient.events import SnapshotStale, send_event
from resilient.machines.backoff import Backoff
from resilient.runtime import Runtime
from resilient.snapshot import Snapshot

__all__ = ["Follower"]

_log = logging.getLogger("resilient.discovery")

_AGAIN = Backoff(base=0.5, cap=10.0)


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
