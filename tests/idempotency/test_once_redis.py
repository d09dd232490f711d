"""`@once` over Valkey: the effect is in the slot of its record, and neither is ever there without the other."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from resilient import once
from resilient.backends.redis import RedisEffect, RedisStore
from resilient.errors import InProgress, LeaseLost, StoreUnavailable
from resilient.events import ClaimLost, Event
from resilient.idempotency import BlockingClaim, Claim
from resilient.runtime import Runtime
from tests.servers.valkey import Valkey


class Till:
    """Its takings and its receipts lie in the same slot as its claims. Nothing there would hide a duplicate."""

    def __init__(self, server: Valkey, **options: Any) -> None:
        self.server = server
        self.store = RedisStore(server.url, tag=uuid.uuid4().hex, **options)
        self.takings, self.receipts = self.store.slot_key("takings"), self.store.slot_key("receipts")

    def charge(self, connection: RedisEffect, payment: str, cents: int) -> None:
        connection.execute("INCRBY", self.takings, cents)
        connection.execute("RPUSH", self.receipts, payment)

    def state(self) -> tuple[int, list[str]]:
        receipts = self.server.ask("LRANGE", self.receipts, 0, -1)
        return int(self.server.ask("GET", self.takings) or 0), [receipt.decode() for receipt in receipts]


@pytest.fixture
def till(valkey: Valkey) -> Till:
    return Till(valkey)


def test_a_payment_takes_effect_once_and_every_retry_gets_its_receipt(till: Till, backend: str) -> None:
    @once(till.store, key=lambda payment, cents: payment)
    async def pay(claim: Claim, payment: str, cents: int) -> int:
        async with claim.transaction() as connection:
            till.charge(connection, payment, cents)
        return claim.fence

    async def main() -> None:
        first = await pay("a", 500)
        assert [await pay("a", 500) for _ in range(3)] == [first] * 3
        await pay("b", 200)
        await till.store.close()

    anyio.run(main, backend=backend)
    assert till.state() == (700, ["a", "b"])


def test_the_effect_may_be_a_function(till: Till, backend: str) -> None:
    async def later(connection: RedisEffect, payment: str, cents: int) -> None:
        await anyio.lowlevel.checkpoint()
        till.charge(connection, payment, cents)

    @once(till.store, key=lambda payment: payment)
    async def pay(claim: Claim, payment: str) -> None:
        await claim.run(till.charge if payment == "a" else later, payment, 1)

    async def main() -> None:
        for payment in "aabb":
            await pay(payment)
        await till.store.close()

    anyio.run(main, backend=backend)
    assert till.state() == (2, ["a", "b"])


def test_a_plain_function_needs_no_event_loop(till: Till) -> None:
    @once(till.store, key=lambda payment, cents: payment)
    def pay(claim: BlockingClaim, payment: str, cents: int) -> int:
        with claim.transaction() as connection:
            till.charge(connection, payment, cents)
        return cents

    assert pay("a", 500) == pay("a", 500) == 500
    till.store.blocking.close()
    assert till.state() == (500, ["a"])


def test_an_effect_whose_reading_was_overtaken_is_tried_again_at_once(till: Till, backend: str) -> None:
    stock = till.store.slot_key("stock")
    till.server.ask("SET", stock, 5)
    reads = iter([5, 3])

    @once(till.store, key=lambda order: order)
    async def sell(claim: Claim, order: str) -> int:
        left = next(reads)
        async with claim.transaction() as connection:
            connection.expect(left, "GET", stock)
            connection.execute("SET", stock, left - 1)
        if left == 5:
            till.server.ask("DECRBY", stock, 2)  # somebody else
        return left - 1

    async def main() -> None:
        with pytest.raises(StoreUnavailable, match="not what was expected"):
            await sell("a")
        assert await sell("a") == 2
        await till.store.close()

    anyio.run(main, backend=backend)
    assert till.server.ask("GET", stock) == b"2"


def test_whoever_was_taken_over_inside_a_transaction_writes_nothing(till: Till, backend: str) -> None:
    told: list[Event] = []
    overtaken: list[int] = []

    @once(till.store, key=lambda payment: payment, scope="s", runtime=Runtime(emit=told.append))
    async def pay(claim: Claim, payment: str) -> str:
        async with claim.transaction() as connection:
            till.charge(connection, payment, 1)
            if not overtaken:
                overtaken.append(claim.fence)
                # As if the process had been stopped for longer than the lease.
                till.server.ask("HSET", f"resilient:{{{till.store.tag}}}:claim:1:s:{payment}", "lease", "1")
                assert await pay(payment) == "done"
        return "done"

    async def main() -> None:
        with pytest.raises(LeaseLost, match="nothing is written"):
            await pay("a")
        assert await pay("a") == "done"
        await till.store.close()

    anyio.run(main, backend=backend)
    assert till.state() == (1, ["a"])
    assert [each.fence for each in told if isinstance(each, ClaimLost)] == overtaken


def test_fenced_and_at_most_once_need_no_effect_here(till: Till, backend: str) -> None:
    ran: list[object] = []

    @once(till.store, key=lambda: "k", mode="fenced", scope="fenced")
    async def fenced(claim: Claim) -> str:
        ran.append(claim.derive_key("charge"))
        await claim.save("charged", {"receipt": 7})
        return "done"

    @once(till.store, key=lambda: "k", mode="at_most_once", scope="at most once")
    async def at_most_once(claim: Claim) -> str:
        ran.append(claim.fence)
        return "done"

    async def main() -> None:
        assert await fenced() == await fenced() == await at_most_once() == await at_most_once() == "done"
        await till.store.close()

    anyio.run(main, backend=backend)
    assert len(ran) == 2


@pytest.mark.parametrize("how", ["task", "scope"])
def test_cancelled_at_every_await_it_leaves_all_of_the_effect_or_nothing(
    valkey: Valkey, backend: str, how: str
) -> None:
    """With real connections, in real time, and so for a fresh key each time instead of in a fresh world."""
    if backend == "trio" and how == "task":
        how = "scope, late"  # trio has no other
    till = Till(valkey)
    runs: dict[str, int] = {}

    @once(till.store, key=lambda payment: payment)
    async def pay(claim: Claim, payment: str) -> int:
        runs[payment] = mine = runs.get(payment, 0) + 1
        await claim.save("priced", 5)
        async with claim.transaction() as connection:
            till.charge(connection, f"{payment} by {mine}", 1)
            await anyio.lowlevel.checkpoint()
        return mine

    async def main() -> int:
        await pay("warm")
        total = 1
        for moment in itertools.count(1):
            payment = f"payment {moment}"
            left = await cancelled_at(pay(payment), moment, how)
            with anyio.fail_after(20):
                mine = await until_answered(partial(pay, payment))
            total += 1
            takings, receipts = till.state()
            assert takings == total
            assert [each for each in receipts if each.startswith(f"{payment} by")] == [f"{payment} by {mine}"]
            if not left:
                break
        await till.store.close()
        return moment

    assert anyio.run(main, backend=backend) >= 4


async def until_answered(call: Callable[[], Coroutine[Any, Any, int]]) -> int:
    while True:
        try:
            return await call()
        except InProgress:  # whoever was cancelled is still giving the key back
            await anyio.sleep(0.001)


async def cancelled_at(coroutine: Coroutine[Any, Any, int], moment: int, how: str) -> bool:
    """Whether its caller left, as it was suspended for the n-th time."""
    if how == "task":
        watched = Watched(coroutine, moment)
        task = asyncio.create_task(watched.run())
        watched.act = lambda: asyncio.get_running_loop().call_soon(task.cancel)
        await asyncio.wait([task])
        return task.cancelled()
    with anyio.CancelScope() as scope:
        watched = Watched(coroutine, moment)
        watched.act = scope.cancel
        watched.late = how.endswith("late")
        await watched.run()
    return scope.cancelled_caught


class Watched:
    """A coroutine at whose n-th suspension something happens: as it begins, or as it ends."""

    act: Callable[[], object]
    late = False

    def __init__(self, coroutine: Coroutine[Any, Any, int], moment: int) -> None:
        self.coroutine, self.left = coroutine, moment

    async def run(self) -> int:
        return await self

    def __await__(self) -> Generator[Any, Any, int]:
        inner = self.coroutine.__await__()
        try:
            waits_for = inner.send(None)
            while True:
                self.left -= 1
                if self.left == 0 and not self.late:
                    self.act()
                try:
                    value = yield waits_for
                    if self.left == 0 and self.late:
                        self.act()
                except BaseException as error:
                    waits_for = inner.throw(error)
                else:
                    waits_for = inner.send(value)
        except StopIteration as stop:
            return int(stop.value)
