"""Connections of psycopg: ours, which give up in time, and those that effects are written through.

Whatever a connection of psycopg does passes through its `wait`, and there both kinds are held to their rules. An
effect gets an object of its own that shares the session with ours: what a handler sets on it, or keeps of it, ends
with it.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NoReturn, TypeAlias, TypeVar, final

import anyio
import psycopg

from resilient.context import current_runtime

__all__ = ["LoopConnection", "LoopEffect", "ThreadConnection", "ThreadEffect"]

T = TypeVar("T")

_PATIENCE = 1.0
"""Seconds for a statement of somebody who was left behind to end; psycopg looks at its deadline every 0.1."""

Steps: TypeAlias = Generator[Any, Any, T]
"""What is done with a socket: it is resumed when that is ready, and now and then with 0 when it is not."""


class _Punctual:
    """Closes itself when `deadline` has passed, on the scale of the runtime's `now`."""

    pgconn: Any
    deadline: float = 0.0

    def _bounded(self, steps: Steps[T]) -> Steps[T]:
        now = current_runtime().now
        try:
            wanted = next(steps)
            while True:
                ready = yield wanted
                if not ready and now() >= self.deadline:
                    steps.close()
                    # Whatever the server goes on with: its answer must not be taken for that to a later question.
                    self.pgconn.finish()
                    raise psycopg.OperationalError("no answer in time")
                wanted = steps.send(ready)
        except StopIteration as end:
            result: T = end.value
            return result

    def __del__(self, *_warn: Any) -> None:
        # Its event loop may have ended with it idle: nobody could close it, and nobody is warned.
        if hasattr(self, "pgconn"):
            self.pgconn.finish()


@final
class LoopConnection(_Punctual, psycopg.AsyncConnection[Any]):
    """A connection of asyncio."""

    async def wait(self, gen: Steps[T], *args: Any, **kwargs: Any) -> T:
        """Let it go on whenever the socket is ready."""
        return await super().wait(self._bounded(gen), *args, **kwargs)


@final
class ThreadConnection(_Punctual, psycopg.Connection[Any]):
    """A connection that blocks."""

    def wait(self, gen: Steps[T], *args: Any, **kwargs: Any) -> T:
        """Let it go on whenever the socket is ready."""
        return super().wait(self._bounded(gen), *args, **kwargs)


class _Effect(_Punctual):
    """Refuses to end the transaction, which is ended by whoever opened it, and everything after that."""

    over = False

    def _allowed(self, steps: Steps[T]) -> Steps[T]:
        if self.over:
            steps.close()
            raise RuntimeError("the claim has ended, and so has the transaction of its connection")
        return self._bounded(steps)

    def __del__(self, *_warn: Any) -> None:
        """Leave the session to whom it belongs."""


_COMMITTED = "the transaction of a claim is committed together with its record, after the handler returned"
_UNDONE = "the transaction of a claim is undone by an exception that leaves its block"
_CLOSED = "the connection of a claim is closed when its record is committed"
_ENTERED = "`with connection:` would commit; the transaction of a claim is committed with its record"


@final
class LoopEffect(_Effect, psycopg.AsyncConnection[Any]):
    """The connection of one open transaction, in asyncio. Whoever writes the effect cannot end it."""

    async def wait(self, gen: Steps[T], *args: Any, **kwargs: Any) -> T:
        """Let it go on whenever the socket is ready."""
        return await super().wait(self._allowed(gen), *args, **kwargs)

    async def end(self) -> None:
        """Let nothing be written through it from here on, not even by whoever was left behind with it."""
        for _ in range(2):
            with anyio.move_on_after(_PATIENCE):
                async with self.lock:
                    self.over = True
                    return
            self.deadline = 0.0  # what is being waited for ends now
        self.over = True
        self.pgconn.finish()

    async def commit(self) -> NoReturn:
        """Raise: the effect and its record are committed together, by whoever opened the transaction."""
        raise RuntimeError(_COMMITTED)

    async def rollback(self) -> NoReturn:
        """Raise: an exception that leaves the block undoes it."""
        raise RuntimeError(_UNDONE)

    async def close(self) -> NoReturn:
        """Raise: the record is still to be written through this session."""
        raise RuntimeError(_CLOSED)

    async def __aenter__(self) -> NoReturn:
        raise RuntimeError(_ENTERED)


@final
class ThreadEffect(_Effect, psycopg.Connection[Any]):
    """The connection of one open transaction, blocking. Whoever writes the effect cannot end it."""

    def wait(self, gen: Steps[T], *args: Any, **kwargs: Any) -> T:
        """Let it go on whenever the socket is ready."""
        return super().wait(self._allowed(gen), *args, **kwargs)

    def end(self) -> None:
        """Let nothing be written through it from here on, not even by whoever was left behind with it."""
        for _ in range(2):
            if self.lock.acquire(timeout=_PATIENCE):
                self.over = True
                self.lock.release()
                return
            self.deadline = 0.0  # what is being waited for ends now
        self.over = True
        self.pgconn.finish()

    def commit(self) -> NoReturn:
        """Raise: the effect and its record are committed together, by whoever opened the transaction."""
        raise RuntimeError(_COMMITTED)

    def rollback(self) -> NoReturn:
        """Raise: an exception that leaves the block undoes it."""
        raise RuntimeError(_UNDONE)

    def close(self) -> NoReturn:
        """Raise: the record is still to be written through this session."""
        raise RuntimeError(_CLOSED)

    def __enter__(self) -> NoReturn:
        raise RuntimeError(_ENTERED)
