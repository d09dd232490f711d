"""Every durable store, each with a clock that a test can move."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from resilient.backends.faces import ThreadedStore
from resilient.backends.intents import BlockingIntentStore
from resilient.backends.memory import BlockingMemoryStore, MemoryStore
from resilient.backends.sqlite import BlockingSQLiteStore
from resilient.backends.store import Store
from resilient.runtime import Runtime


@dataclass
class Clock:
    """The store's own clock, in seconds since the epoch."""

    seconds: float = 1_800_000_000.0

    def now(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


@dataclass
class Shelf:
    """A store, and what a test needs around it. `make` opens the same records again, as another process would."""

    make: Callable[[], Store]
    clock: Clock = field(default_factory=Clock)


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


INTENT_SHELVES: dict[str, Callable[[Path], IntentShelf]] = {"memory": memory_intents, "sqlite": sqlite_intents}
SHELVES: dict[str, Callable[[Path], Shelf]] = {"memory": memory_shelf, "sqlite": sqlite_shelf}
