"""Where a run takes place: a server of its own behind a proxy, and what can be done to both."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.servers.process import Server
from tests.servers.proxy import Proxy
from tests.servers.valkey import Valkey

Fault = Callable[[], object]

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Ground:
    """What a run needs to know. `url` leads through the proxy, `direct` past it."""

    place: str
    url: str = ""
    direct: str = ""
    faults: tuple[tuple[str, Fault], ...] = ()
    server: Server | None = None
    proxy: Proxy | None = None


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
        direct = f"{server.url}?tag=t{next(_numbers)}"
        yield Ground("valkey", through(direct, proxy), direct, tuple(faults), server, proxy)


@contextmanager
def sqlite_ground() -> Iterator[Ground]:
    """A file has no server."""
    yield Ground("sqlite")


GROUNDS: dict[str, Callable[[], Sequence[Ground]]] = {}
