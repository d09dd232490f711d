"""One SQLite file: its connections, its write lock, its tables, and a guard against forks.

Two facts of SQLite shape this module. It has one writer at a time, and those who wait for it poll; so the threads of
one process queue for a lock of their own first. And its file locks belong to a process, not to a connection: a child
that was forked while a connection was open believes that it holds locks which it does not, and its commits can be
lost without an error (https://www.sqlite.org/howtocorrupt.html, section 2.6). Such a child is refused.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Literal, NoReturn, TypeVar, final
from weakref import WeakSet, WeakValueDictionary

from resilient.backends.outbox import Plan, Statement
from resilient.context import current_runtime
from resilient.errors import StoreUnavailable

__all__ = ["Connection", "Database", "EffectConnection"]

C = TypeVar("C", bound="Connection")

_IDLE = 16
"""Connections kept for the next use."""
_LONGEST_WAIT = 3600.0
"""Seconds: an hour, and well below what SQLite can count."""
_WAL_RETRY = 0.01
"""Seconds between attempts to switch a new file to the write-ahead log."""
_SCHEMA = "CREATE TABLE IF NOT EXISTS resilient_schema (tables TEXT PRIMARY KEY, version INTEGER NOT NULL)"
_FIND_VERSION = "SELECT version FROM resilient_schema WHERE tables = :tables"
_SET_VERSION = "INSERT OR REPLACE INTO resilient_schema VALUES (:tables, :version)"


class Connection(sqlite3.Connection):
    """A connection that closes itself when nothing refers to it any more."""

    file: tuple[int, int] = (0, 0)
    """Device and inode: what the process's file locks belong to."""

    def __del__(self) -> None:
        with contextlib.suppress(sqlite3.ProgrammingError):  # it was never opened
            sqlite3.Connection.close(self)


@final
class EffectConnection(Connection):
    """The connection of one open transaction. Whoever opened it ends it; whoever writes the effect cannot."""

    writing: threading.Lock | None = None
    """The lock that is held until the end, and no longer than this object lives."""

    def end(self) -> None:
        """Undo what is not committed, and let others write. From here on nothing can be written."""
        try:
            # Somebody may still hold it, in a thread that a cancellation left behind: what they execute next must not
            # become a commit of its own.
            self.execute("PRAGMA query_only = ON")
            if self.in_transaction:
                self.execute("ROLLBACK")
        finally:
            self._let_go()

    def _let_go(self) -> None:
        writing, self.writing = self.writing, None
        if writing is not None:
            writing.release()

    def __del__(self) -> None:
        super().__del__()
        self._let_go()

    def commit(self) -> NoReturn:
        """Raise: the effect and its record are committed together, by whoever opened the transaction."""
        raise RuntimeError(
            "the transaction of a claim is committed together with its record, after the handler returned"
        )

    def rollback(self) -> NoReturn:
        """Raise: an exception that leaves the block undoes it."""
        raise RuntimeError("the transaction of a claim is undone by an exception that leaves its block")

    def executescript(self, sql_script: str, /) -> NoReturn:
        """Raise: a script commits before it begins."""
        raise RuntimeError("executescript() commits what is open; use execute(), statement by statement")

    def close(self) -> NoReturn:
        """Raise: the record is still to be written through this connection."""
        raise RuntimeError("the connection of a claim is closed when its record is committed")

    def __enter__(self) -> NoReturn:
        raise RuntimeError("`with connection:` would commit; the transaction of a claim is committed with its record")


_open: WeakSet[Connection] = WeakSet()
"""Every connection of this process."""
_databases: WeakSet[Database] = WeakSet()
_write_locks: WeakValueDictionary[Path, threading.Lock] = WeakValueDictionary()
"""What the threads of this process queue for, for each file."""
_lost: list[Connection] = []
"""What a fork left behind in this process. Never used and never closed: closing would end locks of the parent's."""
_lost_files: set[tuple[int, int]] = set()
_watching = threading.Lock()
_watched = False


def _watch_forks() -> None:
    global _watched  # noqa: PLW0603 - hooks cannot be taken back, so this is once a process
    with _watching:
        if not _watched and hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_after_fork)
        _watched = True


def _after_fork() -> None:
    _lost.extend(_open)
    _lost_files.update(connection.file for connection in _lost)
    _open.clear()
    _write_locks.clear()  # whoever held one is not here
    for database in _databases:
        database.start_over()


