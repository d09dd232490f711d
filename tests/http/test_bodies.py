"""Bodies: what is read late, twice, never, or by somebody else."""

from __future__ import annotations

import gc
import io
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import httpx
import pytest

from resilient.errors import DeadlineExceeded
from resilient.http import PipelineTransport, Transport, sync_client
from resilient.instance import Instance
from resilient.pipeline import Pipeline
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.hedge import Hedge
from resilient.policies.retry import Retry
from resilient.policies.timeout import Timeout
from resilient.service import Service
from resilient.stack import default_policies
from resilient.testing import virtual_time
from tests.http.network import Network, connected, settled
from tests.http.sockets import OK, Peer, RawServer


def places(transport: Transport) -> list[int]:
    """How many places are taken at each instance."""
    return [one.gate.in_flight for kind in transport._connectivity for one in kind._table.values()]


def test_a_response_that_was_dropped_is_closed_by_the_next_request(backend):
    network = Network((200, {}, [b"a", b"b"]))

    async def main():
        service = network.service(1)
        transport = Transport(service, network.transport)
        async with service, connected(transport) as client:
            await client.send(client.build_request("GET", "/"), stream=True)
            assert places(transport) == [1]
            with pytest.warns(ResourceWarning, match="GET orders: a response was dropped"):
                gc.collect()
            await client.get("/")
            assert places(transport) == [0]
            assert settled(service)

    virtual_time.run(main, backend=backend)
    assert network.open == 0


def test_a_response_that_a_synchronous_client_dropped_is_closed_by_the_next_request():
    network = Network((200, {}, [b"a", b"b"]))
    service = network.service(1)
    transport = Transport(service, network.transport)
    with service, httpx.Client(transport=transport, base_url="http://orders") as client:
        client.send(client.build_request("GET", "/"), stream=True)
        with pytest.warns(ResourceWarning, match="GET orders: a response was dropped"):
            gc.collect()
        client.get("/")
        assert places(transport) == [0]
        assert settled(service)
    assert network.open == 0


def test_a_body_that_was_read_to_its_end_is_over_without_being_closed(backend):
    network = Network((200, {}, [b"a", b"b"]))

    async def main():
        service = network.service(1)
        async with service, Transport(service, network.transport) as transport:
            response = await transport.handle_async_request(httpx.Request("GET", "http://orders/"))
            assert [chunk async for chunk in response.stream] == [b"a", b"b"]
            assert settled(service)
            await response.aclose()
            await response.aclose()
            assert settled(service)

    virtual_time.run(main, backend=backend)
    assert network.open == 0


def test_a_body_that_was_read_to_its_end_is_over_for_a_synchronous_client_too():
    network = Network((200, {}, [b"a", b"b"]))
    service = network.service(1)
    with service, Transport(service, network.transport) as transport:
        response = transport.handle_request(httpx.Request("GET", "http://orders/"))
        assert list(response.stream) == [b"a", b"b"]
        assert settled(service)
    assert network.open == 0


def test_a_response_that_was_dropped_is_closed_with_the_transport(backend):
    network = Network(*[(200, {}, [b"a", b"b"])] * 2)

    async def main():
        service = network.service(1)
        transport = Transport(service, network.transport)
        async with service:
            async with connected(transport) as client:
                await client.send(client.build_request("GET", "/"), stream=True)
                with pytest.warns(ResourceWarning, match="dropped"):
                    gc.collect()
            assert settled(service)
            with httpx.Client(transport=transport) as client:
                client.send(client.build_request("GET", "http://orders/"), stream=True)
                with pytest.warns(ResourceWarning, match="dropped"):
                    gc.collect()
            assert settled(service)

    virtual_time.run(main, backend=backend)
    assert network.open == 0


