"""Cancelled at every moment, a request leaves nothing behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest

from resilient.budget import RetryBudget
from resilient.http import Transport
from resilient.instance import Instance
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.hedge import Hedge
from resilient.policies.honoured import Honoured
from resilient.policies.retry import Retry
from resilient.service import Service
from resilient.snapshot import Snapshot
from resilient.stack import default_policies
from resilient.testing.cancellation import for_each_cancellation
from tests.http.network import connected


class Body(httpx.AsyncByteStream):
    """A body whose every operation takes a while, like one of a real connection: it is closed whatever happens."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.chunks = [b"a", b"b"]
        state.open += 1

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await anyio.sleep(0.01)
        if not self.chunks:
            raise StopAsyncIteration
        return self.chunks.pop(0)

    async def aclose(self) -> None:
        self.state.open -= 1
        await anyio.sleep(0.01)


class Instances(httpx.AsyncBaseTransport):
    def __init__(self, state: State) -> None:
        self.state = state

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await anyio.sleep(0.01)  # connecting
        assert isinstance(request.stream, httpx.AsyncByteStream)
        async for _ in request.stream:
            pass
        await anyio.sleep(self.state.slow.pop(0) if self.state.slow else 0.01)  # waiting for the head
        status = self.state.script.pop(0) if self.state.script else 200
        return httpx.Response(status, stream=Body(self.state))

    async def aclose(self) -> None:
        self.state.transports_closed += 1
        await anyio.sleep(0.01)


class State:
    """A service, its transport, and what is open."""

    def __init__(self, *script: int, policies: Any = None, connections: int = 1, slow: tuple[float, ...] = ()) -> None:
        self.open = 0
        self.transports_closed = 0
        self.script = list(script)
        self.slow = list(slow)
        self.outside = Bulkhead(10)
        self.budget = RetryBudget(ratio=1.0)
        if policies is None:
            policies = default_policies(idempotency=Honoured(), retry=Retry(budget=self.budget))
        self.service = Service("orders", "static://10.0.0.1:1,10.0.0.2:1", policies=[self.outside, *policies])
        self.transport = Transport(self.service, lambda _: Instances(self), connections=connections)

    def client(self) -> httpx.AsyncClient:
        return connected(self.transport)

    def check(self) -> None:
        assert self.open == 0
        assert self.outside.in_flight == 0
        assert all(one.active == 0 for one in self.service.instances())
        for connectivity in self.transport._connectivity:
            for connections in (*connectivity._table.values(), *connectivity._retired):
                assert connections.gate.in_flight == 0
                assert connections.gate.queued == 0
        assert not any(self.transport._dropped)


class Content:
    def __init__(self) -> None:
        self.chunks = [b"a", b"b"]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await anyio.sleep(0.01)
        if not self.chunks:
            raise StopAsyncIteration
        return self.chunks.pop(0)


async def post(state: State) -> None:
    async with state.service, state.client() as client:
        response = await client.post("/", json={})
        assert response.content == b"ab"


async def upload(state: State) -> None:
    async with state.service, state.client() as client:
        await client.put("/", content=Content())


async def download(state: State) -> None:
    async with state.service, state.client() as client, client.stream("GET", "/") as response:
        async for _ in response.aiter_bytes():
            await anyio.sleep(0.01)


async def leave_early(state: State) -> None:
    async with state.service, state.client() as client, client.stream("GET", "/") as response:
        async for _ in response.aiter_bytes():
            break


async def queue(state: State) -> None:
    async with state.service, state.client() as client, anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(client.get, "/")


async def lose_an_instance(state: State) -> None:
    async with state.service, state.client() as client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.get, "/")
        tasks.start_soon(client.get, "/")
        await anyio.sleep(0.015)
        left = Snapshot(version=2, instances=(Instance(id="new", host="10.0.0.3", port=1),))
        state.service.balancer.apply(left, anyio.current_time(), lambda: 0.5)
        await client.get("/")
        await anyio.sleep(1)
        await client.get("/")


async def thrice(call: Any, nxt: Any) -> Any:
    """A policy that leaves two responses open."""
    await nxt(call.evolve(attempt=1))
    await nxt(call.evolve(attempt=2))
    return await nxt(call.evolve(attempt=3))


SCENARIOS: list[Any] = [
    pytest.param(post, lambda: State(policies=[thrice], connections=3), id="a policy that leaves responses open"),
    pytest.param(post, State, id="a post"),
    pytest.param(post, lambda: State(500, 503), id="retries"),
    pytest.param(upload, State, id="an upload"),
    pytest.param(download, State, id="a download"),
    pytest.param(leave_early, State, id="a download that is left"),
    pytest.param(queue, State, id="a line for places"),
    pytest.param(lose_an_instance, State, id="an instance leaves"),
    pytest.param(post, lambda: State(policies=[Honoured(), Hedge(0.05)], slow=(0.5,)), id="a hedge"),
    pytest.param(
        post, lambda: State(500, 500, policies=[Honoured(), Hedge(0.05)], slow=(0.06,)), id="hedges that fail"
    ),
]


# httpx reads by generators that it does not close, which trio minds.
@pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning")
@pytest.mark.parametrize(("scenario", "fresh"), SCENARIOS)
def test_a_request_that_is_cancelled_leaves_nothing_behind(scenario, fresh, backend):
    runs = for_each_cancellation(fresh, scenario=scenario, check=State.check, backend=backend)
    assert runs > 10
