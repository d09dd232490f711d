"""The embedded durable store: claims in an SQLite file, beside the tables that their effects change.

The effect of a claim and its record are committed together in `transactional` mode, so the file has to be the one that
the effect is written to. Its tables are named `resilient_...` and are created when the store is first used.
"""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, final

from resilient.backends.clients import BlockingClientStore
from resilient.backends.faces import ThreadedStore
from resilient.backends.inbox import BlockingInbox
from resilient.backends.intents import BlockingIntentStore
from resilient.backends.outbox import BlockingOutbox
from resilient.backends.schemas import Schemas
from resilient.backends.sqlite.database import Connection, Database, EffectConnection
from resilient.backends.store import STARTED, Answer, Mode, Record, Run, Schema, Stats

__all__ = ["BlockingSQLiteStore", "SQLiteStore"]

T = TypeVar("T")

_SWEEP = 8
"""How many forgotten records each new claim removes: more than it adds."""

_MIGRATIONS = (
    (
        # All times are milliseconds since the epoch. `written` is `running` inside the transaction of an effect; it
        # can be seen from outside only if that transaction was committed without its record.
        """
        CREATE TABLE resilient_claims (
            scope TEXT NOT NULL,
            key TEXT NOT NULL,
            fingerprint BLOB NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('running', 'written', 'done')),
            fence INTEGER NOT NULL,
            owner TEXT NOT NULL,
            lease_until INTEGER NOT NULL,
            recovery_point TEXT NOT NULL,
            recovery_data BLOB,
            result BLOB,
            created_at INTEGER NOT NULL,
            expires_at INTEGER NOT NULL,
            PRIMARY KEY (scope, key)
        )
        """,
        "CREATE INDEX resilient_claims_expiry ON resilient_claims (expires_at)",
        "CREATE TABLE resilient_claims_fence (last INTEGER NOT NULL)",
        "INSERT INTO resilient_claims_fence VALUES (0)",
    ),
)

# Read again in every statement, and so after the write lock was taken. unixepoch('subsec') needs SQLite 3.42.
_CLOCK = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"

_READ = """
    SELECT fingerprint, state, fence, owner, lease_until, recovery_point, recovery_data, result, created_at, expires_at,
           {clock}
    FROM resilient_claims WHERE scope = ? AND key = ?
"""
_BEGIN = """
    INSERT OR REPLACE INTO resilient_claims (
        scope, key, fingerprint, state, fence, owner, lease_until, recovery_point, recovery_data, created_at, expires_at
    )
    VALUES (?, ?, ?, 'running', ?, ?, ?, ?, ?, ?, ?)
"""
_RAISE_FENCE = "UPDATE resilient_claims_fence SET last = max(last + 1, ? * 1000)"  # RETURNING needs SQLite 3.35
_FORGOTTEN = "expires_at <= {clock} AND lease_until <= {clock}"
_SWEEP_UP = """
    DELETE FROM resilient_claims WHERE rowid IN (
        SELECT rowid FROM resilient_claims WHERE {forgotten} ORDER BY expires_at LIMIT ?
    )
"""
_COUNT = """
    SELECT count(*), coalesce(sum(state = 'running'), 0), coalesce(sum({forgotten}), 0),
           coalesce({clock} - min(created_at), 0)
    FROM resilient_claims
"""