def test_nobody_is_to_blame_for_a_reader_that_takes_its_time_but_something_was_sent(backend):
    network = Network((200, {}, [b"a", b"b"]))

    async def main():
        async with network.client(hosts=1) as (client, service), client.stream("GET", "/") as response:
            chunks = response.aiter_raw()
            assert await anext(chunks) == b"a"
            await anyio.sleep(5)
            with pytest.raises(DeadlineExceeded, match="between two reads") as caught:
                await anext(chunks)
            assert caught.value.sent
            await response.aclose()
            assert service.instances()[0].failures == 0
            assert settled(service)

    virtual_time.run(main, backend=backend)


def test_a_response_that_is_given_up_does_not_hold_the_next_attempt(backend):
    network = Network((503, {}, [b"a", 3600.0, b"b"]), 200)

    async def main():
        async with network.client(policies=[Retry()]) as (client, service):
            assert (await client.get("/")).status_code == 200
            assert anyio.current_time() < 2
            assert settled(service)

    virtual_time.run(main, backend=backend)
    assert network.open == 0


def test_a_response_that_is_given_up_does_not_hold_a_synchronous_client_either():
    answers = [b"HTTP/1.1 503 Busy\r\nContent-Length: 99\r\n\r\nhalf", OK]

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(answers.pop(0))
        peer.rest(30)

    with RawServer(script) as server:
        orders = Service("orders", server.url, policies=[Retry()])
        with orders, sync_client(orders) as client:
            started = time.monotonic()
            assert client.get("/").text == "ok"
            assert time.monotonic() - started < 2


def test_the_stream_of_a_hedge_that_won_is_read_after_the_race(backend):
    network = Network(5.0, (200, {}, [b"a", 0.1, b"b"]))

    async def main():
        policies = default_policies(hedge=Hedge(0.5))
        async with network.client(policies=policies) as (client, service):
            async with client.stream("GET", "/") as response:
                assert response.extensions["resilient"].attempt == 2
                assert not settled(service)
                assert await response.aread() == b"ab"
            assert settled(service)

    virtual_time.run(main, backend=backend)
    assert network.open == 0
    assert len(network.requests) == 2


def test_one_response_can_be_given_to_many_requests(backend):
    always = httpx.Response(200, content=b"always this one")

    async def main():
        transport = PipelineTransport(Pipeline(Retry()), httpx.MockTransport(lambda request: always))
        async with httpx.AsyncClient(transport=transport) as client:
            for _ in range(1500):
                assert (await client.get("http://x")).content == b"always this one"

    virtual_time.run(main, backend=backend)


def test_a_policy_that_answers_by_itself_ends_the_call(backend):
    bulkhead = Bulkhead(1)

    async def cached(call, nxt) -> Any:
        return httpx.Response(200, content=b"cached")

    async def main():
        inner = httpx.MockTransport(lambda request: httpx.Response(500))
        transport = PipelineTransport(Pipeline(bulkhead, cached), inner)
        async with httpx.AsyncClient(transport=transport) as client:
            for _ in range(3):
                assert (await client.get("http://x")).content == b"cached"

    virtual_time.run(main, backend=backend)
    assert bulkhead.in_flight == 0


def test_a_policy_that_fails_after_another_one_answered_ends_the_call(backend):
    bulkhead = Bulkhead(1)

    async def breaks(call, nxt) -> Any:
        await nxt(call)
        raise KeyError("mine")

    async def cached(call, nxt) -> Any:
        return httpx.Response(200, content=b"cached")

    async def main():
        inner = httpx.MockTransport(lambda request: httpx.Response(500))
        async with connected(PipelineTransport(Pipeline(breaks, bulkhead, cached), inner)) as client:
            with pytest.raises(KeyError):
                await client.get("/")

    virtual_time.run(main, backend=backend)
    assert bulkhead.in_flight == 0


def test_how_a_response_would_have_ended_that_was_given_up_is_nobodys_fault(backend):
    network = Network((200, {}, [b"a", httpx.ReadError("lost")]), 200)

    async def prefers_the_second(call, nxt) -> Any:
        assert not await call.classify.discard(await nxt(call.evolve(attempt=1)))
        return await nxt(call.evolve(attempt=2))

    async def main():
        async with network.client(policies=[prefers_the_second]) as (client, service):
            assert (await client.get("/")).status_code == 200
            assert all(one.failures == 0 for one in service.instances())
            assert settled(service)

    virtual_time.run(main, backend=backend)


