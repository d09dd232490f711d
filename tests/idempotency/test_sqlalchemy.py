"""Sessions of SQLAlchemy in the transaction of a claim."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from resilient.backends import connect
from resilient.idempotency import BlockingClaim, Claim, once
from resilient.idempotency.sqlalchemy import async_session, session
from tests.servers.postgres import Postgres


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(primary_key=True)
    cents: Mapped[int]


CREATE = "CREATE TABLE orders (id varchar PRIMARY KEY, cents integer)"


class Place:
    def __init__(self, url: str, read: Callable[[str], list[Any]]) -> None:
        self.store = connect(url)
        self._read = read
        read(CREATE)

    def orders(self) -> list[Any]:
        return self._read("SELECT id, cents FROM orders ORDER BY id")


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        path = tmp_path / "shop.db"

        def read(sql: str) -> list[Any]:
            connection = sqlite3.connect(path)
            rows = connection.execute(sql).fetchall()
            connection.close()
            return rows

        return Place(f"sqlite:///{path}", read)
    server: Postgres = request.getfixturevalue("postgres")
    url: str = request.getfixturevalue("postgres_url")
    return Place(url, lambda sql: server.ask(sql, url=url))


@pytest.mark.parametrize("resumable", [False, True])
def test_a_session_writes_in_the_claim_s_transaction(place: Place, resumable: bool) -> None:
    @once(place.store, key=lambda order, cents: order, resumable=resumable)
    def take(claim: BlockingClaim, order: str, cents: int) -> int:
        with claim.transaction() as connection, session(connection) as shop:
            shop.add(Order(id=order, cents=cents))
            shop.commit()
            shop.add(Order(id=f"{order}, undone", cents=0))
            shop.flush()
            shop.rollback()
            assert place.orders() == []
            return shop.scalars(select(Order.cents).where(Order.id == order)).one()

    assert [take("a", 5), take("a", 5)] == [5, 5]
    assert place.orders() == [("a", 5)]
    place.store.blocking.close()


def test_what_fails_leaves_nothing(place: Place) -> None:
    @once(place.store, key=lambda order, fail: order)
    def take(claim: BlockingClaim, order: str, fail: bool) -> str:
        try:
            with claim.transaction() as connection, session(connection) as shop:
                shop.add(Order(id=order, cents=1))
                shop.commit()
                raise ZeroDivisionError
        except ZeroDivisionError:
            if fail:
                raise
        return "declined"

    with pytest.raises(ZeroDivisionError):
        take("a", fail=True)
    assert take("b", fail=False) == "declined"
    assert place.orders() == []
    place.store.blocking.close()


def test_an_asynchronous_session_does_the_same(postgres: Postgres, postgres_url: str) -> None:
    postgres.ask(CREATE, url=postgres_url)
    store = connect(postgres_url)

    @once(store, key=lambda order: order)
    async def take(claim: Claim, order: str) -> int:
        async with claim.transaction() as connection, async_session(connection) as shop:
            shop.add(Order(id=order, cents=7))
            await shop.commit()
            shop.add(Order(id=f"{order}, undone", cents=0))
            await shop.flush()
            await shop.rollback()
            return (await shop.scalars(select(Order.cents).where(Order.id == order))).one()

    async def main() -> None:
        for order in ("a", "a", "b"):
            assert await take(order) == 7
        await store.close()

    anyio.run(main)
    assert postgres.ask("SELECT id FROM orders ORDER BY id", url=postgres_url) == [("a",), ("b",)]
