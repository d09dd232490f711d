"""A bank that books what it is told: `python -m examples.payments.bank PATH PORT`.

It honours `Idempotency-Key`, so what is sent to it twice is booked once. Sometimes it is slow, sometimes it fails.

Needs the extra `demo` (starlette, uvicorn).
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from examples.payments.network import SlowAnswers
from resilient import Claim
from resilient.asgi import IdempotencyMiddleware


def book(connection: sqlite3.Connection, payment: str, account: str, cents: int) -> None:
    """Write a booking, in the transaction that also commits the response."""
    connection.execute("INSERT INTO bookings (payment, account, cents) VALUES (?, ?, ?)", (payment, account, cents))


async def take_booking(request: Request) -> JSONResponse:
    """Book a payment."""
    asked = await request.json()
    claim: Claim = request.scope["resilient.claim"]
    if random.random() < 0.1:
        claim.release()  # nothing was done: ask again
        return JSONResponse({"detail": "the mainframe is having its coffee"}, status_code=503)
    await claim.run(book, str(asked["id"]), str(asked["account"]), int(asked["cents"]))
    return JSONResponse({"booked": asked["id"]}, status_code=201)


def make_app(path: str) -> Starlette:
    """Return the bank, whose books are in the file at `path`."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS bookings "
            "(number INTEGER PRIMARY KEY, payment TEXT NOT NULL, account TEXT NOT NULL, cents INTEGER NOT NULL)"
        )
    idempotency = Middleware(
        IdempotencyMiddleware, store=f"sqlite:///{path}", mode="transactional", require=True, lease=1.0
    )
    return Starlette(routes=[Route("/bookings", take_booking, methods=["POST"])], middleware=[idempotency])


if __name__ == "__main__":
    uvicorn.run(SlowAnswers(make_app(sys.argv[1])), port=int(sys.argv[2]), log_level="warning")
