"""A shop whose orders lie in the same database as its claims, without a constraint that would hide a duplicate."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from resilient.backends.faces import DirectStore
from resilient.context import current_runtime
from tests.contract.stores import clocked_sqlite

P = ParamSpec("P")
T = TypeVar("T")


class Slow(DirectStore):
    """A store whose every step takes time before it happens and after, as one behind a network does."""

    async def _call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        await current_runtime().sleep(0.01)
        result = fn(*args, **kwargs)
        await current_runtime().sleep(0.01)
        return result

    async def call_inside(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._call(fn, *args, **kwargs)


class Shop:
    """Its store keeps the ambient clock, so that it works in virtual time."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "shop.db"
        connection = sqlite3.connect(self.path)
        connection.execute("CREATE TABLE orders (id TEXT, part INTEGER)")
        connection.close()
        self.store = Slow(clocked_sqlite(self.path, lambda: current_runtime().wall()))

    def orders(self) -> list[tuple[str, int]]:
        connection = sqlite3.connect(self.path)
        try:
            return connection.execute("SELECT id, part FROM orders ORDER BY id, part").fetchall()
        finally:
            connection.close()


def insert(connection: sqlite3.Connection, order: str) -> None:
    """An order has two parts, so that half of one can be seen."""
    connection.execute("INSERT INTO orders VALUES (?, 1)", (order,))
    connection.execute("INSERT INTO orders VALUES (?, 2)", (order,))


def whole(*orders: str) -> list[tuple[str, int]]:
    return [(order, part) for order in sorted(orders) for part in (1, 2)]
