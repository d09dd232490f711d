"""A store through each of its faces: an event loop of asyncio or trio, or no loop at all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import pytest

from resilient.backends.faces import DirectStore
from resilient.backends.redis import RedisStore
from resilient.backends.store import Answer, Run, Store
from resilient.waiting import drive
from tests.servers.valkey import Redis, Valkey

FACES = ["asyncio", "trio", "plain"]

PAIRS = [
    pytest.param((Valkey, "asyncio"), id="valkey-asyncio"),
    pytest.param((Redis, "plain"), id="redis-plain"),
    pytest.param((Valkey, "trio"), id="valkey-trio"),
]
"""Each server and each face, and not each with each."""

replicated = pytest.mark.parametrize("pair", PAIRS[:2], indirect=True)
"""For tests that wait a second until a replica follows."""


def play(face: str, store: RedisStore, scenario: Callable[[Store], Awaitable[None]]) -> None:
    """Run a scenario with the store, and close that."""

    async def main() -> None:
        try:
            await scenario(store)
        finally:
            await store.close()

    if face == "plain":
        try:
            drive(scenario(DirectStore(store.blocking)))
        finally:
            store.blocking.close()
    else:
        anyio.run(partial(main), backend=face)


async def begin(store: Store, key: str = "k", *, ttl: float = 60.0, lease: float = 30.0) -> Answer:
    return await store.begin("s", key, key.encode(), owner="me", lease=lease, ttl=ttl)


async def run(store: Store, key: str = "k", *, ttl: float = 60.0, lease: float = 30.0) -> Run:
    answer = await begin(store, key, ttl=ttl, lease=lease)
    assert isinstance(answer, Run)
    return answer


def name(key: str = "k", *, tag: str = "resilient") -> str:
    """The record's key on the server."""
    return f"resilient:{{{tag}}}:claim:1:s:{key}"
