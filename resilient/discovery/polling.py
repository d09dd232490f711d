"""Sources that have to be asked again and again."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol, Self, TypeVar, final

import anyio.to_thread

from resilient.discovery.last_good import LastGood
from resilient.errors import DiscoveryError
from resilient.events import SnapshotStale, send_event
from resilient.instance import Instance
from resilient.runtime import Runtime
from resilient.snapshot import Snapshot

__all__ = ["Offload", "Poll", "in_thread", "inline", "report"]

_log = logging.getLogger("resilient.discovery")

T = TypeVar("T")


class Offload(Protocol):
    """How work that blocks, such as reading a file, is done without blocking the event loop."""

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]:
        """Do the work and return its result."""
        ...


async def in_thread(work: Callable[[], T], /) -> T:
    """Do the work in a worker thread. A network file system may hang: then the waiting can be cancelled."""
    return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)


async def inline(work: Callable[[], T], /) -> T:
    """Do the work at once, in the event loop: for virtual time, where there are no threads."""
    return work()


@final
class Poll:
    """The snapshots that follow from asking a source every `interval` seconds. `name` is for events and the log.

    A source that says itself when it should be asked again, as DNS does, gives a function as `interval`, which is
    called after each question.

    An iterator and no generator: it may be left at any point without being closed, and a step that was cancelled can be
    repeated.
    """

    def __init__(
        self,
        name: str,
        ask: Callable[[], Awaitable[Iterable[Instance]]],
        *,
        interval: float | Callable[[], float],
        known: LastGood,
        runtime: Runtime,
    ) -> None:
        self._name = name
        self._ask = ask
        self._interval = interval if callable(interval) else lambda: interval
        self._known = known
        self._runtime = runtime
        self._asked = False

    @property
    def trouble(self) -> str | None:
        """Why the source is not believed at this moment; None: it is, or was not asked yet."""
        return self._known.trouble

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Snapshot:
        """Ask until something changes. An `OSError` or a `DiscoveryError` is trouble, and asked again."""
        while True:
            if self._asked:
                await self._runtime.sleep(self._interval())
            self._asked = True
            before = self._known.trouble
            try:
                found = await self._ask()
            except (OSError, DiscoveryError) as error:
                snapshot = self._known.fail(str(error))
            else:
                snapshot = self._known.learn(found, self._runtime.now())
            if before is None and self._known.trouble is not None:
                report(self._name, self._known.trouble, self._runtime)
            if snapshot is not None:
                return snapshot


def report(name: str, trouble: str, runtime: Runtime) -> None:
    """Tell the log, and whoever listens, that a source is in trouble: once, at the beginning of it."""
    _log.warning("%s: %s", name, trouble)
    emit = runtime.emit
    if emit is not None:
        send_event(emit, SnapshotStale(at=runtime.now(), name=name, error=trouble))
