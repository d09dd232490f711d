"""What the registries that are reached over HTTP have in common: the options of their URLs, and their clients."""

from __future__ import annotations

import itertools
import math
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict, cast, final, get_args

from resilient.backends.network import tidy
from resilient.discovery.last_good import LastGood, OnEmpty
from resilient.discovery.location import Location

if TYPE_CHECKING:
    import httpx

__all__ = [
    "COMMON",
    "DEBOUNCE",
    "GRACE",
    "TIMEOUT",
    "TLS",
    "Believing",
    "Clients",
    "Tls",
    "believing",
    "check",
    "urls",
    "versions",
]

COMMON = ("timeout", "on_empty", "grace", "debounce")
TLS = ("ca", "cert", "key")

GRACE = 30.0
DEBOUNCE = 0.1
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

        transport = httpx.AsyncHTTPTransport(verify=self._verify(verify), trust_env=False)
        tidy(transport)
        return httpx.AsyncClient(
            transport=transport,
            timeout=httpx.Timeout(read, connect=self.timeout, pool=None),
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


class Believing(TypedDict):
    """What every source has: see `LastGood`, and `debounce` of the `Reflector`."""

    on_empty: OnEmpty
    grace: float
    debounce: float


def believing(location: Location) -> Believing:
    """Read the options `on_empty`, `grace` and `debounce`."""
    return {
        "on_empty": cast("OnEmpty", location.choice("on_empty", "grace", get_args(OnEmpty))),
        "grace": location.seconds("grace", GRACE),
        "debounce": location.seconds("debounce", DEBOUNCE),
    }


def check(source: object, *positive: str) -> None:
    """Refuse what is wrong with the arguments that all sources have, and those of these names that are not positive."""
    for name in (*positive, "timeout"):
        value: float = getattr(source, name)
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name}={value!r}: a finite number of seconds, more than 0")
    debounce: float = getattr(source, "debounce")  # noqa: B009 - they have no type in common
    if not (debounce >= 0 and math.isfinite(debounce)):
        raise ValueError(f"debounce={debounce!r}: a finite number of seconds, at least 0")
    LastGood(getattr(source, "on_empty"), getattr(source, "grace"))  # noqa: B009 - likewise


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
