"""Real servers, started once for all tests of this folder and stopped at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.discovery.registries import KINDS, Registry
from tests.servers.etcd import Etcd
from tests.servers.process import Server
from tests.servers.zookeeper import ZooKeeper


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[type[Server], Server]]:
    """Those that somebody asked for."""
    found: dict[type[Server], Server] = {}
    yield found
    for server in found.values():
        server.__exit__()


def running(servers: dict[type[Server], Server], kind: type[Server]) -> Server:
    """The server of a kind, whatever the test before did to it."""
    if kind not in servers:
        servers[kind] = kind().__enter__()
    servers[kind].heal()
    return servers[kind]


@pytest.fixture
def etcd(servers: dict[type[Server], Server]) -> Etcd:
    server = running(servers, Etcd)
    assert isinstance(server, Etcd)
    return server


@pytest.fixture
def zookeeper(servers: dict[type[Server], Server]) -> ZooKeeper:
    server = running(servers, ZooKeeper)
    assert isinstance(server, ZooKeeper)
    return server


@pytest.fixture(params=KINDS)
def registry(request: pytest.FixtureRequest, servers: dict[type[Server], Server]) -> Registry:
    """Each of the registries, with a service that nobody has registered for yet."""
    server, kind = KINDS[request.param]
    return kind(running(servers, server))


@pytest.fixture(params=[name for name in KINDS if name != "serverset"])
def kind_of_server(request: pytest.FixtureRequest, servers: dict[type[Server], Server]) -> Registry:
    """One registry for each kind of server, where formats make no difference."""
    server, kind = KINDS[request.param]
    return kind(running(servers, server))


@pytest.fixture(
    params=[("etcd", "asyncio"), ("consul", "trio"), ("curator", "asyncio"), ("curator", "trio")], ids="-".join
)
def failing(request: pytest.FixtureRequest, servers: dict[type[Server], Server]) -> tuple[Registry, str]:
    """A registry whose server fails, and an event loop.

    The conversation with etcd and Consul is one and the same, so each loop has one of them; ZooKeeper's client has
    threads of its own.
    """
    name, backend = request.param
    server, kind = KINDS[name]
    return kind(running(servers, server)), backend
