"""Calls under a lease that are cancelled at every moment: no number is left under way, and nobody waits for ever."""

from __future__ import annotations

from typing import Any

import anyio

from resilient.backends.memory import BlockingMemoryStore, MemoryStore
from resilient.context import current_runtime
from resilient.idempotency import Claim, ClientCall, ClientLease, client_call, once
from resilient.pipeline import Pipeline
from resilient.policies.honoured import Honoured
from resilient.testing.cancellation import for_each_cancellation
from tests.idempotency.shop import Slow
from tests.idempotency.test_intents_cancellation import SlowThreads


class Scene:
    """A client whose identity is leased, and a window in which there is place for two calls."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        core = self.store.blocking
        assert isinstance(core, BlockingMemoryStore)
        self.core = core
        clients: Any = core.clients()
        clients.waits = True
        self.lease = ClientLease(self.store, window=2, lease=30.0)
        threads: Any = SlowThreads()
        self.lease._threads = threads
        self.effects: list[str] = []

        decorate = once(Slow(core), key=lambda call, what: call, mode="fenced", lease=20.0)
        decorate._leased()._threads = threads

        @decorate
        async def there(claim: Claim, call: ClientCall, what: str) -> str:
            self.effects.append(what)
            await current_runtime().sleep(0.1)
            return what

        @Pipeline(Honoured(lease=self.lease))
        async def here(what: str) -> str:
            call = client_call()
            assert call is not None
            return await there(call, what)

        self.call = here

    async def calls(self) -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(self.call, str(number))


def test_every_number_comes_to_an_end(backend):
    async def check(scene: Scene) -> None:
        await current_runtime().sleep(25.0)  # an execution that lost its caller ends
        assert scene.lease._waiters == []
        identity = scene.lease._identity
        assert identity is None or identity.calls.under_way == 0
        with anyio.fail_after(60):
            assert await scene.call("last") == "last"
        assert len(scene.effects) == len(set(scene.effects))
        await scene.lease.leave()
        assert scene.core.clients().count() <= 1  # one may have been registered for a caller that had left
        await current_runtime().sleep(100.0)
        scene.core.clients().collect()
        assert scene.core.clients().count() == 0
        assert scene.core.stats().records == 0

    runs = for_each_cancellation(Scene, scenario=Scene.calls, check=check, backend=backend)
    assert runs > 10
