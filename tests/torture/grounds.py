"""Where a run takes place: a server of its own behind a proxy, and what can be done to both."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import psycopg

from tests.servers.postgres import Postgres
from tests.servers.process import Server
from tests.servers.proxy import Proxy
from tests.servers.valkey import Valkey

Fault = Callable[[], object]

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Ground:
    """What a run needs to know; `fresh` makes a store that nothing is in."""

    place: str
    fresh: Callable[[], str] = str
    """Its URL, past the proxy."""
    faults: tuple[tuple[str, Fault], ...] = ()
    server: Server | None = None
    proxy: Proxy | None = None

    def heal(self) -> None:
        """Whatever was done to it: it serves again."""
        if self.proxy is not None:
            self.proxy.heal()
        if self.server is not None:
            self.server.heal()

    def through(self, url: str) -> str:
        """The URL of the same store by way of the proxy."""
        return url if self.proxy is None else through(url, self.proxy)


def through(url: str, proxy: Proxy) -> str:
    """The URL with the proxy's port in place of the server's."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}{at}127.0.0.1:{proxy.port}").geturl()


def faults_of(proxy: Proxy) -> list[tuple[str, Fault]]:
    """What a network does. Each is healed by the one that follows, at the latest."""

    def healed(act: Callable[[], object]) -> Fault:
        def fault() -> None:
            proxy.heal()
            act()

        return fault

    return [
        ("reset", healed(proxy.reset)),
        ("cut in the middle of a message", healed(lambda: proxy.cut_after(700))),
        ("cut in the middle of an answer", healed(lambda: proxy.cut_after(300, "to client"))),
        ("half open", healed(proxy.half_open)),
        ("black hole", healed(proxy.black_hole)),
        ("slow", healed(lambda: setattr(proxy, "latency", 0.05))),
        ("healed", proxy.heal),
    ]


@contextmanager
def valkey_ground() -> Iterator[Ground]:
    """A Valkey that keeps everything it acknowledged."""
    with Valkey(appendonly=True) as server, Proxy(server.port) as proxy:

        def crash() -> None:
            server.kill()
            server.launch()

        def disconnect() -> None:
            server.ask("CLIENT", "KILL", "TYPE", "normal")

        faults = [*faults_of(proxy), ("backends ended", disconnect), ("server killed", crash)]
        yield Ground("valkey", lambda: f"{server.url}?tag=t{next(_numbers)}", tuple(faults), server, proxy)


@contextmanager
def postgres_ground() -> Iterator[Ground]:
    """A PostgreSQL with fsync on."""
    with Postgres() as server, Proxy(server.port) as proxy:

        def crash() -> None:
            server.kill()
            server.launch()

        def disconnect() -> None:
            with contextlib.suppress(psycopg.OperationalError):  # it is on its way up
                server.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'test%'")

        faults = [*faults_of(proxy), ("backends ended", disconnect), ("server killed", crash)]
        yield Ground("postgres", server.create_database, tuple(faults), server, proxy)


@contextmanager
def sqlite_ground() -> Iterator[Ground]:
    """A file has no server."""
    yield Ground("sqlite")


GROUNDS: dict[str, Callable[[], AbstractContextManager[Ground]]] = {
    "sqlite": sqlite_ground,
    "postgres": postgres_ground,
    "valkey": valkey_ground,
}
