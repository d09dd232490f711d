"""Adding to an outbox: through whose connections, in whose transactions, and what is refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
import sqlalchemy
from sqlalchemy.orm import Session

from resilient.errors import KeyReused, StoreUnavailable
from resilient.idempotency import BlockingClaim, Claim, Message, Outbox, Relay, connect, once


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop.db"


@pytest.fixture
def outbox(path: Path) -> Iterator[Outbox]:
    made = Outbox(f"sqlite:///{path}")
    yield made
    made.blocking.close()


def messages(outbox: Outbox) -> list[Message]:
    return outbox.blocking.claim(owner="me", limit=100, lease=0.001, attempts=1000).messages


def keys(outbox: Outbox) -> list[str]:
    return [message.key for message in messages(outbox)]


def test_a_message_is_there_when_its_transaction_is_committed(path: Path, outbox: Outbox) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE orders (id TEXT)")
        with connection:
            connection.execute("INSERT INTO orders VALUES ('a')")
            assert outbox.add(connection, "mail", {"order": "a"}, key="a") == "a"
            assert outbox.add(connection, "mail", b"raw", key="b", headers={"content-type": "x"}) == "b"
        with pytest.raises(ZeroDivisionError), connection:
            outbox.add(connection, "mail", {}, key="c")
            connection.execute("INSERT INTO orders VALUES ('c')")
            raise ZeroDivisionError
        assert connection.execute("SELECT id FROM orders").fetchall() == [("a",)]
    first, second = messages(outbox)
    assert (first.key, first.json()) == ("a", {"order": "a"})
    assert (second.key, second.payload, second.headers) == ("b", b"raw", {"content-type": "x"})


def test_tables_that_were_rolled_back_are_made_again(path: Path, outbox: Outbox) -> None:
    for key in ("a", "b"):
        with closing(sqlite3.connect(path)) as connection:
            outbox.add(connection, "mail", {}, key=key)
            connection.rollback()
    with closing(sqlite3.connect(path)) as connection, connection:
        outbox.add(connection, "mail", {}, key="c")
    assert keys(outbox) == ["c"]


def test_a_message_without_a_key_gets_one_that_stays(path: Path, outbox: Outbox) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        key = outbox.add(connection, "mail", {})
        assert outbox.add(connection, "mail", {}) != key
    first, again = keys(outbox), list[str]()
    while not again:  # their lease is a millisecond
        again = keys(outbox)
    assert first[0] == again[0] == key


def test_rows_of_the_users_own_kind_do_not_matter(path: Path, outbox: Outbox) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.row_factory = lambda cursor, row: {"row": row}
        for _ in range(2):
            outbox.add(connection, "mail", {}, key="a")
    assert keys(outbox) == ["a"]


def test_a_connection_that_commits_by_itself_is_refused_outside_of_a_transaction(path: Path, outbox: Outbox) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        with pytest.raises(RuntimeError, match="begin a transaction first"):
            outbox.add(connection, "mail", {})
        connection.execute("BEGIN")
        outbox.add(connection, "mail", {}, key="a")
        connection.execute("COMMIT")
    assert keys(outbox) == ["a"]


@pytest.mark.parametrize("place", ["other.db", ":memory:"])
def test_a_connection_to_another_database_is_refused(path: Path, outbox: Outbox, place: str) -> None:
    with (
        closing(sqlite3.connect(place if place == ":memory:" else path.with_name(place))) as connection,
        pytest.raises(ValueError, match="is not committed together"),
    ):
        outbox.add(connection, "mail", {})


def test_a_link_to_the_database_is_the_database(path: Path, outbox: Outbox) -> None:
    sqlite3.connect(path).close()
    link = path.with_name("link.db")
    link.symlink_to(path)
    with closing(sqlite3.connect(link)) as connection, connection:
        outbox.add(connection, "mail", {}, key="a")
    assert keys(outbox) == ["a"]


def test_tables_of_a_newer_release_are_left_alone(path: Path, outbox: Outbox) -> None:
    outbox.blocking.stats()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE resilient_schema SET version = 99 WHERE tables = 'outbox_messages'")
        with pytest.raises(StoreUnavailable, match="version 99"):
            outbox.add(connection, "mail", {})


@pytest.mark.parametrize("kind", ["connection", "session"])
def test_sqlalchemy(path: Path, outbox: Outbox, kind: str) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    for end in ("commit", "rollback"):
        with Session(engine) if kind == "session" else engine.connect() as connection:
            outbox.add(connection, "mail", {"x": 1}, key=end, group="g")
            outbox.add(connection, "mail", {"x": 1}, key=end, group="g")
            getattr(connection, end)()
    engine.dispose()
    assert keys(outbox) == ["commit"]


def test_sqlalchemy_that_commits_by_itself_is_refused(path: Path, outbox: Outbox) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{path}", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection, pytest.raises(RuntimeError, match="begin a transaction first"):
        outbox.add(connection, "mail", {})
    engine.dispose()


def test_a_connection_that_is_none_is_refused(outbox: Outbox) -> None:
    class Later:
        async def execute(self) -> None: ...

    with pytest.raises(TypeError, match="is asynchronous: use the method whose name ends in `_async`"):
        outbox.add(Later(), "mail", {})
    with pytest.raises(TypeError, match=r"connection=.*object"):
        outbox.add(object(), "mail", {})
    with closing(sqlite3.connect(":memory:")) as connection, pytest.raises(TypeError, match="is not asynchronous"):
        anyio.run(outbox.add_async, connection, "mail", {})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"topic": ""}, "topic=''"),
        ({"topic": "é" * 128}, "topic="),
        ({"key": ""}, "key=''"),
        ({"group": ""}, "group=''"),
        ({"group": 7}, "group=7"),
        ({"delay": -1.0}, "delay=-1.0"),
        ({"payload": b"x" * 2_000_000}, "2000000 bytes, and at most max_payload=1048576"),
    ],
)
def test_what_cannot_be_is_refused(path: Path, outbox: Outbox, fields: dict[str, Any], message: str) -> None:
    with closing(sqlite3.connect(path)) as connection, pytest.raises(ValueError, match=message):
        outbox.add(connection, **{"topic": "mail", "payload": {}} | fields)


def test_a_payload_that_would_come_back_different_is_refused(path: Path, outbox: Outbox) -> None:
    with closing(sqlite3.connect(path)) as connection:
        with pytest.raises(TypeError, match="tuple"):
            outbox.add(connection, "mail", {"x": (1, 2)})
        with pytest.raises(TypeError, match="headers"):
            outbox.add(connection, "mail", {}, headers={"x": 1})  # type: ignore[dict-item]


def test_an_outbox_needs_a_database() -> None:
    with pytest.raises(ValueError, match=r"MemoryStore.*in the database that effects are written to"):
        Outbox("memory://")
    with pytest.raises(ValueError, match=r"keep=-1\.0"):
        Outbox("sqlite:///x.db", keep=-1.0)
    with pytest.raises(ValueError, match="max_payload=-1"):
        Outbox("sqlite:///x.db", max_payload=-1)


def test_a_claim_sends_its_message_once(path: Path) -> None:
    store = connect(f"sqlite:///{path}")
    outbox = Outbox(store)
    sent: list[str] = []

    @once(store, key=lambda order: order)
    def place(claim: BlockingClaim, order: str) -> str:
        with claim.transaction() as connection:
            return outbox.add(connection, "mail", {"order": order}, key=claim.derive_key("mail"))

    async def deliver(message: Message) -> None:
        sent.append(message.key)

    assert place("a") == place("a")
    assert anyio.run(Relay(outbox, deliver).flush) == 1
    assert sent == [place("a")]
    store.blocking.close()
    outbox.blocking.close()


def test_a_claim_that_fails_sends_nothing(path: Path, backend: str) -> None:
    async def main() -> None:
        async with connect(f"sqlite:///{path}") as store, Outbox(store) as outbox:  # type: ignore[attr-defined]

            @once(store, key=lambda order: order)
            async def place(claim: Claim, order: str) -> None:
                await claim.run(outbox.add, "mail", {"order": order}, key=claim.derive_key("mail"))
                raise ConnectionError("no")

            with pytest.raises(ConnectionError):
                await place("a")
            assert (await outbox.stats()).pending == 0

    anyio.run(main, backend=backend)


def test_a_known_key_with_another_payload_is_refused(path: Path, outbox: Outbox) -> None:
    with closing(sqlite3.connect(path)) as connection:
        outbox.add(connection, "mail", {"cents": 1}, key="a")
        with pytest.raises(KeyReused, match="with another payload"):
            outbox.add(connection, "mail", {"cents": 2}, key="a")