@final
class SQLiteStore(ThreadedStore):
    """Claims in an SQLite file: modes `transactional`, `fenced` and `at_most_once`.

    `path`
        The database file, on a local disk; it is created, its folder is not.
    `busy_timeout`
        Seconds to wait for the write lock, of which SQLite has one (5.0: long enough for a burst of small
        transactions, short enough that a forgotten open one is noticed).
    `threads`
        Worker threads an event loop (8): each waits for the disk or the write lock, of which there is one.
    `on_connect`
        Is called with every new connection: for `PRAGMA foreign_keys`, functions, collations, the row factory of
        effects.
    `migrate`
        Whether the store makes its tables, and brings them up to date, when it is first used. With False a missing or
        an old table is a `StoreUnavailable` that names the command to run.

    In a transaction the claim's `connection` is a `sqlite3.Connection` of its own. It may be used in any thread, by
    one at a time. Its transaction holds the write lock of the whole file until the handler returns: compute first,
    write last.

    A process that was forked while its parent used the file gets `StoreUnavailable`: close the store before forking.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        busy_timeout: float = 5.0,
        threads: int = 8,
        on_connect: Callable[[sqlite3.Connection], object] | None = None,
        migrate: bool = True,
    ) -> None:
        if threads < 1:
            raise ValueError(f"threads={threads!r}: waiting for a disk takes at least 1 thread")
        core = BlockingSQLiteStore(path, busy_timeout=busy_timeout, on_connect=on_connect, migrate=migrate)
        super().__init__(core, threads=threads)
        self.path = core.database.path
        """Where the file is, absolute."""


class BlockingSQLiteStore:
    """The blocking core of `SQLiteStore`."""

    modes: frozenset[Mode] = frozenset({"transactional", "fenced", "at_most_once"})
    clock: ClassVar[str] = _CLOCK
    """The SQL expression for now."""
    guard: ClassVar[str] = "scope = ? AND key = ? AND fence = ? AND state = ?"
    """The condition of every write after `begin`."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        busy_timeout: float = 5.0,
        on_connect: Callable[[sqlite3.Connection], object] | None = None,
        migrate: bool = True,
    ) -> None:
        if os.fspath(path) in {"", ":memory:"}:
            raise ValueError(f"path={path!r}: a database that only one connection sees; use memory:// instead")
        self.database = Database(
            path,
            tables="claims",
            migrations=_MIGRATIONS,
            busy_timeout=busy_timeout,
            on_connect=on_connect,
            migrate=migrate,
        )
        forgotten = _FORGOTTEN.format(clock=self.clock)
        self._read_sql = _READ.format(clock=self.clock)
        self._count_sql = _COUNT.format(clock=self.clock, forgotten=forgotten)
        self._sweep_sql = _SWEEP_UP.format(forgotten=forgotten)

    @property
    def schema(self) -> Schema:
        """The tables: of claims, and of all that is kept beside them."""
        from resilient.backends.sqlite import clients, inbox, intents, outbox

        parts = {
            "clients": clients.MIGRATIONS,
            "inbox_records": inbox.MIGRATIONS,
            "intents": intents.MIGRATIONS,
            "outbox_messages": outbox.MIGRATIONS,
        }
        siblings = [self.database.sibling(tables=name, migrations=made) for name, made in parts.items()]
        return Schemas(self.database, *siblings)

    def begin(
        self, scope: str, key: str, fingerprint: bytes, *, owner: str, lease: float, ttl: float, takeover: bool = True
    ) -> Answer:
        """Ask for the right to run."""
        # Most retries find a result: no need to queue for the write lock to learn that.
        with self.database.read() as connection:
            known = self._find(connection, scope, key)
        answer = None if known is None else known.record.answer(fingerprint, takeover=takeover)
        if answer is not None:
            return answer
        with self.database.write() as connection:
            return self.begin_inside(
                connection, scope, key, fingerprint, owner=owner, lease=lease, ttl=ttl, takeover=takeover
            )

    def begin_inside(
        self,
        connection: Connection,
        scope: str,
        key: str,
        fingerprint: bytes,
        *,
        owner: str,
        lease: float,
        ttl: float,
        takeover: bool,
    ) -> Answer:
        """Ask for the right to run, in a transaction that is open and holds the write lock."""
        known = self._find(connection, scope, key)
        answer = None if known is None else known.record.answer(fingerprint, takeover=takeover)
        if answer is not None:
            return answer
        old = None if known is None or known.record.forgotten else known
        now = self._now(connection) if known is None else known.now
        connection.execute(_RAISE_FENCE, (now,))
        (fence,) = connection.execute("SELECT last FROM resilient_claims_fence").fetchone()
        run = Run(
            scope=scope,
            key=key,
            fence=fence,
            owner=owner,
            takeover=old is not None,
            recovery_point=STARTED if old is None else old.record.recovery_point,
            recovery_data=None if old is None else old.record.recovery_data,
        )
        created_at = now if old is None else old.created_at
        point, data = run.recovery_point, run.recovery_data
        values = (fingerprint, fence, owner, now + _ms(lease), point, data, created_at, now + _ms(ttl))
        connection.execute(_BEGIN, (scope, key, *values))
        connection.execute(self._sweep_sql, (_SWEEP,))
        return run

    def heartbeat(self, run: Run, *, lease: float) -> bool:
        """Let the lease begin anew."""
        with self.database.write() as connection:
            return self._update(connection, run, f"lease_until = {self.clock} + ?", _ms(lease))

    def save(self, run: Run, point: str, data: bytes | None) -> bool:
        """Move the recovery point."""
        with self.database.write() as connection:
            return self._update(connection, run, "recovery_point = ?, recovery_data = ?", point, data)

    def complete(self, run: Run, result: bytes | None, *, ttl: float) -> bool:
        """Record the result."""
        with self.database.write() as connection:
            return self.record(connection, run, result, ttl=ttl, state="running")

    def release(self, run: Run) -> bool:
        """Give the key back."""
        with self.database.write() as connection:
            return self._update(connection, run, "lease_until = 0")

    def transaction(self, run: Run) -> _Transaction | None:
        """Open the transaction of the effect."""
        connection = self.database.open_effect()
        mine = False
        try:
            with self.database.reporting():
                mine = self._update(connection, run, "state = 'written'")
        finally:
            if not mine:
                connection.end()
        return _Transaction(self, run, connection) if mine else None

    def lookup(self, scope: str, key: str) -> Record | None:
        """Read the record of a key."""
        with self.database.read() as connection:
            known = self._find(connection, scope, key)
        return None if known is None or known.record.forgotten else known.record

    def gc(self, limit: int = 1000) -> int:
        """Remove forgotten records."""
        with self.database.write() as connection:
            return connection.execute(self._sweep_sql, (limit,)).rowcount

    def stats(self) -> Stats:
        """Count what is held; `size` is that of the whole database."""
        with self.database.read() as connection:
            records, running, forgotten, oldest = connection.execute(self._count_sql).fetchone()
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            (page_size,) = connection.execute("PRAGMA page_size").fetchone()
        return Stats(
            records=records,
            running=running,
            done=records - running,
            forgotten=forgotten,
            oldest=oldest / 1000,
            size=pages * page_size,
        )

    def close(self) -> None:
        """Close the connections; the store opens new ones when it is used again."""
        self.database.close()

    def prepare(self) -> None:
        """Create what is missing: for those who use these tables in a transaction of theirs."""
        with self.database.read():
            pass

    def knows(self, connection: Connection, scope: str, key: str) -> bool:
        """Whether there is a record of a key."""
        return self._find(connection, scope, key) is not None

    def clients(self) -> BlockingClientStore:
        """Leased clients in the same file."""
        from resilient.backends.sqlite.clients import BlockingSQLiteClients

        return BlockingSQLiteClients(self)

    def intents(self) -> BlockingIntentStore:
        """Intents in the same file."""
        from resilient.backends.sqlite.intents import BlockingSQLiteIntents

        return BlockingSQLiteIntents(self.database, self.clock)

    def outbox(self, *, keep: float) -> BlockingOutbox:
        """Return the outbox of the same file."""
        from resilient.backends.sqlite.outbox import BlockingSQLiteOutbox

        return BlockingSQLiteOutbox(self.database, self.clock, keep=keep)

    def inbox(self) -> BlockingInbox:
        """Return the inbox of the same file."""
        from resilient.backends.sqlite.inbox import BlockingSQLiteInbox

        return BlockingSQLiteInbox(self.database, self.clock)

    def __repr__(self) -> str:
        return f"SQLiteStore({str(self.database.path)!r})"

    def record(
        self,
        connection: Connection,
        run: Run,
        result: bytes | None,
        *,
        ttl: float,
        state: str,
    ) -> bool:
        """Write the result in the transaction that is open; `state` is what it has to find."""
        done = f"state = 'done', result = ?, lease_until = 0, expires_at = {self.clock} + ?"
        return self._update(connection, run, done, result, _ms(ttl), state=state)

    def _update(self, connection: Connection, run: Run, change: str, *values: object, state: str = "running") -> bool:
        sql = f"UPDATE resilient_claims SET {change} WHERE {self.guard}"  # noqa: S608 - made of constants
        cursor = connection.execute(sql, (*values, run.scope, run.key, run.fence, state))
        return cursor.rowcount == 1

    def _now(self, connection: Connection) -> int:
        now: int = connection.execute(f"SELECT {self.clock}").fetchone()[0]
        return now

    def _find(self, connection: Connection, scope: str, key: str) -> _Row | None:
        row = connection.execute(self._read_sql, (scope, key)).fetchone()
        return None if row is None else _Row.read(row)


