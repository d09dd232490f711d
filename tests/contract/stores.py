"""Every durable store, each with a clock that a test can move."""

from __future__ import annotations

import itertools
import sqlite3
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from resilient.backends.faces import ThreadedStore
from resilient.backends.intents import BlockingIntentStore
from resilient.backends.memory import BlockingMemoryStore, MemoryStore
from resilient.backends.postgres import PostgresStore
from resilient.backends.redis import RedisStore
from resilient.backends.redis.scripts import Scripts
from resilient.backends.sqlite import BlockingSQLiteStore
from resilient.backends.store import Run, Store
from resilient.runtime import Runtime
from tests.servers.postgres import Postgres
from tests.servers.sharing import shared
from tests.servers.valkey import Redis as RedisServer
from tests.servers.valkey import Valkey


@dataclass
class Clock:
    """The store's own clock, in seconds since the epoch."""

    seconds: float = 1_800_000_000.0

    def now(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


def insert(connection: Any, run: Run) -> None:
    """An effect, in SQL."""
    connection.execute("CREATE TABLE IF NOT EXISTS effects (key TEXT, fence BIGINT)")
    connection.execute(f"INSERT INTO effects VALUES ('{run.key}', {run.fence})")  # noqa: S608 - our own


@dataclass
class Shelf:
    """A store, and what a test needs around it. `make` opens the same records again, as another process would."""

    make: Callable[[], Store]
    clock: Clock = field(default_factory=Clock)
    write: Callable[[Any, Run], None] = insert
    """What an effect does with the connection of its claim."""


def forgets_by_itself(store: Store) -> bool:
    """Whether records vanish as their time comes, and `gc` has nothing to do."""
    return isinstance(store, RedisStore)


class ClockedSQLite(BlockingSQLiteStore):
    """An SQLite store that asks its clock of a function instead of SQLite."""

    clock = "test_clock()"


def clocked_sqlite(path: Path, now: Callable[[], float]) -> ClockedSQLite:
    def prepare(connection: sqlite3.Connection) -> None:
        connection.create_function("test_clock", 0, lambda: round(now() * 1000))
        connection.execute("PRAGMA synchronous = OFF")  # nothing here survives the test, and nothing pulls the plug

    return ClockedSQLite(path, on_connect=prepare)


def memory_shelf(_folder: Path) -> Shelf:
    clock = Clock()
    store = MemoryStore(runtime=Runtime(now=clock.now, wall=clock.now))
    return Shelf(lambda: store, clock)


def sqlite_shelf(folder: Path) -> Shelf:
    clock = Clock()
    return Shelf(lambda: ThreadedStore(clocked_sqlite(folder / "claims.db", clock.now), threads=4), clock)


class ClockedRedis(RedisStore):
    """A store whose scripts ask a key for the time, and leave it to `RedisClock` to remove what is over."""

    scripts = Scripts(
        clock="return tonumber(redis.call('GET', string.match(KEYS[1], '^resilient:%b{}') .. ':clock'))",
        expire="""
            local due = string.match(key, '^resilient:%b{}') .. ':due'
            redis.call('ZADD', due, math.floor(clock() / 1000) + ms, key)
        """,
    )


class RedisClock(Clock):
    """The time of a `ClockedRedis`. Records go with it as they do with the server's own: after their millisecond."""

    REMOVE = """
        local over = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[1])
        for _, key in ipairs(over) do redis.call('DEL', key) redis.call('ZREM', KEYS[1], key) end
    """

    def __init__(self, server: Valkey, tag: str) -> None:
        super().__init__()
        self._tell = server.client()
        self._place = f"resilient:{{{tag}}}"
        self.advance(0)

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        now = round(self.seconds * 1_000_000)
        self._tell("SET", f"{self._place}:clock", now)
        self._tell("EVAL", self.REMOVE, 1, f"{self._place}:due", now // 1000)


def redis_shelf(kind: type[Valkey], _folder: Path) -> Shelf:
    server, tag = shared(kind), uuid.uuid4().hex
    server.ask("FLUSHALL")

    def push(connection: Any, run: Run) -> None:
        connection.execute("RPUSH", f"{{{tag}}}:effects", run.key)

    return Shelf(lambda: ClockedRedis(server.url, tag=tag), RedisClock(server, tag), push)


class ClockedPostgres(PostgresStore):
    """A store that asks a table for the time."""

    clock = "test_clock()"


class PostgresClock(Clock):
    """The time of a `ClockedPostgres`, in a schema of its own."""

    def __init__(self, server: Postgres, schema: str) -> None:
        super().__init__()
        self._server = server
        self._now = f"{schema}.test_now"
        server.ask(f"CREATE SCHEMA {schema}")
        server.ask(f"CREATE TABLE {self._now} (at timestamptz)")
        server.ask(f"INSERT INTO {self._now} VALUES (to_timestamp(%s))", self.seconds)  # noqa: S608
        read = f"LANGUAGE sql AS 'SELECT at FROM {self._now}'"  # noqa: S608
        server.ask(f"CREATE FUNCTION {schema}.test_clock() RETURNS timestamptz {read}")

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        self._server.ask(f"UPDATE {self._now} SET at = to_timestamp(%s)", self.seconds)  # noqa: S608 - our own


_schemas = itertools.count(1)


def postgres_shelf(_folder: Path) -> Shelf:
    server, schema = shared(Postgres), f"shelf_{next(_schemas)}"
    server.ask("SET synchronous_commit = off")  # nothing here survives the test, and nothing pulls the plug
    clock = PostgresClock(server, schema)
    url = f"{server.url}?options=-csynchronous_commit%3Doff%20-csearch_path%3D{schema}"
    return Shelf(lambda: ClockedPostgres(url, pool_size=4), clock)


SHELVES: dict[str, Callable[[Path], Shelf]] = {
    "memory": memory_shelf,
    "postgres": postgres_shelf,
    "redis": partial(redis_shelf, RedisServer),
    "sqlite": sqlite_shelf,
    "valkey": partial(redis_shelf, Valkey),
}


@dataclass
class IntentShelf:
    """A store of intents. `make` opens the same ones again, as another process would."""

    make: Callable[[], BlockingIntentStore]
    clock: Clock


def memory_intents(_folder: Path) -> IntentShelf:
    clock = Clock()
    store = BlockingMemoryStore(runtime=Runtime(now=clock.now, wall=clock.now))
    return IntentShelf(store.intents, clock)


def sqlite_intents(folder: Path) -> IntentShelf:
    clock = Clock()
    return IntentShelf(clocked_sqlite(folder / "intents.db", clock.now).intents, clock)


def postgres_intents(folder: Path) -> IntentShelf:
    shelf = postgres_shelf(folder)
    store = shelf.make()
    assert isinstance(store, PostgresStore)
    return IntentShelf(store.blocking.intents, shelf.clock)


INTENT_SHELVES: dict[str, Callable[[Path], IntentShelf]] = {
    "memory": memory_intents,
    "sqlite": sqlite_intents,
    "postgres": postgres_intents,
}
