"""Steps of stores that are written once, blocking, for event loops and for plain code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar, final

from resilient.backends.faces import Threads
from resilient.errors import ResilienceError, StoreUnavailable

__all__ = ["Steps"]

T = TypeVar("T")


class Waiting(Protocol):
    """What is needed of a store."""

    waits: bool


@final
class Steps:
    """Makes steps of `store`: in worker threads of an event loop where they wait, else in the thread of the caller."""

    def __init__(self, store: Waiting, threads: Threads, *, blocking: bool) -> None:
        self._store = store
        self._threads = threads if store.waits and not blocking else None

    async def do(self, step: Callable[[], T]) -> T:
        """Make one step. Whatever the store cannot do is a `StoreUnavailable`."""
        try:
            return step() if self._threads is None else await self._threads.run(step)
        except ResilienceError:
            raise
        except Exception as error:
            raise StoreUnavailable(f"{self._store!r} failed: {error!r}") from error
