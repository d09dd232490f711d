"""DNS as a source of instances, with a real name server, which is killed and comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Self

import anyio
import pytest

from resilient.balancing import Ejection, RoundRobin
from resilient.discovery import connect
from resilient.http import client
from resilient.instance import Instance
from resilient.service import Service
from resilient.snapshot import Snapshot
from tests.servers.dnsmasq import Dnsmasq

ONE = "--host-record=orders.test,127.0.0.1"
TWO = "--host-record=orders.test,127.0.0.2"
FAST = "min_ttl=0.05&max_ttl=0.1&timeout=0.2"


@pytest.fixture
def server() -> Iterator[Dnsmasq]:
    with Dnsmasq(ONE) as running:
        yield running


class Listener:
    """An HTTP server that says its name; killed, its port refuses connections, until it is started again."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def start(self) -> None:
        said = self.name.encode()

        class Says(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_: object) -> None:
                pass

        self._server = server = ThreadingHTTPServer(("127.0.0.1", self.port), Says)
        self.port = server.server_port
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def kill(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


async def until(watch: AsyncIterator[Snapshot], *ids: str) -> Snapshot:
    with anyio.fail_after(20):
        async for snapshot in watch:
            if [instance.id for instance in snapshot.instances] == [*ids] and snapshot.stale_since is None:
                return snapshot
    raise AssertionError("it ended")


def test_addresses_come_go_and_are_replaced(server, backend):
    async def main() -> None:
        url = f"dns://orders.test:80?nameserver={server.nameserver}&on_empty=fail&{FAST}"
        watch = connect(url).watch()
        await until(watch, "127.0.0.1:80")
        for flags, ids in (([ONE, TWO], ["127.0.0.1:80", "127.0.0.2:80"]), ([TWO], ["127.0.0.2:80"]), (["-q"], [])):
            server.kill()
            server.start(*flags)
            await until(watch, *ids)

    anyio.run(main, backend=backend)


def test_many_addresses_are_fetched_over_tcp(backend):
    hosts = [f"127.1.{number // 100}.{number % 100}" for number in range(300)]

    async def main(url: str) -> None:
        assert len((await anext(connect(url).watch())).instances) == 300

    with Dnsmasq(*(f"--host-record=orders.test,{host}" for host in hosts)) as server:
        anyio.run(main, f"dns://orders.test:80?nameserver={server.nameserver}", backend=backend)


def test_aliases_and_both_families(backend):
    async def main(options: str) -> None:
        alias = connect(f"dns://www.test:80?{options}&family=both").watch()
        await until(alias, "127.0.0.1:80", "[::1]:80")
        await until(connect(f"dns://six.test:80?{options}").watch(), "[::2]:80")
        await until(connect(f"dns://www.test:80?{options}&family=4").watch(), "127.0.0.1:80")

    flags = ["--host-record=orders.test,127.0.0.1,::1", "--cname=www.test,orders.test", "--host-record=six.test,::2"]
    with Dnsmasq(*flags) as server:
        anyio.run(main, f"nameserver={server.nameserver}", backend=backend)


def test_services_with_weights_priorities_and_ports(backend):
    srv = "--srv-host=_http._tcp.orders.test"

    async def main(url: str) -> None:
        found = await until(connect(url).watch(), "127.0.0.1:8001", "127.0.0.2:8002", "127.0.0.3:8003")
        assert [instance.weight for instance in found.instances] == [60.0, 1.0, 9.0]
        assert [instance.metadata["priority"] for instance in found.instances] == ["10", "10", "20"]
        await until(connect(f"{url}&backups=no").watch(), "127.0.0.1:8001", "127.0.0.2:8002")

    with Dnsmasq(
        f"{srv},a.test,8001,10,60",
        f"{srv},b.test,8002,10,0",
        f"{srv},c.test,8003,20,9",
        *(f"--host-record={name}.test,127.0.0.{number}" for number, name in enumerate("abc", 1)),
    ) as server:
        anyio.run(main, f"dns+srv://_http._tcp.orders.test?nameserver={server.nameserver}", backend=backend)


def test_backups_are_used_while_none_of_the_first_can_be_reached(backend):
    """RFC 2782, with real records and listeners: both servers of the first priority are killed, and one comes back."""
    srv = "--srv-host=_http._tcp.orders.test,localhost.test"

    async def main(url: str, servers: list[Listener]) -> None:
        one, other, backup = servers
        ejection = Ejection(consecutive_failures=2, duration=0.1)
        orders = Service("orders", url, balancer=RoundRobin(), ejection=ejection)
        async with orders, client(orders) as http:

            async def used(calls: int) -> set[str]:
                return {(await http.get("/")).text for _ in range(calls)}

            async def settles_on(wanted: set[str]) -> None:
                with anyio.fail_after(20):
                    while await used(20) != wanted:
                        await anyio.sleep(0.02)

            await orders.ready()
            await settles_on({one.name, other.name})
            one.kill()
            await settles_on({other.name, backup.name})  # 70 % and 30 %: one of two is left
            other.kill()
            await settles_on({backup.name})
            assert not orders.explain().panic
            one.start()
            await settles_on({one.name, backup.name})
            other.start()
            await settles_on({one.name, other.name})

    with ExitStack() as stack:
        servers = [stack.enter_context(Listener(name)) for name in ("one", "other", "backup")]
        records = [f"{srv},{one.port},{10 if one.name != 'backup' else 20},0" for one in servers]
        names = stack.enter_context(Dnsmasq(*records, "--host-record=localhost.test,127.0.0.1"))
        url = f"dns+srv://_http._tcp.orders.test?nameserver={names.nameserver}&family=4"
        anyio.run(main, url, servers, backend=backend)


def test_a_dead_name_server_beside_a_living_one_is_passed_over(server, backend):
    async def main() -> None:
        with Dnsmasq(TWO) as other:
            nameservers = f"{other.nameserver},{server.nameserver}"
        url = f"dns://orders.test:80?nameserver={nameservers}&{FAST}"
        await until(connect(url).watch(), "127.0.0.1:80")

    anyio.run(main, backend=backend)


def test_calls_go_on_while_the_name_server_is_dead(server, backend):
    """Under load: it is killed, nobody notices, it comes back with another address, and the calls move there."""
    orders = Service("orders", f"dns://orders.test:80?nameserver={server.nameserver}&{FAST}")
    answered: list[str] = []
    stop = False

    @orders
    async def call(instance: Instance) -> str:
        await anyio.sleep(0.001)
        return instance.host

    async def load() -> None:
        while not stop:
            answered.append(await call())

    async def stale(wanted: bool) -> None:
        with anyio.fail_after(20):
            while (orders.balancer.snapshot is None) or (orders.balancer.snapshot.stale_since is not None) != wanted:
                await anyio.sleep(0.01)

    async def main() -> None:
        nonlocal stop
        async with orders, anyio.create_task_group() as tasks:
            await orders.ready()
            for _ in range(4):
                tasks.start_soon(load)
            await stale(False)
            server.kill()
            await stale(True)
            before = len(answered)
            await anyio.sleep(0.3)
            assert len(answered) > before
            assert set(answered) == {"127.0.0.1"}
            server.start(TWO)
            with anyio.fail_after(20):
                while answered[-1] != "127.0.0.2":
                    await anyio.sleep(0.01)
            stop = True

    anyio.run(main, backend=backend)
