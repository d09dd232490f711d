"""Effects that are committed together with their record, and what happens when something fails on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from resilient.backends.memory import MemoryStore
from resilient.backends.store import BlockingStore, Mode, Run
from resilient.context import current_runtime
from resilient.errors import InProgress, LeaseLost, StoreUnavailable
from resilient.idempotency import Claim, once
from tests.idempotency.shop import Shop, Slow, insert, whole

FENCED: list[Mode] = ["fenced", "at_most_once"]


def test_effect_and_result_are_committed_together(run, shop: Shop) -> None:
    @once(shop.store, key=lambda order: order)
    async def place(claim: Claim, order: str) -> str:
        async with claim.transaction() as connection:
            insert(connection, order)
            assert claim.connection is connection
        await current_runtime().sleep(1)  # the transaction stays open until the function returns
        assert shop.orders() == []
        return f"{order} placed"

    async def main() -> None:
        assert await place("a") == await place("a") == "a placed"
        assert shop.orders() == whole("a")

    run(main)


def test_an_effect_can_run_in_one_piece_away_from_the_event_loop(run, shop: Shop) -> None:
    @once(shop.store, key=lambda order: order)
    async def place(claim: Claim, order: str) -> int:
        def effect(connection: Any, order: str, *, parts: int) -> int:
            insert(connection, order)
            return parts

        return await claim.run(effect, order, parts=2)

    async def main() -> None:
        assert await place("a") == await place("a") == 2
        assert shop.orders() == whole("a")

    run(main)


def test_an_effect_that_has_to_be_awaited_is_refused_and_undone(run, shop: Shop) -> None:
    async def effect(connection: Any) -> None:
        raise AssertionError("it is not even begun")

    @once(shop.store, key=lambda order: order)
    async def place(claim: Claim, order: str) -> None:
        with pytest.raises(TypeError, match="pass a plain function"):
            await claim.run(effect)
        await claim.run(insert, order)

    async def main() -> None:
        await place("a")
        assert shop.orders() == whole("a")

    run(main)


def test_an_exception_undoes_the_effect_and_frees_the_key_at_once(run, shop: Shop) -> None:
    attempts = []

    @once(shop.store, key=lambda order: order)
    async def place(claim: Claim, order: str) -> str:
        attempts.append(claim.takeover)
        async with claim.transaction() as connection:
            insert(connection, order)
        if len(attempts) == 1:
            raise ConnectionError("after the effect")
        return "placed"

    async def main() -> None:
        with pytest.raises(ConnectionError):
            await place("a")
        assert shop.orders() == []
        assert await place("a") == "placed"
        assert attempts == [False, True]
        assert shop.orders() == whole("a")

    run(main)


def test_an_exception_that_leaves_only_the_block_undoes_the_block(run, shop: Shop) -> None:
    """A refusal is a result, too."""

    @once(shop.store, key=lambda order: order)
    async def place(claim: Claim, order: str) -> str:
        try:
            async with claim.transaction() as connection:
                insert(connection, order)
                raise LookupError("not enough money")
        except LookupError as error:
            return str(error)

    async def main() -> None:
        assert await place("a") == await place("a") == "not enough money"
        assert shop.orders() == []

    run(main)


def test_a_block_that_was_undone_may_be_tried_again(run, shop: Shop) -> None:
    @once(shop.store, key=lambda order: order)
    async def place(claim: Claim, order: str) -> str:
        with pytest.raises(LookupError):
            async with claim.transaction() as connection:
                insert(connection, "wrong")
                raise LookupError
        await claim.run(insert, order)
        return "placed"

    async def main() -> None:
        await place("a")
        assert shop.orders() == whole("a")

    run(main)


def test_there_is_one_block_in_one_transaction(run, shop: Shop) -> None:
    @once(shop.store, key=lambda order: order)
    async def place(claim: Claim, order: str) -> None:
        with pytest.raises(RuntimeError, match="no transaction is open"):
            _ = claim.connection
        async with claim.transaction() as connection:
            insert(connection, order)
        with pytest.raises(RuntimeError, match="open already"):
            async with claim.transaction():
                pass
        with pytest.raises(RuntimeError, match="before it"):
            await claim.save("late")

    async def main() -> None:
        await place("a")
        assert shop.orders() == whole("a")

    run(main)


def test_a_claim_is_of_no_use_after_its_end(run, shop: Shop) -> None:
    kept: list[Claim] = []

    @once(shop.store, key=lambda order: order)
    async def place(claim: Claim, order: str) -> None:
        kept.append(claim)

    async def main() -> None:
        await place("a")
        with pytest.raises(RuntimeError, match="has ended"):
            await kept[0].run(insert, "a")
        with pytest.raises(RuntimeError, match="has ended"):
            await kept[0].save("late")
        assert shop.orders() == []

    run(main)


@pytest.mark.parametrize("mode", FENCED)
def test_other_modes_have_no_transaction(run, mode: Mode) -> None:
    @once(MemoryStore(), key=lambda: "k", mode=mode)
    async def charge(claim: Claim) -> None:
        with pytest.raises(RuntimeError, match="only transactional mode"):
            async with claim.transaction():
                pass

    run(charge)


def test_a_transaction_that_is_held_for_longer_than_a_lease_is_undone(run, shop: Shop) -> None:
    """It keeps every other writer waiting, and no heartbeat can help them."""

    @once(shop.store, key=lambda order: order, lease=30.0)
    async def place(claim: Claim, order: str) -> None:
        async with claim.transaction() as connection:
            insert(connection, order)
            await current_runtime().sleep(50)

    async def main() -> None:
        tasks = len(anyio.get_running_tasks())
        with pytest.raises(LeaseLost):
            await place("a")
        assert shop.orders() == []
        assert isinstance(await shop.store.begin("s", "other", b"", owner="o", lease=1.0, ttl=1.0), Run)
        await current_runtime().sleep(1)
        assert len(anyio.get_running_tasks()) == tasks  # its heartbeat has stopped

    run(main)


def test_a_result_that_would_come_back_different_is_refused_before_it_happened(run, shop: Shop) -> None:
    @once(shop.store, key=lambda order: order)
    async def place(claim: Claim, order: str) -> tuple[int, int]:
        await claim.run(insert, order)
        return (1, 2)

    async def main() -> None:
        with pytest.raises(TypeError, match="tuple"):
            await place("a")
        assert shop.orders() == []

    run(main)


class Broken(Slow):
    """A store that fails at one step, before it is done or after."""

    def __init__(self, blocking: BlockingStore, step: str, *, after: bool, error: Exception) -> None:
        super().__init__(blocking)
        self.step, self.after, self.error = step, after, error

    async def _call(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if fn.__name__ != self.step:
            return await super()._call(fn, *args, **kwargs)
        if self.after:
            await super()._call(fn, *args, **kwargs)
        self.step = ""  # once
        raise self.error


@pytest.mark.parametrize("error", [StoreUnavailable("gone"), ConnectionError("gone"), KeyError("a bug")])
def test_whatever_the_store_cannot_tell_is_never_taken_for_permission(run, shop: Shop, error: Exception) -> None:
    store = Broken(shop.store.blocking, "begin", after=False, error=error)

    @once(store, key=lambda order: order)
    async def place(claim: Claim, order: str) -> None:
        await claim.run(insert, order)

    async def main() -> None:
        with pytest.raises(StoreUnavailable, match=r"gone|a bug"):
            await place("a")
        assert shop.orders() == []
        await place("a")
        assert shop.orders() == whole("a")

    run(main)


@pytest.mark.parametrize("mode", ["fenced", "transactional"])
def test_a_record_whose_acknowledgement_was_lost_counts(run, shop: Shop, mode: Mode) -> None:
    step = "commit" if mode == "transactional" else "complete"
    store = Broken(shop.store.blocking, step, after=True, error=StoreUnavailable("cut"))

    @once(store, key=lambda order: order, mode=mode)
    async def place(claim: Claim, order: str) -> str:
        if mode == "transactional":
            await claim.run(insert, order)
        return "placed"

    async def main() -> None:
        assert await place("a") == await place("a") == "placed"
        assert shop.orders() == (whole("a") if mode == "transactional" else [])

    run(main)


def test_a_commit_that_failed_undid_the_effect_and_a_retry_may_run_at_once(run, shop: Shop) -> None:
    store = Broken(shop.store.blocking, "record", after=False, error=StoreUnavailable("disk full"))
    blocking = store.blocking
    record, failures = blocking.record, [StoreUnavailable("disk full")]  # type: ignore[attr-defined]  # SQLite's

    def fail_once(*args: Any, **kwargs: Any) -> bool:
        if failures:
            raise failures.pop()
        result: bool = record(*args, **kwargs)
        return result

    blocking.record = fail_once  # type: ignore[attr-defined]  # likewise

    @once(store, key=lambda order: order)
    async def place(claim: Claim, order: str) -> str:
        await claim.run(insert, order)
        return "placed"

    async def main() -> None:
        with pytest.raises(StoreUnavailable, match="disk full"):
            await place("a")
        assert shop.orders() == []
        assert await place("a") == "placed"
        assert shop.orders() == whole("a")

    run(main)


def test_a_fenced_run_whose_record_failed_holds_its_lease(run, shop: Shop) -> None:
    store = Broken(shop.store.blocking, "complete", after=False, error=StoreUnavailable("gone"))

    @once(store, key=lambda: "k", mode="fenced", lease=30.0)
    async def work(claim: Claim) -> str:
        return "done"

    async def main() -> None:
        with pytest.raises(StoreUnavailable):
            await work()
        with pytest.raises(InProgress):
            await work()
        await current_runtime().sleep(30)
        assert await work() == "done"

    run(main)


def test_an_error_inside_the_transaction_that_undid_it_is_not_a_success(run, shop: Shop) -> None:
    @once(shop.store, key=lambda order: order)
    async def place(claim: Claim, order: str) -> str:
        def effect(connection: Any) -> None:
            insert(connection, order)
            connection.execute("CREATE UNIQUE INDEX one ON orders (id, part)")
            try:
                connection.execute("INSERT OR ROLLBACK INTO orders VALUES (?, 1)", (order,))
            except Exception:
                connection.execute("INSERT INTO orders VALUES ('stray', 1)")

        await claim.run(effect)
        return "placed"

    async def main() -> None:
        with pytest.raises(RuntimeError, match="nothing was written"):
            await place("a")
        assert shop.orders() == []

    run(main)