@final
class Database:
    """One SQLite file in WAL mode, for many threads.

    `path`
        Where it lives; the folder has to exist, on a local disk (WAL needs shared memory).
    `tables`
        Names a set of tables, of which a file can hold several.
    `migrations`
        The statements that lead from each version of these tables to the next. They are run when the file is first
        used, by whichever process comes first.
    `busy_timeout`
        Seconds to wait for the write lock.
    `on_connect`
        Is called with every new connection: for pragmas, functions, collations and the row factory of effects.
    `migrate`
        Whether the tables are made and brought up to date when the file is first used.

    Every commit is synced to disk: with less, the last commits may be lost with the power, and then their effects
    run again.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        tables: str,
        migrations: Sequence[Sequence[str]],
        busy_timeout: float,
        on_connect: Callable[[sqlite3.Connection], object] | None = None,
        migrate: bool = True,
    ) -> None:
        if not 0 < busy_timeout <= _LONGEST_WAIT:
            raise ValueError(f"busy_timeout={busy_timeout!r}: more than 0 seconds, at most {_LONGEST_WAIT}")
        self.path = Path(path).absolute()  # a change of the working directory must not lead to another file
        self._tables = tables
        self._migrations = migrations
        self._busy_timeout = busy_timeout
        self._on_connect = on_connect
        self._may_migrate = migrate
        self.start_over()
        _databases.add(self)

    def sibling(self, *, tables: str, migrations: Sequence[Sequence[str]]) -> Database:
        """Another set of tables in the same file, with the same settings."""
        return Database(
            self.path,
            tables=tables,
            migrations=migrations,
            busy_timeout=self._busy_timeout,
            on_connect=self._on_connect,
            migrate=self._may_migrate,
        )

    def check_file(self) -> Plan[None]:
        """Tell how to find out whether somebody's connection is to this file. Raises `ValueError` if it is not."""
        databases = yield Statement("PRAGMA database_list")
        path = next((str(row[2]) for row in databases.rows if row[1] == "main"), "")
        # By what the system knows of it: there may be links, or the folder may have been moved.
        if not path or (Path(path) != self.path and not (self.path.exists() and self.path.samefile(path))):
            raise ValueError(
                f"connection: it is to {path or 'a database in memory'!r}, and the {self._tables} are in "
                f"{str(self.path)!r}: what is written there is not committed together with what is written here"
            )

    def prepare_through(self) -> Plan[None]:
        """Tell how to make the tables through somebody's connection, in their transaction."""
        yield Statement(_SCHEMA)
        found = yield Statement(_FIND_VERSION, {"tables": self._tables})
        version = found.rows[0][0] if found.rows else 0
        if version == len(self._migrations):
            return
        self._check_allowed(version)
        for statement in self._missing(version):
            yield Statement(statement)
        yield Statement(_SET_VERSION, {"tables": self._tables, "version": len(self._migrations)})

    def start_over(self) -> None:
        """Forget all connections: at the beginning, and in a forked child."""
        self._writing = _write_locks.setdefault(self.path, threading.Lock())
        self._preparing = threading.Lock()
        self._had_effects = False
        self._drop_idle()

    @contextlib.contextmanager
    def read(self) -> Generator[Connection]:
        """Lend a connection for statements that change nothing."""
        with self.reporting():
            self._prepare()
            with self._lend() as connection:
                yield connection

    @contextlib.contextmanager
    def write(self) -> Generator[Connection]:
        """Lend a connection inside a transaction that already holds the write lock, and commit it."""
        with self.reporting():
            self._prepare()
            with self._queue(), self._lend() as connection, _transact(connection):
                yield connection

    def open_effect(self) -> EffectConnection:
        """Open a connection inside a transaction that holds the write lock until its `end`.

        It is not lent from the others and not used again: what a handler does to it, or keeps of it, ends with it.
        """
        with self.reporting():
            self._prepare()
            # An error can make SQLite roll back on its own. With an isolation level the next statement then begins a
            # transaction that nobody commits; without one it would be a commit of its own.
            connection = self._connect(EffectConnection, isolation_level="IMMEDIATE")
            self._acquire()
            connection.writing = self._writing
            self._had_effects = True
            try:
                connection.execute("BEGIN IMMEDIATE")
            except BaseException:
                connection.end()
                raise
            return connection

    def close(self) -> None:
        """Close what is idle now, and the rest as soon as it is given back."""
        idle = self._idle
        self._drop_idle()
        while idle:
            idle.pop().close()
        if self._had_effects:
            # The connection of an effect is left to whoever still holds it. Nobody mostly does, but its cache of
            # statements refers back to it, so that it stays open, and would be in the way of a fork.
            self._had_effects = False
            gc.collect()

    @contextlib.contextmanager
    def reporting(self) -> Generator[None]:
        """Turn the errors of SQLite and of the file system into `StoreUnavailable`."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(f"{self.path}: {error}") from error

    def _acquire(self) -> None:
        if not self._writing.acquire(timeout=self._busy_timeout):
            raise StoreUnavailable(
                f"{self.path}: the write lock was not free within {self._busy_timeout} s: a transaction of this "
                "process is still open (no claim can begin inside the transaction of another one)"
            )

    @contextlib.contextmanager
    def _queue(self) -> Generator[None]:
        self._acquire()
        try:
            yield
        finally:
            self._writing.release()

    @contextlib.contextmanager
    def _lend(self) -> Generator[Connection]:
        idle = self._idle
        try:
            connection = idle.pop()
        except IndexError:
            connection = self._connect(Connection, isolation_level=None)
        yield connection
        idle.append(connection)  # after an error it is not used again, and closes itself

    def _drop_idle(self) -> None:
        self._idle: deque[Connection] = deque(maxlen=_IDLE)
        self._prepared = False

    def _connect(self, kind: type[C], *, isolation_level: Literal["IMMEDIATE"] | None) -> C:
        _watch_forks()
        if _lost_files and self.path.exists() and _identity(self.path) in _lost_files:
            raise StoreUnavailable(
                f"{self.path}: this process was forked while its parent had the file open, and SQLite would lose "
                "commits made here; close the store before forking, or start processes with 'spawn'"
            )
        connection = sqlite3.connect(
            self.path,
            timeout=self._busy_timeout,
            isolation_level=isolation_level,
            check_same_thread=False,
            factory=kind,
        )
        connection.file = _identity(self.path)
        _open.add(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")  # macOS: through the drive's cache; elsewhere it does nothing
        if self._on_connect is not None:
            self._on_connect(connection)
            if kind is Connection:
                connection.row_factory = None  # these rows are ours
        return connection

    def _prepare(self) -> None:
        if self._prepared:
            return
        with self._preparing:
            if self._prepared:
                return
            connection = self._connect(Connection, isolation_level=None)
            self._switch_to_wal(connection)
            version = self._version(connection)
            self._check_allowed(version)
            if version != len(self._migrations):
                with self._queue(), _transact(connection):
                    self._migrate(connection)
            self._idle.append(connection)
            self._prepared = True

    def _check_allowed(self, version: int) -> None:
        if version < len(self._migrations) and not self._may_migrate:
            raise StoreUnavailable(
                f"{self.path}: its {self._tables} have version {version}, and this release needs "
                f"{len(self._migrations)}: run `resilient store migrate` with its URL"
            )

    def statements(self, version: int = 0) -> list[str]:
        """What leads from a version of the tables to the newest one."""
        newest = len(self._migrations)
        if version >= newest:
            return []
        note = f"INSERT OR REPLACE INTO resilient_schema VALUES ('{self._tables}', {newest})"  # noqa: S608 - constants
        return [_SCHEMA, *self._missing(version), note]

    def migrate(self) -> list[str]:
        """Make the tables, or bring them up to date, whatever the constructor said; return what was run."""
        with self.reporting():
            connection = self._connect(Connection, isolation_level=None)
            self._switch_to_wal(connection)
            version = self._version(connection)
            if version != len(self._migrations):
                with self._queue(), _transact(connection):
                    self._migrate(connection)
        return self.statements(version)

    def _switch_to_wal(self, connection: Connection) -> None:
        runtime = current_runtime()
        give_up = runtime.now() + self._busy_timeout
        mode = None
        while mode is None:
            try:
                (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            except sqlite3.OperationalError as error:
                # Several processes at a new file: SQLite does not queue them for this.
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or runtime.now() >= give_up:
                    raise
                runtime.pause(_WAL_RETRY)
        if mode != "wal":
            raise StoreUnavailable(f"{self.path}: SQLite's write-ahead log is not to be had here (it is {mode!r})")

    def _version(self, connection: Connection) -> int:
        connection.execute(_SCHEMA)
        row: tuple[int] | None = connection.execute(_FIND_VERSION, {"tables": self._tables}).fetchone()
        return 0 if row is None else row[0]

    def _migrate(self, connection: Connection) -> None:
        # Read again: another process may have been quicker.
        for statement in self._missing(self._version(connection)):
            connection.execute(statement)
        connection.execute(_SET_VERSION, {"tables": self._tables, "version": len(self._migrations)})

    def _missing(self, version: int) -> list[str]:
        """Return what leads from this version to the newest."""
        newest = len(self._migrations)
        if version > newest:
            raise StoreUnavailable(
                f"{self.path}: its {self._tables} have version {version}, made by a newer release; "
                f"this one knows {newest}"
            )
        return [statement for statements in self._migrations[version:] for statement in statements]


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def _transact(connection: Connection) -> Generator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # some errors roll back by themselves
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
