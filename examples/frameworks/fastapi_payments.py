"""Payments with FastAPI, each taken once: `python examples/frameworks/fastapi_payments.py payments.db`.

    curl -i localhost:8000/payments -H 'Authorization: Bearer alice' -H 'Idempotency-Key: "1"' \\
        -H 'Content-Type: application/json' -d '{"cents": 500}'

The path operation is a plain function, which FastAPI runs in a worker thread; the claim comes by dependency injection.
Needs fastapi and uvicorn.
"""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from pydantic import BaseModel

from resilient import Claim
from resilient.asgi import IdempotencyMiddleware
from resilient.idempotency import BlockingClaim


class Payment(BaseModel):
    """What is to be paid."""

    cents: int


class Receipt(BaseModel):
    """What was booked."""

    number: int


def claim_of(request: Request) -> BlockingClaim:
    """The claim under which this request runs, for a worker thread."""
    claim: Claim = request.scope["resilient.claim"]
    return claim.blocking


def pay(
    payment: Payment, claim: Annotated[BlockingClaim, Depends(claim_of)], authorization: Annotated[str, Header()]
) -> Receipt:
    """Take a payment. An HTTPException is a result, too: a retry gets the same one."""
    if payment.cents <= 0:
        raise HTTPException(402, "nothing to pay")
    with claim.transaction() as connection:
        values = (authorization.removeprefix("Bearer "), payment.cents)
        cursor = connection.execute("INSERT INTO payments (account, cents) VALUES (?, ?)", values)
    if payment.cents == 13:
        raise RuntimeError("a bug: whatever was written is undone, and a retry runs again")
    return Receipt(number=cursor.lastrowid)


def make_app(database: str) -> FastAPI:
    """The application; payments and records share the database."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS payments (id INTEGER PRIMARY KEY, account TEXT, cents INTEGER)")
    app = FastAPI()
    app.post("/payments", status_code=201)(pay)
    app.add_middleware(
        IdempotencyMiddleware,
        store=f"sqlite:///{database}",
        mode="transactional",
        require=True,
    )
    return app


if __name__ == "__main__":
    uvicorn.run(make_app(sys.argv[1]))
