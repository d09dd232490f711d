"""Clients of a service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx

from resilient.http.routes import Route
from resilient.http.transport import Transport
from resilient.service import Service

__all__ = ["client", "sync_client"]


def client(
    service: Service, *, timeout: float | None = None, routes: Sequence[Route] = (), **arguments: Any
) -> httpx.AsyncClient:
    """Return an `httpx.AsyncClient` whose requests go to instances of `service`.

    Its base URL is `http://<name of the service>`. `timeout` are the seconds for each call as a whole, on top
    of the service's own; the client's timeouts for single reads and writes are off, because the deadline rules.
    `routes` and `arguments` go to the `Transport` and to `httpx.AsyncClient`. For httpx2:
    `httpx2.AsyncClient(transport=Transport(service), ...)`.

    The service must be open: `async with service, resilient.http.client(service) as client: ...`.
    """
    arguments.setdefault("base_url", f"http://{service.name}")
    arguments.setdefault("timeout", None)
    return httpx.AsyncClient(transport=Transport(service, timeout=timeout, routes=routes), **arguments)


def sync_client(
    service: Service, *, timeout: float | None = None, routes: Sequence[Route] = (), **arguments: Any
) -> httpx.Client:
    """Return an `httpx.Client` whose requests go to instances of `service`; otherwise as `client`."""
    arguments.setdefault("base_url", f"http://{service.name}")
    arguments.setdefault("timeout", None)
    return httpx.Client(transport=Transport(service, timeout=timeout, routes=routes), **arguments)
