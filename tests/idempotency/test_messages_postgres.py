"""Outbox and inbox in a real PostgreSQL: whose connections, whose transactions, and a server that goes away."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from typing import Any

import anyio
import psycopg
import pytest
import sqlalchemy
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from resilient.backends.outbox import Settlement
from resilient.backends.postgres import PostgresStore
from resilient.errors import KeyReused, StoreUnavailable
from resilient.idempotency import BlockingClaim, Claim, Inbox, Message, Outbox, Receipt, Relay, connect, once
from tests.servers.postgres import Postgres


@pytest.fixture
def outbox(postgres_url: str) -> Iterator[Outbox]:
    made = Outbox(postgres_url)
    yield made
    made.blocking.close()


def claim(outbox: Outbox, limit: int = 100) -> list[Message]:
    return outbox.blocking.claim(owner="me", limit=limit, lease=60.0, attempts=1000).messages


def keys(outbox: Outbox) -> list[str]:
    return [message.key for message in claim(outbox)]


def delivered(message: Message) -> Settlement:
    return Settlement(message=message, state="delivered")


def alchemy(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://")


def test_psycopg(postgres_url: str, outbox: Outbox) -> None:
    for end in ("commit", "rollback"):
        with closing(psycopg.connect(postgres_url, row_factory=dict_row)) as connection:
            assert outbox.add(connection, "mail", {"x": 1}, key=end, group="g") == end
            assert outbox.add(connection, "mail", {"x": 1}, key=end, group="g") == end
            with pytest.raises(KeyReused):
                outbox.add(connection, "mail", {"x": 2}, key=end, group="g")
            getattr(connection, end)()
    (message,) = claim(outbox)
    assert (message.key, message.json(), message.group) == ("commit", {"x": 1}, "g")


def test_psycopg_that_commits_by_itself_is_refused_outside_of_a_transaction(postgres_url: str, outbox: Outbox) -> None:
    with closing(psycopg.connect(postgres_url, autocommit=True)) as connection:
        with pytest.raises(RuntimeError, match="begin a transaction first"):
            outbox.add(connection, "mail", {})
        with connection.transaction():
            outbox.add(connection, "mail", {}, key="a")
    assert keys(outbox) == ["a"]


@pytest.mark.parametrize("kind", ["connection", "session"])
def test_sqlalchemy(postgres_url: str, outbox: Outbox, kind: str) -> None:
    engine = sqlalchemy.create_engine(alchemy(postgres_url))
    for end in ("commit", "rollback"):
        with Session(engine) if kind == "session" else engine.connect() as connection:
            outbox.add(connection, "mail", b"\x00", key=end, group="g", headers={"a": "b"})
            outbox.add(connection, "mail", b"\x00", key=end, group="g", headers={"a": "b"})
            getattr(connection, end)()
    by_itself = engine.execution_options(isolation_level="AUTOCOMMIT")
    with by_itself.connect() as connection, pytest.raises(RuntimeError, match="begin a transaction first"):
        outbox.add(connection, "mail", {})
    engine.dispose()
    assert keys(outbox) == ["commit"]


@pytest.mark.parametrize("kind", ["psycopg", "sqlalchemy connection", "sqlalchemy session"])
def test_asynchronous_connections(postgres_url: str, outbox: Outbox, kind: str) -> None:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        if kind == "psycopg":
            async with await psycopg.AsyncConnection.connect(postgres_url) as connection:
                yield connection
            return
        engine = create_async_engine(alchemy(postgres_url))
        async with AsyncSession(engine) if kind.endswith("session") else engine.connect() as found:
            yield found
        await engine.dispose()

    async def main() -> None:
        async with opened() as connection:
            for end in ("commit", "rollback"):
                await outbox.add_async(connection, "mail", {"x": 1}, key=end, group="g")
                await outbox.add_async(connection, "mail", {"x": 1}, key=end, group="g")
                with pytest.raises(TypeError, match="is asynchronous"):
                    outbox.add(connection, "mail", {})
                await getattr(connection, end)()

    anyio.run(main)
    assert keys(outbox) == ["commit"]


def test_adds_to_one_group_wait_for_each_other_so_that_none_is_overtaken(postgres_url: str, outbox: Outbox) -> None:
    added = threading.Event()

    def add_second() -> None:
        with psycopg.connect(postgres_url) as connection:
            outbox.add(connection, "mail", {}, key="second", group="g")
            added.set()

    with psycopg.connect(postgres_url) as connection:
        outbox.add(connection, "mail", {}, key="first", group="g")
        thread = threading.Thread(target=add_second)
        thread.start()
        with psycopg.connect(postgres_url) as other:
            outbox.add(other, "mail", {}, key="another group", group="h")
        assert keys(outbox) == ["another group"]
        assert not added.wait(0.1)
    thread.join(10)
    assert keys(outbox) == ["first"]


def test_a_message_that_is_settled_while_the_next_is_looked_at_does_not_leave_it_waiting(
    postgres_url: str, outbox: Outbox
) -> None:
    """A relay is about to let the second one wait, and the first one is delivered at that very moment."""
    with psycopg.connect(postgres_url) as connection:
        for number in range(200):
            outbox.add(connection, "mail", {}, key=str(number), group=f"g{number % 4}")
    got: list[str] = []

    def work() -> None:
        while len(got) < 200:
            for message in claim(outbox, 2):
                got.append(message.key)
                outbox.blocking.settle([delivered(message)])

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    assert outbox.blocking.stats().delivered == 200
    for group in range(4):
        numbers = [int(key) for key in got if int(key) % 4 == group]
        assert numbers == sorted(numbers)


def test_a_relay_outlives_its_server(postgres: Postgres, postgres_url: str, outbox: Outbox, backend: str) -> None:
    got: list[str] = []

    async def deliver(message: Message) -> None:
        got.append(message.key)

    def add(*names: str) -> None:
        with psycopg.connect(postgres_url) as connection:
            for key in names:
                outbox.add(connection, "mail", {}, key=key)

    async def wait_for(*names: str) -> None:
        with anyio.fail_after(20):
            while set(got) != set(names):
                await anyio.sleep(0.01)

    async def main() -> None:
        relay = Relay(outbox, deliver, poll=0.05)
        async with anyio.create_task_group() as group:
            group.start_soon(relay.run)
            add("a", "b")
            await wait_for("a", "b")
            await anyio.to_thread.run_sync(postgres.kill)
            with pytest.raises(StoreUnavailable):
                await outbox.stats()
            await anyio.sleep(0.3)
            await anyio.to_thread.run_sync(postgres.start)
            add("c")
            await wait_for("a", "b", "c")
            relay.stop()

    anyio.run(main, backend=backend)


def test_a_claim_sends_its_message_once(postgres_url: str, backend: str) -> None:
    sent: list[str] = []

    async def deliver(message: Message) -> None:
        sent.append(message.key)

    async def main() -> None:
        store = connect(postgres_url)
        outbox = Outbox(store)

        async def add(connection: Any, key: str) -> str:
            # The connection is an asynchronous one on asyncio, and a blocking one on trio.
            if backend == "asyncio":
                return await outbox.add_async(connection, "mail", {}, key=key)
            return outbox.add(connection, "mail", {}, key=key)

        @once(store, key=lambda order: order)
        async def place(claim: Claim, order: str) -> str:
            async with claim.transaction() as connection:
                return await add(connection, claim.derive_key("mail"))

        @once(store, key=lambda order: order, scope="failing")
        async def fail(claim: Claim, order: str) -> None:
            async with claim.transaction() as connection:
                await add(connection, "never")
                raise ConnectionError("no")

        key = await place("a")
        assert await place("a") == key
        with pytest.raises(ConnectionError):
            await fail("a")
        assert await Relay(outbox, deliver).flush() == 1
        assert sent == [key]
        await outbox.close()
        await store.close()

    anyio.run(main, backend=backend)


def test_tables_that_may_not_be_made_are_asked_for(postgres_url: str) -> None:
    store = PostgresStore(postgres_url, migrate=False)
    with psycopg.connect(postgres_url) as connection:
        with pytest.raises(StoreUnavailable, match=r"its outbox_messages have version 0.*resilient store migrate"):
            Outbox(store).add(connection, "mail", {})
        with pytest.raises(StoreUnavailable, match=r"its inbox_records have version 0.*resilient store migrate"):
            Inbox(store, consumer="billing").advance(connection, "s", 1)
    store.blocking.close()


def bills(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM bills ORDER BY name")]


def create_bills(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE bills (name text)")


def test_an_inbox_in_an_event_loop(postgres_url: str, backend: str) -> None:
    create_bills(postgres_url)

    async def main() -> None:
        inbox = Inbox(postgres_url, consumer="billing", attempts=2)

        @inbox.handler
        async def bill(claim: Claim, payload: bytes) -> None:
            async with claim.transaction() as connection:
                insert = connection.execute("INSERT INTO bills VALUES (%s)", (payload.decode(),))
                if backend == "asyncio":
                    await insert
            if payload == b"bad":
                raise ValueError("unreadable")

        assert await bill(b"a", stream="s", position=1) is Receipt.PROCESSED
        assert await bill(b"a", stream="s", position=1) is Receipt.DUPLICATE
        assert await inbox.position("s") == 1
        with pytest.raises(ValueError, match="unreadable"):
            await bill(b"bad", stream="s", position=2)
        with pytest.raises(RuntimeError, match="failed; deliver that one again first"):
            await bill(b"b", stream="s", position=3)
        assert await bill(b"bad", stream="s", position=2) is Receipt.PARKED
        assert await bill(b"b", stream="s", position=3) is Receipt.PROCESSED
        assert await bill(b"c", key="c") is Receipt.PROCESSED
        (failure,) = await inbox.parked()
        assert (failure.attempts, failure.letter.payload) == (2, b"bad")
        assert await inbox.discard(failure.id) == 1
        if backend == "asyncio":
            async with await psycopg.AsyncConnection.connect(postgres_url) as connection:
                assert await inbox.advance_async(connection, "s", 9)
                assert not await inbox.advance_async(connection, "s", 9)
            assert await inbox.position("s") == 9
        await inbox.close()

    anyio.run(main, backend=backend)
    assert bills(postgres_url) == ["a", "b", "c"]


def test_an_inbox_of_plain_functions(postgres_url: str) -> None:
    create_bills(postgres_url)
    inbox = Inbox(postgres_url, consumer="billing")
    fails = True

    @inbox.handler
    def bill(claim: BlockingClaim, payload: bytes) -> None:
        with claim.transaction() as connection:
            connection.execute("INSERT INTO bills VALUES (%s)", (payload.decode(),))
        if fails:
            raise ConnectionError("no")

    with pytest.raises(ConnectionError):
        bill(b"a", key="1")
    assert inbox.blocking.stats("billing").failing == 1
    fails = False
    assert bill(b"a", key="1") is Receipt.PROCESSED
    assert bill(b"a", key="1") is Receipt.DUPLICATE
    assert inbox.blocking.stats("billing").failing == 0
    with psycopg.connect(postgres_url) as connection:
        assert inbox.advance(connection, "s", 7)
    assert inbox.blocking.position("billing", "s") == 7
    assert bills(postgres_url) == ["a"]
    anyio.run(inbox.close)
