"""What the connection of a claim does, and what it refuses."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import anyio
import psycopg
import pytest
from psycopg.rows import dict_row

from resilient.backends.postgres import PostgresStore
from resilient.backends.store import Busy, Replay, Run
from resilient.errors import StoreUnavailable
from tests.backends.postgres.orders import Orders, execute
from tests.servers.postgres import Postgres

MINE: dict[str, Any] = {"owner": "me", "lease": 30.0}


@pytest.fixture
def orders(postgres: Postgres, postgres_url: str) -> Orders:
    return Orders(postgres, postgres_url)


@pytest.fixture
def blocking(orders: Orders) -> Any:
    yield orders.store.blocking
    orders.store.blocking.close()


def opened(blocking: Any, key: str = "k") -> Any:
    return blocking.open("s", key, b"payload", ttl=60.0, **MINE).transaction


def claimed(blocking: Any, key: str = "k") -> Any:
    run = blocking.begin("s", key, b"payload", ttl=60.0, **MINE)
    assert isinstance(run, Run)
    return blocking.transaction(run)


KINDS = [opened, claimed]


@pytest.mark.parametrize("kind", KINDS)
def test_a_handler_cannot_end_the_transaction(orders: Orders, blocking: Any, kind: Callable[..., Any]) -> None:
    transaction = kind(blocking)
    connection = transaction.connection
    assert isinstance(connection, psycopg.Connection)
    connection.execute("INSERT INTO orders VALUES ('a', 1), ('a', 2)")
    for refused in (connection.commit, connection.rollback, connection.close, connection.__enter__):
        with pytest.raises(RuntimeError, match="of a claim"):
            refused()
    with pytest.raises(psycopg.ProgrammingError):
        connection.autocommit = True
    assert transaction.commit(b"", ttl=60.0)
    assert orders.all() == ["a"]


def test_nor_can_a_coroutine(orders: Orders) -> None:
    async def main() -> None:
        answer: Any = await orders.store.open("s", "k", b"payload", ttl=60.0, **MINE)
        connection = answer.transaction.connection
        assert isinstance(connection, psycopg.AsyncConnection)
        await execute(connection, "INSERT INTO orders VALUES ('a', 1), ('a', 2)")
        for refused in (connection.commit, connection.rollback, connection.close, connection.__aenter__):
            with pytest.raises(RuntimeError, match="of a claim"):
                await refused()
        assert await answer.transaction.commit(b"", ttl=60.0)
        with pytest.raises(RuntimeError, match="has ended"):
            await connection.execute("INSERT INTO orders VALUES ('late', 1)")
        await orders.store.close()

    anyio.run(main)
    assert orders.all() == ["a"]


@pytest.mark.parametrize("kind", KINDS)
def test_savepoints_of_the_handler_are_its_own(orders: Orders, blocking: Any, kind: Callable[..., Any]) -> None:
    transaction = kind(blocking)
    connection = transaction.connection
    with pytest.raises(ZeroDivisionError), connection.transaction():
        connection.execute("INSERT INTO orders VALUES ('a', 1)")
        raise ZeroDivisionError
    with connection.transaction():
        connection.execute("INSERT INTO orders VALUES ('b', 1), ('b', 2)")
    assert transaction.commit(b"", ttl=60.0)
    assert orders.all() == ["b"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_committed_by_hand_is_never_run_again(orders: Orders, blocking: Any, kind: Callable[..., Any]) -> None:
    transaction = kind(blocking)
    transaction.connection.execute("INSERT INTO orders VALUES ('a', 1), ('a', 2)")
    transaction.connection.execute("COMMIT")
    transaction.rollback()
    assert orders.all() == ["a"]
    assert blocking.begin("s", "k", b"payload", ttl=60.0, **MINE) == Replay(None)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_rolled_back_by_hand_is_never_recorded(
    orders: Orders, blocking: Any, kind: Callable[..., Any]
) -> None:
    transaction = kind(blocking)
    transaction.connection.execute("INSERT INTO orders VALUES ('a', 1)")
    transaction.connection.execute("ROLLBACK")
    transaction.connection.execute("INSERT INTO orders VALUES ('b', 1)")
    assert not transaction.commit(b"", ttl=60.0)
    assert orders.all() == []


def test_a_handler_s_settings_end_with_its_claim(blocking: Any) -> None:
    first = opened(blocking)
    first.connection.row_factory = dict_row
    first.connection.execute("SET LOCAL work_mem = '1MB'")
    assert first.connection.execute("SELECT 1 AS one").fetchone() == {"one": 1}
    first.rollback()
    second = opened(blocking)
    assert second.connection.execute("SELECT 1").fetchone() == (1,)
    assert second.connection.execute("SHOW work_mem").fetchone() != ("1MB",)
    assert second.connection.execute("SHOW lock_timeout").fetchone() == ("0",)
    second.rollback()


def test_whoever_was_left_behind_with_a_statement_is_waited_for(orders: Orders, blocking: Any) -> None:
    transaction = opened(blocking)
    connection = transaction.connection
    begun, problems = threading.Event(), []

    def go_on() -> None:
        try:
            for number in range(1000):
                connection.execute("INSERT INTO orders VALUES ('late', %s)", (number,))
                begun.set()
        except RuntimeError as error:
            problems.append(str(error))

    thread = threading.Thread(target=go_on)
    thread.start()
    begun.wait()
    transaction.rollback()
    thread.join()
    assert problems == ["the claim has ended, and so has the transaction of its connection"]
    assert orders.all() == []


def test_a_statement_that_does_not_end_is_cut_off(orders: Orders, blocking: Any) -> None:
    transaction = opened(blocking)
    connection = transaction.connection
    begun, problems = threading.Event(), []

    def sleep() -> None:
        begun.set()
        try:
            connection.execute("SELECT pg_sleep(30)")
        except psycopg.OperationalError as error:
            problems.append(str(error))

    thread = threading.Thread(target=sleep)
    thread.start()
    begun.wait()
    while not connection.lock.locked():
        pass
    transaction.rollback()
    thread.join(10)
    assert problems == ["no answer in time"]
    # The server goes on with it until it notices, and until then nobody else runs.
    assert isinstance(blocking.open("s", "k", b"payload", ttl=60.0, **MINE), Busy)
    opened(blocking, "other").rollback()


def test_connections_of_a_parent_are_not_used_by_its_child(orders: Orders, blocking: Any) -> None:
    assert opened(blocking).commit(b"parent", ttl=60.0)
    child = os.fork()
    if child == 0:
        answer = blocking.begin("s", "k", b"payload", ttl=60.0, **MINE)
        blocking.close()
        os._exit(0 if answer == Replay(b"parent") else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert blocking.begin("s", "k", b"payload", ttl=60.0, **MINE) == Replay(b"parent")


def test_a_store_serves_one_event_loop_after_another(orders: Orders, backend: str) -> None:
    async def main(key: str) -> None:
        assert isinstance(await orders.store.begin("s", key, b"", ttl=60.0, **MINE), Run)

    for key in ("a", "b", "c"):
        anyio.run(main, key, backend=backend)
    orders.store.blocking.close()


def test_a_server_that_cannot_be_written_to_is_not_available(postgres: Postgres, postgres_url: str) -> None:
    Orders(postgres, postgres_url).store.blocking.close()
    PostgresStore(postgres_url).blocking.lookup("s", "k")
    replica = PostgresStore(f"{postgres_url}?options=-cdefault_transaction_read_only%3Don")
    for begin in (replica.blocking.begin, replica.blocking.open):
        with pytest.raises(StoreUnavailable, match="read-only transaction"):
            begin("s", "k", b"", ttl=60.0, **MINE)
    replica.blocking.close()


@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
def test_of_many_who_begin_at_once_one_runs_at_every_isolation(orders: Orders, level: str) -> None:
    options = f"?options=-cdefault_transaction_isolation%3D{level.replace(' ', '%5C%20')}"
    store = PostgresStore(orders.direct + options, pool_size=5)
    answers: list[Any] = []

    async def main() -> None:
        async def one(key: str) -> None:
            answers.append(await store.begin("s", key, b"", ttl=60.0, **MINE))

        async with anyio.create_task_group() as group:
            for number in range(30):
                group.start_soon(one, f"k{number % 3}")
        await store.close()

    anyio.run(main)
    assert sum(isinstance(answer, Run) for answer in answers) == 3