def test_a_policy_that_puts_a_response_around_ours_ends_the_call_with_its_own(backend):
    network = Network((200, {}, [b"a", b"b"]))
    bulkhead = Bulkhead(1)

    class Upper(httpx.AsyncByteStream):
        def __init__(self, inner) -> None:
            self.inner = inner

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for chunk in self.inner:
                yield chunk.upper()

        async def aclose(self) -> None:
            await self.inner.aclose()

    async def wrapped(call, nxt) -> Any:
        return httpx.Response(200, stream=Upper((await nxt(call)).stream))

    async def main():
        async with network.client(policies=[bulkhead, wrapped]) as (client, service):
            async with client.stream("GET", "/") as response:
                assert bulkhead.in_flight == 1
                assert await response.aread() == b"AB"
            assert bulkhead.in_flight == 0
            assert settled(service)

    virtual_time.run(main, backend=backend)
    assert network.open == 0


def test_what_a_policy_of_somebody_else_left_open_is_closed(backend):
    network = Network((500, {}, [b"a"]), (500, {}, [b"b"]), (200, {}, [b"c"]))

    async def thrice(call, nxt) -> Any:
        await nxt(call.evolve(attempt=1))
        await nxt(call.evolve(attempt=2))
        return await nxt(call.evolve(attempt=3))

    async def main():
        async with network.client(policies=[thrice]) as (client, service):
            assert (await client.get("/")).content == b"c"
            assert settled(service)

    virtual_time.run(main, backend=backend)
    assert network.open == 0


