"""Sessions with a PostgreSQL server: a bounded number of them, lent for as long as a transaction lasts.

A session that was ended while it was idle (by a restart, a failover, an impatient proxy) is found out without a round
trip when it is lent: something can be read from it, though nothing was asked. Nothing of a session is left behind for
whoever uses it next, so a pooler that changes servers between transactions may stand in between.
"""

from __future__ import annotations

import os
import select
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar, final
from weakref import WeakSet

import anyio
from anyio.lowlevel import RunVar
from psycopg import AsyncClientCursor, ClientCursor, pq

from resilient.backends.postgres.connections import LoopConnection, LoopEffect, ThreadConnection, ThreadEffect
from resilient.context import current_runtime
from resilient.errors import StoreUnavailable

__all__ = ["LoopSessions", "Row", "Session", "Sessions", "ThreadSessions"]

C = TypeVar("C", LoopConnection, ThreadConnection)
Row = tuple[Any, ...]

_TRUSTED = 300.0
"""Seconds that an idle connection is trusted for: address translators and load balancers forget sooner or later."""


class Session(ABC):
    """A connection that is lent."""

    def __init__(self, connection: LoopConnection | ThreadConnection, timeout: float) -> None:
        self.connection = connection
        self._timeout = timeout

    async def run(self, sql: str, *values: object) -> list[Row]:
        """Run statements in one round trip, and return the rows of the last one that has some."""
        self.connection.deadline = current_runtime().now() + self._timeout
        return await self._run(sql.encode(), values)

    @property
    def reusable(self) -> bool:
        """Whether nothing is open in it."""
        return bool(self.connection.pgconn.transaction_status == pq.TransactionStatus.IDLE)

    @abstractmethod
    async def _run(self, sql: bytes, values: tuple[object, ...]) -> list[Row]: ...

    @abstractmethod
    def lend_to_effect(self, deadline: float) -> LoopEffect | ThreadEffect:
        """The connection for the effect in the transaction that is open, until `end_effect`."""

    @abstractmethod
    async def end_effect(self) -> None:
        """Take the connection from the effect."""


@final
class LoopSession(Session):
    """A connection of asyncio, lent."""

    def __init__(self, connection: LoopConnection, timeout: float) -> None:
        super().__init__(connection, timeout)
        self.own = connection
        self._effect: LoopEffect | None = None

    async def _run(self, sql: bytes, values: tuple[object, ...]) -> list[Row]:
        cursor = AsyncClientCursor(self.own)
        await cursor.execute(sql, values or None)
        rows: list[Row] = []
        while True:
            if _has_rows(cursor.pgresult):
                rows = await cursor.fetchall()
            if not cursor.nextset():
                return rows

    def lend_to_effect(self, deadline: float) -> LoopEffect:
        """The connection for the effect."""
        self._effect = effect = LoopEffect(self.own.pgconn)
        effect.prepare_threshold, effect.deadline = None, deadline
        return effect

    async def end_effect(self) -> None:
        """Take it back."""
        if self._effect is not None:
            await self._effect.end()


@final
class ThreadSession(Session):
    """A connection that blocks, lent."""

    def __init__(self, connection: ThreadConnection, timeout: float) -> None:
        super().__init__(connection, timeout)
        self.own = connection
        self._effect: ThreadEffect | None = None

    async def _run(self, sql: bytes, values: tuple[object, ...]) -> list[Row]:
        cursor = ClientCursor(self.own)
        cursor.execute(sql, values or None)
        rows: list[Row] = []
        while True:
            if _has_rows(cursor.pgresult):
                rows = cursor.fetchall()
            if not cursor.nextset():
                return rows

    def lend_to_effect(self, deadline: float) -> ThreadEffect:
        """The connection for the effect."""
        self._effect = effect = ThreadEffect(self.own.pgconn)
        effect.prepare_threshold, effect.deadline = None, deadline
        return effect

    async def end_effect(self) -> None:
        """Take it back."""
        if self._effect is not None:
            self._effect.end()


class Sessions(ABC):
    """Lends sessions."""

    timeout: float

    @abstractmethod
    async def take(self) -> Session:
        """Lend a session, which is to be given back."""

    @abstractmethod
    def give_back(self, session: Session) -> None:
        """Keep it for the next one, or close it if something is left open in it."""

    @abstractmethod
    def close(self) -> None:
        """Close what is idle."""


