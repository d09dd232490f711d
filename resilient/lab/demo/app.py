"""The orders service: one POST, which is to happen once."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, final

import anyio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from resilient.asgi.idempotency import IdempotencyMiddleware
from resilient.backends.sqlite import SQLiteStore
from resilient.idempotency.claim import Claim
from resilient.lab.demo.ledger import configure, insert

__all__ = ["LEASE", "orders_service"]

LEASE = 1.0
"""Seconds after which an instance that was killed or stopped loses the order that it was working on to a retry."""

_WORK = 0.012
_SPREAD = 0.5


def orders_service(
    database: Path,
    *,
    name: str,
    seed: int,
    work: Callable[[float], Awaitable[None]],
    registered: AbstractAsyncContextManager[object],
) -> Starlette:
    """Make the application of one instance.

    A request with an Idempotency-Key takes effect once: the order and the record of its key are committed together. One
    without takes effect as often as it arrives. `work` lets the time pass that an order takes.
    """
    desk = _Desk(database, name, seed, work)
    store = SQLiteStore(database, on_connect=configure)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        async with store, desk, registered:
            yield

    return Starlette(
        routes=[Route("/orders", desk.take, methods=["POST"])],
        middleware=[Middleware(IdempotencyMiddleware, store=store, mode="transactional", lease=LEASE)],
        lifespan=lifespan,
    )


@final
class _Desk:
    """Where orders are taken."""

    def __init__(self, database: Path, name: str, seed: int, work: Callable[[float], Awaitable[None]]) -> None:
        self._database = database
        self._name = name
        self._seed = seed
        self._work = work
        self._one_at_a_time = anyio.CapacityLimiter(1)

    async def take(self, request: Request) -> JSONResponse:
        order: dict[str, Any] = await request.json()
        number, item, cents = int(order["number"]), str(order["item"]), int(order["cents"])
        await self._work(self._effort(number))
        claim: Claim | None = request.scope.get("resilient.claim")
        if claim is None:
            await anyio.to_thread.run_sync(
                insert, self._connection, number, item, cents, self._name, limiter=self._one_at_a_time
            )
        else:
            await claim.run(insert, number, item, cents, self._name)
        return JSONResponse({"number": number, "taken_by": self._name}, status_code=201)

    def _effort(self, number: int) -> float:
        """Seconds of work, lognormal around 12 ms: the same for an order whoever takes it, in both runs."""
        return Random(f"{self._seed}:{number}").lognormvariate(math.log(_WORK), _SPREAD)

    async def __aenter__(self) -> None:
        self._connection = sqlite3.connect(self._database, isolation_level=None, check_same_thread=False)
        configure(self._connection)

    async def __aexit__(self, *_: object) -> None:
        self._connection.close()
