"""Messages that are delivered again and again, and take effect once."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from resilient.context import current_runtime, use_runtime
from resilient.errors import CircuitOpen, InProgress, LeaseLost, StoreUnavailable
from resilient.events import Event, MessageParked
from resilient.idempotency import BlockingClaim, Claim, Inbox, Receipt
from resilient.runtime import Runtime
from resilient.testing.cancellation import for_each_cancellation
from tests.idempotency.shop import Shop, insert, whole

PROCESSED, DUPLICATE, PARKED = Receipt.PROCESSED, Receipt.DUPLICATE, Receipt.PARKED


class Billing:
    """A consumer: it writes both parts of an order, and fails as it is told."""

    def __init__(self, shop: Shop, **terms: Any) -> None:
        self.shop = shop
        self.inbox = Inbox(shop.store, consumer="billing", **terms)
        self.runs: list[str] = []
        self.error: Exception | None = None
        self.takes = 0.0
        self.handle = self.inbox.handler(self._handle)

    async def _handle(self, claim: Claim, payload: bytes) -> None:
        order = payload.decode()
        self.runs.append(order)
        await current_runtime().sleep(self.takes)
        async with claim.transaction() as connection:
            insert(connection, order)
        if self.error is not None:
            raise self.error

    async def fails(self, payload: bytes, **place: Any) -> Exception:
        try:
            await self.handle(payload, **place)
        except Exception as error:
            return error
        pytest.fail("it did not fail")


@pytest.fixture
def billing(shop: Shop) -> Billing:
    return Billing(shop, attempts=3)


def test_a_message_takes_effect_once_however_often_it_is_delivered(run, billing: Billing) -> None:
    async def main() -> None:
        assert await billing.handle(b"a", key="1") is PROCESSED
        assert await billing.handle(b"a", key="1") is DUPLICATE
        assert await billing.handle(b"b", key="2") is PROCESSED
        assert billing.runs == ["a", "b"]
        assert billing.shop.orders() == whole("a", "b")

    run(main)


def test_each_consumer_processes_every_message(run, shop: Shop) -> None:
    async def main() -> None:
        other = Inbox(shop.store, consumer="shipping")

        @other.handler
        async def ship(claim: Claim, payload: bytes) -> None:
            await claim.run(insert, "shipped")

        assert await Billing(shop).handle(b"a", key="1") is PROCESSED
        assert await ship(b"a", key="1") is PROCESSED
        assert shop.orders() == whole("a", "shipped")

    run(main)


def test_a_handler_that_fails_leaves_nothing_and_is_tried_again(run, billing: Billing) -> None:
    async def main() -> None:
        billing.error = ConnectionError("no")
        error = await billing.fails(b"a", key="1")
        assert error is billing.error
        assert error.__notes__ == ["resilient: attempt 1 of 3; have '1' delivered again"]
        assert billing.shop.orders() == []
        assert (await billing.inbox.stats()).failing == 1
        billing.error = None
        assert await billing.handle(b"a", key="1") is PROCESSED
        assert billing.shop.orders() == whole("a")
        assert (await billing.inbox.stats()).failing == 0

    run(main)


def test_after_so_many_failures_a_message_is_parked_and_acknowledged(run, billing: Billing) -> None:
    async def main() -> None:
        billing.error = ValueError("unreadable")
        await billing.fails(b"a", key="1")
        await billing.fails(b"a", key="1")
        assert await billing.handle(b"a", key="1") is PARKED
        assert await billing.handle(b"a", key="1") is PARKED
        assert len(billing.runs) == 3
        (failure,) = await billing.inbox.parked()
        assert (failure.letter.key, failure.letter.payload) == ("1", b"a")
        assert (failure.attempts, failure.error) == (3, "ValueError: unreadable")
        assert (await billing.inbox.stats()).parked == 1

    run(main)


def test_a_parked_message_can_be_processed_after_all(run, billing: Billing) -> None:
    async def main() -> None:
        billing.error = ValueError("unreadable")
        for _ in range(3):
            with contextlib.suppress(ValueError):
                await billing.handle(b"a", key="1")
        (failure,) = await billing.inbox.parked()
        with pytest.raises(ValueError, match="unreadable"):
            await billing.handle.retry(failure)
        assert [each.id for each in await billing.inbox.parked()] == [failure.id]
        billing.error = None
        assert await billing.handle.retry(failure) is PROCESSED
        assert await billing.inbox.parked() == []
        assert await billing.handle.retry(failure) is DUPLICATE
        assert await billing.handle(b"a", key="1") is DUPLICATE
        assert billing.shop.orders() == whole("a")

    run(main)


def test_what_no_repetition_changes_is_parked_at_once_and_can_be_discarded(run, shop: Shop) -> None:
    async def main() -> None:
        billing = Billing(shop, park_on=(ValueError,))
        billing.error = ValueError("unreadable")
        assert await billing.handle(b"a", key="1") is PARKED
        (failure,) = await billing.inbox.parked()
        assert failure.attempts == 1
        assert await billing.inbox.discard(failure.id) == 1
        assert await billing.inbox.parked() == []

    run(main)


@pytest.mark.parametrize("error", [CircuitOpen("open"), StoreUnavailable("down"), InProgress("busy")])
def test_what_is_not_the_messages_fault_does_not_count(run, billing: Billing, error: Exception) -> None:
    async def main() -> None:
        billing.error = error
        for _ in range(10):
            assert await billing.fails(b"a", key="1") is error
        assert (await billing.inbox.stats()).failing == 0
        billing.error = None
        assert await billing.handle(b"a", key="1") is PROCESSED

    run(main)


def test_another_message_under_a_known_key_is_parked_not_lost(run, billing: Billing) -> None:
    async def main() -> None:
        assert await billing.handle(b"a", key="1") is PROCESSED
        assert await billing.handle(b"b", key="1") is PARKED
        assert await billing.handle(b"b", key="1") is PARKED
        assert await billing.handle(b"a", key="1") is DUPLICATE
        (failure,) = await billing.inbox.parked()
        assert failure.letter.payload == b"b"
        assert failure.error.startswith("KeyReused")
        assert await billing.handle.retry(failure) is PROCESSED
        assert billing.shop.orders() == whole("a", "b")
        assert await billing.inbox.parked() == []

    run(main)


def test_while_one_consumer_has_it_the_others_are_told_to_come_later(run, billing: Billing) -> None:
    async def main() -> None:
        billing.takes = 5.0
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: billing.handle(b"a", key="1"))
            await current_runtime().sleep(1)
            error = await billing.fails(b"a", key="1")
            assert isinstance(error, InProgress)
            assert error.retry_after is not None
        assert await billing.handle(b"a", key="1") is DUPLICATE
        assert billing.shop.orders() == whole("a")

    run(main)


def test_the_position_is_committed_with_the_effect(run, billing: Billing) -> None:
    async def main() -> None:
        assert await billing.inbox.position("orders/0") is None
        for position in (10, 11, 15):
            assert await billing.handle(f"{position}".encode(), stream="orders/0", position=position) is PROCESSED
            assert await billing.inbox.position("orders/0") == position
        assert await billing.handle(b"11", stream="orders/0", position=11) is DUPLICATE
        assert await billing.handle(b"12", stream="orders/0", position=12) is DUPLICATE  # there was none before
        billing.error = ConnectionError("no")
        await billing.fails(b"16", stream="orders/0", position=16)
        assert await billing.inbox.position("orders/0") == 15
        assert await billing.inbox.position("orders/1") is None
        assert billing.shop.orders() == whole("10", "11", "15")

    run(main)


def test_no_message_of_a_stream_overtakes_one_that_failed(run, billing: Billing) -> None:
    async def main() -> None:
        billing.error = ConnectionError("no")
        await billing.fails(b"1", stream="s", position=1)
        billing.error = None
        error = await billing.fails(b"2", stream="s", position=2)
        assert isinstance(error, RuntimeError)
        assert "the message at 1 of 's' failed; deliver that one again first" in str(error)
        assert await billing.handle(b"1", stream="s", position=1) is PROCESSED
        assert await billing.handle(b"2", stream="s", position=2) is PROCESSED
        assert billing.shop.orders() == whole("1", "2")

    run(main)


def test_a_stream_goes_on_behind_a_parked_message(run, billing: Billing) -> None:
    async def main() -> None:
        billing.error = ConnectionError("no")
        await billing.fails(b"1", stream="s", position=1)
        await billing.fails(b"1", stream="s", position=1)
        assert await billing.handle(b"1", stream="s", position=1) is PARKED
        billing.error = None
        assert await billing.handle(b"2", stream="s", position=2) is PROCESSED
        (failure,) = await billing.inbox.parked()
        assert await billing.handle.retry(failure) is PROCESSED
        assert await billing.inbox.position("s") == 2
        assert billing.shop.orders() == whole("1", "2")

    run(main)


def test_a_stream_in_batches_of_its_own(run, billing: Billing) -> None:
    def write_batch(name: str, position: int) -> bool:
        with closing(sqlite3.connect(billing.shop.path)) as connection, connection:
            if not billing.inbox.advance(connection, "s", position):
                return False
            insert(connection, name)
            return True

    async def main() -> None:
        assert write_batch("first", 100)
        assert not write_batch("first", 100)
        assert write_batch("second", 200)
        assert await billing.inbox.position("s") == 200
        assert billing.shop.orders() == whole("first", "second")
        assert await billing.handle(b"x", stream="s", position=150) is DUPLICATE

    run(main)


def test_a_consumer_that_was_followed_writes_nothing(run, shop: Shop) -> None:
    async def main() -> None:
        billing = Billing(shop, lease=3.0)
        zombies: list[Exception] = []

        async def stand_still(claim: Claim, payload: bytes) -> None:
            # As if its process stood still for longer than the lease: no heartbeat.
            claim._execution._stop()
            await current_runtime().sleep(10)
            async with claim.transaction() as connection:
                insert(connection, "zombie")

        zombie = billing.inbox.handler(stand_still)

        async def deliver_to_zombie() -> None:
            try:
                await zombie(b"a", key="1")
            except LeaseLost as error:
                zombies.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(deliver_to_zombie)
            await current_runtime().sleep(4)
            assert await billing.handle(b"a", key="1") is PROCESSED
        assert len(zombies) == 1
        assert shop.orders() == whole("a")
        assert (await billing.inbox.stats()).failing == 0  # forgotten with its effect

    run(main)


def test_a_handler_gives_a_message_back_by_an_exception_only(run, billing: Billing) -> None:
    @billing.inbox.handler
    async def release(claim: Claim, payload: bytes) -> None:
        claim.release()

    async def main() -> None:
        with pytest.raises(RuntimeError, match="a message is given back by an exception"):
            await release(b"a", key="1")

    run(main)


def test_listeners_are_told_what_is_parked(tmp_path: Path, run) -> None:
    told: list[Event] = []

    async def main() -> None:
        here = current_runtime()
        with use_runtime(Runtime(now=here.now, wall=here.wall, sleep=here.sleep, random=here.random, emit=told.append)):
            billing = Billing(Shop(tmp_path), park_on=(ValueError,))
            billing.error = ValueError("unreadable")
            assert await billing.handle(b"a", key="1") is PARKED

    run(main)
    (parked,) = [event for event in told if isinstance(event, MessageParked)]
    assert (parked.name, parked.key, parked.attempt, parked.reason) == ("billing", "1", 1, "ValueError: unreadable")


@pytest.mark.parametrize("place", [{"key": "1"}, {"stream": "s", "position": 7}])
def test_a_cancelled_consumer_leaves_all_or_nothing_and_a_redelivery_finishes(
    tmp_path: Path, backend: str, place: dict[str, Any]
) -> None:
    numbers = itertools.count()

    def fresh() -> Billing:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        billing = Billing(Shop(folder))
        billing.takes = 0.05
        return billing

    async def scenario(billing: Billing) -> None:
        await billing.handle(b"a", **place)

    async def check(billing: Billing) -> None:
        await current_runtime().sleep(1)
        before = billing.shop.orders()
        started = current_runtime().now()
        receipt = await billing.handle(b"a", **place)
        assert current_runtime().now() - started < 1  # it was given back: nobody waits for a lease to end
        assert receipt is (DUPLICATE if before else PROCESSED)
        assert billing.shop.orders() == whole("a")
        if "stream" in place:
            assert await billing.inbox.position("s") == 7
        assert (await billing.inbox.stats()).parked == 0

    assert for_each_cancellation(fresh, scenario=scenario, check=check, backend=backend) > 10


def plain(path: Path, **terms: Any) -> tuple[Inbox, Callable[..., Receipt]]:
    inbox = Inbox(f"sqlite:///{path}", consumer="billing", **terms)

    @inbox.handler
    def bill(claim: BlockingClaim, payload: bytes) -> None:
        with claim.transaction() as connection:
            insert(connection, payload.decode())
        if payload == b"bad":
            raise ValueError("unreadable")

    return inbox, bill


def test_plain_functions(shop: Shop) -> None:
    inbox, bill = plain(shop.path, attempts=2)
    assert bill(b"a", key="1") is PROCESSED
    assert bill(b"a", key="1") is DUPLICATE
    with pytest.raises(ValueError, match="unreadable"):
        bill(b"bad", stream="s", position=1)
    assert bill(b"bad", stream="s", position=1) is PARKED
    (failure,) = inbox.blocking.parked("billing")
    with pytest.raises(ValueError, match="unreadable"):
        bill.retry(failure)  # type: ignore[attr-defined]
    assert inbox.blocking.position("billing", "s") == 1
    assert shop.orders() == whole("a")
    anyio.run(inbox.close)


def test_threads_that_get_the_same_message_write_it_once(shop: Shop) -> None:
    inbox, bill = plain(shop.path)
    barrier = threading.Barrier(8)

    def one(_: int) -> object:
        barrier.wait(10)
        try:
            return bill(b"a", key="1")
        except InProgress:
            return InProgress

    with ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(one, range(8)))
    assert receipts.count(PROCESSED) == 1
    assert shop.orders() == whole("a")
    anyio.run(inbox.close)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({}, "key: what the message is known by"),
        ({"key": ""}, "key=''"),
        ({"stream": "s"}, "stream='s', position=None: given together"),
        ({"position": 1}, "stream=None, position=1: given together"),
        ({"stream": "s", "position": -1}, "position=-1: an integer from 0"),
        ({"stream": "s", "position": 2**63}, "position=9223372036854775808: an integer"),
        ({"stream": "", "position": 1}, "stream=''"),
    ],
)
def test_a_message_without_a_proper_place_is_refused(shop: Shop, place: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plain(shop.path)[1](b"a", **place)


def test_what_cannot_be_is_refused(shop: Shop) -> None:
    inbox, bill = plain(shop.path)
    with pytest.raises(TypeError, match="payload='text': bytes"):
        bill("text", key="1")
    with pytest.raises(ValueError, match=r"MemoryStore.*an inbox lies in the database"):
        Inbox("memory://", consumer="c")
    with pytest.raises(ValueError, match="attempts=0"):
        Inbox(shop.store, consumer="c", attempts=0)
    with pytest.raises(ValueError, match="consumer=''"):
        Inbox(shop.store, consumer="")

    def generate(claim: BlockingClaim, payload: bytes) -> Any:
        yield

    with pytest.raises(TypeError, match="a generator function"):
        inbox.handler(generate)
    assert repr(inbox).endswith("consumer='billing')")


def test_a_plain_function_that_returns_a_coroutine_is_refused(shop: Shop) -> None:
    inbox, _ = plain(shop.path)

    async def later(payload: bytes) -> None: ...

    def bill_later(claim: BlockingClaim, payload: bytes) -> object:
        return later(payload)

    bill = inbox.handler(bill_later)
    with pytest.raises(TypeError, match="its result is awaitable"):
        bill(b"a", key="1")
