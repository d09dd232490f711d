"""The stores under torture, each with a sink in its own database, as any process sees them."""

from __future__ import annotations

import json
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast, final
from urllib.parse import parse_qsl, urlsplit

import psycopg
import redis

from resilient.backends.connecting import connect
from resilient.backends.memory import MemoryStore
from resilient.backends.sqlite import SQLiteStore
from resilient.backends.store import Store
from tests.torture.checker import Row
from tests.torture.sinks import FarSide

SCOPE = "torture"


@final
class Deferred:
    """The connection of a mutant: an effect that is still to be written."""

    def __init__(self) -> None:
        self.rows: list[Row] = []


class Place(ABC):
    """A store, and where effects go. Made anew in every process; nothing is opened before it is used."""

    asynchronous = False
    """Whether the connection of a transaction is to be awaited on asyncio."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.far_side = FarSide(folder)

    @abstractmethod
    def store(self) -> Store:
        """The store."""

    @abstractmethod
    def prepare(self) -> None:
        """Make an empty sink."""

    def write(self, connection: Any, row: Row) -> None:
        """Write one part of an effect in the transaction of a claim."""
        raise NotImplementedError

    async def write_async(self, connection: Any, row: Row) -> None:
        """The same through a connection that is to be awaited."""
        raise NotImplementedError

    def apply(self, rows: Iterable[Row]) -> None:
        """Write an effect in a transaction of its own, as a mutant does."""
        raise NotImplementedError

    def delete(self, key: str) -> None:
        """Delete the record of a key behind the store's back, as a mutant does."""
        raise NotImplementedError

    def effects(self) -> list[Row]:
        """What is in the sink beside the store."""
        return []

    def rows(self) -> list[Row]:
        """All effects that took place."""
        return [*self.effects(), *self.far_side.rows()]


class Memory(Place):
    """Lives and dies with a process: one place for all that run in it."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder, url)
        self._store = MemoryStore()

    def store(self) -> Store:
        return self._store

    def prepare(self) -> None:
        """There is none beside the far side."""

    def delete(self, key: str) -> None:
        self._store._blocking._rows.pop((SCOPE, key), None)  # type: ignore[attr-defined]


class SQLite(Place):
    """A file; `url` is not asked for."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder, url)
        self.path = folder / "claims.db"

    def store(self) -> Store:
        return SQLiteStore(self.path)

    def prepare(self) -> None:
        with self._connect() as connection:
            connection.execute("CREATE TABLE sink (key TEXT, payload TEXT, attempt TEXT, part INTEGER)")

    def write(self, connection: Any, row: Row) -> None:
        connection.execute("INSERT INTO sink VALUES (?, ?, ?, ?)", (row.key, row.payload, row.attempt, row.part))

    def apply(self, rows: Iterable[Row]) -> None:
        with self._connect() as connection:
            for row in rows:
                self.write(connection, row)

    def delete(self, key: str) -> None:
        with self._connect() as connection:
            connection.execute("DELETE FROM resilient_claims WHERE scope = ? AND key = ?", (SCOPE, key))

    def effects(self) -> list[Row]:
        with self._connect() as connection:
            return [Row(*row) for row in connection.execute("SELECT key, payload, attempt, part FROM sink")]

    def _connect(self) -> _Once:
        return _Once(self.path)


class _Once:
    """A connection for one transaction."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, timeout=30)

    def __enter__(self) -> sqlite3.Connection:
        return self._connection

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._connection.commit()
        self._connection.close()


class Valkey(Place):
    """Effects go to a list in the slot of the records; the URL names a tag of the run's own."""

    def store(self) -> Store:
        return connect(self.url)

    def prepare(self) -> None:
        """A list is there when it is written to."""

    def write(self, connection: Any, row: Row) -> None:
        connection.execute("RPUSH", self._sink, json.dumps(asdict(row)))

    def apply(self, rows: Iterable[Row]) -> None:
        with self._client() as client:
            for row in rows:
                client.rpush(self._sink, json.dumps(asdict(row)))

    def delete(self, key: str) -> None:
        with self._client() as client:
            client.delete(f"resilient:{{{self._tag}}}:claim:{len(SCOPE)}:{SCOPE}:{key}")

    def effects(self) -> list[Row]:
        with self._client() as client:
            lines = cast("list[bytes]", client.lrange(self._sink, 0, -1))
        return [Row(**json.loads(line)) for line in lines]

    @property
    def _tag(self) -> str:
        return dict(parse_qsl(urlsplit(self.url).query))["tag"]

    @property
    def _sink(self) -> str:
        return f"{{{self._tag}}}:sink"

    def _client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url.partition("?")[0])


class PostgreSQL(Place):
    """A database of the run's own."""

    asynchronous = True

    def store(self) -> Store:
        return connect(self.url)

    def prepare(self) -> None:
        with self._connect() as connection:
            connection.execute("CREATE TABLE sink (key text, payload text, attempt text, part int)")

    def write(self, connection: Any, row: Row) -> None:
        connection.execute("INSERT INTO sink VALUES (%s, %s, %s, %s)", (row.key, row.payload, row.attempt, row.part))

    async def write_async(self, connection: Any, row: Row) -> None:
        values = (row.key, row.payload, row.attempt, row.part)
        await connection.execute("INSERT INTO sink VALUES (%s, %s, %s, %s)", values)

    def apply(self, rows: Iterable[Row]) -> None:
        with self._connect() as connection:
            for row in rows:
                self.write(connection, row)

    def delete(self, key: str) -> None:
        with self._connect() as connection:
            connection.execute("DELETE FROM resilient_claims WHERE scope = %s AND key = %s", (SCOPE, key))

    def effects(self) -> list[Row]:
        with self._connect() as connection:
            return [Row(*row) for row in connection.execute("SELECT key, payload, attempt, part FROM sink")]

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url)


PLACES: dict[str, type[Place]] = {"postgres": PostgreSQL, "memory": Memory, "sqlite": SQLite, "valkey": Valkey}
