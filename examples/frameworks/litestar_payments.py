"""Payments with Litestar, each taken once: `python examples/frameworks/litestar_payments.py payments.db`.

    curl -i localhost:8000/payments -H 'Authorization: Bearer alice' -H 'Idempotency-Key: "1"' -d '{"cents": 500}'

Needs litestar and uvicorn.
"""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import uvicorn
from litestar import Litestar, Request, post
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.params import JSONBody
from litestar.types import ASGIApp, Scope

from resilient import Claim
from resilient.asgi import IdempotencyMiddleware


@dataclass
class Payment:
    """What is to be paid."""

    cents: int


@dataclass
class Receipt:
    """What was booked."""

    number: int


def claim_in(scope: Scope) -> Claim | None:
    """The claim under which a request runs."""
    return cast("Mapping[str, Any]", scope).get("resilient.claim")


def book(connection: sqlite3.Connection, account: str, cents: int) -> int:
    """Book a payment in the transaction that also records the response."""
    cursor = connection.execute("INSERT INTO payments (account, cents) VALUES (?, ?)", (account, cents))
    return cursor.lastrowid or 0


@post("/payments")
async def pay(data: JSONBody[Payment], request: Request[object, object, State]) -> Receipt:
    """Take a payment. An HTTPException is a result, too: a retry gets the same one."""
    if data.cents <= 0:
        raise HTTPException("nothing to pay", status_code=402)
    claim = claim_in(request.scope)
    assert claim is not None
    number = await claim.run(book, request.headers["authorization"].removeprefix("Bearer "), data.cents)
    if data.cents == 13:
        raise RuntimeError("a bug: whatever was written is undone, and a retry runs again")
    return Receipt(number)


def tell_the_claim(exception: Exception, scope: Scope) -> None:
    """Litestar answers every exception itself: a middleware sees a response, and cannot tell a bug from a result."""
    claim = claim_in(scope)
    if claim is not None and not isinstance(exception, HTTPException):
        claim.fail()


def make_app(database: str) -> Litestar:
    """The application; payments and records share the database."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS payments (id INTEGER PRIMARY KEY, account TEXT, cents INTEGER)")

    def protect(app: ASGIApp) -> ASGIApp:
        # Litestar has types of its own for what ASGI passes around.
        inner: Any = app
        protected: Any = IdempotencyMiddleware(inner, store=f"sqlite:///{database}", mode="transactional", require=True)
        return cast("ASGIApp", protected)

    return Litestar([pay], middleware=[protect], after_exception=[tell_the_claim], openapi_config=None)


if __name__ == "__main__":
    uvicorn.run(make_app(sys.argv[1]))
