"""A payments service: `python -m examples.payments.service URL PORT`.

A payment, the message to the bank and the response to the client are one commit. A `relay.py` sends the message.

Needs the extra `demo` (starlette, uvicorn). `URL` is the database: `sqlite:///payments.db` or `postgresql://...`.
"""

from __future__ import annotations

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from examples.payments.network import SlowAnswers
from examples.payments.storage import open_storage
from resilient.asgi import IdempotencyMiddleware


def make_app(url: str) -> Starlette:
    """Return the service on top of the database at `url`."""
    storage = open_storage(url)
    storage.create()

    async def pay(request: Request) -> JSONResponse:
        asked = await request.json()
        payment = {"id": str(asked["id"]), "account": str(asked["account"]), "cents": int(asked["cents"])}
        await storage.write(request.scope["resilient.claim"], payment)
        return JSONResponse(payment, status_code=201)

    return Starlette(
        routes=[Route("/payments", pay, methods=["POST"])],
        middleware=[
            # A lease of one second: how long a client waits for the successor of a process that died.
            Middleware(IdempotencyMiddleware, store=url, mode="transactional", require=True, lease=1.0),
        ],
    )


if __name__ == "__main__":
    uvicorn.run(SlowAnswers(make_app(sys.argv[1])), port=int(sys.argv[2]), log_level="warning")
