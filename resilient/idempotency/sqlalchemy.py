"""Sessions of SQLAlchemy inside the transaction of a claim.

In a handler: ``async with claim.transaction() as connection, async_session(connection) as session: ...``. What the
session writes is committed with the claim's record, and not before: its `commit` ends a savepoint.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, final

try:
    import sqlalchemy
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
    from sqlalchemy.orm import Session
    from sqlalchemy.pool import NullPool
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        "sessions of SQLAlchemy need it: pip install 'resilient-mesh[sqlalchemy]'", name=missing.name
    ) from None

__all__ = ["async_session", "session"]

_lent: ContextVar[Any] = ContextVar("resilient.sqlalchemy")
"""The connection that the engine is to be given next."""


@contextmanager
def session(connection: Any, **options: Any) -> Generator[Session]:
    """Yield a `Session` that writes through a claim's blocking connection: of SQLite, or of psycopg.

    `options` are those of `Session`. An exception that leaves the block undoes what was written in it.
    """
    engine = _engine("sqlite://" if isinstance(connection, sqlite3.Connection) else "postgresql+psycopg://")
    token = _lent.set(_Borrowed(connection))
    try:
        bind = engine.connect()
    finally:
        _lent.reset(token)
    with bind, bind.begin(), Session(bind, join_transaction_mode="create_savepoint", **options) as opened:
        yield opened
        opened.commit()


@asynccontextmanager
async def async_session(connection: Any, **options: Any) -> AsyncGenerator[AsyncSession]:
    """Yield an `AsyncSession` that writes through a claim's `psycopg.AsyncConnection`, on asyncio.

    `options` are those of `AsyncSession`. An exception that leaves the block undoes what was written in it.
    """
    bind = _async_engine().connect()
    token = _lent.set(_AsyncBorrowed(connection))
    try:
        bind = await bind.start()
    finally:
        _lent.reset(token)
    try:
        async with bind.begin(), AsyncSession(bind, join_transaction_mode="create_savepoint", **options) as opened:
            yield opened
            await opened.commit()
    finally:
        await bind.close()


@cache
def _engine(url: str) -> sqlalchemy.Engine:
    """An engine without connections of its own: it looks at the database once, and then knows how to talk to it."""
    native = {} if url.startswith("sqlite") else {"use_native_hstore": False}
    return sqlalchemy.create_engine(url, creator=_lent.get, poolclass=NullPool, **native)


@cache
def _async_engine() -> AsyncEngine:
    async def lent() -> Any:
        return _lent.get()

    return create_async_engine("postgresql+psycopg://", async_creator=lent, poolclass=NullPool, use_native_hstore=False)


class _Any:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@final
class _Borrowed(_Any):
    """A connection whose transaction is somebody else's to end."""

    def commit(self) -> None:
        """Leave it open."""

    def rollback(self) -> None:
        """Leave it open: what a session wrote is undone by its savepoint."""

    def close(self) -> None:
        """Leave it open."""


@final
class _AsyncBorrowed(_Any):
    """The same, asynchronous."""

    async def commit(self) -> None:
        """Leave it open."""

    async def rollback(self) -> None:
        """Leave it open: what a session wrote is undone by its savepoint."""

    async def close(self) -> None:
        """Leave it open."""
