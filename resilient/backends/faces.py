"""A store is written once, blocking; these are its asynchronous faces."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, final

import anyio
from anyio.lowlevel import RunVar

from resilient.backends.store import (
    Answer,
    BlockingOneCommitStore,
    BlockingOpened,
    BlockingOpenTransaction,
    BlockingStore,
    BlockingTransaction,
    Mode,
    Opened,
    Record,
    Run,
    Stats,
)

__all__ = ["DirectStore", "ThreadedStore", "Threads"]

P = ParamSpec("P")
T = TypeVar("T")


class DirectStore:
    """A blocking store as a `Store` that never suspends.

    For stores that do not wait (memory), and for plain functions, which have no event loop to keep free.
    """

    def __init__(self, blocking: BlockingStore) -> None:
        self._blocking = blocking

    @property
    def modes(self) -> frozenset[Mode]:
        """What this store can guarantee."""
        return self._blocking.modes

    @property
    def blocking(self) -> BlockingStore:
        """The same store for plain functions."""
        return self._blocking

    async def begin(
        self, scope: str, key: str, fingerprint: bytes, *, owner: str, lease: float, ttl: float, takeover: bool = True
    ) -> Answer:
        """Ask for the right to run."""
        begin = self._blocking.begin
        return await self._call(begin, scope, key, fingerprint, owner=owner, lease=lease, ttl=ttl, takeover=takeover)

    async def heartbeat(self, run: Run, *, lease: float) -> bool:
        """Let the lease begin anew."""
        return await self._call(self._blocking.heartbeat, run, lease=lease)

    async def save(self, run: Run, point: str, data: bytes | None) -> bool:
        """Move the recovery point."""
        return await self._call(self._blocking.save, run, point, data)

    async def complete(self, run: Run, result: bytes | None, *, ttl: float) -> bool:
        """Record the result."""
        return await self._call(self._blocking.complete, run, result, ttl=ttl)

    async def release(self, run: Run) -> bool:
        """Give the key back."""
        return await self._call(self._blocking.release, run)

    async def transaction(self, run: Run) -> _Transaction | None:
        """Open the transaction of the effect."""
        opened = await self._call(self._blocking.transaction, run)
        return None if opened is None else _Transaction(self, opened)

    async def open(
        self, scope: str, key: str, fingerprint: bytes, *, owner: str, lease: float, ttl: float
    ) -> Opened | Answer:
        """Ask for the right to run, and open the transaction of the effect. Raises `TypeError` where none can."""
        if not isinstance(self._blocking, BlockingOneCommitStore):
            raise TypeError(f"{self!r} commits its claims apart")
        opened = await self._call(self._blocking.open, scope, key, fingerprint, owner=owner, lease=lease, ttl=ttl)
        if isinstance(opened, BlockingOpened):
            return Opened(opened.run, _OpenTransaction(self, opened.transaction))
        return opened

    async def lookup(self, scope: str, key: str) -> Record | None:
        """Read the record of a key."""
        return await self._call(self._blocking.lookup, scope, key)

    async def gc(self, limit: int = 1000) -> int:
        """Remove forgotten records."""
        return await self._call(self._blocking.gc, limit)

    async def stats(self) -> Stats:
        """Count what is held."""
        return await self._call(self._blocking.stats)

    async def close(self) -> None:
        """Give back connections."""
        await self._call(self._blocking.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return repr(self._blocking)

    async def run_blocking(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `fn(*args, **kwargs)`, waited for as everything of this store is: for what lies beside its claims."""
        return await self._call(fn, *args, **kwargs)

    async def _call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return fn(*args, **kwargs)

    async def call_inside(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a step of an open transaction."""
        return fn(*args, **kwargs)


class ThreadedStore(DirectStore):
    """A blocking store as a `Store` whose waiting is done in worker threads, at most `threads` of them a loop.

    Steps of an open transaction have threads of their own: those who wait for the transaction to end must not
    occupy the thread that could end it.
    """

    def __init__(self, blocking: BlockingStore, *, threads: int) -> None:
        super().__init__(blocking)
        self._outside = Threads(threads)
        self._inside = Threads(threads)

    async def _call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._outside.run(lambda: fn(*args, **kwargs))

    async def call_inside(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a step of an open transaction."""
        return await self._inside.run(lambda: fn(*args, **kwargs))


@final
class Threads:
    """A bounded number of worker threads in each event loop."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._limiter: RunVar[anyio.CapacityLimiter | None] = RunVar("resilient.store.threads", None)

    async def run(self, fn: Callable[[], T]) -> T:
        """Return `fn()`, run in one of them."""
        limiter = self._limiter.get()
        if limiter is None:
            limiter = anyio.CapacityLimiter(self._limit)
            self._limiter.set(limiter)
        return await anyio.to_thread.run_sync(fn, limiter=limiter)


class _Transaction:
    """The asynchronous face of a blocking transaction."""

    def __init__(self, store: DirectStore, blocking: BlockingTransaction) -> None:
        self._store = store
        self._blocking = blocking

    @property
    def connection(self) -> Any:
        """What the effect is written through."""
        return self._blocking.connection

    async def call(self, fn: Callable[..., Any], /, *args: Any) -> Any:
        """Return `fn(connection, *args)`. Raises `TypeError` for a function whose result has to be awaited."""
        result = await self._store.call_inside(self._blocking.call, fn, *args)
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError(f"{self._store!r} runs an effect in a worker thread: pass a plain function")
        return result

    async def commit(self, result: bytes | None, *, ttl: float) -> bool:
        """Record `result` and commit it together with the effect."""
        return await self._store.call_inside(self._blocking.commit, result, ttl=ttl)

    async def rollback(self) -> None:
        """Undo the effect."""
        await self._store.call_inside(self._blocking.rollback)


@final
class _OpenTransaction(_Transaction):
    """The asynchronous face of one that holds the claim as well."""

    def __init__(self, store: DirectStore, blocking: BlockingOpenTransaction) -> None:
        super().__init__(store, blocking)
        self._undo = blocking.undo

    async def undo(self) -> None:
        """Undo the effect, and keep the claim."""
        await self._store.call_inside(self._undo)
