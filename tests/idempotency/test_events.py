"""What listeners are told of a key: each thing that can become of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from resilient.backends.faces import DirectStore
from resilient.backends.memory import MemoryStore
from resilient.backends.store import Answer, Mode, Run
from resilient.context import current_runtime
from resilient.errors import InProgress, KeyReused, LeaseLost, OutcomeUnknown, StoreUnavailable
from resilient.events import (
    ClaimBegan,
    ClaimFailed,
    ClaimLost,
    ClaimRefused,
    Event,
    OutcomeLeftUnknown,
    ResultRecorded,
    ResultReplayed,
    StoreFailed,
)
from resilient.idempotency import BlockingClaim, Claim, once
from tests.idempotency.shop import Shop, insert

Listen = Callable[[list[Event]], Any]


def listening(heard: list[Event]) -> Any:
    return replace(current_runtime(), emit=heard.append)


def kinds(heard: list[Event]) -> list[str]:
    return [type(event).__name__ for event in heard]


def test_a_run_and_its_replay(run) -> None:
    async def main() -> None:
        heard: list[Event] = []

        @once(MemoryStore(), key=lambda n: "k", scope="work", mode="fenced", runtime=listening(heard))
        async def work(claim: Claim, n: int) -> int:
            return claim.fence

        fence = await work(1)
        await work(1)
        with pytest.raises(KeyReused):
            await work(2)
        at = current_runtime().now()
        assert heard == [
            ClaimBegan(at=at, name="work", key="k", fence=fence, takeover=False),
            ResultRecorded(at=at, name="work", key="k", fence=fence, kept=True),
            ResultReplayed(at=at, name="work", key="k"),
            ClaimRefused(at=at, name="work", key="k", reason="reused", retry_after=None),
        ]

    run(main)


def test_plain_functions_are_heard_of_too() -> None:
    heard: list[Event] = []

    @once(MemoryStore(), key=lambda: "k", mode="fenced", runtime=listening(heard))
    def work(claim: BlockingClaim) -> None:
        return None

    work()
    work()
    assert kinds(heard) == ["ClaimBegan", "ResultRecorded", "ResultReplayed"]


def test_a_result_that_cannot_be_kept(run) -> None:
    async def main() -> None:
        heard: list[Event] = []

        @once(MemoryStore(), key=lambda: "k", mode="fenced", runtime=listening(heard))
        async def work(claim: Claim) -> object:
            return object()

        with pytest.raises(TypeError):
            await work()
        assert kinds(heard) == ["ClaimBegan", "ResultRecorded"]
        assert isinstance(heard[-1], ResultRecorded)
        assert not heard[-1].kept

    run(main)


@pytest.mark.parametrize(
    ("mode", "release", "released"),
    [
        ("transactional", False, True),
        ("fenced", False, False),
        ("fenced", True, True),
        ("at_most_once", False, False),
    ],
)
def test_an_exception(run, shop: Shop, mode: Mode, *, release: bool, released: bool) -> None:
    async def main() -> None:
        heard: list[Event] = []

        @once(shop.store, key=lambda: "k", mode=mode, runtime=listening(heard))
        async def work(claim: Claim) -> None:
            if release:
                claim.release()
            raise ConnectionError

        with pytest.raises(ConnectionError):
            await work()
        assert kinds(heard) == ["ClaimBegan", "ClaimFailed"]
        assert isinstance(heard[-1], ClaimFailed)
        assert heard[-1].released is released
        if mode == "at_most_once":
            with pytest.raises(OutcomeUnknown):
                await work()
            assert isinstance(heard[-1], OutcomeLeftUnknown)
        elif released:
            with pytest.raises(ConnectionError):
                await work()
            assert isinstance(heard[2], ClaimBegan)
            assert heard[2].takeover

    run(main)


class Deaf(DirectStore):
    """A store that hears no heartbeats."""

    async def heartbeat(self, run: Run, *, lease: float) -> bool:
        raise ConnectionError("unplugged")


def test_a_duplicate_meanwhile_and_a_takeover(run) -> None:
    async def main() -> None:
        heard: list[Event] = []
        fenced: dict[str, Any] = {"mode": "fenced", "lease": 10.0, "runtime": listening(heard)}

        @once(Deaf(MemoryStore().blocking), key=lambda s: "k", fingerprint=lambda s: 0, **fenced)
        async def work(claim: Claim, seconds: float) -> float:
            await current_runtime().sleep(seconds)
            return seconds

        async def late() -> None:
            with pytest.raises(LeaseLost):
                await work(100)

        async with anyio.create_task_group() as group:
            group.start_soon(late)
            await current_runtime().sleep(1)
            with pytest.raises(InProgress):
                await work(1)
            await current_runtime().sleep(10)
            await work(1)
        assert kinds(heard) == [
            "ClaimBegan", "ClaimRefused", "ClaimBegan", "ResultRecorded", "ClaimLost",
        ]  # fmt: skip
        refused = heard[1]
        assert isinstance(refused, ClaimRefused)
        assert refused.reason == "in_progress"
        assert refused.retry_after == pytest.approx(9.0)
        assert [event.takeover for event in heard if isinstance(event, ClaimBegan)] == [False, True]

    run(main)


def test_a_heartbeat_that_comes_too_late_is_told_once(run) -> None:
    async def main() -> None:
        heard: list[Event] = []
        store = MemoryStore()

        @once(store, key=lambda: "k", mode="fenced", lease=3.0, runtime=listening(heard))
        async def work(claim: Claim) -> None:
            mine = Run(scope=claim.scope, key=claim.key, fence=claim.fence, owner="")
            await store.complete(mine, None, ttl=60.0)  # as if by somebody else
            await current_runtime().sleep(10)
            assert claim.lost

        with pytest.raises(LeaseLost):
            await work()
        assert kinds(heard) == ["ClaimBegan", "ClaimLost"]

    run(main)


def test_a_transaction_that_outlasts_its_lease(run, tmp_path: Path) -> None:
    async def main() -> None:
        heard: list[Event] = []
        shop = Shop(tmp_path)

        @once(shop.store, key=lambda: "k", lease=3.0, runtime=listening(heard))
        async def work(claim: Claim) -> None:
            async with claim.transaction() as connection:
                insert(connection, "k")
                await current_runtime().sleep(10)

        with pytest.raises(LeaseLost):
            await work()
        assert kinds(heard) == ["ClaimBegan", "ClaimLost"]
        assert shop.orders() == []

    run(main)


class Broken(DirectStore):
    """A store that is not there for one thing."""

    def __init__(self, step: str, error: Exception) -> None:
        super().__init__(MemoryStore().blocking)
        self.step, self.error = step, error

    async def begin(self, *args: Any, **kwargs: Any) -> Answer:
        if self.step == "begin":
            raise self.error
        return await super().begin(*args, **kwargs)

    async def save(self, run: Run, point: str, data: bytes | None) -> bool:
        if self.step == "save":
            raise self.error
        return await super().save(run, point, data)

    async def complete(self, run: Run, result: bytes | None, *, ttl: float) -> bool:
        if self.step == "complete":
            raise self.error
        if self.step == "answer":
            await super().complete(run, result, ttl=ttl)
            raise self.error
        return await super().complete(run, result, ttl=ttl)


@pytest.mark.parametrize("error", [StoreUnavailable("gone"), ConnectionError("gone")])
@pytest.mark.parametrize(
    ("step", "told"),
    [
        ("begin", ["StoreFailed"]),
        ("save", ["ClaimBegan", "StoreFailed", "ClaimFailed"]),
        ("complete", ["ClaimBegan", "StoreFailed"]),
    ],
)
def test_a_store_that_fails(run, step: str, told: list[str], error: Exception) -> None:
    async def main() -> None:
        heard: list[Event] = []

        @once(Broken(step, error), key=lambda: "k", mode="fenced", runtime=listening(heard))
        async def work(claim: Claim) -> None:
            await claim.save("somewhere")

        with pytest.raises(StoreUnavailable, match="gone"):
            await work()
        assert kinds(heard) == told
        (failed,) = (event for event in heard if isinstance(event, StoreFailed))
        assert "gone" in failed.error

    run(main)


def test_another_error_of_ours_is_no_failure_of_the_store(run) -> None:
    async def main() -> None:
        heard: list[Event] = []

        @once(Broken("begin", LeaseLost("elsewhere")), key=lambda: "k", mode="fenced", runtime=listening(heard))
        async def work(claim: Claim) -> None:
            return None

        with pytest.raises(LeaseLost, match="elsewhere"):
            await work()
        assert heard == []

    run(main)


def test_a_record_whose_confirmation_was_lost_counts_as_recorded(run) -> None:
    async def main() -> None:
        heard: list[Event] = []

        @once(Broken("answer", ConnectionError()), key=lambda: "k", mode="fenced", runtime=listening(heard))
        async def work(claim: Claim) -> None:
            return None

        await work()
        assert kinds(heard) == ["ClaimBegan", "StoreFailed", "ResultRecorded"]

    run(main)


def test_a_listener_that_fails_changes_nothing(run) -> None:
    async def main() -> None:
        def broken(event: Event) -> None:
            raise LookupError(event)

        @once(MemoryStore(), key=lambda: "k", mode="fenced", runtime=replace(current_runtime(), emit=broken))
        async def work(claim: Claim) -> int:
            return 1

        assert [await work(), await work()] == [1, 1]

    run(main)


def test_a_lost_claim_is_no_failed_one(run) -> None:
    """Who was followed must not look as if the key were free."""

    async def main() -> None:
        heard: list[Event] = []
        store = MemoryStore()

        @once(store, key=lambda: "k", mode="fenced", runtime=listening(heard))
        async def work(claim: Claim) -> None:
            mine = Run(scope=claim.scope, key=claim.key, fence=claim.fence, owner="")
            await store.complete(mine, None, ttl=60.0)
            await claim.save("somewhere")

        with pytest.raises(LeaseLost):
            await work()
        assert kinds(heard) == ["ClaimBegan", "ClaimLost"]
        assert isinstance(heard[-1], ClaimLost)

    run(main)
