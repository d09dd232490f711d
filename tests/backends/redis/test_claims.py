"""What a claim in Redis or Valkey owes to its server: time, memory, answers that get lost, failures and their price."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from resilient.backends.redis import RedisStore
from resilient.backends.redis import claims as claims_module
from resilient.backends.store import Busy, Replay, Run
from resilient.errors import StoreUnavailable
from tests.backends.redis.faces import begin, name, play, run
from tests.servers.proxy import Proxy
from tests.servers.valkey import Redis, Valkey, cluster


@pytest.fixture(
    params=[(Valkey, "asyncio"), (Valkey, "trio"), (Redis, "plain")], ids=["valkey-asyncio", "valkey-trio", "redis"]
)
def pair(request: pytest.FixtureRequest) -> tuple[type[Valkey], str]:
    """A server and a face: each of both, and not each with each."""
    found: tuple[type[Valkey], str] = request.param
    return found


@pytest.fixture
def kind(pair: tuple[type[Valkey], str]) -> type[Valkey]:
    return pair[0]


@pytest.fixture
def face(pair: tuple[type[Valkey], str]) -> str:
    return pair[1]


@pytest.fixture
def server(kind: type[Valkey]) -> Iterator[Valkey]:
    """One that a test may do anything to."""
    with kind() as server:
        yield server


# Time and memory


def test_the_server_keeps_a_record_for_as_long_as_lease_or_retention(server: Valkey) -> None:
    store = RedisStore(server.url).blocking

    def left() -> float:
        return float(round(server.ask("PTTL", name()) / 1000))

    first = store.begin("s", "k", b"", owner="", lease=30, ttl=10)
    assert isinstance(first, Run)
    assert left() == 30
    assert store.heartbeat(first, lease=5)
    assert left() == 10
    assert store.heartbeat(first, lease=60)
    assert left() == 60
    assert store.release(first)
    assert left() == 10
    second = store.begin("s", "k", b"", owner="", lease=3, ttl=20)
    assert isinstance(second, Run)
    assert left() == 20
    assert store.complete(second, b"", ttl=40)
    assert left() == 40
    assert server.ask("PTTL", "resilient:{resilient}:fence") == -1
    store.close()


def test_the_server_removes_what_is_forgotten_and_fences_go_on_above(server: Valkey, face: str) -> None:
    async def scenario(store):
        first = await run(store, ttl=0.05, lease=0.02)
        assert await store.complete(first, b"result", ttl=0.05)
        server.wait_for(lambda: server.ask("DBSIZE") == 1)  # of everything the fence is left
        assert await store.lookup("s", "k") is None
        assert (await run(store)).fence > first.fence

    play(face, RedisStore(server.url), scenario)


def test_fences_rise_over_the_loss_of_all_data_and_are_whole_numbers_beyond_fourteen_digits(server: Valkey) -> None:
    store = RedisStore(server.url).blocking
    fences = []
    for number in range(20):
        answer = store.begin("s", str(number), b"", owner="", lease=30, ttl=10)
        assert isinstance(answer, Run)
        fences.append(answer.fence)
        if number % 5 == 4:
            server.ask("FLUSHALL")
    assert fences == sorted(set(fences))
    assert min(fences) > 10**15
    seconds, micros = (int(part) for part in server.ask("TIME"))
    assert fences[-1] <= seconds * 1_000_000 + micros
    store.close()


def test_a_fence_rises_by_one_where_the_clock_has_not_moved_past_the_last(server: Valkey) -> None:
    """As after a clock that was set back."""
    ahead = 4_000_000_000_000_123  # of the year 2096
    counter = "resilient:{resilient}:fence"
    server.ask("SET", counter, ahead)
    store = RedisStore(server.url).blocking

    def next_fence() -> int:
        answer = store.begin("s", "k", b"", owner="", lease=30, ttl=10)
        assert isinstance(answer, Run)
        assert store.release(answer)
        return answer.fence

    assert [next_fence(), next_fence()] == [ahead + 1, ahead + 2]
    server.ask("DEL", counter)  # the record still knows its own
    assert next_fence() == ahead + 3
    store.close()


def test_scopes_and_keys_do_not_run_into_each_other(store: RedisStore) -> None:
    names = [("a", "b:c"), ("a:b", "c"), ("", "a:b:c"), ("1:a", "b"), ("{x}", "}"), ("ä", "\n\x00")]
    with_store = store.blocking
    for number, (scope, key) in enumerate(names):
        answer = with_store.begin(scope, key, b"%d" % number, owner="", lease=30, ttl=10)
        assert isinstance(answer, Run), (scope, key)
    for number, (scope, key) in enumerate(names):
        record = with_store.lookup(scope, key)
        assert record is not None
        assert record.fingerprint == b"%d" % number
    with_store.close()


def test_a_large_database_is_estimated_from_a_part_of_it(server: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RedisStore(server.url).blocking
    for number in range(600):
        answer = store.begin("s", str(number), b"", owner="", lease=30, ttl=10)
        assert isinstance(answer, Run)
        if number % 3:
            store.complete(answer, b"result", ttl=60)
    for number in range(60):
        server.ask("SET", f"somebody else's {number}", "1")
    exact = store.stats()
    assert (exact.records, exact.running, exact.done) == (600, 200, 400)
    assert 600 * 100 < exact.size < 600 * 1000
    monkeypatch.setattr(claims_module, "_PAGE", 100)
    monkeypatch.setattr(claims_module, "_PAGES", 2)
    estimate = store.stats()
    assert estimate.records == pytest.approx(600, rel=0.1)
    assert estimate.done == pytest.approx(400, rel=0.3)
    assert estimate.size == pytest.approx(exact.size, rel=0.2)
    store.close()


# Scripts and answers


def test_a_server_that_forgot_its_scripts_is_told_them_again(server: Valkey, face: str) -> None:
    async def scenario(store):
        first = await run(store)
        server.ask("SCRIPT", "FLUSH")
        assert await store.heartbeat(first, lease=30)
        server.ask("SCRIPT", "FLUSH")
        assert await store.complete(first, b"result", ttl=60)
        server.ask("SCRIPT", "FLUSH")
        assert await begin(store) == Replay(b"result")

    play(face, RedisStore(server.url), scenario)


@pytest.mark.parametrize("when", ["cut_answer", "cut_before"])
def test_an_answer_that_was_lost_is_asked_for_again(
    valkey: Valkey, proxy: Proxy, tag: str, face: str, when: str
) -> None:
    """Whether the script ran or not: the caller sees it run once."""
    cut = getattr(proxy, when)
    scripts = RedisStore.scripts

    async def scenario(store):
        await store.complete(await run(store, "warm"), b"", ttl=60)
        warm = await run(store, "warmer")
        await store.save(warm, "point", None)
        await store.heartbeat(warm, lease=30)
        await store.release(warm)

        cut(scripts.begin.sha.encode())
        first = await run(store)
        assert not first.takeover
        cut(scripts.save.sha.encode())
        assert await store.save(first, "charged", b"7")
        cut(scripts.heartbeat.sha.encode())
        assert await store.heartbeat(first, lease=60)
        cut(scripts.release.sha.encode())
        assert await store.release(first)
        cut(scripts.begin.sha.encode())
        second = await run(store)
        assert (second.takeover, second.recovery_point, second.recovery_data) == (True, "charged", b"7")
        assert second.fence > first.fence
        cut(scripts.complete.sha.encode())
        assert await store.complete(second, b"result", ttl=60)
        assert not await store.complete(second, b"again", ttl=60)
        cut(scripts.begin.sha.encode())
        assert await begin(store) == Replay(b"result")
        cut(scripts.lookup.sha.encode())
        record = await store.lookup("s", "k")
        assert record is not None
        assert proxy.cuts == 8

    play(face, RedisStore(f"redis://127.0.0.1:{proxy.port}", tag=tag), scenario)


def test_an_effect_whose_answer_was_lost_is_written_once(valkey: Valkey, proxy: Proxy, tag: str, face: str) -> None:
    store = RedisStore(f"redis://127.0.0.1:{proxy.port}", tag=tag)

    async def scenario(face_of_store):
        await face_of_store.complete(await run(face_of_store, "warm"), b"", ttl=60)
        transaction = await face_of_store.transaction(await run(face_of_store))
        assert transaction is not None
        transaction.connection.execute("INCRBY", store.slot_key("sold"), 3)
        proxy.cut_answer(RedisStore.scripts.complete.sha.encode())
        assert await transaction.commit(b"result", ttl=60)
        assert proxy.cuts == 1
        assert await begin(face_of_store) == Replay(b"result")

    play(face, store, scenario)
    assert valkey.ask("GET", store.slot_key("sold")) == b"3"


# What the server must be like


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


PERMISSIONS = (
    "+evalsha +eval +time +hmget +hset +hdel +get +set +del +pexpire +scan +dbsize +memory|usage "
    "+info +config|get ~resilient:{shop}:*"
)


def test_the_permissions_that_the_documentation_lists_are_enough(server: Valkey, face: str) -> None:
    server.ask("ACL", "SETUSER", "me", "on", ">mine", *PERMISSIONS.split())

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


def test_a_server_that_does_not_say_whether_it_evicts_is_refused(
    server: Valkey, face: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.ask("ACL", "SETUSER", "me", "on", ">mine", *PERMISSIONS.split(), "-info", "-config")
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
    server.ask("ACL", "SETUSER", "me", "on", ">mine", *PERMISSIONS.split(), "-hset")

    async def scenario(store):
        with pytest.raises(StoreUnavailable, match=r"(?i)permission|can't run"):
            await run(store)

    play(face, RedisStore(f"redis://me:mine@{server.address}", tag="shop"), scenario)


# Crashes and failovers


def test_with_an_append_only_file_records_survive_a_crash(kind: type[Valkey], face: str) -> None:
    with kind(appendonly=True) as server:

        async def scenario(store):
            done, running = await run(store, "done"), await run(store, "running")
            assert await store.complete(done, b"result", ttl=60)
            server.kill()
            with pytest.raises(StoreUnavailable):
                await begin(store, "done")
            server.start()
            assert await begin(store, "done") == Replay(b"result")
            assert isinstance(await begin(store, "running"), Busy)
            assert await store.complete(running, b"after all", ttl=60)

        play(face, RedisStore(server.url), scenario)


def test_without_one_a_crash_forgets_and_the_old_executor_is_fenced_off(server: Valkey, face: str) -> None:
    """The loss that is documented: what was done runs again. What was running cannot write any more."""

    async def scenario(store):
        done, running = await run(store, "done"), await run(store, "running")
        assert await store.complete(done, b"result", ttl=60)
        server.kill()
        server.start()
        again = await run(store, "done")
        assert again.fence > running.fence
        assert not await store.complete(running, b"zombie", ttl=60)
        assert (await run(store, "running")).fence > running.fence
        assert not await store.heartbeat(running, lease=30)

    play(face, RedisStore(server.url), scenario)


def test_a_replica_is_refused(kind: type[Valkey], face: str) -> None:
    with kind() as primary, kind() as replica:
        replica.follow(primary.port)

        async def scenario(store):
            with pytest.raises(StoreUnavailable, match="a replica"):
                await run(store)

        play(face, RedisStore(replica.url), scenario)


def test_a_primary_that_became_a_replica_is_left(kind: type[Valkey], face: str) -> None:
    with kind() as primary, kind() as other:

        async def scenario(store):
            await run(store)
            primary.follow(other.port)
            with pytest.raises(StoreUnavailable, match=r"(?i)read.?only"):
                await run(store, "another")
            with pytest.raises(StoreUnavailable, match="a replica"):
                await run(store, "another")
            primary.ask("REPLICAOF", "NO", "ONE")
            assert isinstance(await begin(store, "another"), Run)

        play(face, RedisStore(primary.url), scenario)


def test_a_claim_that_no_replica_has_is_refused(
    kind: type[Valkey], face: str, caplog: pytest.LogCaptureFixture
) -> None:
    with kind() as primary, kind() as replica:
        replica.follow(primary.port)

        async def scenario(store):
            first = await run(store)
            assert replica.ask("EXISTS", name()) == 1
            replica.stop()
            with pytest.raises(StoreUnavailable, match=r"1 replicas did not have the claim within 0.4 s"):
                await run(store, "another")
            # What is done is done; that it may be forgotten is said.
            assert await store.complete(first, b"result", ttl=60)
            assert "a failover now may forget it" in caplog.text
            replica.go_on()
            replica.wait_for(lambda: bool(replica.ask("EXISTS", name("another"))))
            again = await run(store, "another")
            assert again.takeover  # it was given back, so nobody had to wait

        play(face, RedisStore(primary.url, replicas=1, wait=0.4), scenario)


def test_a_failover_forgets_what_the_replica_had_not_heard_of(kind: type[Valkey]) -> None:
    """Why neither Sentinel nor Cluster can promise more: replication is asynchronous."""
    with kind() as primary, kind() as replica, Proxy(primary.port) as link:
        replica.follow(link.port)
        old = RedisStore(primary.url).blocking
        link.black_hole()
        first = old.begin("s", "k", b"", owner="", lease=30, ttl=60)
        assert isinstance(first, Run)
        assert old.complete(first, b"result", ttl=60)
        primary.kill()
        replica.ask("REPLICAOF", "NO", "ONE")
        new = RedisStore(replica.url).blocking
        again = new.begin("s", "k", b"", owner="", lease=30, ttl=60)
        assert isinstance(again, Run)  # the operation runs a second time
        assert again.fence > first.fence  # which those who honour fences can tell
        old.close()
        new.close()


def test_in_a_cluster_a_store_lives_on_the_node_of_its_slot() -> None:
    with cluster() as nodes:
        (home,) = [node for node in nodes if serves(node, "{shop}")]
        store = RedisStore(home.url, tag="shop")
        transaction = store.blocking.transaction(began(store))
        assert transaction is not None
        transaction.connection.execute("INCRBY", store.slot_key("sold"), 1)
        transaction.connection.execute("HSET", store.slot_key("orders"), "k", "1")
        assert transaction.commit(b"result", ttl=60)
        store.blocking.close()
        for node in nodes:
            if node is not home:
                store = RedisStore(node.url, tag="shop")
                with pytest.raises(StoreUnavailable, match="a node of a cluster"):
                    began(store)
                store.blocking.close()


def serves(node: Valkey, key: str) -> bool:
    slot = node.ask("CLUSTER", "KEYSLOT", key)
    return any(
        first <= slot <= last and port == node.port for first, last, (_, port, *_), *_ in node.ask("CLUSTER", "SLOTS")
    )


def began(store: RedisStore) -> Run:
    answer = store.blocking.begin("s", "k", b"", owner="", lease=30, ttl=60)
    assert isinstance(answer, Run)
    return answer
