"""What a client of a service experiences."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import httpx
import httpx2
import pytest

import resilient
from resilient.context import Options
from resilient.errors import CircuitOpen, DeadlineExceeded, NoInstance
from resilient.http import PipelineTransport, Route, Transport, client, sync_client
from resilient.instance import Instance
from resilient.pipeline import Pipeline
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.hedge import Hedge
from resilient.policies.honoured import Honoured
from resilient.policies.retry import Retry
from resilient.policies.timeout import Timeout
from resilient.service import Service
from resilient.stack import default_policies
from resilient.testing import virtual_time
from tests.http.network import Network, settled


def test_a_get_is_repeated_elsewhere_after_a_failure(backend):
    network = Network(500, 200)

    async def main():
        async with network.client() as (client, service):
            response = await client.get("/orders/1")
            assert response.status_code == 200
            assert response.content == b"done"
            assert response.extensions["resilient"].attempt == 2
            assert settled(service)

    virtual_time.run(main, backend=backend)
    assert len(set(network.at)) == 2
    assert network.open == 0


def test_a_post_is_not_repeated_after_an_ambiguous_failure(backend):
    network = Network(httpx.ReadError("lost"), 200)

    async def main():
        async with network.client() as (client, service):
            with pytest.raises(httpx.ReadError):
                await client.post("/orders", json={})
            assert settled(service)

    virtual_time.run(main, backend=backend)
    assert len(network.requests) == 1


def test_a_post_is_repeated_after_a_refused_connection(backend):
    network = Network(httpx.ConnectError("refused"), 201)

    async def main():
        async with network.client() as (client, _):
            assert (await client.post("/orders", json={"a": 1})).status_code == 201

    virtual_time.run(main, backend=backend)
    assert network.bodies[-1] == b'{"a":1}'
    assert len(network.requests) == 2


def test_a_post_under_an_honoured_key_is_repeated_with_the_same_key_and_body(backend):
    network = Network(httpx.ReadError("lost"), 503, 201)

    async def main():
        async with network.client(keys=True) as (client, _):
            assert (await client.post("/orders", json={"a": 1})).status_code == 201

    virtual_time.run(main, backend=backend)
    assert len({request.headers["idempotency-key"] for request in network.requests}) == 1
    assert network.bodies == [b'{"a":1}'] * 3


def test_a_key_of_the_caller_is_kept(backend):
    network = Network(500, 201)

    async def main():
        async with network.client(keys=True) as (client, _):
            await client.post("/orders", headers={"Idempotency-Key": '"mine"'})
            await client.post("/orders", extensions={"resilient": {"idempotency_key": "yours"}})
            with resilient.options(idempotency_key="ours"):
                await client.post("/orders")

    virtual_time.run(main, backend=backend)
    keys = [request.headers["idempotency-key"] for request in network.requests]
    assert keys == ['"mine"', '"mine"', '"yours"', '"ours"']


def test_hedged_attempts_carry_the_same_key_and_go_to_different_instances(backend):
    network = Network(5.0, 0.1)

    async def main():
        policies = default_policies(hedge=Hedge(0.5))
        async with network.client(keys=True, policies=policies) as (client, service):
            started = anyio.current_time()
            response = await client.post("/orders", json={})
            assert response.status_code == 200
            assert anyio.current_time() - started == pytest.approx(0.6)
            assert settled(service)

    virtual_time.run(main, backend=backend)
    assert len({request.headers["idempotency-key"] for request in network.requests}) == 1
    assert len(set(network.at)) == 2


def test_a_redirect_keeps_the_key_and_stays_at_the_service(backend):
    network = Network((307, {"location": "/v2/orders"}, []), 201)

    async def main():
        async with network.client(keys=True, follow_redirects=True) as (client, _):
            response = await client.post("/orders", json={})
            assert response.url == "http://orders/v2/orders"

    virtual_time.run(main, backend=backend)
    first, second = network.requests
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert second.url.path == "/v2/orders"


def test_a_redirect_to_a_foreign_host_does_not_reach_an_instance(backend):
    network = Network((302, {"location": "http://evil.example/"}, []), 200)

    async def main():
        async with network.client(follow_redirects=True) as (client, service):
            with pytest.raises(httpx.UnsupportedProtocol, match=r"evil\.example.*mount"):
                await client.get("/")
            assert settled(service)

    virtual_time.run(main, backend=backend)
    assert len(network.requests) == 1


def test_the_instance_sees_the_service_as_host_and_the_caller_too(backend):
    network = Network()

    async def main():
        async with network.client() as (client, _):
            response = await client.get("/a?b=c")
            assert str(response.url) == "http://orders/a?b=c"

    virtual_time.run(main, backend=backend)
    (request,) = network.requests
    assert request.headers["host"] == "orders"
    assert request.url.host.startswith("10.0.0.")
    assert request.url.port == 8000
    assert request.url.raw_path == b"/a?b=c"
    assert request.extensions["sni_hostname"] == "orders"


def test_remaining_time_and_priority_travel_with_each_attempt(backend):
    network = Network(500, 200)

    async def main():
        async with network.client() as (client, _):
            with resilient.options(timeout=1.0, priority=resilient.Priority.SHEDDABLE_PLUS):
                await client.get("/")

    virtual_time.run(main, backend=backend)
    first, second = (int(request.headers["resilient-timeout-ms"]) for request in network.requests)
    assert 0 < second <= first <= 1000
    assert network.requests[0].headers["resilient-priority"] == "sheddable-plus"


def test_the_deadline_ends_an_attempt_that_hangs_and_another_instance_answers(backend):
    network = Network(60.0, 200)

    async def main():
        async with network.client() as (client, service):
            started = anyio.current_time()
            assert (await client.get("/")).status_code == 200
            assert 2.5 <= anyio.current_time() - started < 3.0
            assert settled(service)

    virtual_time.run(main, backend=backend)


def test_the_clients_timeout_bounds_the_whole_call(backend):
    network = Network(60.0, 60.0, 60.0)

    async def main():
        async with network.client(timeout=1.0) as (client, _):
            started = anyio.current_time()
            with pytest.raises(DeadlineExceeded):
                await client.get("/")
            assert anyio.current_time() - started == pytest.approx(1.0)

    virtual_time.run(main, backend=backend)


def test_a_body_that_drips_is_ended_by_the_deadline_and_counts_against_the_instance(backend):
    network = Network((200, {}, [b"a", 1.0, b"b", 1.0, b"c", 1.0, b"d"]))

    async def main():
        async with network.client() as (client, service):
            with pytest.raises(DeadlineExceeded):
                await client.get("/")
            assert sorted(standing.failures for standing in service.instances()) == [0, 0, 1]
            assert settled(service)

    virtual_time.run(main, backend=backend)
    assert network.open == 0


def test_a_stream_is_not_buffered_and_the_call_is_over_when_it_is_closed(backend):
    network = Network((200, {}, [b"a", 0.5, b"b"]))

    async def main():
        async with network.client(hosts=1) as (client, service):
            async with client.stream("GET", "/") as response:
                assert response.status_code == 200
                assert service.instances()[0].active == 1
                assert await response.aread() == b"ab"
            assert anyio.current_time() == 0.5
            assert settled(service)

    virtual_time.run(main, backend=backend)
    assert network.open == 0


def test_closing_a_stream_early_is_no_failure(backend):
    network = Network((200, {}, [b"a", b"b"]))

    async def main():
        service = network.service(1)
        async with service, Transport(service, network.transport) as transport:
            response = await transport.handle_async_request(httpx.Request("GET", "http://orders/"))
            assert isinstance(response.stream, httpx.AsyncByteStream)
            assert await anext(aiter(response.stream)) == b"a"
            assert service.instances()[0].active == 1
            await response.stream.aclose()
            assert service.instances()[0].failures == 0
            assert settled(service)

    virtual_time.run(main, backend=backend)
    assert network.open == 0


def test_nothing_is_repeated_once_a_byte_reached_the_caller(backend):
    network = Network((200, {}, [b"a", httpx.ReadError("lost")]), 200)

    async def main():
        async with network.client() as (client, service):
            with pytest.raises(httpx.ReadError):
                await client.get("/")
            assert sorted(standing.failures for standing in service.instances()) == [0, 0, 1]
            assert settled(service)

    virtual_time.run(main, backend=backend)
    assert len(network.requests) == 1


def test_a_body_that_can_be_read_once_is_not_sent_twice_and_the_error_says_which(backend):
    network = Network(httpx.WriteError("lost"), 200)

    async def body() -> AsyncIterator[bytes]:
        yield b"a"

    async def main():
        async with network.client() as (client, _):
            with pytest.raises(httpx.WriteError) as caught:
                await client.put("/", content=body())
            assert any("AsyncIteratorByteStream" in note for note in caught.value.__notes__)

    virtual_time.run(main, backend=backend)
    assert len(network.requests) == 1


def test_a_body_that_was_not_begun_may_go_elsewhere(backend):
    sent = []

    class Refuses(httpx.AsyncBaseTransport):
        def __init__(self, instance) -> None:
            self.instance = instance

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            sent.append(self.instance.id)
            if len(sent) == 1:
                raise httpx.ConnectError("refused")
            assert isinstance(request.stream, httpx.AsyncByteStream)
            assert b"".join([chunk async for chunk in request.stream]) == b"a"
            return httpx.Response(200)

    async def body() -> AsyncIterator[bytes]:
        yield b"a"

    async def main():
        service = Service("orders", "static://10.0.0.1:1,10.0.0.2:1")
        transport = Transport(service, Refuses)
        async with service, httpx.AsyncClient(transport=transport, base_url="http://orders") as client:
            assert (await client.post("/", content=body())).status_code == 200

    virtual_time.run(main, backend=backend)
    assert len(set(sent)) == 2


def test_exhausted_attempts_return_the_last_response(backend):
    network = Network(*[(500, {}, [b"first"]), (502, {}, [b"second"]), (504, {}, [b"third"])])

    async def main():
        async with network.client() as (client, service):
            response = await client.get("/")
            assert (response.status_code, response.text) == (504, "third")
            assert settled(service)

    virtual_time.run(main, backend=backend)
    assert network.open == 0


def test_an_answer_of_unknown_effect_is_not_replaced_by_a_refused_connection(backend):
    network = Network((503, {}, [b"maybe"]), httpx.ConnectError("refused"), httpx.ConnectError("refused"))

    async def main():
        async with network.client(keys=True) as (client, _):
            response = await client.post("/", json={})
            assert (response.status_code, response.text) == (503, "maybe")

    virtual_time.run(main, backend=backend)
    assert len(network.requests) == 3


def test_an_ambiguous_attempt_is_not_replaced_by_an_open_circuit(backend):
    network = Network(httpx.ReadError("lost"))

    async def main():
        policies = [Retry(), CircuitBreaker(consecutive_failures=1)]
        async with network.client(keys=True, policies=policies) as (client, _):
            with pytest.raises(httpx.ReadError) as caught:
                await client.post("/", json={})
            assert any("circuit is open" in note for note in caught.value.__notes__)
            with pytest.raises(CircuitOpen):
                await client.post("/", json={})

    virtual_time.run(main, backend=backend)
    assert len(network.requests) == 1


def test_retry_after_is_a_lower_bound(backend):
    network = Network((429, {"retry-after": "2"}, []), (503, {"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, []), 200)

    async def main():
        async with network.client() as (client, _):
            response = await client.get("/")
            assert response.status_code == 200
            assert 2.0 <= anyio.current_time() <= 2.4

    virtual_time.run(main, backend=backend)


def test_a_conflict_with_retry_after_under_a_key_is_pending_and_asked_again(backend):
    network = Network((409, {"retry-after": "1"}, []), 201)

    async def main():
        async with network.client(keys=True) as (client, _):
            assert (await client.post("/", json={})).status_code == 201
            network.script = [(409, {}, [])]
            assert (await client.post("/", json={})).status_code == 409

    virtual_time.run(main, backend=backend)
    assert len(network.requests) == 3


def test_a_cancelled_call_settles_everything(backend):
    network = Network(60.0)

    async def main():
        async with network.client() as (client, service):
            with anyio.move_on_after(0.1):
                await client.get("/")
            assert settled(service)
            assert all(standing.failures == 0 for standing in service.instances())

    virtual_time.run(main, backend=backend)


def test_routes_give_options_by_path_and_method(backend):
    network = Network(60.0, httpx.ReadError("lost"), 200, httpx.ReadError("lost"))
    routes = [
        Route("/slow/*", Options(timeout=0.5)),
        Route("/orders", Options(idempotent=True), methods=("post",)),
    ]

    async def main():
        async with network.client(routes=routes) as (client, _):
            with pytest.raises(DeadlineExceeded):
                await client.get("/slow/1")
            assert anyio.current_time() == pytest.approx(0.5)
            assert (await client.post("/orders")).status_code == 200
            with resilient.options(idempotent=False), pytest.raises(httpx.ReadError):
                await client.post("/orders")

    virtual_time.run(main, backend=backend)


def test_unknown_options_in_extensions_are_refused(backend):
    async def main():
        async with Network().client() as (client, _):
            with pytest.raises(TypeError, match=r"extensions\['resilient'\]"):
                await client.get("/", extensions={"resilient": {"timeuot": 1}})
            with pytest.raises(TypeError, match=r"priority='high': one of .*CRITICAL"):
                await client.get("/", extensions={"resilient": {"priority": "high"}})

    virtual_time.run(main, backend=backend)


def test_a_service_that_is_not_open_has_no_instance(backend):
    async def main():
        service = Network().service()
        async with httpx.AsyncClient(transport=Transport(service, Network().transport), base_url="http://orders") as c:
            with pytest.raises(NoInstance, match="orders"):
                await c.get("/")

    virtual_time.run(main, backend=backend)


def test_internal_headers_do_not_go_to_strangers(backend):
    network = Network()

    async def main():
        inner = network.transport(Instance(id="api", host="10.0.0.9", port=443))
        transport = PipelineTransport(Pipeline(Timeout(1.0), Honoured()), inner)
        async with httpx.AsyncClient(transport=transport) as client:
            await client.post("https://api.example.com/")

    virtual_time.run(main, backend=backend)
    (request,) = network.requests
    assert "resilient-timeout-ms" not in request.headers
    assert "idempotency-key" in request.headers


def test_synchronous_clients_get_the_same(backend):
    del backend
    network = Network(httpx.ConnectError("refused"), 500, 201)
    service = network.service(keys=True)
    with service, httpx.Client(transport=Transport(service, network.transport), base_url="http://orders") as client:
        response = client.post("/orders", json={"a": 1})
        assert (response.status_code, response.content) == (201, b"done")
        assert settled(service)
    assert len({request.headers["idempotency-key"] for request in network.requests}) == 1
    assert network.open == 0


def test_a_synchronous_attempt_gets_the_remaining_time_as_its_timeouts():
    network = Network()
    service = network.service()
    with service, httpx.Client(transport=Transport(service, network.transport), base_url="http://orders") as client:
        client.get("/", timeout=httpx.Timeout(None, connect=0.5))
    timeouts = network.requests[0].extensions["timeout"]
    assert timeouts["connect"] == 0.5
    assert 0 < timeouts["read"] <= 2.5
    assert 0 < timeouts["write"] <= 2.5


def test_both_packages_are_served(backend):
    async def main():
        service = Service("orders", "static://10.0.0.1:1")

        def answer(request: httpx2.Request) -> httpx2.Response:
            return httpx2.Response(200, stream=httpx2.ByteStream(b"two"))

        transport = Transport(service, lambda instance: httpx2.MockTransport(answer))
        async with service, httpx2.AsyncClient(transport=transport, base_url="http://orders") as client:
            response = await client.get("/")
            assert response.text == "two"
            assert settled(service)

    virtual_time.run(main, backend=backend)


def test_clients_have_the_service_as_base_and_no_timeouts_of_their_own():
    service = Network().service()
    for made in (client(service), sync_client(service)):
        assert str(made.base_url) == "http://orders"
        assert made.timeout == httpx.Timeout(None)


def test_wrong_arguments_are_named():
    service = Network().service()
    with pytest.raises(ValueError, match="connections=0"):
        Transport(service, connections=0)
    with pytest.raises(ValueError, match="timeout=-1"):
        Transport(service, timeout=-1)
    with pytest.raises(ValueError, match="path='orders'"):
        Route("orders", Options())
    with pytest.raises(TypeError, match="methods='POST'"):
        Route("/", Options(), methods="POST")  # type: ignore[arg-type]  # that is the point
    with pytest.raises(ValueError, match="that of one call"):
        Route("/", Options(idempotency_key="one"))
    with pytest.raises(TypeError, match=r"options=\{"):
        Route("/", {"timeout": 1})  # type: ignore[arg-type]  # that is the point
    with pytest.raises(TypeError, match="is no Route"):
        Transport(service, routes=[("/", Options())])  # type: ignore[list-item]  # that is the point


def test_only_the_star_and_the_question_mark_are_special_in_a_route():
    def fits(path: str, url: str) -> bool:
        return Route(path, Options()).fits(httpx.Request("GET", url))

    assert fits("/a[1]/?", "http://x/a[1]/b")
    assert not fits("/a[1]", "http://x/a1")
    assert not fits("/a.b", "http://x/acb")
    assert fits("*/b", "http://x/a/a/b")
    assert not fits("/a", "http://x/a/")
