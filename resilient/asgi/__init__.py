"""Middleware for ASGI servers (Starlette, FastAPI, Litestar, Django, ...)."""

from __future__ import annotations

from resilient.asgi.idempotency import IdempotencyMiddleware

__all__ = ["IdempotencyMiddleware"]
