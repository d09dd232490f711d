"""The transport over real sockets: connections, drains, black holes."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import anyio
import httpx
import pytest

import resilient
from resilient.discovery import Static
from resilient.errors import DeadlineExceeded
from resilient.http import Transport, client, sync_client
from resilient.http.body import Body
from resilient.instance import Instance
from resilient.service import Service
from resilient.snapshot import Snapshot
from resilient.stack import default_policies
from tests.http.network import connected

SERVER = Path(__file__).parent / "server.py"


@pytest.fixture(scope="module")
def ports() -> Iterator[list[int]]:
    """Three uvicorn processes that say which one they are, after 10 ms."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    for listening in sockets:  # uvicorn cannot tell that an inherited socket is one of TCP
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    processes = [
        subprocess.Popen([sys.executable, str(SERVER), str(listening.fileno())], pass_fds=[listening.fileno()])
        for listening in sockets
    ]
    ports = [listening.getsockname()[1] for listening in sockets]
    until = time.monotonic() + 20
    for port in ports:
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/", timeout=1.0)
            except httpx.TransportError:
                assert time.monotonic() < until, "the servers did not come up"
            else:
                break
    yield ports
    for process in processes:
        process.kill()
    for process in processes:
        process.wait(10)
    for listening in sockets:
        listening.close()


def service(ports: list[int], **arguments) -> Service:
    return Service("orders", "static://" + ",".join(f"127.0.0.1:{port}" for port in ports), **arguments)


def test_requests_reach_every_instance_over_connections_that_are_kept(ports, backend):
    async def main():
        orders = service(ports)
        async with orders, client(orders) as http:
            seen = [(await http.get("/")).json() for _ in range(60)]
        assert {answer["port"] for answer in seen} == set(ports)
        assert {answer["host"] for answer in seen} == {"orders"}
        assert len({answer["client"] for answer in seen}) == 3  # one connection an instance did for all

    anyio.run(main, backend=backend)


@asynccontextmanager
async def within_a_scope(seconds: float) -> AsyncIterator[None]:
    with anyio.move_on_after(seconds):
        yield


@asynccontextmanager
async def within_a_deadline_of_ours(seconds: float) -> AsyncIterator[None]:
    with suppress(DeadlineExceeded, httpx.ConnectTimeout), resilient.options(timeout=seconds):
        yield


@asynccontextmanager
async def within_a_timeout_of_asyncio(seconds: float) -> AsyncIterator[None]:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            yield


# A native cancellation that meets a connection just made leaves its socket to the garbage collector: that is anyio's.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("backend", "limit"),
    [
        ("asyncio", within_a_scope),
        ("trio", within_a_scope),
        ("asyncio", within_a_deadline_of_ours),
        ("asyncio", within_a_timeout_of_asyncio),  # its cancellations pierce every shield of anyio, and so httpcore's
    ],
)
def test_no_connection_is_lost_to_calls_that_are_cancelled(ports, backend, limit):
    async def main():
        orders = service(ports[:1], policies=[])
        transport = Transport(orders, connections=4)
        chance = random.Random(1)

        async def impatient() -> None:
            for _ in range(60):
                async with limit(chance.random() * 0.03):
                    await http.get("/")

        async with orders, httpx.AsyncClient(transport=transport, base_url="http://orders") as http:
            async with anyio.create_task_group() as tasks:
                for _ in range(40):
                    tasks.start_soon(impatient)
            assert orders.instances()[0].active == 0
            with anyio.fail_after(5):
                async with anyio.create_task_group() as tasks:
                    for _ in range(5):
                        tasks.start_soon(http.get, "/")

    anyio.run(main, backend=backend)


def test_a_black_hole_costs_one_attempt_and_not_the_call(ports, backend):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as hole:  # accepts, never answers
            orders = service([*ports[:2], hole.getsockname()[1]], policies=default_policies(attempt_timeout=0.3))
            async with orders, client(orders) as http:
                for _ in range(30):
                    assert (await http.get("/")).status_code == 200

    anyio.run(main, backend=backend)


def test_a_refused_connection_goes_elsewhere_even_for_a_post(ports, backend):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as closed:
            nobody = closed.getsockname()[1]
        orders = service([nobody, ports[0]])
        async with orders, client(orders) as http:
            for _ in range(10):
                assert (await http.post("/", content=b"x")).status_code == 200

    anyio.run(main, backend=backend)


