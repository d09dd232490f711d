"""Connections: places, addresses that change, transports that are closed."""

from __future__ import annotations

import ssl
from typing import Any

import anyio
import httpx
import httpx2
import pytest

import resilient
import resilient.http.connections
from resilient.discovery import Static
from resilient.errors import DeadlineExceeded
from resilient.http import Transport, client, sync_client
from resilient.http.connections import Connectivity, Wire
from resilient.http.package import package_of
from resilient.instance import Instance
from resilient.policies.honoured import Honoured
from resilient.policies.retry import Retry
from resilient.service import Service
from resilient.snapshot import Snapshot
from resilient.stack import default_policies
from resilient.testing import virtual_time
from tests.http.network import Network, connected, settled

HTTPX = package_of(httpx.Request("GET", "http://x"))


def at(name: str, port: int = 80) -> Instance:
    return Instance(id=name, host=name, port=port)


class Closable(httpx.AsyncBaseTransport, httpx.BaseTransport):
    """Answers after a while, and remembers that it was closed."""

    def __init__(self, instance: Instance, *, fails: bool = False) -> None:
        self.instance = instance
        self.closed = 0
        self.fails = fails

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert not self.closed
        await anyio.sleep(0.1)
        return httpx.Response(200, text=self.instance.host)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        assert not self.closed
        return httpx.Response(200, text=self.instance.host)

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        self.closed += 1
        if self.fails:
            raise OSError("cannot be closed")


class Made:
    """Makes the transports, and keeps them."""

    def __init__(self, *, fails: bool = False) -> None:
        self.transports: list[Closable] = []
        self.fails = fails

    def __call__(self, instance: Instance) -> Closable:
        self.transports.append(Closable(instance, fails=self.fails))
        return self.transports[-1]


def test_the_wait_for_a_place_is_not_blamed_on_the_instance_and_sends_nothing(backend):
    network = Network(60.0)

    async def main():
        service = network.service(1, [])
        transport = Transport(service, network.transport, connections=1)
        async with service, connected(transport) as http, anyio.create_task_group() as tasks:
            tasks.start_soon(http.get, "/")
            await anyio.sleep(0.5)
            with resilient.options(timeout=1.0), pytest.raises(DeadlineExceeded) as caught:
                await http.post("/")
            assert anyio.current_time() == 1.5
            assert not caught.value.sent
            (standing,) = service.instances()
            assert (standing.active, standing.failures) == (1, 0)
            tasks.cancel_scope.cancel()
        assert settled(service)

    virtual_time.run(main, backend=backend)
    assert len(network.requests) == 1


def test_an_attempt_has_its_whole_time_after_it_waited_for_a_place(backend):
    async def main():
        network = Network(*[2.0] * 3)
        service = network.service(1, default_policies(attempt_timeout=2.5))
        transport = Transport(service, network.transport, connections=1)
        answered = []

        async def get() -> None:
            answered.append((await http.get("/")).status_code)

        async with service, connected(transport) as http:
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(get)
            assert answered == [200, 200, 200]
            assert len(network.requests) == 3
            assert service.instances()[0].failures == 0
            assert settled(service)

    virtual_time.run(main, backend=backend)


def test_the_latency_that_the_balancer_learns_is_without_the_wait_for_a_place(backend):
    async def main():
        network = Network(*[1.0] * 3)
        service = network.service(1, [])
        transport = Transport(service, network.transport, connections=1)
        async with service, connected(transport) as http:
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(http.get, "/")
            assert service.instances()[0].score == pytest.approx(1.0, rel=0.2)

    virtual_time.run(main, backend=backend)


def test_who_gives_up_the_wait_for_a_place_says_nothing_of_the_instance(backend):
    async def main():
        network = Network(1.0, 60.0)
        service = network.service(1, [])
        transport = Transport(service, network.transport, connections=1)
        async with service, connected(transport) as http, anyio.create_task_group() as tasks:
            await http.get("/")
            tasks.start_soon(http.get, "/")
            await anyio.sleep(0.05)
            before = service.instances()[0].score
            with anyio.move_on_after(30):
                await http.get("/")
            assert service.instances()[0].score <= before
            tasks.cancel_scope.cancel()
        assert len(network.requests) == 2
        assert settled(service)

    virtual_time.run(main, backend=backend)


