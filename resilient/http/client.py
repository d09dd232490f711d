"""Clients of a service."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import httpx

from resilient.http.connections import Verify
from resilient.http.routes import Route
from resilient.http.transport import Transport
from resilient.service import Service

__all__ = ["client", "sync_client"]

_CONNECTIONS = frozenset({"transport", "cert", "limits", "proxy", "http1"})


def client(
    service: Service,
    *,
    timeout: float | None = None,
    routes: Iterable[Route] = (),
    connections: int = 100,
    http2: bool = False,
    verify: Verify = True,
    **arguments: Any,
) -> httpx.AsyncClient:
    """Return an `httpx.AsyncClient` whose requests go to instances of `service`.

    Its base URL is `http://<name of the service>`. `timeout` are the seconds for each call as a whole, on top
    of the service's own; the client's timeouts for single reads and writes are off, because the deadline rules.
    `routes`, `connections`, `http2` and `verify` go to the `Transport`, other `arguments` to `httpx.AsyncClient`.
    For httpx2: `httpx2.AsyncClient(transport=Transport(service), base_url=..., timeout=None)`.

    The service must be open: `async with service, resilient.http.client(service) as client: ...`.

    Raises `TypeError` for arguments of httpx that would have no effect, because they are about its own connections.
    """
    transport = Transport(service, timeout=timeout, routes=routes, connections=connections, http2=http2, verify=verify)
    return httpx.AsyncClient(transport=transport, **_usual(service, arguments))


def sync_client(
    service: Service,
    *,
    timeout: float | None = None,
    routes: Iterable[Route] = (),
    connections: int = 100,
    http2: bool = False,
    verify: Verify = True,
    **arguments: Any,
) -> httpx.Client:
    """Return an `httpx.Client` whose requests go to instances of `service`; otherwise as `client`."""
    transport = Transport(service, timeout=timeout, routes=routes, connections=connections, http2=http2, verify=verify)
    return httpx.Client(transport=transport, **_usual(service, arguments))


def _usual(service: Service, arguments: dict[str, Any]) -> dict[str, Any]:
    for name in _CONNECTIONS & arguments.keys():
        raise TypeError(
            f"{name}=: it is about connections, which the Transport makes. Give your own to "
            "httpx.AsyncClient(transport=Transport(service, inner)), or httpx.Client"
        )
    return {"base_url": f"http://{service.name}", "timeout": None, **arguments}
