"""Connections that break, hang or run out, and readers who leave: nobody waits for ever, or hears another's answer."""

from __future__ import annotations

import asyncio
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from resilient.backends.redis import RedisStore
from resilient.backends.redis.server import Address, LoopPool, ThreadPool
from resilient.backends.store import Replay, Run
from resilient.errors import StoreUnavailable
from tests.backends.redis.faces import begin, play, run
from tests.servers.process import free_port
from tests.servers.proxy import Proxy
from tests.servers.valkey import Valkey


@pytest.fixture
def server() -> Iterator[Valkey]:
    """One that a test may freeze and kill."""
    with Valkey() as server:
        yield server


def test_a_server_that_is_down_is_a_store_that_is_not_available(face: str) -> None:
    async def scenario(store):
        with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1"):
            await run(store)

    play(face, RedisStore(f"redis://127.0.0.1:{free_port()}"), scenario)


def test_a_frozen_server_is_waited_for_no_longer_than_the_timeout(server: Valkey, face: str) -> None:
    async def scenario(store):
        first = await run(store)
        server.stop()
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"no answer within 0.3 s"):
            await store.complete(first, b"result", ttl=60)
        with pytest.raises(StoreUnavailable, match=r"no answer within 0.3 s"):
            await run(store, "another")  # over a new connection
        assert time.monotonic() - started < 5
        server.go_on()
        # Whether the first one took place is for the record to tell.
        record = await store.lookup("s", "k")
        assert record is not None
        assert record.fence == first.fence

    play(face, RedisStore(server.url, timeout=0.3), scenario)


def test_what_was_idle_while_the_server_restarted_is_replaced_without_a_failure(server: Valkey, face: str) -> None:
    async def scenario(store):
        await run(store)
        server.kill()
        server.start()
        assert isinstance(await begin(store), Run)

    play(face, RedisStore(server.url), scenario)


def test_a_connection_that_breaks_twice_is_a_store_that_is_not_available(
    valkey: Valkey, proxy: Proxy, face: str, tag: str
) -> None:
    async def scenario(store):
        await run(store)
        proxy.refuse()
        proxy.reset()
        with pytest.raises(StoreUnavailable):
            await run(store, "another")
        proxy.heal()
        assert isinstance(await begin(store, "another"), Run)

    play(face, RedisStore(f"redis://127.0.0.1:{proxy.port}", tag=tag), scenario)


class Rude(socketserver.BaseRequestHandler):
    """Listens to a question, and leaves. Before that it takes the names of its clients."""

    def handle(self) -> None:
        while (heard := self.request.recv(4096)) and b"\r\nINFO\r\n" not in heard:
            self.request.sendall(b"+OK\r\n" * heard.count(b"SETINFO"))


def test_a_server_that_leaves_without_an_answer_twice_is_not_available(face: str) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Rude) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()

        async def scenario(store):
            with pytest.raises(StoreUnavailable, match="the connection broke off"):
                await run(store)

        try:
            play(face, RedisStore(f"redis://127.0.0.1:{server.server_address[1]}"), scenario)
        finally:
            server.shutdown()


def test_an_interrupt_in_the_middle_of_an_answer_leaves_nothing_for_the_next(proxy: Proxy, tag: str) -> None:
    """Ctrl-C in a plain function, which goes on all the same."""
    store = RedisStore(f"redis://127.0.0.1:{proxy.port}", tag=tag, connections=1).blocking
    for key in ("mine", "yours"):
        answer = store.begin("s", key, b"", owner="", lease=30, ttl=60)
        assert isinstance(answer, Run)
        store.complete(answer, key.encode(), ttl=60)
    proxy.latency = 0.05

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for after in (0.02, 0.07):
            with pytest.raises(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, after)
                store.lookup("s", "mine")
            yours = store.lookup("s", "yours")
            assert yours is not None
            assert yours.result == b"yours"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        store.close()


def test_whoever_leaves_before_the_answer_leaves_nothing_for_the_next(valkey: Valkey, proxy: Proxy, tag: str) -> None:
    """One connection for all, and every caller but one in three gives up in the middle of an answer."""
    keys = [f"key {number}" for number in range(60)]

    async def main() -> None:
        store = RedisStore(f"redis://127.0.0.1:{proxy.port}", tag=tag, connections=1)
        for key in keys:
            assert await store.complete(await run(store, key), key.encode(), ttl=60)
        proxy.latency = 0.005
        left = 0
        for number, key in enumerate(keys):
            if number % 3:
                task = asyncio.create_task(begin(store, key))
                await asyncio.sleep(0.0005 * (number % 12))
                task.cancel()
                await asyncio.wait([task])
                left += task.cancelled()
            else:
                assert await begin(store, key) == Replay(key.encode())
        assert left > 20
        proxy.latency = 0.0
        assert [await begin(store, key) for key in keys] == [Replay(key.encode()) for key in keys]
        await store.close()

    asyncio.run(main())


