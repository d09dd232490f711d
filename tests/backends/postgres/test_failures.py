"""The server goes, the network goes, sessions are ended: the effect is there once, or it is said that it is not."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import anyio.to_thread
import psycopg
import pytest

from resilient.asgi import IdempotencyMiddleware
from resilient.backends.postgres import PostgresStore
from resilient.backends.store import Run
from resilient.errors import InProgress, LeaseLost, StoreUnavailable
from tests.asgi.calling import App, post
from tests.backends.postgres.orders import Orders
from tests.servers.postgres import Postgres
from tests.servers.process import free_port
from tests.servers.proxy import Proxy

Main = Callable[[], Awaitable[None]]


@pytest.fixture(params=[False, True], ids=["one commit", "resumable"])
def resumable(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def run(backend: str) -> Callable[[Main], None]:
    return lambda main: anyio.run(main, backend=backend)


@pytest.fixture
def proxy(postgres: Postgres) -> Iterator[Proxy]:
    with Proxy(postgres.port) as proxy:
        yield proxy


async def until_taken(take: Callable[[str], Awaitable[int]], order: str) -> int:
    """Try as a client does."""
    give_up = time.monotonic() + 20
    while True:
        try:
            return await take(order)
        except (StoreUnavailable, InProgress):
            assert time.monotonic() < give_up
            await anyio.sleep(0.02)


def test_a_server_that_is_not_there_is_a_store_that_is_not_available(run) -> None:
    async def main() -> None:
        port = free_port()
        store = PostgresStore(f"postgresql://me:secret@127.0.0.1:{port}/orders")
        with pytest.raises(StoreUnavailable, match=f"^postgresql://127.0.0.1:{port}/orders: "):
            await store.begin("s", "k", b"", owner="me", lease=30.0, ttl=60.0)
        app = App()
        for mode in ("fenced", "transactional"):
            answer = await post(IdempotencyMiddleware(app, store=store, mode=mode))
            assert answer.status == 503
        assert app.runs == 0
        with pytest.raises(StoreUnavailable):
            store.blocking.lookup("s", "k")

    run(main)


def test_a_session_that_is_ended_in_the_middle_takes_its_effect_along(
    run, postgres: Postgres, postgres_url: str, resumable
) -> None:
    async def main() -> None:
        orders = Orders(postgres, postgres_url)

        async def cut() -> None:
            if orders.runs == 1:
                assert postgres.disconnect(postgres_url)

        take = orders.taker(between=cut, resumable=resumable)
        with pytest.raises(psycopg.OperationalError):
            await take("a")
        assert await until_taken(take, "a") == 2
        assert await take("a") == 2
        assert orders.all() == ["a"]
        await orders.store.close()

    run(main)


def test_a_session_that_is_ended_before_the_commit_is_reported_and_can_be_tried_again(
    run, postgres: Postgres, postgres_url: str, resumable
) -> None:
    async def main() -> None:
        orders = Orders(postgres, postgres_url)

        async def cut() -> None:
            if orders.runs == 1:
                assert postgres.disconnect(postgres_url)

        take = orders.taker(after=cut, resumable=resumable)
        with pytest.raises(StoreUnavailable):
            await take("a")
        assert orders.all() == []
        assert await until_taken(take, "a") == 2
        assert orders.all() == ["a"]
        await orders.store.close()

    run(main)


def test_idle_sessions_that_were_ended_are_not_noticed(run, postgres: Postgres, postgres_url: str, resumable) -> None:
    async def main() -> None:
        orders = Orders(postgres, postgres_url)
        take = orders.taker(resumable=resumable)
        assert await take("a") == 1
        assert postgres.disconnect(postgres_url)
        assert await take("b") == 2
        assert await take("a") == 1
        assert orders.all() == ["a", "b"]
        await orders.store.close()

    run(main)


def test_plain_functions_survive_it_too(postgres: Postgres, postgres_url: str, resumable) -> None:
    orders = Orders(postgres, postgres_url)

    def cut() -> None:
        if orders.runs == 2:
            assert postgres.disconnect(postgres_url)

    take = orders.plain_taker(between=cut, resumable=resumable)
    assert take("a") == 1
    assert postgres.disconnect(postgres_url)
    with pytest.raises(psycopg.OperationalError):
        take("b")
    give_up = time.monotonic() + 20
    while True:
        try:
            assert take("b") == 3
            break
        except InProgress:
            assert time.monotonic() < give_up
    assert orders.all() == ["a", "b"]
    orders.store.blocking.close()


def test_what_was_reported_outlives_a_crash_of_the_server(
    run, postgres: Postgres, postgres_url: str, resumable
) -> None:
    async def main() -> None:
        orders = Orders(postgres, postgres_url)

        async def crash() -> None:
            if orders.runs == 3:
                await anyio.to_thread.run_sync(postgres.kill)

        take = orders.taker(after=crash, resumable=resumable, lease=2.0)
        assert await take("a") == 1
        await anyio.to_thread.run_sync(postgres.kill)
        with pytest.raises(StoreUnavailable):
            await take("a")
        await anyio.to_thread.run_sync(postgres.start)
        assert await take("a") == 1
        assert await take("b") == 2
        with pytest.raises(StoreUnavailable):
            await take("c")  # killed before the commit
        await anyio.to_thread.run_sync(postgres.start)
        assert await until_taken(take, "c") == 4
        assert orders.all() == ["a", "b", "c"]
        await orders.store.close()

    run(main)


def test_a_server_that_hangs_is_given_up_in_time(run, postgres: Postgres, postgres_url: str) -> None:
    async def main() -> None:
        orders = Orders(postgres, postgres_url, timeout=0.5)
        take = orders.taker()
        assert await take("a") == 1
        postgres.stop()
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await take("a")
        assert time.monotonic() - began < 5
        postgres.go_on()
        assert await until_taken(take, "a") == 1
        await orders.store.close()

    run(main)


def test_an_effect_is_cut_off_where_the_server_hangs_longer_than_the_lease(
    run, postgres: Postgres, postgres_url: str, backend: str
) -> None:
    async def main() -> None:
        orders = Orders(postgres, postgres_url, timeout=0.5)

        async def hang() -> None:
            if orders.runs == 1:
                postgres.stop()

        take = orders.taker(between=hang, lease=1.0)
        with pytest.raises((psycopg.OperationalError, StoreUnavailable, LeaseLost, RuntimeError)):
            await take("a")
        postgres.go_on()
        assert await until_taken(take, "a") == 2
        assert orders.all() == ["a"]
        await orders.store.close()

    run(main)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_commit_whose_answer_is_lost_is_looked_up(
    run, postgres: Postgres, postgres_url: str, proxy: Proxy, moment: str, resumable
) -> None:
    """Either it took place, and is a success, or it did not, and is an error; a retry finds the same."""

    async def main() -> None:
        orders = Orders(postgres, postgres_url, through=proxy.port)

        async def cut() -> None:
            if orders.runs == 1:
                (proxy.cut_before if moment == "before" else proxy.cut_answer)(b"COMMIT")

        take = orders.taker(after=cut, resumable=resumable)
        if moment == "before":
            with pytest.raises(StoreUnavailable):
                await take("a")
            assert await until_taken(take, "a") == 2
        else:
            # The server may still be at it when it is looked up; then it is found by the retry.
            try:
                assert await take("a") == 1
            except StoreUnavailable:
                assert await until_taken(take, "a") == 1
        assert orders.all() == ["a"]
        await orders.store.close()

    run(main)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_claim_whose_answer_is_lost_is_made_once(
    run, postgres: Postgres, postgres_url: str, proxy: Proxy, moment: str, resumable
) -> None:
    async def main() -> None:
        orders = Orders(postgres, postgres_url, through=proxy.port)
        take = orders.taker(resumable=resumable)
        assert await take("warm") == 1
        (proxy.cut_before if moment == "before" else proxy.cut_answer)(b"INSERT INTO resilient_claims")
        assert await take("a") == 2
        assert proxy.cuts == 1
        assert orders.all() == ["a", "warm"]
        await orders.store.close()

    run(main)


def test_a_heartbeat_that_is_lost_is_repeated(run, postgres: Postgres, postgres_url: str, proxy: Proxy) -> None:
    async def main() -> None:
        orders = Orders(postgres, postgres_url, through=proxy.port)
        claim = await orders.store.begin("s", "k", b"", owner="me", lease=30.0, ttl=60.0)
        assert isinstance(claim, Run)
        proxy.cut_answer(b"UPDATE resilient_claims")
        assert await orders.store.heartbeat(claim, lease=60.0)
        assert proxy.cuts == 1
        proxy.cut_answer(b"UPDATE resilient_claims")
        with pytest.raises(StoreUnavailable):
            await orders.store.complete(claim, b"result", ttl=60.0)
        record = await orders.store.lookup("s", "k")
        assert record is not None
        assert record.result == b"result"
        await orders.store.close()

    run(main)


def test_a_network_that_swallows_everything_is_given_up_in_time(
    run, postgres: Postgres, postgres_url: str, proxy: Proxy
) -> None:
    async def main() -> None:
        orders = Orders(postgres, postgres_url, through=proxy.port, timeout=0.5)
        take = orders.taker()
        assert await take("a") == 1
        proxy.black_hole()
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await take("b")
        assert time.monotonic() - began < 5
        proxy.heal()
        assert await until_taken(take, "b") == 2
        assert orders.all() == ["a", "b"]
        await orders.store.close()

    run(main)


def test_a_pool_that_is_used_up_says_so_in_time(run, postgres: Postgres, postgres_url: str) -> None:
    async def main() -> None:
        orders = Orders(postgres, postgres_url, pool_size=1, timeout=0.3, lock_timeout=0.1)

        async def look() -> None:
            with pytest.raises(StoreUnavailable, match=r"all 1 connections of the pool were in use for 0.3 s"):
                await orders.store.lookup("s", "k")

        assert await orders.taker(between=look)("a") == 1
        assert await orders.store.lookup("s", "k") is None
        assert orders.all() == ["a"]
        await orders.store.close()

    run(main)


def test_a_silent_executor_is_ended_by_the_server(postgres: Postgres, postgres_url: str) -> None:
    """As one that is stopped for longer than its lease: nobody here undoes its transaction."""
    orders = Orders(postgres, postgres_url)
    opened: Any = orders.store.blocking.open("orders", "a", b"", owner="frozen", lease=0.5, ttl=60.0)
    opened.transaction.connection.execute("INSERT INTO orders VALUES ('a', 1)")
    give_up = time.monotonic() + 20
    while not isinstance(
        answer := orders.store.blocking.begin("orders", "a", b"", owner="next", lease=30.0, ttl=60.0), Run
    ):
        assert time.monotonic() < give_up
    assert not answer.takeover
    with pytest.raises(StoreUnavailable):
        opened.transaction.commit(b"late", ttl=60.0)
    assert orders.all() == []
    orders.store.blocking.close()
