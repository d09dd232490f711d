"""The pool of one instance: who gets which connection, and what becomes of those that nobody needs."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import anyio
import httpcore
import httpx
import httpx2
import pytest

from resilient.http import Transport
from resilient.http.pool import Pool
from resilient.service import Service
from resilient.testing import virtual_time
from resilient.testing.cancellation import for_each_cancellation
from tests.http.sockets import OK, RawServer, answering

GET = httpcore.Request("GET", "http://orders/", headers=[("Host", "orders")])


class Line(httpcore.AsyncNetworkStream):
    """A connection whose every step takes a while; it answers each request, in two pieces."""

    def __init__(self) -> None:
        self.requests = 0
        self.answer: list[bytes] = []
        self.expired = False
        self.closed = False
        self.aborted = False

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's
        await anyio.sleep(0.01)
        if buffer:
            self.requests += 1
            self.answer = [OK[:-1], OK[-1:]]

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's
        await anyio.sleep(0.01)
        if self.closed:
            raise httpcore.ReadError("it was closed meanwhile")
        return self.answer.pop(0)

    async def aclose(self) -> None:
        self.closed = True
        await anyio.sleep(0.01)  # for what is still to be sent
        self.aborted = True

    def get_extra_info(self, info: str) -> Any:
        return self.expired if info == "is_readable" else None


class Lines(httpcore.AsyncNetworkBackend):
    """Makes connections in memory, for a pool."""

    def __init__(self) -> None:
        self.made: list[Line] = []
        self.pool = Pool(partial(httpcore.AsyncHTTPConnection, network_backend=self), sync=False)

    async def connect_tcp(self, *_: Any, **__: Any) -> Line:
        await anyio.sleep(0.01)
        self.made.append(Line())
        return self.made[-1]

    @property
    def open(self) -> list[Line]:
        return [line for line in self.made if not line.closed]

    async def get(self) -> None:
        response = await self.pool.handle_async_request(GET)
        try:
            assert await response.aread() == b"ok"
            await response.aclose()
        finally:
            await response.aclose()  # whoever closes twice gives back once

    async def at_once(self, number: int) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(number):
                tasks.start_soon(self.get)

    async def make(self, number: int) -> list[Line]:
        """Make so many connections; return them in the order in which they became idle."""
        async with AsyncExitStack() as stack:
            for _ in range(number):
                response = await self.pool.handle_async_request(GET)
                stack.push_async_callback(response.aclose)
                await response.aread()
        return self.made[::-1]

    async def check(self) -> None:
        """What is open is idle and good for another request, and is closed with the pool."""
        assert all(connection.is_idle() for connection in self.pool.connections)
        assert len(self.pool.connections) == len(self.open)
        for line in self.made:
            line.expired = False
        made = len(self.made)
        await self.at_once(len(self.open))
        assert len(self.made) == made
        await self.get()
        await self.pool.aclose()
        assert not self.open


def test_requests_at_once_get_a_connection_each_and_later_ones_that_which_was_used_last(backend):
    async def main():
        lines = Lines()
        await lines.at_once(3)
        assert [line.requests for line in lines.made] == [1, 1, 1]
        for _ in range(5):
            await lines.get()
        assert sorted(line.requests for line in lines.made) == [1, 1, 6]
        await lines.check()

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize(
    ("expired", "used", "closed"),
    [
        ([], 2, []),
        ([0], 2, [0]),
        ([0, 1], 2, [0, 1]),
        ([2], 1, [2]),
        ([1, 2], 0, [1, 2]),
        ([0, 2], 1, [0, 2]),
        ([0, 1, 2], None, [0, 1, 2]),
        ([1], 2, []),  # until it is the one that was idle for the longest, or the one that was used last
    ],
)
def test_connections_that_have_expired_are_closed_and_never_used(expired, used, closed, backend):
    async def main():
        lines = Lines()
        idle = await lines.make(3)
        for index in expired:
            idle[index].expired = True
        await lines.get()
        assert [index for index, line in enumerate(idle) if line.requests > 1] == ([] if used is None else [used])
        assert [index for index, line in enumerate(idle) if line.closed] == closed
        assert len(lines.made) == (4 if used is None else 3)
        await lines.check()

    virtual_time.run(main, backend=backend)


def test_a_pool_closes_what_is_idle_and_what_is_in_use_and_keeps_nothing_afterwards(backend):
    async def main():
        lines = Lines()
        await lines.make(2)
        response = await lines.pool.handle_async_request(GET)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await lines.pool.aclose()
        assert all(line.aborted for line in lines.made)
        with pytest.raises(httpcore.ReadError):
            await response.aread()
        await response.aclose()
        await lines.get()  # somebody had a place before it was closed
        assert not lines.open
        assert not lines.pool.connections

    virtual_time.run(main, backend=backend)


async def some(lines: Lines) -> None:
    await lines.at_once(2)
    await lines.get()


async def expired(lines: Lines) -> None:
    await lines.make(2)
    for line in lines.made:
        line.expired = True
    await lines.get()


async def left(lines: Lines) -> None:
    response = await lines.pool.handle_async_request(GET)
    await response.aclose()


async def closed(lines: Lines) -> None:
    await lines.make(3)
    response = await lines.pool.handle_async_request(GET)
    try:
        await lines.pool.aclose()
    finally:
        await response.aclose()


# httpcore reads by generators that it does not close, which trio minds.
@pytest.mark.filterwarnings("ignore:Async generator 'httpcore:ResourceWarning")
@pytest.mark.parametrize("scenario", [some, expired, left, closed])
def test_a_request_that_is_cancelled_loses_no_connection(scenario, backend):
    runs = for_each_cancellation(Lines, scenario=scenario, check=Lines.check, backend=backend)
    assert runs > 5


def test_threads_share_a_pool():
    with RawServer(answering()) as server:
        pool = Pool(httpcore.HTTPConnection, sync=True)
        together = threading.Barrier(8)

        def ask() -> None:
            for _ in range(20):
                together.wait(10)
                request = httpcore.Request("GET", f"http://127.0.0.1:{server.port}/", headers=[("Host", "orders")])
                response = pool.handle_request(request)
                assert response.read() == b"ok"
                response.close()
                response.close()

        with ThreadPoolExecutor(8) as threads:
            for asking in [threads.submit(ask) for _ in range(8)]:
                asking.result()
        assert len(server.requests) == 160
        assert server.connections == len(pool.connections) <= 8
        assert all(connection.is_idle() for connection in pool.connections)
        pool.close()
        assert not pool.connections


@pytest.mark.parametrize("package", [httpx, httpx2])
def test_every_kind_of_client_uses_it(package, backend):
    def pools(transport: Transport) -> list[Pool]:
        return [
            connections.transport._pool
            for connectivity in transport._connectivity
            for connections in connectivity._table.values()
        ]

    async def main():
        with RawServer(answering()) as server:
            orders = Service("orders", server.url)
            transport = Transport(orders)
            async with orders, package.AsyncClient(transport=transport) as http:
                for _ in range(3):
                    assert (await http.get("http://orders/")).text == "ok"
                with package.Client(transport=transport) as blocking:
                    for _ in range(3):
                        assert blocking.get("http://orders/").text == "ok"
                    for pool in pools(transport):
                        assert isinstance(pool, Pool)
                        (connection,) = pool.connections
                        assert connection.is_idle()
            assert server.connections == 2

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("package", [httpx, httpx2])
def test_a_scheme_that_is_not_httpcores_is_refused_and_nobody_is_to_blame(package, backend):
    async def main():
        with RawServer(answering()) as server:
            orders = Service("orders", server.url)
            async with orders, package.AsyncClient(transport=Transport(orders)) as http:
                with pytest.raises(package.UnsupportedProtocol, match="ftp"):
                    await http.get("ftp://orders/")
                assert (await http.get("ws://orders/")).text == "ok"
                assert orders.instances()[0].failures == 0
            assert server.connections == 1

    anyio.run(main, backend=backend)
