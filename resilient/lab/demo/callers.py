"""The two clients that are compared: what most people write, and `resilient` as it comes.

Both find the instances in the same registry, wait for an attempt equally long, and make the same number of attempts.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from random import Random
from typing import Any, Literal, TypeAlias

import anyio
import httpx

from resilient.discovery import connect
from resilient.events import Event, InstancePicked
from resilient.http.client import client
from resilient.lab.demo.script import ATTEMPTS, Settings
from resilient.lab.load import Request, current_request
from resilient.runtime import Runtime
from resilient.service import Honoured, Service
from resilient.stack import default_policies

__all__ = ["CALLERS", "Caller", "Kind", "Send", "plain", "through_resilient"]

Kind: TypeAlias = Literal["plain", "resilient"]
Send: TypeAlias = Callable[[Request], Awaitable[httpx.Response]]
"""Sends the order of a request, and returns the answer or raises."""
Caller: TypeAlias = Callable[[Settings, str, Callable[[Event], None]], AbstractAsyncContextManager[Send]]
"""Opens a client of the service in a registry; events go to the third argument."""


def _order(request: Request) -> dict[str, Any]:
    return {"number": request.number, "item": f"A-{request.number % 97}", "cents": 100 + request.number % 900}


@asynccontextmanager
async def plain(settings: Settings, registry: str, listen: Callable[[Event], None]) -> AsyncGenerator[Send]:
    """Open an `httpx.AsyncClient` with round robin over the listed instances, and a loop of attempts around it."""
    snapshots = connect(registry).watch()
    instances = (await anext(snapshots)).instances
    turn = count()

    async def follow() -> None:
        nonlocal instances
        async for snapshot in snapshots:
            instances = snapshot.instances

    async def send(request: Request) -> httpx.Response:
        for attempts_left in reversed(range(ATTEMPTS)):
            instance = instances[next(turn) % len(instances)]
            request.attempts += 1
            listen(InstancePicked(at=time.monotonic(), name="orders", instance=instance.id, reason="its turn"))
            try:
                response = await http.post(f"http://{instance.address}/orders", json=_order(request))
            except httpx.TransportError:
                if not attempts_left:
                    raise
            else:
                if response.status_code < httpx.codes.INTERNAL_SERVER_ERROR or not attempts_left:
                    return response
        raise AssertionError("the last attempt returns or raises")

    async with httpx.AsyncClient(timeout=settings.attempt_timeout) as http, anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        yield send
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def through_resilient(settings: Settings, registry: str, listen: Callable[[Event], None]) -> AsyncGenerator[Send]:
    """Open the client of a `Service` with its default policies, and the timeouts of the other client."""

    def emit(event: Event) -> None:
        if isinstance(event, InstancePicked) and (request := current_request()) is not None:
            request.attempts += 1
        listen(event)

    service = Service(
        "orders",
        registry,
        idempotency=Honoured(),
        policies=default_policies(timeout=settings.deadline, attempt_timeout=settings.attempt_timeout),
        runtime=Runtime(random=Random(f"{settings.seed}:client").random, emit=emit),
    )

    async def send(request: Request) -> httpx.Response:
        return await http.post("/orders", json=_order(request))

    async with service, client(service) as http:
        await service.ready()
        yield send


CALLERS: dict[Kind, Caller] = {"plain": plain, "resilient": through_resilient}
