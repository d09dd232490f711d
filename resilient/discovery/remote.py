"""What the registries that are reached over HTTP have in common: the options of their URLs, and their clients."""

from __future__ import annotations

import itertools
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast, final, get_args

from resilient.discovery.last_good import LastGood, OnEmpty
from resilient.discovery.location import Location

if TYPE_CHECKING:
    import httpx

__all__ = ["COMMON", "TIMEOUT", "TLS", "Believing", "Clients", "Tls", "urls", "versions"]

COMMON = ("timeout", "on_empty", "grace", "debounce")
TLS = ("ca", "cert", "key")

TIMEOUT = 5.0
"""Seconds for a connection, and for an answer that does not wait: a registry is near, and has other endpoints."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How a server is trusted (`ca`: a file with certificates; None: as the system does), and who one is oneself."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    @classmethod
    def of(cls, location: Location) -> Tls:
        """Read the options `ca`, `cert` and `key`: files in PEM."""
        if "key" in location.options and "cert" not in location.options:
            location.refuse("key without cert: a client's certificate is the two of them")
        return cls(**{name: location.options.get(name) for name in TLS})

    def context(self) -> ssl.SSLContext:
        """Read the files; that takes some 20 ms."""
        context = ssl.create_default_context(cafile=self.ca)
        if self.cert is not None:
            context.load_cert_chain(self.cert, self.key)
        return context


@final
@dataclass(frozen=True, slots=True)
class Clients:
    """Makes the HTTP clients of one registry. `tls` is None where there is none."""

    tls: Tls | None
    headers: Mapping[str, str]
    timeout: float

    def client(self, read: float, verify: ssl.SSLContext | None = None) -> httpx.AsyncClient:
        """Return a client whose reads take up to so many seconds. `verify` is a context that was made before."""
        import httpx

        return httpx.AsyncClient(
            timeout=httpx.Timeout(read, connect=self.timeout, pool=None),
            verify=self._verify(verify),
            headers=self.headers,
            trust_env=False,  # a registry is not behind a proxy, and its credentials stand in no .netrc
        )

    def blocking(self, ttl: float) -> httpx.Client:
        """Return a client for the entry of an instance, which waits no longer than until its next renewal is due."""
        import httpx

        timeout = min(self.timeout, max(ttl / 3.0, 0.5))
        return httpx.Client(timeout=timeout, verify=self._verify(None), headers=self.headers, trust_env=False)

    def _verify(self, context: ssl.SSLContext | None) -> ssl.SSLContext:
        if context is not None:
            return context
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if self.tls is None else self.tls.context()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Believing:
    """The options `on_empty`, `grace` and `debounce`, as for every source."""

    on_empty: OnEmpty = "grace"
    grace: float = 30.0
    debounce: float = 0.1

    @classmethod
    def of(cls, location: Location) -> Believing:
        """Read them."""
        return cls(
            on_empty=cast("OnEmpty", location.choice("on_empty", "grace", get_args(OnEmpty))),
            grace=location.seconds("grace", 30.0),
            debounce=location.seconds("debounce", 0.1),
        )

    def known(self, versions: Iterator[int]) -> LastGood:
        """Begin to believe."""
        return LastGood(self.on_empty, self.grace, versions)


def versions() -> Iterator[int]:
    """Return the versions of the snapshots of one source: they rise over all its watches together."""
    return itertools.count(1)


def urls(location: Location, *, tls: bool, credentials: bool = False) -> tuple[str, ...]:
    """Return the base URLs of the endpoints."""
    scheme = "https" if tls else "http"
    return tuple(
        f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        for host, port in location.endpoints(credentials=credentials)
    )
