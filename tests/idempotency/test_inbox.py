"""Messages that are delivered again and again, and take effect once."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from typing import Any

import anyio
import pytest

from resilient.backends.store import Run
from resilient.context import current_runtime, use_runtime
from resilient.errors import CircuitOpen, InProgress, LeaseLost, StoreUnavailable
from resilient.events import Event, MessageParked
from resilient.idempotency import Claim, Inbox
from resilient.idempotency.fingerprint import digest
from resilient.runtime import Runtime
from resilient.testing.cancellation import for_each_cancellation
from tests.idempotency.billing import DUPLICATE, PARKED, PROCESSED, Billing
from tests.idempotency.shop import Shop, insert, whole


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


def die(shop: Shop, key: str, payload: bytes) -> None:
    """What a consumer leaves behind that is killed while it processes."""
    run = shop.store.blocking.begin(
        "inbox billing", key, digest([payload]), owner="dead", lease=1.0, ttl=3600.0, takeover=True
    )
    assert isinstance(run, Run)


def test_a_consumer_that_died_is_counted(run, shop: Shop) -> None:
    async def main() -> None:
        billing = Billing(shop, attempts=3)
        die(shop, "1", b"a")
        await current_runtime().sleep(2)
        billing.error = ConnectionError("no")
        error = await billing.fails(b"a", key="1")
        assert error.__notes__ == ["resilient: attempt 2 of 3; have '1' delivered again"]
        assert await billing.handle(b"a", key="1") is PARKED
        assert len(billing.runs) == 2

    run(main)


def test_a_message_whose_consumers_all_died_is_not_tried_again(run, shop: Shop) -> None:
    async def main() -> None:
        billing = Billing(shop, attempts=1)
        die(shop, "1", b"a")
        await current_runtime().sleep(2)
        assert await billing.handle(b"a", key="1") is PARKED
        assert billing.runs == []
        (failure,) = await billing.inbox.parked()
        assert (failure.attempts, failure.error) == (1, "no consumer that processed it survived")
        assert await billing.handle.retry(failure) is PROCESSED
        assert shop.orders() == whole("a")

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
