"""Tell callers how busy this process is."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import final

from resilient.asgi.problems import send_response
from resilient.asgi.types import ASGIApp, Message, Receive, Scope, Send
from resilient.balancing.orca import HEADER, PROBE_PATH, format_load
from resilient.context import current_runtime
from resilient.machines.load import Load, LoadMeter

__all__ = ["LoadReportMiddleware"]

_HEADER = HEADER.encode()
_SERVER_ERRORS = 500
_SAMPLE = 0.5


def _used_seconds() -> float:
    """What this process has used of processors: not a clock, since it stands still while the process does."""
    used = os.times()
    return used.user + used.system


@final
class LoadReportMiddleware:
    """Report this process's load to whoever balances over it: in each response, and to those who only ask.

    For any ASGI application, outside of all other middleware. Every HTTP response gets the header
    `endpoint-load-metrics` (ORCA, as text), by which `balancing.WeightedRoundRobin`, and balancers of gRPC's and
    Envoy's kind, go: utilisation, requests and errors a second, requests in flight (`rif`) and how long those take that
    find so many (`latency_ms`). `GET` of `path` is answered at once with that header and no body: the probes of
    `balancing.Prequal`.

    `path`
        Where probes are answered (`/.well-known/resilient-load`); None: nowhere. They are not counted as requests.
    `report`
        Whether other responses have the header (True). It costs 20 us, and tells everybody how busy you are: turn it
        off, or remove it at the edge, where that is nobody's business.
    `capacity`
        How many requests this process can work on at once. If given, the requests in flight are divided by it, which
        says more than the processor does of work that mostly waits.
    `utilization`
        Your own measure instead, from 0 (idle) to 1 (all it can do): a function that is called for each report.
    `cpu`
        The processor seconds that this process has used; from it comes the utilisation where no other is given.

    Each worker process of a server measures itself; a probe may reach another one than the call that follows. Latency
    is that to the first byte, as clients measure it, and what failed (5xx) is left out of it.

    Raises `ValueError` for a `path` that does not begin with `/`, and a `capacity` below 1.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        path: str | None = PROBE_PATH,
        report: bool = True,
        capacity: int | None = None,
        utilization: Callable[[], float] | None = None,
        cpu: Callable[[], float] = _used_seconds,
    ) -> None:
        if path is not None and not path.startswith("/"):
            raise ValueError(f"path={path!r}: it begins with a /, or is None")
        if capacity is not None and capacity < 1:
            raise ValueError(f"capacity={capacity!r}: how many requests at once, at least 1")
        self.app = app
        self.path = path
        self.report = report
        self.capacity = capacity
        self.utilization = utilization
        self._processor = _Processor(cpu)
        self._meter = LoadMeter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; whatever is not an HTTP request passes untouched."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        now = current_runtime().now
        if scope["path"] == self.path:
            await send_response(send, 204, [(_HEADER, self._told(now()))], b"")
            return
        meter = self._meter
        started, found = now(), meter.begin()
        latency: float | None = None
        failed = True

        async def reporting(message: Message) -> None:
            nonlocal latency, failed
            if message["type"] == "http.response.start":
                at = now()
                latency = at - started
                failed = message["status"] >= _SERVER_ERRORS
                if self.report:
                    message = {**message, "headers": [*message.get("headers", ()), (_HEADER, self._told(at))]}
            await send(message)

        try:
            await self.app(scope, receive, reporting)
        except Exception:
            failed = True
            raise
        except BaseException:
            failed = False  # it was cancelled, which is nobody's fault
            raise
        finally:
            meter.end(found, latency, now(), failed=failed)

    def load(self) -> Load:
        """What would be reported now."""
        return self._load(current_runtime().now())

    def _told(self, now: float) -> bytes:
        return format_load(self._load(now)).encode()

    def _load(self, now: float) -> Load:
        utilization = None
        if self.utilization is not None:
            utilization = self.utilization()
        elif self.capacity is not None:
            utilization = self._meter.in_flight / self.capacity
        return self._meter.load(now, utilization=utilization, cpu=self._processor.share(now))


@final
class _Processor:
    """The share of one processor that the process uses, over the last half second and more."""

    __slots__ = ("_at", "_cpu", "_share", "_used")

    def __init__(self, cpu: Callable[[], float]) -> None:
        self._cpu = cpu
        self._at = -math.inf
        self._used = 0.0
        self._share: float | None = None

    def share(self, now: float) -> float | None:
        """None before there was time to measure it."""
        passed = now - self._at
        if passed < _SAMPLE:
            return self._share
        used = self._cpu()
        if math.isfinite(passed):
            self._share = max(0.0, used - self._used) / passed
        self._at, self._used = now, used
        return self._share
