"""The connections to one instance: an inner transport, and the admission to it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, final

from resilient.call import Call, End
from resilient.http.package import Package
from resilient.instance import Instance
from resilient.policies.bulkhead import Bulkhead

__all__ = ["Connections", "Connectivity"]

# A server closes an idle connection after 5 s or more (uvicorn, Node); a request sent at that moment would be lost.
_KEEPALIVE = 4.0
_QUEUE = 1000
_LONGEST_WAIT = 30.0


@final
class Connections:
    """One instance's transport and its places.

    The places are ahead of the pool, which so never makes a request wait: httpx 0.28 loses a connection's slot
    for ever when a request that waits inside its pool is cancelled (encode/httpcore#1093). Place and connection
    are held until the body is closed.
    """

    __slots__ = ("address", "gate", "retired", "transport", "urls")

    def __init__(self, address: tuple[str, int], transport: Any, places: int) -> None:
        self.address = address
        self.transport = transport
        self.gate = Bulkhead(places, max_queue=_QUEUE, max_wait=_LONGEST_WAIT)
        self.retired = False
        self.urls: dict[Any, Any] = {}

    async def admit(self, call: Call) -> End:
        """Take a place, within the call's deadline."""
        return await self.gate.hold(call)

    @property
    def idle(self) -> bool:
        """Whether nothing is in flight, and nothing will be."""
        return self.retired and self.gate.in_flight == 0


@final
class Connectivity:
    """All connections of a transport: one inner transport an instance, made at its first call.

    One pool for all instances would look through every connection at each request, and a black hole would fill
    it for the others. An instance that has left gets no new calls; its transport is closed when the last one is
    over.
    """

    __slots__ = ("_by_id", "_http2", "_inner", "_lock", "_places", "_retired", "_ssl", "_sync")

    def __init__(self, inner: Callable[[Instance], Any] | None, *, sync: bool, places: int, http2: bool) -> None:
        self._inner = inner
        self._sync = sync
        self._places = places
        self._http2 = http2
        self._by_id: dict[tuple[str, str], Connections] = {}
        self._retired: list[Connections] = []
        self._ssl: Any = None
        self._lock = threading.Lock()

    def to(self, instance: Instance, scheme: str, package: Package) -> Connections:
        """The connections to an instance; those to an address that it has left are retired."""
        key = (instance.id, scheme)
        connections = self._by_id.get(key)
        address = (instance.host, instance.port)
        if connections is not None and connections.address == address:
            return connections
        with self._lock:
            connections = self._by_id.get(key)
            if connections is not None and connections.address != address:
                self._retire(key)
                connections = None
            if connections is None:
                connections = Connections(address, self._make(instance, scheme, package), self._places)
                self._by_id[key] = connections
            return connections

    def keep(self, instances: Iterable[Instance]) -> None:
        """Retire the connections to all other instances."""
        known = {instance.id for instance in instances}
        with self._lock:
            for key in [key for key in self._by_id if key[0] not in known]:
                self._retire(key)

    def take_idle(self) -> list[Any]:
        """Take the transports of retired instances on which nothing is in flight any more: they are to be closed."""
        if not self._retired:
            return []
        with self._lock:
            idle = [connections for connections in self._retired if connections.idle]
            self._retired = [connections for connections in self._retired if connections not in idle]
        return [connections.transport for connections in idle]

    def take_all(self) -> list[Any]:
        """Take every transport: they are to be closed."""
        with self._lock:
            every = [*self._by_id.values(), *self._retired]
            self._by_id.clear()
            self._retired.clear()
        return [connections.transport for connections in every]

    def _retire(self, key: tuple[str, str]) -> None:
        connections = self._by_id.pop(key)
        connections.retired = True
        self._retired.append(connections)

    def _make(self, instance: Instance, scheme: str, package: Package) -> Any:
        if self._inner is not None:
            return self._inner(instance)
        module = package.module
        verify: Any = False
        if scheme == "https":
            if self._ssl is None:  # 20 ms and 1 MB, once: it holds the certificates of the world
                self._ssl = module.create_ssl_context()
            verify = self._ssl
        limits = module.Limits(
            max_connections=self._places, max_keepalive_connections=self._places, keepalive_expiry=_KEEPALIVE
        )
        kind = module.HTTPTransport if self._sync else module.AsyncHTTPTransport
        return kind(verify=verify, limits=limits, http2=self._http2, trust_env=False)
