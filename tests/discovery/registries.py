"""The registries that one suite of tests runs against: real servers, each behind the same few questions."""

from __future__ import annotations

import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kazoo.client import KazooClient  # type: ignore[import-untyped] # it has no types

from tests.servers.consul import Consul
from tests.servers.etcd import Etcd
from tests.servers.process import Server
from tests.servers.zookeeper import ZooKeeper

COMMON = "on_empty=fail&debounce=0.01"


class Registry(ABC):
    """A registry with a service of its own, which nobody else knows."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.service = f"orders-{uuid.uuid4().hex[:8]}"

    @property
    @abstractmethod
    def url(self) -> str:
        """Where to find and to register."""

    @property
    def impatient(self) -> str:
        """Where to find, by who notices trouble within a test's time."""
        return f"{self.url}&timeout=0.3"

    @abstractmethod
    def names(self) -> list[str]:
        """The ids of what is registered, as somebody else's client sees it."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove an entry, as an operator might."""

    ttl = 0.5
    """Seconds, as short as the registry allows."""


class EtcdRegistry(Registry):
    server: Etcd
    ttl = 1.0  # of which etcd knows only whole ones

    @property
    def url(self) -> str:
        return f"etcd://{self.server.address}/services/{self.service}?window=0.3&{COMMON}"

    def names(self) -> list[str]:
        return sorted(json.loads(each)["id"] for each in self.server.keys(f"/services/{self.service}/").values())

    def remove(self, name: str) -> None:
        self.server.delete(f"/services/{self.service}/{name}")


class ConsulRegistry(Registry):
    server: Consul

    @property
    def url(self) -> str:
        return f"consul://{self.server.address}/{self.service}?wait=0.3&{COMMON}"

    def names(self) -> list[str]:
        found = self.server.services()
        return sorted(name for name in found if found[name]["Service"] == self.service)

    def remove(self, name: str) -> None:
        self.server.deregister(name)


class CuratorRegistry(Registry):
    server: ZooKeeper
    format = "curator"

    @property
    def url(self) -> str:
        return f"zookeeper://{self.server.address}/services/{self.service}?format={self.format}&session=0.5&{COMMON}"

    def names(self) -> list[str]:
        return sorted(each["id"] for each in self._nodes().values())

    def remove(self, name: str) -> None:
        with client(self.server.address) as found:
            for node, each in self._nodes().items():
                if each["id"] == name:
                    found.delete(f"/services/{self.service}/{node}")

    def _nodes(self) -> dict[str, Any]:
        with client(self.server.address) as found:
            path = f"/services/{self.service}"
            if found.exists(path) is None:
                return {}
            return {node: self.read(found.get(f"{path}/{node}")[0]) for node in found.get_children(path)}

    def read(self, content: bytes) -> Any:
        return json.loads(content)


class ServersetRegistry(CuratorRegistry):
    format = "serverset"

    def read(self, content: bytes) -> Any:
        return json.loads(content)["resilient"]


KINDS: dict[str, tuple[type[Server], Callable[[Any], Registry]]] = {
    "etcd": (Etcd, EtcdRegistry),
    "consul": (Consul, ConsulRegistry),
    "curator": (ZooKeeper, CuratorRegistry),
    "serverset": (ZooKeeper, ServersetRegistry),
}


@contextmanager
def client(address: str) -> Iterator[Any]:
    """Somebody else's client of ZooKeeper."""
    found = KazooClient(address, timeout=10.0)
    found.start(timeout=20)
    try:
        yield found
    finally:
        found.stop()
        found.close()