@final
class _Idle(Generic[C]):
    """Connections that nobody uses just now. The last one in is the first one out, so that a few suffice."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[C, float]] = deque()

    def put(self, connection: C) -> None:
        self._waiting.append((connection, current_runtime().now()))

    def take(self) -> C | None:
        """A connection that was not ended meanwhile, as far as can be told without asking."""
        now = current_runtime().now()
        while self._waiting:
            try:
                connection, since = self._waiting.pop()
            except IndexError:  # another thread was quicker
                break
            if now - since <= _TRUSTED and not _has_news(connection):
                return connection
            connection.pgconn.finish()
        return None

    def close(self) -> None:
        while self._waiting:
            self._waiting.pop()[0].pgconn.finish()

    def leave(self) -> list[C]:
        """Forget them all, without a word to the server."""
        left = [connection for connection, _ in self._waiting]
        self._waiting.clear()
        return left


@final
class LoopSessions(Sessions):
    """Sessions of asyncio: at most `size` an event loop."""

    def __init__(self, connect: Callable[[], Awaitable[LoopConnection]], *, size: int, timeout: float) -> None:
        self._connect = connect
        self._size = size
        self.timeout = timeout
        self._pool: RunVar[tuple[_Idle[LoopConnection], anyio.Semaphore] | None] = RunVar("resilient.postgres", None)
        self._idles: WeakSet[_Idle[LoopConnection]] = WeakSet()
        _all.add(self)

    async def take(self) -> LoopSession:
        """Lend a session."""
        idle, free = self._mine()
        with anyio.move_on_after(self.timeout) as scope:
            await free.acquire()
        if scope.cancelled_caught:
            raise _exhausted(self._size, self.timeout)
        try:
            connection = idle.take() or await self._connect()
        except BaseException:
            free.release()
            raise
        return LoopSession(connection, self.timeout)

    def give_back(self, session: Session) -> None:
        """Keep it, or close it."""
        idle, free = self._mine()
        assert isinstance(session, LoopSession)
        if session.reusable:
            idle.put(session.own)
        else:
            session.own.pgconn.finish()
        free.release()

    def close(self) -> None:
        """Close what is idle, in every event loop."""
        for idle in list(self._idles):
            idle.close()

    def leave(self) -> list[Any]:
        """Forget all connections, in a forked child."""
        return [connection for idle in list(self._idles) for connection in idle.leave()]

    def _mine(self) -> tuple[_Idle[LoopConnection], anyio.Semaphore]:
        pool = self._pool.get()
        if pool is None:
            pool = _Idle[LoopConnection](), anyio.Semaphore(self._size)
            self._idles.add(pool[0])
            self._pool.set(pool)
        return pool


@final
class ThreadSessions(Sessions):
    """Sessions that block: at most `size` in this process."""

    def __init__(self, connect: Callable[[], ThreadConnection], *, size: int, timeout: float) -> None:
        self._connect = connect
        self._size = size
        self.timeout = timeout
        self._idle = _Idle[ThreadConnection]()
        self._free = threading.Semaphore(size)
        _all.add(self)

    async def take(self) -> ThreadSession:
        """Lend a session."""
        free = self._free
        if not free.acquire(timeout=self.timeout):
            raise _exhausted(self._size, self.timeout)
        try:
            connection = self._idle.take() or self._connect()
        except BaseException:
            free.release()
            raise
        return ThreadSession(connection, self.timeout)

    def give_back(self, session: Session) -> None:
        """Keep it, or close it."""
        assert isinstance(session, ThreadSession)
        if session.reusable:
            self._idle.put(session.own)
        else:
            session.own.pgconn.finish()
        self._free.release()

    def close(self) -> None:
        """Close what is idle."""
        self._idle.close()

    def leave(self) -> list[Any]:
        """Forget all connections, in a forked child."""
        self._free = threading.Semaphore(self._size)
        return self._idle.leave()


def _has_news(connection: LoopConnection | ThreadConnection) -> bool:
    """Whether there is something to read, which without a question can hardly be but a farewell."""
    pgconn = connection.pgconn
    if pgconn.status != pq.ConnStatus.OK:
        return True
    if not hasattr(select, "poll"):  # Windows, where `select` takes any number
        return bool(select.select([pgconn.socket], [], [], 0)[0])
    poll = select.poll()
    poll.register(pgconn.socket, select.POLLIN)
    return bool(poll.poll(0))


def _exhausted(size: int, timeout: float) -> StoreUnavailable:
    return StoreUnavailable(
        f"all {size} connections of the pool were in use for {timeout:g} s: raise pool_size, and look for transactions "
        "that are open for long"
    )


_all: WeakSet[LoopSessions | ThreadSessions] = WeakSet()
_lost: list[Any] = []
"""What a fork left behind in this process. Never closed: that would say farewell in the parent's name."""


def _after_fork() -> None:
    for sessions in list(_all):
        _lost.extend(sessions.leave())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _has_rows(result: pq.abc.PGresult | None) -> bool:
    """Whether a statement returns rows. `Cursor.description` tells the same, and makes an object of each column."""
    return result is not None and result.nfields > 0
