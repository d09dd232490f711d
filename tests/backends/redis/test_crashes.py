"""What crashes, failovers and clusters cost, and what they do not."""

from __future__ import annotations

import pytest

from resilient.backends.redis import RedisStore
from resilient.backends.store import Busy, Replay, Run
from resilient.errors import StoreUnavailable
from tests.backends.redis.faces import begin, name, play, replicated, run
from tests.servers.proxy import Proxy
from tests.servers.valkey import Valkey, cluster


@pytest.fixture
def face(pair: tuple[type[Valkey], str]) -> str:
    return pair[1]


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


@replicated
def test_a_replica_is_refused(kind: type[Valkey], face: str) -> None:
    with kind() as primary, kind() as replica:
        replica.follow(primary.port)

        async def scenario(store):
            with pytest.raises(StoreUnavailable, match="a replica"):
                await run(store)

        play(face, RedisStore(replica.url), scenario)


@replicated
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


@replicated
def test_a_claim_that_no_replica_has_is_refused(
    kind: type[Valkey], face: str, caplog: pytest.LogCaptureFixture
) -> None:
    with kind() as primary, kind() as replica:
        replica.follow(primary.port)
        primary.ask("SET", "somebody else's", "1")  # from here on it hears of everything at once
        replica.wait_for(lambda: bool(replica.ask("EXISTS", "somebody else's")))

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


@replicated
def test_a_begin_that_was_sent_again_waits_for_replicas_as_well(kind: type[Valkey], face: str) -> None:
    """It finds what it wrote before, over another connection, and a wait is for what its own connection wrote."""
    with kind() as primary, kind() as replica, Proxy(primary.port) as proxy:
        replica.follow(primary.port)

        async def scenario(store):
            await run(store, "warm")
            replica.stop()
            proxy.cut_answer(RedisStore.scripts.begin.sha.encode())
            with pytest.raises(StoreUnavailable, match="1 replicas did not have the claim"):
                await run(store)
            assert proxy.cuts == 1
            replica.go_on()

        primary.ask("SET", "somebody else's", "1")
        replica.wait_for(lambda: bool(replica.ask("EXISTS", "somebody else's")))
        play(face, RedisStore(f"redis://127.0.0.1:{proxy.port}", replicas=1, wait=0.4), scenario)


@replicated
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