@pytest.mark.parametrize("leave", ["task", "scope", "timeout"])
def test_a_caller_cancelled_at_every_await_leaves_nothing_for_the_next(
    valkey: Valkey, store: RedisStore, leave: str
) -> None:
    async def ask(key: str, moment: int) -> bool:
        """Whether the caller left, at the moment that its coroutine was suspended for the n-th time."""
        coroutine = store.lookup("s", key)
        if leave == "task":
            until = _Until(coroutine, moment)
            task = asyncio.create_task(until.run())
            until.act = task.cancel
            await asyncio.wait([task])
            return task.cancelled()
        if leave == "scope":
            with anyio.CancelScope() as scope:
                await _Until(coroutine, moment, scope.cancel).run()
            return scope.cancelled_caught
        try:
            async with asyncio.timeout(None) as timeout:
                await _Until(coroutine, moment, lambda: timeout.reschedule(0.0)).run()
        except TimeoutError:
            return True
        return False

    async def main(*, cold: bool) -> int:
        await store.complete(await run(store, "mine"), b"mine", ttl=60)
        await store.complete(await run(store, "yours"), b"yours", ttl=60)
        for moment in range(1, 100):
            if cold:
                await store.close()
            left = await ask("mine", moment)
            yours = await store.lookup("s", "yours")
            assert yours is not None
            assert yours.result == b"yours"
            if not left:
                await store.close()
                return moment
        raise AssertionError("it never ends")

    assert asyncio.run(main(cold=False)) > 1
    valkey.ask("FLUSHALL")
    assert asyncio.run(main(cold=True)) > 3


def test_no_more_connections_are_made_than_allowed(valkey: Valkey, proxy: Proxy, tag: str, face: str) -> None:
    proxy.latency = 0.01
    most = []

    async def scenario(store):
        if face == "plain":
            threads = [threading.Thread(target=store.blocking.lookup, args=("s", "k")) for _ in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
                most.append(proxy.connections)
            return
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(store.lookup, "s", "k")
            for _ in range(20):
                await anyio.sleep(0.005)
                most.append(proxy.connections)

    play(face, RedisStore(f"redis://127.0.0.1:{proxy.port}", tag=tag, connections=3), scenario)
    assert max(most) <= 3


def test_whoever_finds_all_connections_in_use_waits_no_longer_than_the_timeout(valkey: Valkey) -> None:
    address = Address.parse(valkey.url)
    threads = ThreadPool(address, connections=1, timeout=0.05)
    assert threads._slots.acquire(blocking=False)
    with pytest.raises(StoreUnavailable, match=r"all 1 connections were in use for 0.05 s"):
        threads.exchange([("PING",)])

    async def main() -> None:
        pool = LoopPool(address, connections=1, timeout=0.05)
        pool._slots.acquire_nowait()
        with pytest.raises(StoreUnavailable, match=r"all 1 connections were in use for 0.05 s"):
            await pool.exchange([("PING",)])

    asyncio.run(main())


def test_a_block_closes_its_store(valkey: Valkey, proxy: Proxy, tag: str, backend: str) -> None:
    async def main() -> None:
        async with RedisStore(f"redis://127.0.0.1:{proxy.port}", tag=tag) as store:
            await run(store)
            assert await store.gc() == store.blocking.gc() == 0
        await until(lambda: proxy.connections == 0)

    anyio.run(main, backend=backend)


def test_a_pool_that_is_closed_keeps_nothing_open(valkey: Valkey, proxy: Proxy, tag: str, face: str) -> None:
    async def scenario(store):
        await run(store)
        assert proxy.connections == 1
        await store.close()
        if face != "plain":
            await until(lambda: proxy.connections == 0)

    play(face, RedisStore(f"redis://127.0.0.1:{proxy.port}", tag=tag), scenario)
    anyio.run(until, lambda: proxy.connections == 0)


def test_what_was_in_use_when_the_pool_was_closed_is_not_used_again(valkey: Valkey, proxy: Proxy, tag: str) -> None:
    proxy.latency = 0.02

    async def main() -> None:
        store = RedisStore(f"redis://127.0.0.1:{proxy.port}", tag=tag)
        await run(store)
        waiting = asyncio.create_task(store.lookup("s", "k"))
        blocking = asyncio.create_task(asyncio.to_thread(store.blocking.lookup, "s", "k"))
        await asyncio.sleep(0.01)
        await store.close()
        for record in (await waiting, await blocking):
            assert record is not None
        await until(lambda: proxy.connections == 0)

    asyncio.run(main())


def test_event_loops_in_threads_share_a_store_and_no_connections(valkey: Valkey, store: RedisStore) -> None:
    found: list[object] = []

    async def main() -> None:
        found.extend([await begin(store, str(number)) for number in range(20)])
        await store.close()

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80
    assert sum(isinstance(answer, Run) for answer in found) == 20


FORK = """
import os, sys
from resilient.backends.redis import RedisStore

store = RedisStore(sys.argv[1], tag=sys.argv[2]).blocking
for who in ("parent", "child"):
    store.complete(store.begin("s", who, b"", owner="", lease=30, ttl=60), who.encode(), ttl=60)
children = []
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        for _ in range(300):
            assert store.lookup("s", "child").result == b"child"
        os._exit(0)
    children.append(pid)
for _ in range(300):
    assert store.lookup("s", "parent").result == b"parent"
print([os.waitpid(pid, 0)[1] for pid in children])
"""


def test_a_forked_child_does_not_talk_over_its_parents_connections(valkey: Valkey, tag: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORK, valkey.url, tag]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True, cwd=Path.cwd())
    assert done.stdout.strip() == "[0, 0, 0, 0]"


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.001)


class _Until:
    """A coroutine during whose n-th suspension something happens."""

    def __init__(
        self, coroutine: Coroutine[Any, Any, object], moment: int, act: Callable[[], object] | None = None
    ) -> None:
        self._coroutine, self._left, self.act = coroutine, moment, act

    async def run(self) -> object:
        return await self

    def __await__(self):
        inner = self._coroutine.__await__()
        try:
            waits_for = inner.send(None)
            while True:
                self._left -= 1
                if self._left == 0 and self.act is not None:
                    asyncio.get_running_loop().call_soon(self.act)
                try:
                    value = yield waits_for
                except BaseException as error:
                    waits_for = inner.throw(error)
                else:
                    waits_for = inner.send(value)
        except StopIteration as stop:
            return stop.value
