"""Middleware for ASGI servers (Starlette, FastAPI, Litestar, Django, ...)."""

from __future__ import annotations

from resilient.asgi.idempotency import IdempotencyMiddleware
from resilient.asgi.load import LoadReportMiddleware
from resilient.asgi.serving import ServingMiddleware
from resilient.asgi.shedding import LoadShedMiddleware

__all__ = ["IdempotencyMiddleware", "LoadReportMiddleware", "LoadShedMiddleware", "ServingMiddleware"]
