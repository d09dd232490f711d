"""An orders service that takes each order once: `python examples/orders_service.py FOLDER`.

Start it as often as you like, in terminals of their own: every process picks a free port and registers itself in
FOLDER/registry/, all share FOLDER/orders.db. Then run `python examples/orders_client.py FOLDER`, and kill one.

Needs the extra `demo` (starlette, uvicorn).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sqlite3
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from resilient import Claim, Instance
from resilient.asgi import IdempotencyMiddleware, ServingMiddleware
from resilient.discovery import register


def create_tables(database: Path) -> None:
    """Make the table that orders are written to."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, sku TEXT NOT NULL)")


def write_order(connection: sqlite3.Connection, sku: str) -> int:
    """Write one order. Nothing is committed here: that happens together with the record of the key."""
    cursor = connection.execute("INSERT INTO orders (sku) VALUES (?)", (sku,))
    return cursor.lastrowid or 0


async def take_order(request: Request) -> JSONResponse:
    """Take an order, exactly once for each idempotency key."""
    order = await request.json()
    claim: Claim = request.scope["resilient.claim"]
    number = await claim.run(write_order, str(order["sku"]))
    return JSONResponse({"number": number, "taken_by": os.getpid()}, status_code=201)


async def main(folder: Path) -> None:
    """Serve until Ctrl-C."""
    database, registry = folder / "orders.db", folder / "registry"
    registry.mkdir(parents=True, exist_ok=True)
    create_tables(database)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    host, port = listener.getsockname()
    me = Instance(id=f"orders-{port}", host=host, port=port)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        # Registered while it serves, withdrawn when it stops; should it crash, the registration ends with its lease.
        async with register(f"file://{registry}/", me, ttl=3.0):
            print(f"{me.id} takes orders", flush=True)
            yield

    app = Starlette(
        routes=[Route("/orders", take_order, methods=["POST"])],
        middleware=[
            Middleware(ServingMiddleware),  # the caller's deadline is that of the calls made here
            Middleware(IdempotencyMiddleware, store=f"sqlite:///{database}", mode="transactional", require=True),
        ],
        lifespan=lifespan,
    )
    await uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve(sockets=[listener])


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]).absolute()))
