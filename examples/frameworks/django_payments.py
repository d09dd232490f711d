"""Payments with Django, each taken once: `python examples/frameworks/django_payments.py payments.db`.

    curl -i localhost:8000/payments -H 'Authorization: Bearer alice' -H 'Idempotency-Key: "1"' -d '{"cents": 500}'

The middleware stands around the ASGI application, where `asgi.py` makes it. Needs django and uvicorn.
"""

# pyright: basic
# Django has no types of its own; what it returns is unknown to a strict checker.

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys

import uvicorn
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.handlers.asgi import ASGIRequest
from django.core.signals import got_request_exception
from django.http import JsonResponse
from django.urls import path
from django.views.decorators.http import require_POST

from resilient import Claim
from resilient.asgi import IdempotencyMiddleware


def book(connection: sqlite3.Connection, account: str, cents: int) -> int:
    """Book a payment in the transaction that also records the response."""
    cursor = connection.execute("INSERT INTO payments (account, cents) VALUES (?, ?)", (account, cents))
    return cursor.lastrowid or 0


@require_POST  # type: ignore[untyped-decorator]
async def pay(request: ASGIRequest) -> JsonResponse:
    """Take a payment. A refusal is a result, too: a retry gets the same one."""
    cents = int(json.loads(request.body)["cents"])
    if cents <= 0:
        return JsonResponse({"error": "nothing to pay"}, status=402)
    claim: Claim = request.scope["resilient.claim"]
    account = str(request.META["HTTP_AUTHORIZATION"]).removeprefix("Bearer ")
    number = await claim.run(book, account, cents)
    if cents == 13:
        raise RuntimeError("a bug: whatever was written is undone, and a retry runs again")
    return JsonResponse({"number": number}, status=201)


def tell_the_claim(request: ASGIRequest | None = None, **_: object) -> None:
    """Django answers every exception itself: a middleware sees a response, and cannot tell a bug from a result."""
    claim: Claim | None = None if request is None else request.scope.get("resilient.claim")
    if claim is not None:
        claim.fail()


urlpatterns = [path("payments", pay)]


def make_app(database: str) -> IdempotencyMiddleware:
    """The application; payments and records share the database."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS payments (id INTEGER PRIMARY KEY, account TEXT, cents INTEGER)")
    settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["localhost", "127.0.0.1"], LOGGING_CONFIG=None)
    got_request_exception.connect(tell_the_claim)
    return IdempotencyMiddleware(
        get_asgi_application(), store=f"sqlite:///{database}", mode="transactional", require=True
    )


if __name__ == "__main__":
    uvicorn.run(make_app(sys.argv[1]))
