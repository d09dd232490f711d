"""Payments with Starlette, each taken once: `python examples/frameworks/starlette_payments.py payments.db`.

    curl -i localhost:8000/payments -H 'Authorization: Bearer alice' -H 'Idempotency-Key: "1"' -d '{"cents": 500}'

Needs starlette and uvicorn.
"""

from __future__ import annotations

import contextlib
import sqlite3
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from resilient import Claim
from resilient.asgi import IdempotencyMiddleware


class Tokens(AuthenticationBackend):
    """The token is the name: a real service looks it up."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser] | None:
        """Name the caller."""
        scheme, _, token = conn.headers.get("authorization", "").partition(" ")
        return (AuthCredentials(["authenticated"]), SimpleUser(token)) if scheme == "Bearer" and token else None


def book(connection: sqlite3.Connection, account: str, cents: int) -> int:
    """Book a payment in the transaction that also records the response."""
    cursor = connection.execute("INSERT INTO payments (account, cents) VALUES (?, ?)", (account, cents))
    if cents == 13:
        raise RuntimeError("a bug: whatever was written is undone, and a retry runs again")
    return cursor.lastrowid or 0


async def pay(request: Request) -> JSONResponse:
    """Take a payment. A refusal is a result, too: a retry gets the same one."""
    cents = int((await request.json())["cents"])
    if cents <= 0:
        return JSONResponse({"error": "nothing to pay"}, status_code=402)
    claim: Claim = request.scope["resilient.claim"]
    number = await claim.run(book, request.user.display_name, cents)
    return JSONResponse({"number": number}, status_code=201)


def make_app(database: str) -> ASGIApp:
    """The application; payments and records share the database."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS payments (id INTEGER PRIMARY KEY, account TEXT, cents INTEGER)")
    return Starlette(
        routes=[Route("/payments", pay, methods=["POST"])],
        middleware=[
            # Outside: a caller whose token was refreshed is still the same caller, and a 401 is never recorded.
            Middleware(AuthenticationMiddleware, backend=Tokens()),
            Middleware(
                IdempotencyMiddleware,
                store=f"sqlite:///{database}",
                mode="transactional",
                require=True,
                principal=lambda scope: scope["user"].display_name,
            ),
        ],
    )


if __name__ == "__main__":
    uvicorn.run(make_app(sys.argv[1]))
