"""One PostgreSQL database: its sessions, its tables, and what its errors mean.

Everything is written once, as coroutines. In an event loop of asyncio they wait for psycopg's asynchronous connections;
over blocking ones they never suspend, and a thread drives them to their end.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, TypeVar, final

from resilient.errors import StoreUnavailable

try:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        "PostgreSQL needs psycopg: pip install 'resilient-mesh[postgres]'", name=missing.name
    ) from None

from psycopg import AsyncClientCursor, ClientCursor, errors

from resilient.backends.postgres.connections import LoopConnection, ThreadConnection
from resilient.backends.postgres.sessions import LoopSessions, Session, Sessions, ThreadSessions

__all__ = ["Database", "Migrations", "Work"]

T = TypeVar("T")

Migrations = Sequence[Sequence[str]]
"""The statements that lead from each version of a set of tables to the next."""

_ATTEMPTS = 4
"""Of a transaction that the server refused in favour of another one."""
_LONGEST_WAIT = 3600.0
_SCHEMA = "CREATE TABLE IF NOT EXISTS resilient_schema (tables text PRIMARY KEY, version integer NOT NULL)"
_MIGRATING = 0x7265_7369
"""The advisory lock under which tables are made: one process at a time."""

_NOT_NOW = (errors.SerializationFailure, errors.DeadlockDetected)
_MISSING = (errors.UndefinedTable, errors.InvalidSchemaName)


@final
class Database:
    """A PostgreSQL database, for asyncio and for threads.

    `url`
        As libpq reads it, without a password of its own in messages.
    `tables`, `migrations`
        A set of tables, of which a database can hold several, and how it is made. Unless `migrate` is False that is
        done when the database is first used, by whichever process comes first.
    `pool_size`
        Connections at most: for each event loop, and for all threads of the process together.
    `timeout`
        Seconds to connect, to wait for a free connection, and for the answer to a statement of ours.
    """

    def __init__(
        self, url: str, *, tables: str, migrations: Migrations, pool_size: int, timeout: float, migrate: bool
    ) -> None:
        try:
            parameters = conninfo_to_dict(url)
        except psycopg.ProgrammingError as error:
            raise ValueError(f"url: {str(error).strip()}") from None
        if pool_size < 1:
            raise ValueError(f"pool_size={pool_size!r}: a pool has at least 1 connection")
        if not 0 < timeout <= _LONGEST_WAIT:
            raise ValueError(f"timeout={timeout!r}: more than 0 seconds, at most {_LONGEST_WAIT}")
        self.name = _name(parameters)
        self.timeout = timeout
        self.url = url
        self._settings = _settings(parameters, timeout)
        self.loop = LoopSessions(self._connect_loop, size=pool_size, timeout=timeout)
        self.threads = ThreadSessions(self._connect_thread, size=pool_size, timeout=timeout)
        self._tables = tables
        self._migrations = migrations
        self._migrate = migrate
        self._prepared = False

    def sibling(self, *, tables: str, migrations: Migrations) -> Database:
        """Another set of tables in the same database, by way of the same connections."""
        other = copy.copy(self)
        other._tables, other._migrations = tables, migrations  # noqa: SLF001 - it is one of these
        other._prepared = False  # noqa: SLF001 - likewise
        return other

    @contextlib.contextmanager
    def reporting(self) -> Generator[None]:
        """Turn the errors of the server and of the way to it into `StoreUnavailable`."""
        try:
            yield
        except (psycopg.Error, OSError) as error:
            raise StoreUnavailable(f"{self.name}: {_first_line(error)}") from error

    @property
    def prepared(self) -> bool:
        """Whether the tables are known to be as they should be."""
        return self._prepared

    async def prepare(self, session: Session) -> None:
        """Make the tables, or find out that they are as they should be."""
        if self._prepared:
            return
        version, newest = await self._version(session), len(self._migrations)
        self._check(version)
        if version < newest:
            if not self._migrate:
                raise StoreUnavailable(
                    f"{self.name}: its {self._tables} have version {version}, and this release needs {newest}: "
                    "run `resilient store migrate` with its URL"
                )
            await self._make(session)
        self._prepared = True

    async def migrate(self, session: Session) -> list[str]:
        """Make the tables whatever the constructor said, and return what was run for it."""
        version = await self._version(session)
        self._check(version)
        if version < len(self._migrations):
            await self._make(session)
        self._prepared = True
        return self.statements(version)

    def statements(self, version: int = 0) -> list[str]:
        """What leads from a version of the tables to the newest one."""
        newest = len(self._migrations)
        if version >= newest:
            return []
        steps = [statement for statements in self._migrations[version:] for statement in statements]
        note = (  # not a value: it is shown to people, too
            f"INSERT INTO resilient_schema VALUES ('{self._tables}', {newest}) "  # noqa: S608 - made of constants
            "ON CONFLICT (tables) DO UPDATE SET version = EXCLUDED.version"
        )
        return [_SCHEMA, *steps, note]

    def _check(self, version: int) -> None:
        newest = len(self._migrations)
        if version > newest:
            raise StoreUnavailable(
                f"{self.name}: its {self._tables} have version {version}, made by a newer release; "
                f"this one knows {newest}"
            )

    async def _version(self, session: Session) -> int:
        # A name that leads to nothing is no error here, as it is in SELECT.
        ((known,),) = await session.run("SELECT to_regclass('resilient_schema') IS NOT NULL")
        if not known:
            return 0
        return await self._read_version(session)

    async def _read_version(self, session: Session) -> int:
        rows = await session.run("SELECT version FROM resilient_schema WHERE tables = %s", self._tables)
        return int(rows[0][0]) if rows else 0

    async def _make(self, session: Session) -> None:
        await session.run(f"BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock({_MIGRATING})")
        try:
            # Another process may have been quicker; that can be seen in a table, and not yet in the catalogue.
            await session.run(_SCHEMA)
            for statement in self.statements(await self._read_version(session)):
                await session.run(statement)
        except errors.InsufficientPrivilege as error:
            raise StoreUnavailable(
                f"{self.name}: its {self._tables} are to be made, and {_first_line(error)}: run `resilient store "
                "migrate` with the URL of a role that may, and grant this one what it needs"
            ) from error
        await session.run("COMMIT")

    async def _connect_loop(self) -> LoopConnection:
        with self.reporting():
            return await LoopConnection.connect(
                self.url,
                autocommit=True,
                prepare_threshold=None,
                cursor_factory=AsyncClientCursor,
                **self._settings,
            )

    def _connect_thread(self) -> ThreadConnection:
        with self.reporting():
            return ThreadConnection.connect(
                self.url, autocommit=True, prepare_threshold=None, cursor_factory=ClientCursor, **self._settings
            )


@final
class Work:
    """A database by way of one kind of sessions."""

    def __init__(self, database: Database, sessions: Sessions) -> None:
        self.database = database
        self._sessions = sessions

    async def prepare(self) -> None:
        """Make the tables, or find out that they are as they should be."""
        if not self.database.prepared:
            await self.tidy(await self.take())

    async def take(self) -> Session:
        """Lend a session, to be taken back by `tidy`."""
        session = await self._sessions.take()
        try:
            with self.database.reporting():
                await self.database.prepare(session)
        except BaseException:
            await self.tidy(session)
            raise
        return session

    async def migrate(self) -> list[str]:
        """Make the tables, or bring them up to date, and return what was run for it."""
        session = await self._sessions.take()
        try:
            with self.database.reporting():
                return await self.database.migrate(session)
        finally:
            await self.tidy(session)

    async def tidy(self, session: Session) -> None:
        """Undo what is open in a session, and let others use it. A broken one is closed: the server undoes it."""
        try:
            if not session.reusable:
                with contextlib.suppress(psycopg.Error):
                    await session.run("ROLLBACK")
        finally:
            self._sessions.give_back(session)

    async def run(self, sql: str, *values: object, repeatable: bool = True) -> list[tuple[Any, ...]]:
        """Run statements in a transaction of their own. What may be `repeatable` is, when its connection broke."""
        return await self.repeat(lambda session: session.run(sql, *values), broken=repeatable)

    async def repeat(self, step: Callable[[Session], Awaitable[T]], *, broken: bool) -> T:
        """Run a transaction again that was refused in favour of another one; also, once, when its connection broke."""
        for attempt in range(1, _ATTEMPTS + 1):
            session = await self.take()
            problem: psycopg.Error
            try:
                return await step(session)
            except _NOT_NOW as error:
                problem = error
            except psycopg.OperationalError as error:
                if not (broken and session.connection.closed):
                    raise self.unavailable(error) from error
                broken, problem = False, error
            except psycopg.Error as error:
                raise self.unavailable(error) from error
            finally:
                await self.tidy(session)
            if attempt == _ATTEMPTS:
                raise self.unavailable(problem) from problem
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        """Close what is idle."""
        self._sessions.close()

    def unavailable(self, error: psycopg.Error) -> StoreUnavailable:
        """What is raised for an error of the server, or of the way to it."""
        return StoreUnavailable(f"{self.database.name}: {_first_line(error)}")


def _name(parameters: dict[str, Any]) -> str:
    """Hosts, ports and database, and nothing that is secret."""
    hosts = str(parameters.get("host") or parameters.get("hostaddr") or "").split(",")
    ports = str(parameters.get("port") or "").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    places = (f"{host}:{port}" if port else host for host, port in zip(hosts, ports, strict=False))
    return f"postgresql://{','.join(places)}/{parameters.get('dbname') or ''}"


def _settings(parameters: dict[str, Any], timeout: float) -> dict[str, Any]:
    """What a connection is opened with unless its URL says something else."""
    defaults = {
        "application_name": "resilient",
        "connect_timeout": max(2, round(timeout)),  # libpq's least is 2
        # A peer that vanished without a word is noticed in half a minute, and not in hours.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 4,
        "tcp_user_timeout": 30_000,
    }
    return {name: value for name, value in defaults.items() if name not in parameters}


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
