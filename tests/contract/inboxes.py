"""Every inbox, each with a clock that a test can move."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from resilient.backends.borrowed import perform
from resilient.backends.inbox import BlockingInbox, Letter
from resilient.backends.outbox import Plan
from tests.contract.stores import Clock, ClockedPostgres, clocked_sqlite, postgres_shelf

KEEP = 3600.0


@dataclass
class Desk:
    """An inbox, and what a test needs around it."""

    inbox: BlockingInbox
    clock: Clock
    connect: Callable[[], Any]
    close: Callable[[], None]

    def write(self, plan: Plan[Any], *, commit: bool = True) -> Any:
        """In a transaction of a user's own."""
        with closing(self.connect()) as connection:
            result = perform(connection, plan)
            if commit:
                connection.commit()
            else:
                connection.rollback()
        return result

    def fail(self, letter: Letter, attempts: int = 1, *, park: bool = False, consumer: str = "c") -> None:
        self.inbox.fail(consumer, letter, attempts=attempts, error=f"attempt {attempts}", park=park, keep=KEEP)

    def state_of(self, key: str) -> str:
        known = self.inbox.look("c", Letter(key=key, payload=b""))
        return "parked" if known.parked else "failing" if known.attempts else "absent"


def sqlite_desk(folder: Path) -> Desk:
    clock = Clock()
    inbox = clocked_sqlite(folder / "desk.db", clock.now).inbox()
    return Desk(inbox, clock, lambda: sqlite3.connect(folder / "desk.db"), inbox.close)


def postgres_desk(folder: Path) -> Desk:
    shelf = postgres_shelf(folder)
    store = shelf.make()
    assert isinstance(store, ClockedPostgres)
    inbox = store.blocking.inbox()
    inbox.prepare()
    return Desk(inbox, shelf.clock, lambda: psycopg.connect(store.database.url), inbox.close)


DESKS: dict[str, Callable[[Path], Desk]] = {"postgres": postgres_desk, "sqlite": sqlite_desk}
