"""DNS as a source of instances, with a real name server, which is killed and comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import anyio
import pytest

from resilient.discovery import connect
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
        found = await until(connect(url).watch(), "127.0.0.1:8001", "127.0.0.2:8002")
        assert [instance.weight for instance in found.instances] == [60.0, 1.0]
        assert [instance.metadata["priority"] for instance in found.instances] == ["10", "10"]

    with Dnsmasq(
        f"{srv},a.test,8001,10,60",
        f"{srv},b.test,8002,10,0",
        f"{srv},c.test,8003,20,9",
        *(f"--host-record={name}.test,127.0.0.{number}" for number, name in enumerate("abc", 1)),
    ) as server:
        anyio.run(main, f"dns+srv://_http._tcp.orders.test?nameserver={server.nameserver}", backend=backend)


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
