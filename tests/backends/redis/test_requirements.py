"""What a server has to be like, and has to permit, and what is said where it is not."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import anyio
import pytest

from resilient.backends.redis import RedisStore
from resilient.backends.store import Replay, Run
from resilient.errors import StoreUnavailable
from tests.backends.redis.faces import begin, name, play, run
from tests.servers.valkey import Valkey


@pytest.fixture
def face(pair: tuple[type[Valkey], str]) -> str:
    return pair[1]


def test_a_server_that_may_evict_records_is_refused(kind: type[Valkey], face: str) -> None:
    with kind(maxmemory="60mb", maxmemory_policy="volatile-lru") as server:

        async def scenario(store):
            for _ in range(2):
                with pytest.raises(StoreUnavailable, match=r"maxmemory-policy is volatile-lru.*allow_eviction=True"):
                    await run(store)
            server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
            assert isinstance(await begin(store), Run)

        play(face, RedisStore(server.url), scenario)


def test_a_server_that_may_evict_records_can_be_taken_as_it_is(kind: type[Valkey], face: str) -> None:
    with kind(maxmemory="60mb", maxmemory_policy="volatile-lru") as server:

        async def scenario(store):
            assert isinstance(await begin(store), Run)

        play(face, RedisStore(server.url, allow_eviction=True), scenario)


def test_a_policy_without_a_limit_evicts_nothing(server: Valkey) -> None:
    server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    store = RedisStore(server.url).blocking
    assert isinstance(store.begin("s", "k", b"", owner="", lease=30, ttl=10), Run)
    store.close()


def test_a_full_server_begins_nothing_and_keeps_what_it_has(server: Valkey, face: str) -> None:
    async def scenario(store):
        assert await store.complete(await run(store), b"result", ttl=60)
        server.ask("CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            await begin(store, "another")
        assert await begin(store) == Replay(b"result")
        assert not server.ask("EXISTS", name("another"))

    play(face, RedisStore(server.url), scenario)


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ({"appendfsync": "always"}, "no append-only file"),
        ({"appendonly": True, "appendfsync": "everysec"}, "appendfsync is everysec"),
        ({"appendonly": True, "appendfsync": "always"}, None),
    ],
)
def test_what_a_crash_may_cost_is_said_once(
    kind: type[Valkey], options: dict[str, Any], warning: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with kind(**options) as server:
        store = RedisStore(server.url)

        async def main() -> None:
            await run(store)
            await store.close()
            await begin(store)
            store.blocking.lookup("s", "k")
            await store.close()

        anyio.run(main)
    messages = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(messages) == (warning is not None)
    assert warning is None or warning in messages[0]


DOCUMENTATION = Path(__file__).parents[3] / "docs" / "exactly-once-redis.md"
_, _, LINE = DOCUMENTATION.read_text().partition("ACL SETUSER claims on >password ")
PERMISSIONS = LINE.partition("\n")[0].split()


def test_the_permissions_that_the_documentation_lists_are_enough(server: Valkey, face: str) -> None:
    server.ask("ACL", "SETUSER", "me", "on", ">mine", *PERMISSIONS)

    async def scenario(store):
        first = await run(store)
        assert await store.save(first, "point", b"data")
        assert await store.save(first, "point", None)
        assert await store.heartbeat(first, lease=30)
        assert await store.release(first)
        assert await store.complete(await run(store), b"result", ttl=60)
        assert await store.lookup("s", "k") is not None
        assert (await store.stats()).records == 1
        assert (await store.stats()).size > 0

    play(face, RedisStore(f"redis://me:mine@{server.address}", tag="shop"), scenario)


def test_the_permissions_that_the_documentation_adds_for_effects_are_enough(server: Valkey) -> None:
    rights = [*PERMISSIONS, "~{shop}:*", "+dump", "+restore", "+pttl", "+incr", "+sadd", "+get"]
    server.ask("ACL", "SETUSER", "me", "on", ">mine", *rights)
    store = RedisStore(f"redis://me:mine@{server.address}", tag="shop")
    for key in ("written", "undone"):
        answer = store.blocking.begin("s", key, b"", owner="", lease=30, ttl=60)
        assert isinstance(answer, Run)
        transaction = store.blocking.transaction(answer)
        assert transaction is not None
        transaction.connection.expect(None if key == "written" else 1, "GET", store.slot_key("sold"))
        transaction.connection.execute("INCR", store.slot_key("sold"))
        transaction.connection.execute("SADD", store.slot_key("orders" if key == "written" else "sold"), "k")
        if key == "written":
            assert transaction.commit(b"result", ttl=60)
        else:
            with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
                transaction.commit(b"result", ttl=60)
    store.blocking.close()
    assert server.ask("GET", store.slot_key("sold")) == b"1"


def test_a_server_that_does_not_say_whether_it_evicts_is_refused(
    server: Valkey, face: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.ask("ACL", "SETUSER", "me", "on", ">mine", *PERMISSIONS, "-info", "-config")
    url = f"redis://me:mine@{server.address}"

    async def refused(store):
        with pytest.raises(StoreUnavailable, match=r"whether it evicts.*permission.*allow_eviction=True"):
            await run(store)

    async def taken(store):
        assert isinstance(await begin(store), Run)

    play(face, RedisStore(url, tag="shop"), refused)
    play(face, RedisStore(url, tag="shop", allow_eviction=True), taken)
    assert "whether it keeps records in a crash cannot be found out" in caplog.text


def test_a_command_that_is_not_permitted_is_a_store_that_is_not_available(server: Valkey, face: str) -> None:
    server.ask("ACL", "SETUSER", "me", "on", ">mine", *PERMISSIONS, "-hset")

    async def scenario(store):
        with pytest.raises(StoreUnavailable, match=r"(?i)permission|can't run"):
            await run(store)

    play(face, RedisStore(f"redis://me:mine@{server.address}", tag="shop"), scenario)
