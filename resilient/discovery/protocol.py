"""What finds instances, and what makes an instance findable."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Protocol, Self

from resilient.snapshot import Snapshot

__all__ = ["Discovery", "Registration"]


class Discovery(Protocol):
    """A source of the instances of one service."""

    def watch(self) -> AsyncIterator[Snapshot]:
        """Yield the present first, then every change, for ever.

        Trouble never ends it and never empties the set: the last good instances come again, with `stale_since` set, and
        once more when they are confirmed. As long as nothing is known at all, nothing is yielded. Snapshots are
        complete, so a consumer that is slow may skip to the newest. Several watches of one object are independent,
        but their versions rise together.

        What watches closes the iterator with `aclose`, if it has that. It may also have an attribute `trouble`: why
        nothing new is learned at this moment, for people to read, or None.
        """
        ...


class Registration(Protocol):
    """An instance's entry in a registry: there while the block runs, `with` or `async with`."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