@dataclass(frozen=True, slots=True)
class _Row:
    record: Record
    now: int
    created_at: int

    @classmethod
    def read(cls, columns: Sequence[Any]) -> _Row:
        fingerprint, state, fence, owner, lease_until, *columns = columns
        recovery_point, recovery_data, result, created_at, expires_at, now = columns
        record = Record(
            fingerprint=fingerprint,
            # What was written without a record took place all the same, and must not run again.
            state="running" if state == "running" else "done",
            fence=fence,
            owner=owner,
            lease_left=(lease_until - now) / 1000 if state == "running" else 0.0,
            released=state == "running" and lease_until == 0,
            expires_in=(expires_at - now) / 1000,
            recovery_point=recovery_point,
            recovery_data=recovery_data,
            result=result,
        )
        return cls(record, now, created_at)


@final
class _Transaction:
    """The write transaction of one effect.

    The guard was its first write. Were the transaction undone by something else (an error can do that), the record
    would not find it any more; were it committed by something else, everybody else would find it and not run.
    """

    def __init__(self, store: BlockingSQLiteStore, run: Run, connection: EffectConnection) -> None:
        self._store = store
        self._run = run
        self.connection = connection

    def call(self, fn: Callable[..., T], /, *args: Any) -> T:
        """Return `fn(connection, *args)`."""
        return fn(self.connection, *args)

    def commit(self, result: bytes | None, *, ttl: float) -> bool:
        """Record `result` and commit it together with the effect."""
        with self._store.database.reporting():
            try:
                recorded = self._store.record(self.connection, self._run, result, ttl=ttl, state="written")
                if recorded:
                    self.connection.execute("COMMIT")
            finally:
                self.connection.end()
        return recorded

    def rollback(self) -> None:
        """Undo the effect."""
        with self._store.database.reporting():
            self.connection.end()


def _ms(seconds: float) -> int:
    return math.ceil(seconds * 1000)