def test_an_instance_that_leaves_is_drained(ports, backend):
    async def main():
        old, new = (Instance(id=name, host="127.0.0.1", port=port) for name, port in zip("ab", ports, strict=False))
        orders = Service("orders", Static([old]))
        transport = Transport(orders)
        async with orders, httpx.AsyncClient(transport=transport, base_url="http://orders") as http:
            async with http.stream("GET", "/slow") as response:
                connectivity = transport._connectivity[False]
                (left,) = connectivity._table.values()
                now = anyio.current_time()
                orders.balancer.apply((await anext(Static([new]).watch())), now, random.random)
                assert (await http.get("/")).json()["port"] == new.port
                assert connectivity._retired == [left]
                assert left.gate.in_flight == 1
                assert left.transport._pool.connections
                assert await response.aread() == b"slowly"  # what was in flight is finished
            await http.get("/")
            assert not connectivity._retired
            assert not left.transport._pool.connections  # and only then it is closed

    anyio.run(main, backend=backend)


def test_a_synchronous_client_ends_a_dripping_body_at_its_deadline(ports):
    orders = service(ports[:1])
    with orders, sync_client(orders, timeout=0.5) as http:
        started = time.monotonic()
        with pytest.raises(TimeoutError, match="deadline"):
            http.get("/drip")
        assert time.monotonic() - started < 3
        assert http.get("/").status_code == 200
    assert orders.instances()[0].active == 0


@contextmanager
def coming_and_going(orders: Service, sets: Sequence[tuple[Instance, ...]]) -> Iterator[None]:
    """Change the instances of a service every 20 ms."""
    over = threading.Event()

    def change() -> None:
        for version in itertools.count(2):
            snapshot = Snapshot(version=version, instances=sets[version % len(sets)])
            orders.balancer.apply(snapshot, time.monotonic(), random.random)
            if over.wait(0.02):
                return

    with ThreadPoolExecutor(1) as background:
        background.submit(change)
        try:
            yield
        finally:
            over.set()


def test_one_service_serves_an_event_loop_and_many_threads_while_instances_come_and_go(ports, backend):
    one, two, three = (Instance(id=str(port), host="127.0.0.1", port=port) for port in ports)
    orders = Service("orders", Static([one, two, three]), policies=default_policies(attempt_timeout=20.0, timeout=30.0))
    transport = Transport(orders, connections=4)
    answers: list[int] = []

    def ask(http: httpx.Client) -> None:
        for _ in range(20):
            with http.stream("GET", "/") as response:
                assert response.read()
                answers.append(response.status_code)

    async def ask_too(http: httpx.AsyncClient) -> None:
        for _ in range(20):
            response = await http.get("/")
            answers.append(response.status_code)

    def in_threads() -> None:
        with httpx.Client(transport=transport, base_url="http://orders") as http, ThreadPoolExecutor(16) as threads:
            for asking in [threads.submit(ask, http) for _ in range(16)]:
                asking.result()

    async def main() -> None:
        async with orders, connected(transport) as http, anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(ask_too, http)
            await anyio.to_thread.run_sync(in_threads)

    with coming_and_going(orders, [(one, two), (two, three), (one, three), (one, two, three), (three,)]):
        anyio.run(main, backend=backend)
    assert answers == [200] * 20 * (8 + 16)
    assert all(standing.active == 0 for standing in orders.instances())
    for connectivity in transport._connectivity:
        assert not connectivity._table
        assert not connectivity._retired


@pytest.mark.parametrize("moment", ["of the request", "of the closing"])
def test_no_connection_is_lost_to_tasks_that_are_cancelled_at_any_moment(ports, moment, monkeypatch):
    """Asyncio's own cancellation pierces the shields of httpcore, whose own pool then takes a connection for busy."""

    async def let_go(self) -> None:
        if moment == "of the closing":
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_soon(task.cancel)
        await original(self)

    original = Body._let_go

    async def main():
        orders = service(ports[:1], policies=[])
        transport = Transport(orders, connections=3)
        async with orders, connected(transport) as http:
            with monkeypatch.context() as patched:
                patched.setattr(Body, "_let_go", let_go)
                for steps in range(1, 40):
                    task = asyncio.create_task(http.get("/"))
                    if moment == "of the request":
                        for _ in range(steps):
                            await asyncio.sleep(0)
                        task.cancel()
                    await asyncio.wait([task])
            with anyio.fail_after(5):
                async with anyio.create_task_group() as tasks:
                    for _ in range(3):
                        tasks.start_soon(http.get, "/")
            (connections,) = transport._connectivity[False]._table.values()
            kept = connections.transport._pool.connections
            assert 1 <= len(kept) <= 3
            assert all(connection.is_idle() for connection in kept)

    anyio.run(main)
