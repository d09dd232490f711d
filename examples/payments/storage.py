"""Where payments are kept: in an SQLite file, or in PostgreSQL."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Any, Protocol

from resilient import Claim
from resilient.idempotency import Outbox

CREATE = "CREATE TABLE IF NOT EXISTS payments (id TEXT NOT NULL, account TEXT NOT NULL, cents INTEGER NOT NULL)"
READ = "SELECT id, account, cents FROM payments"
# No constraint keeps a payment from being there twice: if it happened, it would be seen.


class Storage(Protocol):
    """What the service needs of its database."""

    def create(self) -> None:
        """Make the table."""
        ...

    async def write(self, claim: Claim, payment: dict[str, Any]) -> None:
        """Write a payment, and the message to the bank, in the transaction of the claim."""
        ...

    def read(self) -> list[tuple[str, str, int]]:
        """All payments."""
        ...


def message(claim: Claim, payment: dict[str, Any]) -> dict[str, Any]:
    """What goes into the outbox: bookings of one account in their order, under a key of the claim's."""
    return {"payload": payment, "key": claim.derive_key("booking"), "group": payment["account"]}


class SQLite:
    """In a file."""

    def __init__(self, url: str) -> None:
        self.path = url.removeprefix("sqlite:///")
        self.outbox = Outbox(url)

    def create(self) -> None:
        """Make the table."""
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            connection.execute(CREATE)

    async def write(self, claim: Claim, payment: dict[str, Any]) -> None:
        """Write a payment, in a worker thread."""

        def effect(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO payments VALUES (:id, :account, :cents)", payment)
            self.outbox.add(connection, "bookings", **message(claim, payment))

        await claim.run(effect)

    def read(self) -> list[tuple[str, str, int]]:
        """All payments."""
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(READ).fetchall()


class Postgres:
    """In a database of PostgreSQL: needs the extra `postgres`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.outbox = Outbox(url)

    def create(self) -> None:
        """Make the table."""
        import psycopg

        with contextlib.suppress(psycopg.errors.UniqueViolation), psycopg.connect(self.url) as connection:
            connection.execute(CREATE)  # of two that do it at once, one fails

    async def write(self, claim: Claim, payment: dict[str, Any]) -> None:
        """Write a payment."""
        async with claim.transaction() as connection:
            await connection.execute("INSERT INTO payments VALUES (%(id)s, %(account)s, %(cents)s)", payment)
            await self.outbox.add_async(connection, "bookings", **message(claim, payment))

    def read(self) -> list[tuple[str, str, int]]:
        """All payments."""
        import psycopg

        with psycopg.connect(self.url) as connection:
            return [(str(name), str(account), int(cents)) for name, account, cents in connection.execute(READ)]


def open_storage(url: str) -> Storage:
    """Return what keeps payments at `url`."""
    return Postgres(url) if url.startswith("postgresql") else SQLite(url)
