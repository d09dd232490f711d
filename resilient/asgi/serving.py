"""Serve each request with the time and the priority that its caller gave it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias, final

from resilient.call import Priority
from resilient.context import current_runtime, serving

__all__ = ["ServingMiddleware", "remaining_time"]

_Scope: TypeAlias = MutableMapping[str, Any]
_Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_App: TypeAlias = Callable[[_Scope, _Receive, _Send], Awaitable[None]]

_MILLISECONDS = re.compile(rb"\d{1,10}")
_GRPC = re.compile(rb"(\d{1,8})([HMSmun])")
_GRPC_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_PRIORITIES = {priority.name.lower().replace("_", "-").encode(): priority for priority in Priority}


def remaining_time(headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    """Return the seconds that the caller waits for the answer, or None where it does not say.

    Understood are `Resilient-Timeout-Ms`, gRPC's `grpc-timeout` and Envoy's `x-envoy-expected-rq-timeout-ms`;
    of several the shortest counts, and what cannot be read is ignored.
    """
    found: list[float] = []
    for name, value in headers:
        if name in {b"resilient-timeout-ms", b"x-envoy-expected-rq-timeout-ms"}:
            if _MILLISECONDS.fullmatch(value):
                found.append(int(value) / 1000)
        elif name == b"grpc-timeout" and (match := _GRPC.fullmatch(value)):
            found.append(int(match[1]) * _GRPC_UNITS[match[2]])
    return min(found, default=None)


@final
class ServingMiddleware:
    """Let the calls that a handler makes inherit the deadline and the priority of the request that it serves.

    For any ASGI application. A caller that goes through `resilient.http` says how long it still waits; whatever
    this service calls meanwhile then does not wait longer, and gives up without sending where no time is left.
    `longest` bounds in seconds what a request may claim, 60.0, and is the limit of those that say nothing.
    Whoever sends a request may say that it matters less than others, but not that it matters more: above `CRITICAL`,
    the usual priority, is what only an edge that you trust may ask for (`trust_priority=True`). A deadline cannot be
    longer than `longest`, whoever asks.

    Raises `ValueError` unless `longest` is positive.
    """

    def __init__(self, app: _App, *, longest: float = 60.0, trust_priority: bool = False) -> None:
        if not longest > 0:
            raise ValueError(f"longest={longest!r}: a number of seconds, more than 0")
        self.app = app
        self.longest = longest
        self.trust_priority = trust_priority

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Serve one connection; whatever is not an HTTP request passes untouched."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        remaining = remaining_time(headers)
        limit = self.longest if remaining is None else min(remaining, self.longest)
        priority = next((_PRIORITIES.get(value) for name, value in headers if name == b"resilient-priority"), None)
        if priority is not None and not self.trust_priority:
            priority = min(priority, Priority.CRITICAL)
        with serving(deadline=current_runtime().now() + limit, priority=priority):
            await self.app(scope, receive, send)
