"""What a store promises that can commit claim, effect and record at once."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from resilient.backends.faces import DirectStore
from resilient.backends.store import (
    Answer,
    BlockingOneCommitStore,
    Busy,
    Mismatch,
    OneCommitStore,
    Opened,
    OpenTransaction,
    Replay,
    Run,
    Store,
)
from tests.contract.stores import SHELVES, Clock, Shelf

LEASE = 30.0
TTL = 3600.0
STORES = ["postgres"]

Scenario = Callable[[Store, Clock], Awaitable[None]]


@pytest.fixture(params=STORES)
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    return SHELVES[request.param](tmp_path)


@pytest.fixture
def check(shelf: Shelf, backend: str) -> Callable[[Scenario], None]:
    """Runs a scenario with a store and its clock."""

    async def main(scenario: Scenario) -> None:
        store = shelf.make()
        _, transaction = await opened(store, "a table")
        await execute(transaction.connection, "CREATE TABLE effects (value INTEGER)")
        assert await transaction.commit(None, ttl=TTL)
        await scenario(store, shelf.clock)
        await store.close()

    return lambda scenario: anyio.run(partial(main, scenario), backend=backend)


async def ask(store: Store, key: str = "k", payload: bytes = b"payload") -> Opened | Answer:
    opener = cast("OneCommitStore", store)
    return await opener.open("s", key, payload, owner="me", lease=LEASE, ttl=TTL)


async def opened(store: Store, key: str = "k") -> tuple[Run, OpenTransaction]:
    answer = await ask(store, key)
    assert isinstance(answer, Opened)
    return answer.run, answer.transaction


async def execute(connection: Any, sql: str) -> Any:
    """Run a statement through a connection of either kind, and return its rows."""
    cursor = connection.execute(sql)
    if inspect.isawaitable(cursor):
        cursor = await cursor
    if cursor.description is None:
        return None
    rows = cursor.fetchall()
    return await rows if inspect.isawaitable(rows) else rows


async def write(transaction: OpenTransaction, value: int) -> None:
    await execute(transaction.connection, f"INSERT INTO effects VALUES ({value})")  # noqa: S608 - our own


async def effects(store: Store) -> list[int]:
    """What has been committed, read in a transaction of its own."""
    _, transaction = await opened(store, "reader")
    rows = await execute(transaction.connection, "SELECT value FROM effects ORDER BY value")
    await transaction.rollback()
    return [value for (value,) in rows]


def test_those_that_can_say_so_and_the_others_do_not(tmp_path: Path) -> None:
    able = set()
    for name, make in SHELVES.items():
        folder = tmp_path / name
        folder.mkdir()
        if isinstance(make(folder).make().blocking, BlockingOneCommitStore):
            able.add(name)
    assert able == set(STORES)


def test_a_store_that_cannot_refuses(tmp_path: Path) -> None:
    store = DirectStore(SHELVES["memory"](tmp_path).make().blocking)
    with pytest.raises(TypeError, match="commits its claims apart"):
        anyio.run(ask, store)


def test_claim_effect_and_record_come_at_once(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        run, transaction = await opened(store)
        assert (run.scope, run.key, run.owner, run.takeover, run.recovery_point) == ("s", "k", "me", False, "started")
        await write(transaction, 1)
        assert await store.lookup("s", "k") is None
        assert await effects(store) == []
        assert await transaction.commit(b"result", ttl=TTL)
        record = await store.lookup("s", "k")
        assert record is not None
        assert (record.state, record.fence, record.result) == ("done", run.fence, b"result")
        assert record.expires_in == pytest.approx(TTL)
        assert await effects(store) == [1]
        assert await ask(store) == Replay(b"result")
        assert await ask(store, payload=b"other") == Mismatch()

    check(scenario)


def test_what_is_rolled_back_was_never_claimed(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        first, transaction = await opened(store)
        await write(transaction, 1)
        await transaction.rollback()
        assert await store.lookup("s", "k") is None
        assert await effects(store) == []
        second, transaction = await opened(store)
        assert not second.takeover
        assert second.fence > first.fence
        await transaction.rollback()
        assert not await transaction.commit(b"late", ttl=TTL)

    check(scenario)


def test_an_effect_that_is_undone_leaves_the_claim(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        _, transaction = await opened(store)
        await write(transaction, 1)
        await transaction.undo()
        await write(transaction, 2)
        await transaction.undo()
        await write(transaction, 3)
        assert await transaction.commit(b"third", ttl=TTL)
        assert await effects(store) == [3]
        assert await ask(store) == Replay(b"third")

    check(scenario)


def test_an_error_of_the_database_is_undone_as_well(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        _, transaction = await opened(store)
        with pytest.raises(Exception, match="nowhere"):
            await execute(transaction.connection, "INSERT INTO nowhere VALUES (1)")
        await transaction.undo()
        await write(transaction, 1)
        assert await transaction.commit(b"result", ttl=TTL)
        assert await effects(store) == [1]

    check(scenario)


def test_an_error_of_the_database_that_is_swallowed_leaves_nothing(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        _, transaction = await opened(store)
        await write(transaction, 1)
        with pytest.raises(Exception, match="nowhere"):
            await execute(transaction.connection, "INSERT INTO nowhere VALUES (1)")
        assert not await transaction.commit(b"result", ttl=TTL)
        assert await effects(store) == []
        assert isinstance(await ask(store), Opened)

    check(scenario)


def test_a_duplicate_waits_for_a_while_and_learns_that_somebody_is_at_it(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        _, transaction = await opened(store)
        busy = await ask(store)
        assert isinstance(busy, Busy)
        assert 0 < busy.retry_after < LEASE
        assert isinstance(await store.begin("s", "k", b"payload", owner="me", lease=LEASE, ttl=TTL), Busy)
        await transaction.rollback()

    check(scenario)


@pytest.mark.parametrize("outcome", ["commit", "rollback"])
def test_a_duplicate_that_waits_finds_what_became_of_it(check, outcome: str) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        _, transaction = await opened(store)
        await write(transaction, 1)
        answers: list[Opened | Answer] = []

        async def duplicate() -> None:
            answers.append(await ask(store))

        async with anyio.create_task_group() as group:
            group.start_soon(duplicate)
            await anyio.sleep(0.1)
            assert answers == []
            if outcome == "commit":
                assert await transaction.commit(b"result", ttl=TTL)
            else:
                await transaction.rollback()
        (answer,) = answers
        if outcome == "commit":
            assert answer == Replay(b"result")
        else:
            assert isinstance(answer, Opened)
            await answer.transaction.rollback()

    check(scenario)


def test_a_claim_that_was_made_apart_is_taken_over_when_its_lease_is_over(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        zombie = await store.begin("s", "k", b"payload", owner="zombie", lease=LEASE, ttl=TTL)
        assert isinstance(zombie, Run)
        assert isinstance(await ask(store), Busy)
        clock.advance(LEASE)
        run, transaction = await opened(store)
        assert run.takeover
        assert run.fence > zombie.fence
        assert await transaction.commit(b"result", ttl=TTL)
        assert not await store.complete(zombie, b"zombie", ttl=TTL)
        assert await ask(store) == Replay(b"result")

    check(scenario)


def test_after_its_retention_a_key_is_a_new_operation(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        first, transaction = await opened(store)
        assert await transaction.commit(b"old", ttl=TTL)
        clock.advance(TTL)
        second, transaction = await opened(store)
        assert not second.takeover
        assert second.fence > first.fence
        await transaction.rollback()

    check(scenario)


def test_nothing_is_written_after_the_end(check) -> None:
    async def scenario(store: Store, clock: Clock) -> None:
        for number, end in enumerate(("commit", "rollback")):
            _, transaction = await opened(store, end)
            await write(transaction, number)
            connection = transaction.connection
            await (transaction.commit(b"", ttl=TTL) if end == "commit" else transaction.rollback())
            with pytest.raises(RuntimeError, match="has ended"):
                await execute(connection, "INSERT INTO effects VALUES (99)")
        assert await effects(store) == [0]

    check(scenario)