def test_connections_that_cannot_be_made_are_no_failure_of_the_instance(backend):
    def inner(instance: Instance) -> Any:
        raise OSError("no certificate of ours")

    async def main():
        service = Service("orders", "static://10.0.0.1:1,10.0.0.2:2")
        async with service, connected(Transport(service, inner)) as http:
            for _ in range(10):
                with pytest.raises(OSError, match="no certificate"):
                    await http.get("/")
            assert all(one.failures == 0 for one in service.instances())

    virtual_time.run(main, backend=backend)


def test_a_change_of_address_under_the_same_id_closes_the_old_connections_when_they_are_idle(backend):
    async def main():
        made = Made()
        service = Service("orders", Static([Instance(id="a", host="old", port=80)]))
        transport = Transport(service, made)
        random = iter(lambda: 0.5, None).__next__
        async with service, httpx.AsyncClient(transport=transport, base_url="http://orders") as http:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(http.get, "/")
                await anyio.sleep(0.05)
                moved = Snapshot(version=2, instances=(Instance(id="a", host="new", port=80),))
                service.balancer.apply(moved, anyio.current_time(), random)
                assert (await http.get("/")).text == "new"
                assert [one.instance.host for one in made.transports] == ["old", "new"]
            assert (await http.get("/")).text == "new"
            assert [one.closed for one in made.transports] == [1, 0]
            assert len(made.transports) == 2
        assert [one.closed for one in made.transports] == [1, 1]

    virtual_time.run(main, backend=backend)


def test_an_instance_that_left_while_its_attempt_waited_gets_no_connections_that_stay():
    made = Made()
    here = Snapshot(version=1, instances=(at("a"), at("b")))
    wire = Wire(made, connections=1, http2=False, verify=True)
    connectivity = Connectivity(wire, lambda: here, sync=True)
    connectivity.to(at("a"), "http", HTTPX)
    here = Snapshot(version=2, instances=(at("b"),))
    connectivity.to(at("a"), "http", HTTPX)
    assert len(connectivity._table) == 0
    assert connectivity.take_idle() is made.transports[0]
    assert connectivity.take_idle() is made.transports[1]
    assert connectivity.take_idle() is None


def test_an_attempt_that_finds_its_connections_closed_gets_others(backend):
    """In a thread, they may be retired and closed between the look at the table and the taking of a place."""

    async def main():
        made = Made()
        service = Service("orders", Static([at("a")]), policies=[])
        transport = Transport(service, made)
        async with service, httpx.AsyncClient(transport=transport, base_url="http://orders") as http:
            await http.get("/")
            (connections,) = transport._connectivity[False]._table.values()
            connections.closed = True
            original = Connectivity.to
            looks = []

            def to(self, instance, scheme, package):
                looks.append(instance)
                if len(looks) == 1:
                    return connections
                self._table.clear()
                return original(self, instance, scheme, package)

            Connectivity.to = to  # type: ignore[method-assign]  # what another thread would do in between
            try:
                assert (await http.get("/")).text == "a"
            finally:
                Connectivity.to = original  # type: ignore[method-assign]  # likewise
            assert len(made.transports) == 2
            assert connections.gate.in_flight == 0

    virtual_time.run(main, backend=backend)


def test_connections_that_cannot_be_closed_do_not_fail_a_request_that_comes_by(backend):
    async def main():
        made = Made(fails=True)
        service = Service("orders", Static([at("a")]))
        transport = Transport(service, made)
        async with service, connected(transport) as http:
            await http.get("/")
            service.balancer.apply(Snapshot(version=2, instances=(at("b"),)), anyio.current_time(), lambda: 0.5)
            assert (await http.get("/")).text == "b"
            assert made.transports[0].closed == 1
            with pytest.raises(OSError, match="cannot be closed"):
                await transport.aclose()
        assert [one.closed for one in made.transports] == [1, 1]

    virtual_time.run(main, backend=backend)


def test_to_close_the_transport_closes_every_connection_though_one_cannot_be_closed(backend):
    async def main():
        made = Made(fails=True)
        service = Service("orders", Static([at("a"), at("b"), at("c")]))
        transport = Transport(service, made)
        async with service:
            for name in "abc":
                transport._connectivity[False].to(at(name), "http", HTTPX)
            with pytest.raises(OSError, match="cannot be closed"):
                await transport.aclose()
        assert [one.closed for one in made.transports] == [1, 1, 1]

    virtual_time.run(main, backend=backend)


def test_who_waits_for_a_place_while_the_transport_is_closed_gets_fresh_connections(backend):
    async def main():
        made = Made()
        service = Service("orders", Static([at("a")]), policies=[])
        transport = Transport(service, made, connections=1)
        async with service, connected(transport) as http:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(http.get, "/")
                tasks.start_soon(http.get, "/")
                await anyio.sleep(0.05)
                await transport.aclose()
            assert [one.closed for one in made.transports] == [1, 0]
            assert settled(service)

    virtual_time.run(main, backend=backend)


