"""What a claim owes to its server: time, memory, and answers that get lost."""

from __future__ import annotations

import uuid

import pytest

from resilient.backends.redis import RedisStore
from resilient.backends.redis import claims as claims_module
from resilient.backends.store import Replay, Run
from tests.backends.redis.faces import begin, name, play, run
from tests.servers.proxy import Proxy
from tests.servers.valkey import Valkey


@pytest.fixture
def face(pair: tuple[type[Valkey], str]) -> str:
    return pair[1]


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


def test_a_record_takes_as_much_memory_as_the_documentation_says(server: Valkey) -> None:
    store = RedisStore(server.url).blocking
    used = {}
    for length in (64, 65, 10_000):
        key = str(uuid.uuid4())
        answer = store.begin("shop.payments", key, b"f" * 32, owner=str(uuid.uuid4()), lease=30, ttl=60)
        assert isinstance(answer, Run)
        store.complete(answer, b"x" * length, ttl=60)
        place = f"resilient:{{resilient}}:claim:13:shop.payments:{key}"
        used[length] = server.ask("MEMORY", "USAGE", place, "SAMPLES", 0)
    assert 256 < used[64] < 640
    assert 640 < used[65] < 1_300
    assert used[10_000] < 14_000
    store.close()


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
