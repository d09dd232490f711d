"""Orders in a PostgreSQL database, without a constraint that would hide a duplicate, and what takes them once."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from resilient.backends.postgres import PostgresStore
from resilient.idempotency import BlockingClaim, Claim, once
from tests.servers.postgres import Postgres

Step = Callable[[], Awaitable[None]]


async def execute(connection: Any, sql: str, *values: Any) -> None:
    """Run a statement through a connection of either kind."""
    done = connection.execute(sql, values)
    if inspect.isawaitable(done):
        await done


class Orders:
    """`url` is where the store finds the database, by way of a proxy perhaps."""

    def __init__(self, server: Postgres, url: str, *, through: int | None = None, **options: Any) -> None:
        self._server = server
        self.direct = url
        self.url = url if through is None else url.replace(f":{server.port}/", f":{through}/")
        server.ask("CREATE TABLE IF NOT EXISTS orders (id text, part integer)", url=url)
        self.options: dict[str, Any] = {"timeout": 2.0, **options}
        self.store = self.open_store()
        self.runs = 0

    def open_store(self) -> PostgresStore:
        return PostgresStore(self.url, **self.options)

    def all(self) -> list[str]:
        """The orders that are there, and are whole."""
        rows = self._server.ask("SELECT id, part FROM orders ORDER BY id, part", url=self.direct)
        names = [name for name, part in rows if part == 1]
        assert [name for name, part in rows if part == 2] == names
        return names

    def taker(self, *, between: Step | None = None, after: Step | None = None, **terms: Any) -> Any:
        """A function that takes an order, in two parts, and does something in between and after them."""

        @once(self.store, key=lambda order: order, scope="orders", **terms)
        async def take(claim: Claim, order: str) -> int:
            self.runs += 1
            mine = self.runs
            async with claim.transaction() as connection:
                await execute(connection, "INSERT INTO orders VALUES (%s, 1)", order)
                if between is not None:
                    await between()
                await execute(connection, "INSERT INTO orders VALUES (%s, 2)", order)
            if after is not None:
                await after()
            return mine

        return take

    def plain_taker(self, *, between: Callable[[], object] | None = None, **terms: Any) -> Any:
        """The same, as a plain function."""

        @once(self.store, key=lambda order: order, scope="orders", **terms)
        def take(claim: BlockingClaim, order: str) -> int:
            self.runs += 1
            mine = self.runs
            with claim.transaction() as connection:
                connection.execute("INSERT INTO orders VALUES (%s, 1)", (order,))
                if between is not None:
                    between()
                connection.execute("INSERT INTO orders VALUES (%s, 2)", (order,))
            return mine

        return take