def test_one_transport_serves_clients_of_both_packages(backend):
    async def main():
        def one(request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, text="one")

        def two(request: httpx2.Request) -> httpx2.Response:
            return httpx2.Response(200, text="two")

        service = Service("orders", "static://10.0.0.1:1")
        kinds = iter([httpx.MockTransport(one), httpx2.MockTransport(two)])
        transport = Transport(service, lambda instance: next(kinds))
        async with service, httpx.AsyncClient(transport=transport, base_url="http://orders") as first:
            assert (await first.get("/")).text == "one"
            async with httpx2.AsyncClient(transport=transport, base_url="http://orders") as second:
                assert (await second.get("/")).text == "two"

    virtual_time.run(main, backend=backend)


def test_a_connection_must_be_made_before_the_attempts_end_so_that_a_post_may_go_elsewhere(backend):
    class Unconnected(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            timeouts = request.extensions["timeout"]
            assert timeouts.get("read") is None
            with anyio.move_on_after(timeouts["connect"]):
                await anyio.sleep(60)
            raise httpx.ConnectTimeout("as httpx does")

    def inner(instance: Instance) -> Any:
        if instance.port == 1:
            return Unconnected()
        return httpx.MockTransport(lambda request: httpx.Response(201))

    async def main():
        for _ in range(3):  # whichever is picked first
            service = Service("orders", "static://10.0.0.1:1,10.0.0.2:2")
            async with service, connected(Transport(service, inner)) as http:
                assert (await http.post("/")).status_code == 201
                assert settled(service)

    virtual_time.run(main, backend=backend)


def test_the_service_may_be_written_in_capitals_and_its_urls_with_a_port(backend):
    network = Network()

    async def main():
        service = Service("Orders_v1", "static://10.0.0.1:8000")
        transport = Transport(service, network.transport)
        async with service, httpx.AsyncClient(transport=transport) as http:
            assert (await http.get("http://Orders_v1/")).status_code == 200
            assert (await http.get("http://ORDERS_V1:8080/")).status_code == 200

    virtual_time.run(main, backend=backend)
    assert [str(request.url) for request in network.requests] == ["http://10.0.0.1:8000/"] * 2


def test_urls_of_instances_are_remembered_up_to_a_bound():
    wire = Wire(Made(), connections=1, http2=False, verify=True)
    connectivity = Connectivity(wire, lambda: None, sync=False)
    connections = connectivity.to(at("10.0.0.1", 8000), "http", HTTPX)
    first = connections.url(httpx.URL("http://orders/a?b=c"))
    assert str(first) == "http://10.0.0.1:8000/a?b=c"
    assert connections.url(httpx.URL("http://orders/a?b=c")) is first
    for number in range(1000):
        assert connections.url(httpx.URL(f"http://orders/{number}")).path == f"/{number}"
    assert len(connections._urls) <= 64
    six = connectivity.to(Instance(id="six", host="::1", port=80), "http", HTTPX)
    assert str(six.url(httpx.URL("http://orders/%2F?x=%20"))) == "http://[::1]/%2F?x=%20"


@pytest.mark.parametrize(("http2", "bearable"), [(False, 20), (True, 2)])
def test_a_transport_of_which_many_requests_were_broken_off_gives_way_to_a_fresh_one(http2, bearable, monkeypatch):
    monkeypatch.setattr(resilient.http.connections, "find_spec", lambda name: True)
    made = Made()
    wire = Wire(made, connections=20, http2=http2, verify=True)
    connectivity = Connectivity(wire, lambda: None, sync=False)
    worn = connectivity.to(at("a"), "http", HTTPX)
    for _ in range(bearable - 1):
        worn.break_off()
    assert connectivity.to(at("a"), "http", HTTPX) is worn
    worn.break_off()
    fresh = connectivity.to(at("a"), "http", HTTPX)
    assert fresh is not worn
    worn.break_off()
    assert connectivity.to(at("a"), "http", HTTPX) is fresh
    assert connectivity.take_idle() is worn.transport
    assert connectivity.take_idle() is None


def test_a_fresh_transport_has_no_more_places_than_the_one_that_wore_out_left(backend):
    """Else an instance that answers nobody would get as many calls again for each hundred that gave up."""
    under_way, most = 0, 0

    class Hangs(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            try:
                await anyio.sleep(10.0 if request.url.path == "/long" else 0.1)
            finally:
                under_way -= 1
            return httpx.Response(200)

    made: list[Hangs] = []

    def inner(instance: Instance) -> Hangs:
        made.append(Hangs())
        return made[-1]

    async def get(http: httpx.AsyncClient, path: str, within: float) -> None:
        with anyio.move_on_after(within):
            await http.get(path)

    async def main():
        service = Service("orders", "static://10.0.0.1:1", policies=[], ejection=None)
        transport = Transport(service, inner, connections=3)
        async with service, connected(transport) as http, anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(get, http, "/long", 60.0)
            for _ in range(3):
                await get(http, "/long", 1.0)
            for _ in range(6):
                group.start_soon(get, http, "/short", 60.0)
            await anyio.sleep(120.0)
            await get(http, "/short", 1.0)
            (connections,) = transport._connectivity[False]._table.values()
            assert connections.gate.in_flight == 0
            assert connections.close_if_idle()

    virtual_time.run(main, backend=backend)
    assert len(made) == 2
    assert most == 3


def test_the_gate_of_a_worn_transport_goes_with_its_instance():
    known = Snapshot(version=1, instances=(at("a"), at("b")))
    connectivity = Connectivity(Wire(Made(), connections=1, http2=False, verify=True), lambda: known, sync=False)
    worn = connectivity.to(at("a"), "http", HTTPX)
    worn.break_off()
    known = Snapshot(version=2, instances=(at("b"),))
    assert connectivity.retire_the_gone()
    assert not connectivity._gates


def test_a_stream_of_http2_that_is_left_counts_as_broken_off(backend):
    class Multiplexed(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            extensions = {"http_version": b"HTTP/2"}
            return httpx.Response(200, stream=httpx.ByteStream(b"ab"), extensions=extensions)

    async def main():
        service = Service("orders", Static([at("a")]))
        transport = Transport(service, lambda instance: Multiplexed(), connections=2)
        async with service, connected(transport) as http:
            for _ in range(5):
                await http.get("/")
            (first,) = transport._connectivity[False]._table.values()
            for _ in range(2):
                async with http.stream("GET", "/"):
                    pass
            await http.get("/")
            assert list(transport._connectivity[False]._table.values()) != [first]

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize("name", ["orders:80", "shop/orders", "my orders", "orders@home", "a%20b", "[::1]"])
def test_a_service_whose_name_is_no_host_is_refused(name):
    with pytest.raises(ValueError, match="host of its URLs"):
        Transport(Service(name, "static://10.0.0.1:80"))


def test_http2_without_its_package_is_refused_at_once(monkeypatch):
    monkeypatch.setattr(resilient.http.connections, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="http2=True needs the package h2"):
        Transport(Network().service(), http2=True)


def test_what_would_have_no_effect_is_refused(tmp_path):
    service = Network().service()
    with pytest.raises(ValueError, match="its own business"):
        Transport(service, Network().transport, http2=True)
    with pytest.raises(ValueError, match="its own business"):
        Transport(service, Network().transport, verify=False)
    with pytest.raises(ValueError, match="no such file"):
        Transport(service, verify=str(tmp_path / "none.pem"))
    with pytest.raises(TypeError, match="verify=1"):
        Transport(service, verify=1)  # type: ignore[arg-type]  # that is the point
    for make in (client, sync_client):
        with pytest.raises(TypeError, match="cert=: it is about connections"):
            make(service, cert="cert.pem")


def test_all_connections_share_one_tls_context():
    service = Network().service()
    mine = ssl.create_default_context()
    for verify in (True, mine):
        transport = Transport(service, verify=verify)
        transport._wire.prepare(HTTPX)
        contexts = [
            connectivity.to(at(name), "https", HTTPX).transport._pool._connect(None)._ssl_context
            for connectivity in transport._connectivity
            for name in "ab"
        ]
        assert len(set(map(id, contexts))) == 1
        assert verify is True or contexts[0] is mine


def test_a_key_that_the_caller_makes_badly_is_not_the_instances_fault(backend):
    network = Network()

    async def main():
        policies = [Honoured(keys=lambda call: "ä" * 300), Retry()]
        async with network.client(policies=policies) as (http, service):
            for _ in range(3):
                with pytest.raises(ValueError, match="idempotency_key="):
                    await http.post("/")
            assert all(one.failures == 0 for one in service.instances())

    virtual_time.run(main, backend=backend)
    assert network.requests == []
