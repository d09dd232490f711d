"""Positions of streams, consumers of plain functions, and what an inbox refuses."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from resilient.errors import InProgress
from resilient.idempotency import BlockingClaim, Claim, Inbox, Receipt
from tests.idempotency.billing import DUPLICATE, PARKED, PROCESSED, Billing
from tests.idempotency.shop import Shop, insert, whole


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


def test_a_message_that_its_stream_has_passed_meanwhile_is_undone(run, shop: Shop) -> None:
    inbox = Inbox(shop.store, consumer="billing")

    @inbox.handler
    async def bill(claim: Claim, payload: bytes) -> None:
        with closing(sqlite3.connect(shop.path)) as connection, connection:
            inbox.advance(connection, "s", 9)  # somebody else's batch
        await claim.run(insert, payload.decode())

    async def main() -> None:
        assert await bill(b"a", stream="s", position=7) is DUPLICATE
        assert shop.orders() == []
        assert await inbox.position("s") == 9

    run(main)


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
