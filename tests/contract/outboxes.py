"""Every outbox, each with a clock that a test can move."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from resilient.backends.borrowed import perform
from resilient.backends.outbox import BlockingOutbox, Claimed, Draft, Message, Plan, Settlement, Statement
from tests.contract.stores import Clock, ClockedPostgres, clocked_sqlite, postgres_shelf

KEEP = 3600.0


@dataclass
class Post:
    """An outbox, and what a test needs around it."""

    outbox: BlockingOutbox
    clock: Clock
    connect: Callable[[], Any]
    """A connection to the same database, as a user makes one."""
    close: Callable[[], None] = lambda: None

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        connection = self.connect()
        try:
            yield connection
            connection.commit()
        finally:
            connection.close()

    def add(self, *drafts: Draft) -> list[bool]:
        with self.transaction() as connection:
            return [perform(connection, self.outbox.add(each)) for each in drafts]

    def claim(
        self, limit: int = 10, *, lease: float = 30.0, attempts: int = 3, topics: list[str] | None = None
    ) -> Claimed:
        return self.outbox.claim(owner="me", limit=limit, lease=lease, attempts=attempts, topics=topics)

    def settle(self, message: Message, state: Any = "delivered", **fields: Any) -> bool:
        return message.id in self.outbox.settle([Settlement(message=message, state=state, **fields)])

    def state_of(self, key: str) -> str | None:
        with self.transaction() as connection:
            return perform(connection, _find_state(key))


def _find_state(key: str) -> Plan[str | None]:
    found = yield Statement("SELECT state FROM resilient_outbox WHERE key = :key", {"key": key})
    return found.rows[0][0] if found.rows else None


def draft(key: str, topic: str = "mail", payload: bytes = b"hello", **fields: Any) -> Draft:
    return Draft(topic=topic, key=key, payload=payload, **fields)


def sqlite_post(folder: Path) -> Post:
    clock = Clock()

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(folder / "post.db")
        connection.create_function("test_clock", 0, lambda: round(clock.now() * 1000))
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    outbox = clocked_sqlite(folder / "post.db", clock.now).outbox(keep=KEEP)
    return Post(outbox, clock, connect, outbox.close)


def postgres_post(folder: Path) -> Post:
    shelf = postgres_shelf(folder)
    store = shelf.make()
    assert isinstance(store, ClockedPostgres)
    outbox = store.blocking.outbox(keep=KEEP)
    outbox.prepare()
    return Post(outbox, shelf.clock, lambda: psycopg.connect(store.database.url), outbox.close)


POSTS: dict[str, Callable[[Path], Post]] = {"postgres": postgres_post, "sqlite": sqlite_post}
