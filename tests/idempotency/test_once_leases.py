"""Executors that are slow, dead, or in two minds: who runs, who waits, who has to stop."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest

from resilient.backends.faces import DirectStore
from resilient.backends.memory import MemoryStore
from resilient.backends.store import Mode, Run
from resilient.context import current_runtime
from resilient.errors import InProgress, LeaseLost, OutcomeUnknown
from resilient.idempotency import Claim, once
from resilient.idempotency.fingerprint import fingerprint_of
from tests.idempotency.shop import Shop, insert, whole


@pytest.mark.parametrize("mode", ["fenced", "at_most_once", "transactional"])
def test_a_duplicate_meanwhile_learns_when_to_come_back(run, shop: Shop, mode: Mode) -> None:
    @once(shop.store, key=lambda: "k", mode=mode, lease=30.0)
    async def work(claim: Claim) -> str:
        await current_runtime().sleep(5)
        return "done"

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(work)
            await current_runtime().sleep(1)
            with pytest.raises(InProgress) as raised:
                await work()
            assert raised.value.retry_after == pytest.approx(29.0, abs=0.1)
        assert await work() == "done"

    run(main)


def test_a_long_run_keeps_its_lease(run) -> None:
    @once(MemoryStore(), key=lambda: "k", mode="fenced", lease=30.0)
    async def work(claim: Claim) -> str:
        await current_runtime().sleep(1000)
        assert not claim.lost
        return "done"

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(work)
            for _ in range(9):
                await current_runtime().sleep(100)
                with pytest.raises(InProgress):
                    await work()
        assert await work() == "done"

    run(main)


class Unheard(DirectStore):
    """A store that hears no heartbeats: the executor looks dead while it lives."""

    async def heartbeat(self, run: Run, *, lease: float) -> bool:
        raise ConnectionError("unplugged")


def test_a_zombie_is_followed_and_its_result_is_not_taken(run) -> None:
    fences = []

    @once(
        Unheard(MemoryStore().blocking),
        key=lambda seconds: "k",
        fingerprint=lambda seconds: None,
        mode="fenced",
        lease=30.0,
    )
    async def work(claim: Claim, seconds: float) -> float:
        fences.append(claim.fence)
        await current_runtime().sleep(seconds)
        return seconds

    async def main() -> None:
        async def zombie() -> None:
            with pytest.raises(LeaseLost):
                await work(100)

        async with anyio.create_task_group() as group:
            group.start_soon(zombie)
            await current_runtime().sleep(31)
            assert await work(1) == 1
        assert await work(100) == 1
        assert fences == sorted(set(fences))

    run(main)


def test_a_zombie_cannot_write_its_effect(run, shop: Shop) -> None:
    @once(Unheard(shop.store.blocking), key=lambda seconds: "k", fingerprint=lambda seconds: None, lease=30.0)
    async def work(claim: Claim, seconds: float) -> float:
        await current_runtime().sleep(seconds)
        await claim.run(insert, str(seconds))
        return seconds

    async def main() -> None:
        async def zombie() -> None:
            with pytest.raises(LeaseLost):
                await work(100)

        async with anyio.create_task_group() as group:
            group.start_soon(zombie)
            await current_runtime().sleep(31)
            assert await work(1) == 1
        assert shop.orders() == whole("1")

    run(main)


@pytest.mark.parametrize("notices", ["a write", "a heartbeat"])
def test_a_claim_that_was_taken_over_notices(run, notices: str) -> None:
    store = MemoryStore()

    @once(store, key=lambda: "k", scope="s", mode="fenced", lease=30.0)
    async def work(claim: Claim) -> None:
        mine = Run(scope="s", key="k", fence=claim.fence, owner="")
        await store.heartbeat(mine, lease=0.0)  # as if the whole process had been asleep
        taken = await store.begin("s", "k", fingerprint_of({}), owner="other", lease=300.0, ttl=600.0)
        assert isinstance(taken, Run)
        assert not claim.lost
        if notices == "a write":
            with pytest.raises(LeaseLost):
                await claim.save("too late")
        else:
            await current_runtime().sleep(11)
        assert claim.lost
        with pytest.raises(LeaseLost):
            await claim.save("too late")

    async def main() -> None:
        with pytest.raises(LeaseLost):
            await work()

    run(main)


@pytest.mark.parametrize("mode", ["fenced", "at_most_once"])
def test_a_failed_fenced_run_holds_its_lease(run, mode: Mode) -> None:
    """What it began elsewhere gets that long to come to rest; then it runs again, or stops for ever."""
    calls = []

    @once(MemoryStore(), key=lambda: "k", mode=mode, lease=30.0)
    async def work(claim: Claim) -> str:
        calls.append(claim.takeover)
        if len(calls) == 1:
            raise ConnectionError
        return "done"

    async def main() -> None:
        with pytest.raises(ConnectionError):
            await work()
        if mode == "at_most_once":
            with pytest.raises(OutcomeUnknown):
                await work()
            await current_runtime().sleep(1000)
            with pytest.raises(OutcomeUnknown):
                await work()
            assert calls == [False]
            return
        with pytest.raises(InProgress):
            await work()
        await current_runtime().sleep(30)
        assert await work() == "done"
        assert calls == [False, True]

    run(main)


def test_at_most_once_stops_when_its_executor_vanished(run) -> None:
    store = MemoryStore()

    @once(store, key=lambda: "k", scope="s", mode="at_most_once", lease=30.0)
    async def work(claim: Claim) -> str:
        return "done"

    async def main() -> None:
        await store.begin("s", "k", fingerprint_of({}), owner="gone", lease=30.0, ttl=3600.0)
        with pytest.raises(InProgress):
            await work()
        await current_runtime().sleep(30)
        with pytest.raises(OutcomeUnknown, match="reconcile"):
            await work()

    run(main)


@pytest.mark.parametrize("mode", ["fenced", "at_most_once", "transactional"])
def test_a_handler_can_say_that_nothing_was_done(run, shop: Shop, mode: Mode) -> None:
    calls = []

    @once(shop.store, key=lambda: "k", mode=mode)
    async def work(claim: Claim) -> str:
        calls.append(1)
        if len(calls) == 1:
            if mode == "transactional":
                await claim.run(insert, "a")
            claim.release()
            return "come back later"
        if len(calls) == 2:
            claim.release()
            raise ConnectionError
        return "done"

    async def main() -> None:
        assert await work() == "come back later"
        with pytest.raises(ConnectionError):
            await work()
        assert await work() == await work() == "done"
        assert len(calls) == 3
        assert shop.orders() == []

    run(main)


def test_who_takes_over_finds_how_far_the_work_has_come(run) -> None:
    seen = []

    @once(MemoryStore(), key=lambda: "k", mode="fenced", lease=30.0)
    async def work(claim: Claim) -> str:
        seen.append((claim.recovery_point, claim.recovery_data, claim.derive_key("charge")))
        if claim.recovery_point == "started":
            await claim.save("charged", {"receipt": 7})
            assert (claim.recovery_point, claim.recovery_data) == ("charged", {"receipt": 7})
            raise ConnectionError
        return "done"

    async def main() -> None:
        with pytest.raises(ConnectionError):
            await work()
        await current_runtime().sleep(30)
        assert await work() == "done"
        (first, second) = seen
        assert first[:2] == ("started", None)
        assert second[:2] == ("charged", {"receipt": 7})
        assert first[2] == second[2]

    run(main)


def test_a_function_can_say_that_it_failed_and_return_all_the_same(run, shop: Shop) -> None:
    runs: list[int] = []

    @once(shop.store, key=lambda: "k")
    async def work(claim: Claim) -> int:
        runs.append(claim.fence)
        await claim.run(insert, f"order {len(runs)}")
        if len(runs) == 1:
            claim.fail()
        return len(runs)

    async def main() -> None:
        assert [await work(), await work(), await work()] == [1, 2, 2]
        assert shop.orders() == whole("order 2")

    run(main)


def test_heartbeats_keep_the_time_of_the_runtime(run) -> None:
    """A runtime with a sleep of its own is asked, not the event loop."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await anyio.sleep(seconds)

    async def main() -> None:
        @once(
            MemoryStore(), key=lambda: "k", mode="fenced", lease=30.0, runtime=replace(current_runtime(), sleep=sleep)
        )
        async def work(claim: Claim) -> bool:
            await anyio.sleep(100)
            return claim.lost

        assert await work() is False
        assert slept == [10.0] * len(slept)
        assert len(slept) >= 10

    run(main)
