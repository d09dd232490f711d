"""Cancelled at every moment: what may have been sent is resumed under its key, and the rest leaves nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from resilient.backends.memory import BlockingMemoryStore, MemoryStore
from resilient.backends.store import Store
from resilient.context import current_runtime
from resilient.idempotency import Intents
from resilient.idempotency.intents.kept import KeptRequest
from resilient.testing.cancellation import for_each_cancellation
from tests.idempotency.bank import Bank, stack


class SlowThreads:
    """Worker threads whose every step takes time before it happens and after, as on a busy disk."""

    async def run(self, step: Callable[[], Any]) -> Any:
        await current_runtime().sleep(0.01)
        result = step()
        await current_runtime().sleep(0.01)
        return result


def slow_intents(store: Store) -> Intents:
    intents = Intents(store, lease=30.0)
    kept: Any = intents.terms.store
    kept.waits = True
    threads: Any = SlowThreads()
    intents._threads = threads
    return intents


class Scene:
    def __init__(self) -> None:
        self.bank = Bank("lost")
        self.bank.delay = 0.1
        self.store = MemoryStore()
        self.intents = slow_intents(self.store)
        self.answered: list[bytes] = []

    def client(self) -> httpx.AsyncClient:
        return self.bank.client(*stack(self.intents, keys=lambda call: "17"))

    async def pay(self) -> None:
        async with self.client() as client:
            response = await client.post("/payments", json={"cents": 5})
            self.answered.append(response.content)

    async def resume(self) -> None:
        async with self.client() as client:
            await self.intents.resume(client)


def known(scene: Scene) -> Any:
    blocking = scene.store.blocking
    assert isinstance(blocking, BlockingMemoryStore)
    return blocking.intents().lookup("POST https://bank.example/payments", "17")


def test_a_cancelled_call_is_open_or_done_where_something_was_sent_and_nothing_where_not(backend):
    async def check(scene: Scene) -> None:
        await current_runtime().sleep(40.0)  # a step that was sheltered ends, or the lease does
        intent = known(scene)
        if intent is None:
            assert scene.bank.requests == []
            return
        assert intent.lease_left <= 0
        await scene.resume()
        assert known(scene).state == "done"
        await scene.pay()
        assert set(scene.bank.keys) == {'"17"'}
        assert set(scene.answered) == {b"receipt 1"}

    runs = for_each_cancellation(Scene, scenario=Scene.pay, check=check, backend=backend)
    assert runs > 10


class Left(Scene):
    """An intent that an earlier process left open."""

    def __init__(self) -> None:
        super().__init__()
        headers = [("accept", "*/*"), ("content-type", "application/json")]
        kept = KeptRequest.of(
            "POST", "https://bank.example/payments", headers, b'{"cents":5}', keep=self.intents.terms.headers
        )
        blocking = self.store.blocking
        assert isinstance(blocking, BlockingMemoryStore)
        terms: dict[str, Any] = {"owner": "dead", "lease": 0.0, "window": 80_000.0}
        blocking.intents().begin(kept.place, "17", kept.fingerprint, kept.dump(), **terms)


@pytest.mark.parametrize("scenario", [Left.resume, Left.pay])
def test_a_cancelled_resumption_loses_nothing(backend, scenario):
    async def check(scene: Scene) -> None:
        await current_runtime().sleep(40.0)
        assert known(scene).lease_left <= 0
        await scene.resume()
        assert known(scene).state == "done"
        await scene.pay()
        assert set(scene.bank.keys) <= {'"17"'}
        assert set(scene.answered) == {b"receipt 1"}

    runs = for_each_cancellation(Left, scenario=scenario, check=check, backend=backend)
    assert runs > 10
