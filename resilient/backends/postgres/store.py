"""The faces of a store in PostgreSQL: for asyncio, for trio, and for plain functions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar, Self, final

from resilient.backends.clients import BlockingClientStore
from resilient.backends.faces import DirectStore, ThreadedStore
from resilient.backends.inbox import BlockingInbox
from resilient.backends.intents import BlockingIntentStore
from resilient.backends.outbox import BlockingOutbox
from resilient.backends.postgres.claims import Claims
from resilient.backends.postgres.database import Database, Work
from resilient.backends.postgres.statements import CLOCK, GUARD, MIGRATIONS, Statements
from resilient.backends.schemas import Schemas
from resilient.backends.store import (
    Answer,
    BlockingOpened,
    Mode,
    Opened,
    OpenTransaction,
    Record,
    Run,
    Schema,
    Stats,
    Transaction,
)
from resilient.waiting import drive, running

__all__ = ["BlockingPostgresStore", "PostgresStore"]


class PostgresStore:
    """Claims in a PostgreSQL database: modes `transactional`, `fenced` and `at_most_once`.

    `url`
        As libpq reads it, `postgresql://user@host/database`, with whatever options it knows: TLS, several hosts,
        `options=-csearch_path%3D...` for another schema.
    `pool_size`
        Connections at most (10): for each event loop of asyncio, and for all threads of the process together. An open
        transaction keeps one until its handler returns.
    `timeout`
        Seconds to connect, to wait for a free connection, and for the server's answer to a statement of the store (5.0:
        past a slow commit, and short enough that a server that hangs is reported as one).
    `lock_timeout`
        Seconds that a duplicate waits for a transaction with its key before it is told that somebody is at it (0.5:
        longer than most). That keeps a connection, so of the duplicates in one process one waits.
    `migrate`
        Whether the store makes its tables, and brings them up to date, when it is first used. With False a missing or
        an old table is a `StoreUnavailable` that names the command to run.

    On asyncio it waits for psycopg's asynchronous connections, in plain functions for blocking ones, and on trio for
    blocking ones in worker threads. So the claim's `connection` is a `psycopg.AsyncConnection` on asyncio and a
    `psycopg.Connection` elsewhere. It leaves nothing of a session behind, and a pooler of transactions may stand in
    between.

    Raises `ValueError` for arguments that are out of bounds and a URL that libpq does not understand.
    """

    modes: frozenset[Mode] = Claims.modes
    clock: ClassVar[str] = CLOCK
    """The SQL expression for now."""
    guard: ClassVar[str] = GUARD
    """The condition of every write after a claim."""

    def __init__(
        self, url: str, *, pool_size: int = 10, timeout: float = 5.0, lock_timeout: float = 0.5, migrate: bool = True
    ) -> None:
        self.database = Database(
            url, tables="claims", migrations=MIGRATIONS, pool_size=pool_size, timeout=timeout, migrate=migrate
        )
        if not 0 < lock_timeout <= timeout:
            raise ValueError(f"lock_timeout={lock_timeout!r}: more than 0 seconds, at most the timeout of {timeout}")
        sql = Statements(self.clock, self.guard)
        self._loop = Claims(Work(self.database, self.database.loop), sql, lock_timeout=lock_timeout)
        self._blocking = BlockingPostgresStore(
            Claims(Work(self.database, self.database.threads), sql, lock_timeout=lock_timeout)
        )
        self._direct = DirectStore(self._blocking)
        self._threads = ThreadedStore(self._blocking, threads=pool_size)

    @property
    def blocking(self) -> BlockingPostgresStore:
        """The same store for plain functions."""
        return self._blocking

    @property
    def _face(self) -> Claims | DirectStore:
        here = running()
        if isinstance(here, asyncio.AbstractEventLoop):
            return self._loop
        return self._direct if here is None else self._threads

    async def begin(
        self, scope: str, key: str, fingerprint: bytes, *, owner: str, lease: float, ttl: float, takeover: bool = True
    ) -> Answer:
        """Ask for the right to run, committed apart."""
        begin = self._face.begin
        return await begin(scope, key, fingerprint, owner=owner, lease=lease, ttl=ttl, takeover=takeover)

    async def open(
        self, scope: str, key: str, fingerprint: bytes, *, owner: str, lease: float, ttl: float
    ) -> Opened | Answer:
        """Ask for the right to run, and open the transaction of the effect."""
        return await self._face.open(scope, key, fingerprint, owner=owner, lease=lease, ttl=ttl)

    async def heartbeat(self, run: Run, *, lease: float) -> bool:
        """Let the lease begin anew."""
        return await self._face.heartbeat(run, lease=lease)

    async def save(self, run: Run, point: str, data: bytes | None) -> bool:
        """Move the recovery point."""
        return await self._face.save(run, point, data)

    async def complete(self, run: Run, result: bytes | None, *, ttl: float) -> bool:
        """Record the result."""
        return await self._face.complete(run, result, ttl=ttl)

    async def release(self, run: Run) -> bool:
        """Give the key back."""
        return await self._face.release(run)

    async def transaction(self, run: Run) -> Transaction | None:
        """Open the transaction of the effect."""
        return await self._face.transaction(run)

    async def lookup(self, scope: str, key: str) -> Record | None:
        """Read the record of a key."""
        return await self._face.lookup(scope, key)

    async def gc(self, limit: int = 1000) -> int:
        """Remove forgotten records."""
        return await self._face.gc(limit)

    async def stats(self) -> Stats:
        """Count what is held; `size` is that of the table and its indexes."""
        return await self._face.stats()

    async def close(self) -> None:
        """Close the connections that nobody uses; new ones are opened when the store is used again."""
        await self._loop.close()
        self._blocking.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"PostgresStore({self.database.name!r})"


@final
class BlockingPostgresStore:
    """`PostgresStore` for plain functions and worker threads."""

    modes: frozenset[Mode] = Claims.modes

    def __init__(self, claims: Claims) -> None:
        self._claims = claims

    @property
    def schema(self) -> Schema:
        """The tables: of claims, and of all that is kept beside them."""
        from resilient.backends.postgres import clients, inbox, intents, outbox

        database = self._claims.work.database
        parts = {
            "clients": clients.MIGRATIONS,
            "inbox_records": inbox.MIGRATIONS,
            "intents": intents.MIGRATIONS,
            "outbox_messages": outbox.MIGRATIONS,
        }
        siblings = [database.sibling(tables=name, migrations=made) for name, made in parts.items()]
        works = [self._claims.work, *(Work(sibling, sibling.threads) for sibling in siblings)]
        return Schemas(*map(PostgresSchema, works))

    def begin(
        self, scope: str, key: str, fingerprint: bytes, *, owner: str, lease: float, ttl: float, takeover: bool = True
    ) -> Answer:
        """Ask for the right to run, committed apart."""
        begin = self._claims.begin
        return drive(begin(scope, key, fingerprint, owner=owner, lease=lease, ttl=ttl, takeover=takeover))

    def open(
        self, scope: str, key: str, fingerprint: bytes, *, owner: str, lease: float, ttl: float
    ) -> BlockingOpened | Answer:
        """Ask for the right to run, and open the transaction of the effect."""
        opened = drive(self._claims.open(scope, key, fingerprint, owner=owner, lease=lease, ttl=ttl))
        if isinstance(opened, Opened):
            return BlockingOpened(opened.run, _BlockingTransaction(opened.transaction))
        return opened

    def heartbeat(self, run: Run, *, lease: float) -> bool:
        """Let the lease begin anew."""
        return drive(self._claims.heartbeat(run, lease=lease))

    def save(self, run: Run, point: str, data: bytes | None) -> bool:
        """Move the recovery point."""
        return drive(self._claims.save(run, point, data))

    def complete(self, run: Run, result: bytes | None, *, ttl: float) -> bool:
        """Record the result."""
        return drive(self._claims.complete(run, result, ttl=ttl))

    def release(self, run: Run) -> bool:
        """Give the key back."""
        return drive(self._claims.release(run))

    def transaction(self, run: Run) -> _BlockingTransaction | None:
        """Open the transaction of the effect."""
        transaction = drive(self._claims.transaction(run))
        return None if transaction is None else _BlockingTransaction(transaction)

    def lookup(self, scope: str, key: str) -> Record | None:
        """Read the record of a key."""
        return drive(self._claims.lookup(scope, key))

    def gc(self, limit: int = 1000) -> int:
        """Remove forgotten records."""
        return drive(self._claims.gc(limit))

    def stats(self) -> Stats:
        """Count what is held; `size` is that of the table and its indexes."""
        return drive(self._claims.stats())

    def close(self) -> None:
        """Close the connections that nobody uses; new ones are opened when the store is used again."""
        drive(self._claims.close())

    def clients(self) -> BlockingClientStore:
        """Return the leased clients of the same database."""
        from resilient.backends.postgres.clients import BlockingPostgresClients

        return BlockingPostgresClients(self._claims)

    def intents(self) -> BlockingIntentStore:
        """Return the intents of the same database."""
        from resilient.backends.postgres.intents import BlockingPostgresIntents

        return BlockingPostgresIntents(self._claims.work.database, self._claims.sql.clock)

    def outbox(self, *, keep: float) -> BlockingOutbox:
        """Return the outbox of the same database."""
        from resilient.backends.postgres.outbox import BlockingPostgresOutbox

        return BlockingPostgresOutbox(self._claims.work.database, self._claims.sql.clock, keep=keep)

    def inbox(self) -> BlockingInbox:
        """Return the inbox of the same database."""
        from resilient.backends.postgres.inbox import BlockingPostgresInbox

        return BlockingPostgresInbox(self._claims.work.database, self._claims.sql.clock)

    def __repr__(self) -> str:
        return f"PostgresStore({self._claims.work.database.name!r})"


@final
class PostgresSchema:
    """The tables of a store in PostgreSQL."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def statements(self) -> list[str]:
        """What makes the tables in an empty database."""
        return self._work.database.statements()

    def migrate(self) -> list[str]:
        """Make the tables, or bring them up to date, whatever the store was told; return what was run."""
        return drive(self._work.migrate())


@final
class _BlockingTransaction:
    def __init__(self, transaction: OpenTransaction) -> None:
        self._transaction = transaction

    @property
    def connection(self) -> Any:
        """What the effect is written through."""
        return self._transaction.connection

    def call(self, fn: Callable[..., Any], /, *args: Any) -> Any:
        """Return `fn(connection, *args)`."""
        return drive(self._transaction.call(fn, *args))

    def commit(self, result: bytes | None, *, ttl: float) -> bool:
        """Record `result` and commit it together with the effect."""
        return drive(self._transaction.commit(result, ttl=ttl))

    def undo(self) -> None:
        """Undo the effect, and keep the claim."""
        drive(self._transaction.undo())

    def rollback(self) -> None:
        """Undo all of it."""
        drive(self._transaction.rollback())
