"""A transport fits the clients of both packages, and a decorated function keeps its types; checked, never run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import assert_type

import httpx
import httpx2

from resilient import Instance, Pipeline, Service
from resilient.http import PipelineTransport, Transport, client, sync_client

orders = Service("orders", "static://10.0.0.1:80")
transport = Transport(orders)
through = PipelineTransport(Pipeline(), httpx.AsyncHTTPTransport())

httpx.AsyncClient(transport=transport, mounts={"https://": through})
httpx.Client(transport=transport, mounts={"https://": through})
httpx2.AsyncClient(transport=transport, mounts={"https://": through})
httpx2.Client(transport=transport, mounts={"https://": through})

assert_type(client(orders), httpx.AsyncClient)
assert_type(sync_client(orders), httpx.Client)


async def opened() -> None:
    async with orders as service, transport as same:
        assert_type(service, Service)
        assert_type(same, Transport)


@orders
async def quote(instance: Instance, sku: str, *, count: int = 1) -> float:
    return count * len(sku) * instance.weight


@orders
def price(instance: Instance, sku: str) -> float:
    return len(sku) * instance.weight


class Orders:
    @orders.method
    async def quote(self, instance: Instance, sku: str) -> float:
        return len(sku) * instance.weight

    @orders.method
    async def lines(self, instance: Instance, count: int) -> AsyncIterator[int]:
        yield count * instance.port

    @orders.method
    async def dialogue(self, instance: Instance) -> AsyncGenerator[int, str]:
        yield len((yield instance.port))


async def calls() -> None:
    assert_type(await quote("A", count=2), float)
    assert_type(price("A"), float)
    assert_type(await Orders().quote("A"), float)
    assert_type(Orders().lines(3), AsyncGenerator[int, None])
    assert_type(Orders().dialogue(), AsyncGenerator[int, str])
    await quote()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue] # the caller passes everything but the instance
    price(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] # likewise
