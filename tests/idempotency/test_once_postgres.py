"""`@once` over PostgreSQL: one commit or two, cancelled at every await."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest

from resilient.asgi import IdempotencyMiddleware
from resilient.backends import connect
from resilient.errors import InProgress, LeaseLost
from resilient.idempotency import BlockingClaim, Claim, once
from tests.asgi.calling import post, respond
from tests.backends.postgres.orders import Orders, execute
from tests.idempotency.test_cancellation import CancelledAt, until_answered
from tests.servers.postgres import Postgres


@pytest.fixture
def orders(postgres: Postgres, postgres_url: str) -> Orders:
    return Orders(postgres, postgres_url)


@pytest.mark.parametrize("resumable", [False, True], ids=["one commit", "resumable"])
@pytest.mark.parametrize("shape", ["block", "run"])
def test_a_native_cancellation_leaves_all_of_the_effect_or_nothing(orders: Orders, shape: str, resumable: bool) -> None:
    async def insert(connection: Any, order: str) -> None:
        for part in (1, 2):
            await execute(connection, "INSERT INTO orders VALUES (%s, %s)", order, part)

    runs = itertools.count(1)

    @once(orders.store, key=lambda order: order, resumable=resumable)
    async def take(claim: Claim, order: str) -> int:
        mine = next(runs)
        if shape == "run":
            await claim.run(insert, f"{order} by {mine}")
        else:
            async with claim.transaction() as connection:
                await insert(connection, f"{order} by {mine}")
        return mine

    async def main() -> int:
        cancelled, told = 0, []
        for number in itertools.count(1):
            task = asyncio.create_task(CancelledAt(take(f"order {number}"), number).run())
            await asyncio.wait([task])
            cancelled += task.cancelled()
            order = f"order {number}"
            told.append(f"{order} by {await until_answered(partial(take, order))}")
            if not task.cancelled():
                break
        await orders.store.close()
        assert orders.all() == sorted(told)
        return cancelled

    # A step that must not be torn is one await for its caller: claim, effect, record.
    assert asyncio.run(main()) >= 3


def test_a_cancelled_scope_leaves_all_of_the_effect_or_nothing(orders: Orders, backend: str) -> None:
    """Of asyncio and trio, after some time that nobody chose."""

    async def main() -> None:
        entered = anyio.Event()

        async def stay() -> None:
            if orders.runs == 1:
                entered.set()
                await anyio.sleep_forever()

        take = orders.taker(between=stay)
        async with anyio.create_task_group() as group:
            group.start_soon(take, "a")
            await entered.wait()
            group.cancel_scope.cancel()
        # It gave the key back: nobody waits for a lease to end.
        assert await take("a") == 2
        await orders.store.close()

    anyio.run(main, backend=backend)
    assert orders.all() == ["a"]


@pytest.mark.parametrize("resumable", [False, True], ids=["one commit", "resumable"])
def test_of_200_duplicates_one_runs(orders: Orders, backend: str, resumable: bool) -> None:
    take = orders.taker(resumable=resumable)
    answers: list[object] = []

    async def one() -> None:
        try:
            answers.append(await take("a"))
        except InProgress:
            answers.append(None)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(200):
                group.start_soon(one)
        assert await take("a") == 1
        await orders.store.close()

    anyio.run(main, backend=backend)
    assert set(answers) <= {1, None}
    assert orders.runs == 1
    assert orders.all() == ["a"]


def test_threads_share_the_store(orders: Orders) -> None:
    take = orders.plain_taker()
    answers: list[object] = []

    def one(order: str) -> None:
        try:
            answers.append(take(order))
        except InProgress:
            answers.append(None)

    threads = [threading.Thread(target=one, args=(f"order {number % 4}",)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        take(f"order {number}")
    assert orders.runs == 4
    assert orders.all() == [f"order {number}" for number in range(4)]
    orders.store.blocking.close()


def test_recovery_points_are_for_those_that_asked_for_them(orders: Orders) -> None:
    def work(claim: BlockingClaim, order: str) -> str:
        claim.save("reserved", {"order": order})
        with claim.transaction() as connection:
            connection.execute("INSERT INTO orders VALUES (%s, 1), (%s, 2)", (order, order))
        return claim.recovery_point

    key: Callable[..., str] = lambda order: order  # noqa: E731
    with pytest.raises(RuntimeError, match="pass resumable=True"):
        once(orders.store, key=key)(work)("a")
    assert once(orders.store, key=key, resumable=True)(work)("a") == "reserved"
    assert orders.all() == ["a"]
    orders.store.blocking.close()


def test_a_function_may_end_without_an_effect(orders: Orders) -> None:
    runs = itertools.count(1)

    @once(orders.store, key=lambda order: order)
    def decline(claim: BlockingClaim, order: str) -> int:
        if order == "released":
            claim.release()
        return next(runs)

    assert [decline("a"), decline("a")] == [1, 1]
    assert [decline("released"), decline("released")] == [2, 3]
    orders.store.blocking.close()


def test_one_that_takes_longer_than_its_lease_is_undone(orders: Orders, backend: str) -> None:
    async def main() -> None:
        async def dawdle() -> None:
            if orders.runs == 1:
                await anyio.sleep(0.8)

        take = orders.taker(after=dawdle, lease=0.3)
        with pytest.raises(LeaseLost):
            await take("a")
        assert orders.all() == []
        assert await take("a") == 2
        await orders.store.close()

    anyio.run(main, backend=backend)
    assert orders.all() == ["a"]


def test_a_store_s_url_is_enough(postgres: Postgres, postgres_url: str) -> None:
    @once(f"{postgres_url}?pool_size=2", key=lambda order: order)
    def take(claim: BlockingClaim, order: str) -> str:
        return order

    assert [take("a"), take("a")] == ["a", "a"]
    assert len(postgres.ask("SELECT * FROM resilient_claims", url=postgres_url)) == 1
    assert connect(postgres_url).blocking.lookup(f"{__name__}.{take.__qualname__}", "a") is not None


@pytest.mark.parametrize("resumable", [False, True], ids=["one commit", "resumable"])
def test_requests_are_one_commit_with_what_they_write(orders: Orders, backend: str, resumable: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        orders.runs += 1
        async with scope["resilient.claim"].transaction() as connection:
            await execute(connection, "INSERT INTO orders VALUES (%s, 1), (%s, 2)", scope["path"], scope["path"])
            if orders.runs == 1:
                raise ZeroDivisionError
        await respond(201, f"run {orders.runs}".encode())(send)

    async def main() -> None:
        protected = IdempotencyMiddleware(app, store=orders.store, mode="transactional", resumable=resumable)
        with pytest.raises(ZeroDivisionError):
            await post(protected)
        assert orders.all() == []
        answers = [await post(protected), await post(protected)]
        assert [(answer.status, answer.body, answer.replayed) for answer in answers] == [
            (201, b"run 2", False),
            (201, b"run 2", True),
        ]
        await orders.store.close()

    anyio.run(main, backend=backend)
    assert len(orders.all()) == 1
