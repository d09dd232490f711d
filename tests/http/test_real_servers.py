"""The transport over real sockets: connections, drains, black holes."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import httpx
import pytest

from resilient.discovery import Static
from resilient.http import Transport, client, sync_client
from resilient.instance import Instance
from resilient.service import Service, default_policies

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


def test_no_connection_is_lost_to_calls_that_are_cancelled(ports, backend):
    async def main():
        orders = service(ports[:1], policies=[])
        transport = Transport(orders, connections=5)
        chance = random.Random(1)

        async def impatient() -> None:
            for _ in range(25):
                with anyio.move_on_after(chance.random() * 0.03):
                    await http.get("/")

        async with orders, httpx.AsyncClient(transport=transport, base_url="http://orders") as http:
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
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
                left = transport._async._by_id["a", "http"]
                now = anyio.current_time()
                orders.balancer.apply((await anext(Static([new]).watch())), now, random.random)
                assert (await http.get("/")).json()["port"] == new.port
                assert left.retired
                assert left.gate.in_flight == 1
                assert left.transport._pool.connections
                assert await response.aread() == b"slowly"  # what was in flight is finished
            await http.get("/")
            assert not transport._async._retired
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
