"""A network of scripted instances behind a service, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx

from resilient.call import Policy
from resilient.http import Route, Transport
from resilient.instance import Instance
from resilient.policies.honoured import Honoured
from resilient.policies.retry import Retry
from resilient.service import Service
from resilient.stack import default_policies


class Network:
    """Answers requests by a script, one list for all instances, and remembers what reached which instance."""

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.requests: list[httpx.Request] = []
        self.at: list[str] = []
        self.bodies: list[bytes] = []
        self.open = 0

    def transport(self, instance: Instance) -> Scripted:
        return Scripted(self, instance)

    def arrive(self, request: httpx.Request, instance: Instance) -> None:
        self.requests.append(request)
        self.at.append(instance.id)

    def next_step(self) -> Any:
        return self.script.pop(0) if self.script else 200

    def answer(self, step: Any) -> httpx.Response:
        if isinstance(step, Exception):
            raise step
        if isinstance(step, int):
            step = (step, {}, [b"done"])
        status, headers, chunks = step
        return httpx.Response(status, headers=headers, stream=Body(self, chunks))

    @asynccontextmanager
    async def client(
        self,
        *,
        hosts: int = 3,
        policies: Sequence[Policy] | None = None,
        keys: bool = False,
        routes: Sequence[Route] = (),
        timeout: float | None = None,  # noqa: ASYNC109 - it is what is tested
        **arguments: Any,
    ) -> AsyncIterator[tuple[httpx.AsyncClient, Service]]:
        service = self.service(hosts, policies, keys=keys)
        transport = Transport(service, self.transport, routes=routes, timeout=timeout)
        arguments.setdefault("timeout", None)
        async with (
            service,
            httpx.AsyncClient(transport=transport, base_url="http://orders", **arguments) as client,
        ):
            yield client, service

    def service(self, hosts: int = 3, policies: Sequence[Policy] | None = None, *, keys: bool = False) -> Service:
        url = "static://" + ",".join(f"10.0.0.{n}:8000" for n in range(1, hosts + 1))
        if policies is None:
            policies = default_policies(retry=Retry())
        return Service("orders", url, policies=policies, idempotency=Honoured() if keys else None)


def connected(transport: Any, **arguments: Any) -> httpx.AsyncClient:
    """A client of the service without timeouts of its own, as `resilient.http.client` makes it."""
    return httpx.AsyncClient(transport=transport, **{"base_url": "http://orders", "timeout": None, **arguments})


class Body(httpx.AsyncByteStream, httpx.SyncByteStream):
    """Chunks, seconds to wait and exceptions to raise, in this order."""

    def __init__(self, network: Network, chunks: Sequence[bytes | Exception | float]) -> None:
        self.network = network
        self.chunks = chunks
        self.reading = self.read()
        network.open += 1

    async def read(self) -> AsyncGenerator[bytes, None]:
        for chunk in self.chunks:
            if isinstance(chunk, Exception):
                raise chunk
            if isinstance(chunk, float):
                await anyio.sleep(chunk)
            else:
                yield chunk

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.reading

    def __iter__(self) -> Iterator[bytes]:
        return (chunk for chunk in self.chunks if isinstance(chunk, bytes))

    async def aclose(self) -> None:
        await self.reading.aclose()
        self.network.open -= 1

    def close(self) -> None:
        self.network.open -= 1


class Scripted(httpx.AsyncBaseTransport, httpx.BaseTransport):
    """One instance of the network."""

    def __init__(self, network: Network, instance: Instance) -> None:
        self.network = network
        self.instance = instance

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        self.network.arrive(request, self.instance)
        step = self.network.next_step()
        if isinstance(step, httpx.ConnectError):
            raise step
        self.network.bodies.append(b"".join([chunk async for chunk in request.stream]))
        if isinstance(step, float):
            await anyio.sleep(step)
            step = 200
        return self.network.answer(step)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.SyncByteStream)
        self.network.arrive(request, self.instance)
        self.network.bodies.append(b"".join(request.stream))
        return self.network.answer(self.network.next_step())


def settled(service: Service) -> bool:
    """Whether no instance is thought to be busy."""
    return all(standing.active == 0 for standing in service.instances())
