"""The same for plain functions: no event loop, the heartbeat in a thread."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from resilient.backends.memory import MemoryStore
from resilient.backends.sqlite import SQLiteStore
from resilient.errors import InProgress, KeyReused, LeaseLost, OutcomeUnknown
from resilient.idempotency import BlockingClaim, Claim, once
from tests.idempotency.shop import Shop, insert, whole


@pytest.fixture
def store(shop: Shop) -> SQLiteStore:
    return SQLiteStore(shop.path)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_plain_function_takes_effect_once(shop: Shop, store: SQLiteStore) -> None:
    @once(store, key=lambda order: order)
    def place(claim: BlockingClaim, order: str) -> str:
        with claim.transaction() as connection:
            insert(connection, order)
            assert claim.connection is connection
        return f"{order} placed"

    assert place("a") == place(order="a") == "a placed"
    assert shop.orders() == whole("a")


def test_an_exception_undoes_the_effect_and_frees_the_key(shop: Shop, store: SQLiteStore) -> None:
    calls = []

    @once(store, key=lambda order: order)
    def place(claim: BlockingClaim, order: str) -> str:
        calls.append(1)
        with claim.transaction() as connection:
            insert(connection, order)
            if len(calls) == 1:
                raise ConnectionError
        if len(calls) == 2:
            raise ConnectionError
        return "placed"

    for _ in range(2):
        with pytest.raises(ConnectionError):
            place("a")
        assert shop.orders() == []
    assert place("a") == "placed"
    assert shop.orders() == whole("a")


def test_other_answers_are_the_same_errors() -> None:
    store = MemoryStore()
    results: list[Any] = [object()]

    @once(store, key=lambda order: "k", mode="fenced")
    def place(claim: BlockingClaim, order: str) -> Any:
        with pytest.raises(InProgress):
            place(order)
        return results[0]

    with pytest.raises(TypeError):
        place("a")
    with pytest.raises(OutcomeUnknown):
        place("a")
    with pytest.raises(KeyReused):
        place("b")


def test_a_result_that_has_to_be_awaited_is_refused_and_nothing_stays(shop: Shop, store: SQLiteStore) -> None:
    async def later() -> None: ...

    @once(store, key=lambda order: order)
    def place(claim: BlockingClaim, order: str) -> Any:
        with claim.transaction() as connection:
            insert(connection, order)
        return later()

    with pytest.raises(TypeError, match="its result is awaitable"):
        place("a")
    assert shop.orders() == []


def test_a_thread_renews_the_lease_and_ends_with_the_call() -> None:
    store = MemoryStore()
    duplicate: list[float | None] = []

    @once(store, key=lambda: "k", mode="fenced", lease=0.3)
    def work(claim: BlockingClaim) -> str:
        renewed = store.blocking.lookup(claim.scope, "k")
        assert renewed is not None
        wait_until(lambda: store.blocking.lookup(claim.scope, "k").expires_in < renewed.expires_in - 0.6)  # type: ignore[union-attr]  # it is there
        with pytest.raises(InProgress) as raised:
            work()
        duplicate.append(raised.value.retry_after)
        return "done"

    before = threading.active_count()
    assert work() == "done"
    assert duplicate[0] is not None
    wait_until(lambda: threading.active_count() == before)


def test_a_recovery_point_is_saved_and_found() -> None:
    seen = []

    @once(MemoryStore(), key=lambda: "k", mode="fenced", lease=0.05)
    def work(claim: BlockingClaim) -> str:
        seen.append((claim.recovery_point, claim.recovery_data))
        if len(seen) == 1:
            claim.save("charged", [7])
            raise ConnectionError
        return "done"

    with pytest.raises(ConnectionError):
        work()

    def done() -> bool:
        try:
            return work() == "done"
        except InProgress:
            return False

    wait_until(done)
    assert seen == [("started", None), ("charged", [7])]


def test_a_transaction_that_is_held_for_longer_than_a_lease_is_undone(shop: Shop, store: SQLiteStore) -> None:
    @once(store, key=lambda order: order, lease=0.1)
    def place(claim: BlockingClaim, order: str) -> None:
        with claim.transaction() as connection:
            insert(connection, order)
            wait_until(lambda: claim.lost)
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                insert(connection, order)

    with pytest.raises(LeaseLost):
        place("a")
    assert shop.orders() == []


def test_many_threads_with_the_same_key_take_effect_once(shop: Shop, store: SQLiteStore) -> None:
    @once(store, key=lambda order: order)
    def place(claim: BlockingClaim, order: str) -> int:
        with claim.transaction() as connection:
            insert(connection, order)
        return claim.fence

    def until_answered(order: str) -> int:
        while True:
            try:
                return place(order)
            except InProgress:
                time.sleep(0.001)

    orders = [str(number % 5) for number in range(60)]
    with ThreadPoolExecutor(8) as pool:
        fences = set(zip(orders, pool.map(until_answered, orders), strict=True))
    assert len(fences) == 5
    assert shop.orders() == whole(*set(orders))


def test_one_store_serves_coroutines_and_plain_functions(shop: Shop, store: SQLiteStore, backend: str) -> None:
    @once(store, key=lambda order: order, scope="orders")
    def place_plainly(claim: BlockingClaim, order: str) -> str:
        with claim.transaction() as connection:
            insert(connection, order)
        return "placed"

    @once(store, key=lambda order: order, scope="orders")
    async def place(claim: Claim, order: str) -> str:
        raise AssertionError("it was placed before")

    assert place_plainly("a") == "placed"
    assert anyio.run(place, "a", backend=backend) == "placed"
    anyio.run(store.close, backend=backend)


def test_one_store_serves_several_event_loops_at_once(shop: Shop, store: SQLiteStore) -> None:
    @once(store, key=lambda order: order)
    async def place(claim: Claim, order: str) -> str:
        await claim.run(insert, order)
        return "placed"

    async def main(backend: str) -> None:
        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(place, f"{backend} {number}")

    backends = ["asyncio", "trio", "asyncio"]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda numbered: anyio.run(main, f"{numbered}", backend=numbered[1]), enumerate(backends)))
    assert len(shop.orders()) == 60


def test_a_worker_thread_writes_through_the_claim_of_its_coroutine(
    shop: Shop, store: SQLiteStore, backend: str
) -> None:
    """As a plain handler of FastAPI does."""

    def in_a_thread(claim: BlockingClaim, order: str) -> None:
        claim.save("thinking", {"order": order})
        with claim.transaction() as connection:
            insert(connection, order)

    @once(store, key=lambda order: order)
    async def place(claim: Claim, order: str) -> Any:
        await anyio.to_thread.run_sync(in_a_thread, claim.blocking, order)
        return claim.recovery_data

    async def main() -> None:
        assert await place("a") == await place("a") == {"order": "a"}
        await store.close()

    anyio.run(main, backend=backend)
    assert shop.orders() == whole("a")


def test_an_effect_that_calls_its_own_claim_is_told_so_instead_of_waiting_for_itself(
    shop: Shop, store: SQLiteStore, backend: str
) -> None:
    @once(store, key=lambda order: order)
    async def place(claim: Claim, order: str) -> None:
        def effect(connection: sqlite3.Connection) -> None:
            insert(connection, order)
            with pytest.raises(RuntimeError, match="open already"):
                claim.blocking.save("halfway")
            with pytest.raises(RuntimeError, match="open already"), claim.blocking.transaction():
                pass

        await claim.run(effect)

    async def main() -> None:
        await place("a")
        await store.close()

    anyio.run(main, backend=backend)
    assert shop.orders() == whole("a")


def test_the_blocking_face_of_a_coroutines_claim_refuses_to_block_the_event_loop(backend: str) -> None:
    @once(MemoryStore(), key=lambda: "k", mode="fenced")
    async def work(claim: Claim) -> None:
        with pytest.raises(RuntimeError, match="worker thread"):
            claim.blocking.save("here")

    anyio.run(work, backend=backend)