def test_a_response_that_is_given_up_and_cannot_be_closed_does_not_stop_the_next_attempt(backend):
    class Stubborn(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"busy"

        async def aclose(self) -> None:
            raise OSError("cannot be closed")

    answers = [httpx.Response(503, stream=Stubborn()), httpx.Response(200)]

    async def main():
        transport = PipelineTransport(Pipeline(Retry()), httpx.MockTransport(lambda request: answers.pop(0)))
        async with connected(transport) as client:
            assert (await client.get("/")).status_code == 200

    virtual_time.run(main, backend=backend)


def test_every_body_is_closed_and_the_first_error_surfaces_even_if_closing_fails(backend):
    closed = []

    class Stubborn(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b""

        async def aclose(self) -> None:
            closed.append(self)
            raise OSError("cannot be closed")

    async def breaks(call, nxt) -> Any:
        await nxt(call.evolve(attempt=1))
        await nxt(call.evolve(attempt=2))
        raise KeyError("mine")

    async def main():
        inner = httpx.MockTransport(lambda request: httpx.Response(200, stream=Stubborn()))
        transport = PipelineTransport(Pipeline(breaks), inner)
        async with httpx.AsyncClient(transport=transport) as client:
            with pytest.raises(KeyError, match="mine"):
                await client.get("http://x")

    virtual_time.run(main, backend=backend)
    assert len(closed) == 2


# -- bodies of requests -----------------------------------------------------------------------------------------------


async def once() -> AsyncIterator[bytes]:
    for chunk in (b"a", b"b", b"c"):
        await anyio.sleep(0.01)
        yield chunk


class Reader(httpx.AsyncBaseTransport):
    """An instance that takes a while before it reads the body; the first request takes longest."""

    def __init__(self, bodies: list[bytes], delays: list[float]) -> None:
        self.bodies = bodies
        self.delays = delays

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await anyio.sleep(self.delays.pop(0))
        assert isinstance(request.stream, httpx.AsyncByteStream)
        body = b""
        async for chunk in request.stream:
            body += chunk
        self.bodies.append(body)
        await anyio.sleep(1)
        return httpx.Response(200, content=body)


def test_hedged_attempts_do_not_share_a_body_that_can_be_read_once(backend):
    bodies: list[bytes] = []

    async def main():
        service = Service("orders", "static://10.0.0.1:1,10.0.0.2:1", policies=[Hedge(0.05)])
        delays = [0.06, 0.02]  # the first one is still connecting when the hedge is sent
        transport = Transport(service, lambda instance: Reader(bodies, delays))
        async with service, connected(transport) as client:
            assert (await client.put("/", content=once())).content == b"abc"
            assert settled(service)
            assert all(one.failures == 0 for one in service.instances())

    virtual_time.run(main, backend=backend)
    assert bodies == [b"abc"]


def test_a_body_that_fails_is_the_callers_fault(backend):
    network = Network()

    async def broken() -> AsyncIterator[bytes]:
        yield b"a"
        raise OSError("disk")

    async def main():
        async with network.client() as (client, service):
            for _ in range(7):
                with pytest.raises(OSError, match="disk"):
                    await client.put("/", content=broken())
            assert all(one.failures == 0 for one in service.instances())
            assert (await client.get("/")).status_code == 200
            assert settled(service)

    virtual_time.run(main, backend=backend)


def test_a_body_that_fails_is_the_callers_fault_in_a_synchronous_client_too():
    network = Network()

    def broken() -> Iterator[bytes]:
        yield b"a"
        raise OSError("disk")

    service = network.service()
    with service, httpx.Client(transport=Transport(service, network.transport), base_url="http://orders") as client:
        for _ in range(7):
            with pytest.raises(OSError, match="disk"):
                client.put("/", content=broken())
        assert all(one.failures == 0 for one in service.instances())
        assert client.get("/").status_code == 200


def test_a_multipart_body_in_memory_is_sent_again(backend):
    network = Network(503, 200)

    async def main():
        async with network.client(keys=True) as (client, _):
            response = await client.post("/", data={"a": "b"}, files={"file": ("name", b"content")})
            assert response.status_code == 200

    virtual_time.run(main, backend=backend)
    assert len(network.bodies) == 2
    assert network.bodies[0] == network.bodies[1]
    assert b"content" in network.bodies[0]


def test_a_multipart_body_of_a_file_is_not(backend, tmp_path):
    network = Network(503, 200)
    path = tmp_path / "file"
    path.write_bytes(b"content")

    async def main():
        async with network.client(keys=True) as (client, _):
            with path.open("rb") as file:
                assert (await client.put("/", files={"file": file})).status_code == 503

    virtual_time.run(main, backend=backend)
    assert len(network.bodies) == 1


def test_each_step_of_an_authentication_has_its_attempts_though_the_body_was_read_before(backend):
    """As bare httpx does, a multipart body of a file is read anew for the second request of the same call."""
    network = Network(401, httpx.ConnectError("refused"), 200)

    class Twice(httpx.Auth):
        def auth_flow(self, request):
            response = yield request
            if response.status_code == 401:
                request.headers["Authorization"] = "yes"
                yield request

    async def main():
        async with network.client(keys=True) as (client, _):
            response = await client.post("/", files={"file": io.BytesIO(b"content")}, auth=Twice())
            assert response.status_code == 200

    virtual_time.run(main, backend=backend)
    assert network.bodies[0] == network.bodies[-1]
    assert len({request.headers["idempotency-key"] for request in network.requests}) == 1


def test_timeouts_of_the_attempt_and_of_the_call_end_a_body_that_hangs(backend):
    network = Network((200, {}, [b"a", 60.0]))

    async def main():
        transport = PipelineTransport(Pipeline(Timeout(1.0)), network.transport(Instance(id="a", host="a", port=1)))
        async with connected(transport) as client:
            with pytest.raises(DeadlineExceeded):
                await client.get("http://x")
            assert anyio.current_time() == pytest.approx(1.0)

    virtual_time.run(main, backend=backend)
    assert network.open == 0
