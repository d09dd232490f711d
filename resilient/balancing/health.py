"""Active health checks: asking the instances, rather than waiting for calls to fail."""

from __future__ import annotations

import math
import ssl
from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass
from typing import TypeAlias, final

import anyio

from resilient.instance import Instance
from resilient.machines.health import Health

__all__ = ["Check", "CheckFailed", "HealthCheck", "HttpCheck", "TcpCheck"]

Check: TypeAlias = Callable[[Instance], Awaitable[object]]
"""Asks an instance whether it is well: raises if it is not, or returns False."""

_OK = range(200, 300)


class CheckFailed(Exception):
    """Raised by a check: the instance is not well. `certain` says that it need not be asked again to be sure."""

    def __init__(self, reason: str, *, certain: bool = False) -> None:
        super().__init__(reason)
        self.certain = certain


def _check_port(port: int | None) -> None:
    if port is not None and not 0 < port < 65536:  # noqa: PLR2004 - as TCP has it
        raise ValueError(f"port={port!r}: a whole number between 1 and 65535, or None: the instance's own")


@final
@dataclass(frozen=True, slots=True)
class HttpCheck:
    """A GET that has to be answered with an expected status. Another status is certain; silence may be the network.

    `path`
        What is asked for, with its query if it has one (`/health`).
    `expected`
        The statuses that mean well (200 to 299). Redirects are not followed.
    `port`
        Where it listens for checks, if not where it listens for calls.
    `host`
        The `Host` header, and the name that TLS verifies (the instance's host).
    `tls`
        Speak HTTPS, trusting what this context trusts (`ssl.create_default_context()`). None: plain HTTP.

    Every check makes a connection of its own: that it can be made is half of what is checked. Raises `ValueError` for
    an argument out of its range.
    """

    path: str = "/health"
    expected: Container[int] = _OK
    port: int | None = None
    host: str | None = None
    tls: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        if not self.path.startswith("/"):
            raise ValueError(f"path={self.path!r}: a path, which begins with '/'")
        if 500 in self.expected:  # noqa: PLR2004 - what every framework answers that is broken
            raise ValueError(f"expected={self.expected!r}: 500 is what an instance answers that is not well")
        _check_port(self.port)

    async def __call__(self, instance: Instance) -> None:
        """Raise unless `instance` answers as expected."""
        import httpx

        # Without TLS any context does, and an empty one is quickly made.
        context = self.tls or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        scheme, port = "http" if self.tls is None else "https", self.port or instance.port
        host = f"[{instance.host}]" if ":" in instance.host else instance.host
        request = httpx.Request("GET", f"{scheme}://{host}:{port}{self.path}", headers={"Connection": "close"})
        if self.host is not None:
            request.headers["Host"] = self.host
            request.extensions["sni_hostname"] = self.host
        transport = httpx.AsyncHTTPTransport(verify=context)
        try:
            response = await transport.handle_async_request(request)
            await response.aclose()
        finally:
            with anyio.CancelScope(shield=True):  # closing a socket waits for nothing
                await transport.aclose()
        if response.status_code not in self.expected:
            raise CheckFailed(f"{response.status_code} from {self.path}", certain=True)


@final
@dataclass(frozen=True, slots=True)
class TcpCheck:
    """A connection that has to come about; it is closed again at once.

    It says that somebody listens, and nothing of whether calls succeed: a server that hangs still has a kernel that
    accepts. `port` is where to, if not where the instance listens for calls.
    """

    port: int | None = None

    def __post_init__(self) -> None:
        _check_port(self.port)

    async def __call__(self, instance: Instance) -> None:
        """Raise unless `instance` accepts a connection."""
        stream = await anyio.connect_tcp(instance.host, self.port or instance.port)
        await anyio.aclose_forcefully(stream)


@final
@dataclass(frozen=True, slots=True)
class HealthCheck:
    """How and how often the instances of a service are asked whether they are well: `HealthCheck(HttpCheck())`.

    An instance that is not gets no calls, as if it were ejected, and counts with those for the panic threshold: if too
    few are left, all are used, since then it may be the checks. What one client sees need not be what others see;
    nobody is removed by it.

    The checks run in the background while the service is open, never in the path of a call, and end with it. Until its
    first check an instance is used.

    `check`
        `HttpCheck()`, `TcpCheck()`, or any async function that receives an `Instance` and raises, or returns False, if
        it is not well (`CheckFailed` says so with a reason of your own).
    `interval`, `jitter`
        Seconds between two checks of an instance (10.0), and by which share they are lengthened by chance, at most
        (0.2); the first comes after a part of the interval, by chance: many clients must not ask at once.
    `idle_interval`
        Seconds between them while no calls are made to the service (60.0): checks of what nobody uses are waste.
    `timeout`
        Seconds after which a check has failed (1.0).
    `unhealthy_after`, `healthy_after`
        How many checks in a row have to fail (3; one, if its failure is certain, as that of an unexpected status is),
        and to succeed afterwards (2; one, if the instance was never healthy: it is starting).
    `restores`
        Whether a check that succeeds ends an ejection (False). Only if it exercises what calls need: an instance was
        ejected since its calls fail, and a page that is always there says nothing about them.
    `concurrency`
        How many checks run at once (20).

    Raises `ValueError` or `TypeError` for an argument out of its range.
    """

    check: Check
    interval: float = 10.0
    jitter: float = 0.2
    idle_interval: float = 60.0
    timeout: float = 1.0
    unhealthy_after: int = 3
    healthy_after: int = 2
    restores: bool = False
    concurrency: int = 20

    def __post_init__(self) -> None:
        if not callable(self.check):
            raise TypeError(
                f"check={self.check!r}: HttpCheck(), TcpCheck(), or an async function that receives an Instance"
            )
        for name, seconds in (("interval", self.interval), ("timeout", self.timeout)):
            if not (math.isfinite(seconds) and seconds > 0):
                raise ValueError(f"{name}={seconds!r}: a finite number of seconds, more than 0")
        if not self.interval <= self.idle_interval < math.inf:
            raise ValueError(
                f"idle_interval={self.idle_interval!r}: a finite number of seconds, at least interval={self.interval!r}"
            )
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter={self.jitter!r}: a share of the interval, from 0 to 1")
        for name, count in (
            ("unhealthy_after", self.unhealthy_after),
            ("healthy_after", self.healthy_after),
            ("concurrency", self.concurrency),
        ):
            if count < 1:
                raise ValueError(f"{name}={count!r}: a whole number, at least 1")

    def health(self) -> Health:
        """What is known of one instance, before its first check."""
        return Health(unhealthy_after=self.unhealthy_after, healthy_after=self.healthy_after)
