"""The table of orders, which all processes share, and the check of what it holds against what the callers know."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import final

__all__ = ["Audit", "audit", "configure", "create", "insert", "rows"]

_TABLE = """
    CREATE TABLE orders (
        id INTEGER PRIMARY KEY,
        number INTEGER NOT NULL, -- the caller's. Not unique on purpose: a duplicate is to be seen, not refused
        item TEXT NOT NULL,
        cents INTEGER NOT NULL,
        taken_by TEXT NOT NULL
    )
"""


def configure(connection: sqlite3.Connection) -> None:
    """Let commits not wait for the disk: processes die in the demo, the machine does not.

    Nothing is lost when a process is killed, and how long a disk takes is not what is measured. A service that has to
    survive a power cut leaves `synchronous` as it is.
    """
    connection.execute("PRAGMA synchronous = NORMAL")


def create(path: Path) -> None:
    """Make the database."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(_TABLE)


def insert(connection: sqlite3.Connection, number: int, item: str, cents: int, taken_by: str) -> None:
    """Write one order, in whichever transaction is open."""
    connection.execute(
        "INSERT INTO orders (number, item, cents, taken_by) VALUES (?, ?, ?, ?)", (number, item, cents, taken_by)
    )


def rows(path: Path) -> Counter[int]:
    """How many rows each order number has."""
    with closing(sqlite3.connect(path)) as connection:
        return Counter(dict(connection.execute("SELECT number, count(*) FROM orders GROUP BY number")))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What the database holds, held against what the callers were told. The numbers are those of orders."""

    lost: tuple[int, ...]
    """Acknowledged, but absent."""
    duplicated: tuple[int, ...]
    """In more than one row, acknowledged or not."""
    surplus: int
    """Rows beyond the first of an order."""
    unknown_done: tuple[int, ...]
    """Taken, although the caller was not told so."""
    unknown: tuple[int, ...]
    """Never acknowledged: the caller cannot know what became of them."""


def audit(found: Counter[int], *, sent: Collection[int], acknowledged: Collection[int]) -> Audit:
    """Compare the rows of each order with what became of its call.

    Raises `ValueError` for an order in the database that nobody sent, and for an acknowledgement of one.
    """
    sent, acknowledged = set(sent), set(acknowledged)
    strangers = sorted((set(found) | acknowledged) - sent)
    if strangers:
        raise ValueError(f"found={strangers[:5]}: orders that nobody sent; this is not the database of this run")
    unknown = sent - acknowledged
    return Audit(
        lost=tuple(sorted(number for number in acknowledged if not found[number])),
        duplicated=tuple(sorted(number for number, times in found.items() if times > 1)),
        surplus=sum(times - 1 for times in found.values() if times > 1),
        unknown_done=tuple(sorted(number for number in unknown if found[number])),
        unknown=tuple(sorted(unknown)),
    )
