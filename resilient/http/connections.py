"""The connections to one instance: an inner transport, and the admission to it."""

from __future__ import annotations

import itertools
import os
import ssl
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, TypeAlias, final

from resilient.backends.network import tidy
from resilient.call import Call, End
from resilient.http.package import Package
from resilient.http.pool import Pool
from resilient.http.punctual import make_punctual, punctual
from resilient.instance import Instance
from resilient.policies.bulkhead import Bulkhead
from resilient.snapshot import Snapshot

__all__ = ["SECURE", "Connections", "Connectivity", "Verify", "Wire"]

Verify: TypeAlias = ssl.SSLContext | str | bool
"""How servers prove who they are: a context of your own, the path of trusted certificates, or whether they have to."""

# A server closes an idle connection after 5 s or more (uvicorn, Node); a request sent at that moment would be lost.
_KEEPALIVE = 4.0
_QUEUE = 1000
_LONGEST_WAIT = 30.0
_MAX_URLS = 64
SECURE = frozenset({"https", "wss"})
"""The schemes that mean TLS: httpcore knows those of WebSocket too."""
_PLAIN = frozenset({"http", "ws"})


@final
class Wire:
    """How connections are made: what both kinds of clients of a transport share.

    Raises `ValueError` for `connections` below 1 or a path in `verify` that does not exist, `TypeError` for another
    `verify`, and `ImportError` for `http2` without the package that it needs.
    """

    __slots__ = ("_http2", "_inner", "_lock", "_ssl", "_verify", "broken_off", "places")

    def __init__(
        self, inner: Callable[[Instance], Any] | None, *, connections: int, http2: bool, verify: Verify
    ) -> None:
        if connections < 1:
            raise ValueError(f"connections={connections!r}: how many requests may be with an instance, at least 1")
        if not isinstance(verify, ssl.SSLContext | str | bool):
            raise TypeError(f"verify={verify!r}: an ssl.SSLContext, the path of trusted certificates, or a bool")
        if isinstance(verify, str) and not os.path.exists(verify):  # noqa: PTH110 - it stays a string
            raise ValueError(f"verify={verify!r}: there is no such file or folder of trusted certificates")
        if http2 and find_spec("h2") is None:
            raise ImportError('http2=True needs the package h2: pip install "httpx[http2]"')
        self.places = connections
        # How many requests a transport may have broken off before it must go. To a pool of ours they do nothing.
        self.broken_off = None if inner is None else connections
        if http2:  # each leaves a stream open, of the 100 or so that a server allows a connection
            self.broken_off = max(1, connections // 10)
            self.places = max(1, connections - self.broken_off)
        self._inner = inner
        self._http2 = http2
        self._verify = verify
        self._ssl: ssl.SSLContext | None = verify if isinstance(verify, ssl.SSLContext) else None
        self._lock = threading.Lock()

    def transport(self, instance: Instance, scheme: str, package: Package, *, sync: bool) -> Any:
        """Make the transport of one instance."""
        if self._inner is not None:
            return self._inner(instance)
        module = package.module
        limits = module.Limits(
            max_connections=2 * self.places,  # as many as there are places, and as many again that were lost
            max_keepalive_connections=self.places,
            keepalive_expiry=_KEEPALIVE,
        )
        kind = module.HTTPTransport if sync else module.AsyncHTTPTransport
        verify = self._ssl if scheme in SECURE else False
        transport = kind(verify=verify, limits=limits, http2=self._http2, trust_env=False)
        if not sync:
            tidy(transport)
        if not self._http2 and scheme in SECURE | _PLAIN:
            # httpx has no argument for it. The transport is still its own: who instruments those, sees each attempt.
            transport._pool = self._pool(package, transport, sync=sync)  # noqa: SLF001 - see above
        return transport

    def _pool(self, package: Package, transport: Any, *, sync: bool) -> Pool:
        core = package.core
        opens = punctual(core.SyncBackend()) if sync else transport._pool._network_backend  # noqa: SLF001 - a tidy one
        connect = partial(
            core.HTTPConnection if sync else core.AsyncHTTPConnection,
            ssl_context=self._ssl,
            keepalive_expiry=_KEEPALIVE,
            network_backend=opens,
        )
        return Pool(connect, sync=sync)

    def prepare(self, package: Package) -> None:
        """Make the TLS context of all connections: 20 ms and 1 MB, with the certificates of the world."""
        if self._ssl is not None or self._inner is not None:
            return
        with self._lock:
            if self._ssl is None:
                self._ssl = self._context(package)

    def _context(self, package: Package) -> Any:
        if not isinstance(self._verify, str):
            return package.module.create_ssl_context(verify=self._verify)
        if os.path.isdir(self._verify):  # noqa: PTH112 - it stays a string
            return ssl.create_default_context(capath=self._verify)
        return ssl.create_default_context(cafile=self._verify)


@final
class Connections:
    """One instance's transport and its places.

    The places are ahead of the pool, which so never makes a request wait. Place and connection are held until the body
    is closed.

    What is said of lost slots is for pools that are not ours: with HTTP/2, and in transports of one's own. httpx 0.28
    loses a connection's slot for ever when a request that waits inside its pool is cancelled (encode/httpcore#1093);
    and also where a native cancellation of asyncio meets the very beginning of a request, or the closing of its
    response, which no place can prevent. With HTTP/2 any cancellation costs a stream. So such a pool has twice as many
    slots as there are places, and once enough requests were broken off, the transport gives way to a fresh one, which
    takes over its `gate`: the places are the instance's.
    """

    __slots__ = (
        *("_bearable", "_broken_off", "_in_use", "_lock", "_urls", "_wear_out"),
        *("closed", "gate", "hold", "instance", "transport"),
    )

    def __init__(
        self,
        instance: Instance,
        transport: Any,
        wire: Wire,
        wear_out: Callable[[Connections], None],
        gate: Bulkhead | None = None,
    ) -> None:
        self.instance = instance
        self.transport = transport
        self.gate = gate or Bulkhead(wire.places, max_queue=_QUEUE, max_wait=_LONGEST_WAIT)
        self.hold: Callable[[Call], Awaitable[End]] = self.gate.hold if wire.broken_off is None else self._hold_counted
        """Take a place; return what gives it back."""
        self.closed = False
        """Somebody closes the transport: whoever took a place only now gives it back."""
        self._in_use = 0
        self._lock = threading.Lock()
        self._urls: dict[bytes, Any] = {}
        self._broken_off = itertools.count(1)
        self._bearable = wire.broken_off
        self._wear_out = wear_out

    async def _hold_counted(self, call: Call) -> End:
        """Take a place of a gate that other transports use too: only a count of our own tells when this one is idle."""
        leave = await self.gate.hold(call)
        with self._lock:
            self._in_use += 1

        def settle(error: BaseException | None) -> None:
            with self._lock:
                self._in_use -= 1
            leave(error)

        return settle

    def break_off(self) -> None:
        """Note that a request was cancelled, or the closing of its response: it may have cost a slot of the pool."""
        if next(self._broken_off) == self._bearable:
            self._wear_out(self)

    def url(self, url: Any) -> Any:
        """The service's URL with this instance's address."""
        key = url.raw_path  # scheme and address are the same for all; a fragment is not sent
        known = self._urls.get(key)
        if known is None:
            if len(self._urls) >= _MAX_URLS:
                self._urls.clear()  # what is used often comes back at once
            known = self._urls[key] = url.copy_with(host=self.instance.host, port=self.instance.port)
        return known

    def close_if_idle(self) -> bool:
        """Refuse further calls, unless one is in flight."""
        self.closed = True  # before the look at the places: whoever takes one meanwhile sees it afterwards
        if self._in_use if self._bearable is not None else self.gate.in_flight:
            self.closed = False
        return self.closed


_Key: TypeAlias = tuple[str, str, int, str, Package]
_Place: TypeAlias = tuple[str, str, int]


@final
class Connectivity:
    """All connections of one kind of client: one inner transport an instance, made at its first call.

    One pool for all instances would look through every connection at each request, and a black hole would fill
    it for the others. An instance that has left, or has another address now, gets no new calls there; its
    transport is closed when the last one is over.
    """

    __slots__ = ("_gates", "_lock", "_retired", "_seen", "_snapshot", "_sync", "_table", "_wire")

    def __init__(self, wire: Wire, snapshot: Callable[[], Snapshot | None], *, sync: bool) -> None:
        self._wire = wire
        self._snapshot = snapshot
        self._sync = sync
        self._seen: Snapshot | None = None
        self._table: dict[_Key, Connections] = {}
        self._gates: dict[_Key, Bulkhead] = {}
        """Those of transports that wore out, until the next one is made."""
        self._retired: list[Connections] = []
        self._lock = threading.Lock()

    def to(self, instance: Instance, scheme: str, package: Package) -> Connections:
        """The connections to an instance."""
        if self._snapshot() is not self._seen:
            self._follow_snapshot()
        key = (instance.id, instance.host, instance.port, scheme, package)
        connections = self._table.get(key)
        if connections is not None:
            return connections
        with self._lock:
            connections = self._table.get(key)
            if connections is None:
                transport = self._wire.transport(instance, scheme, package, sync=self._sync)
                if self._sync:
                    make_punctual(transport)
                gate = self._gates.pop(key, None)
                connections = Connections(instance, transport, self._wire, self._wear_out, gate)
                if self._is_known(instance):
                    self._table[key] = connections
                else:  # it left since it was picked
                    self._retired.append(connections)
            return connections

    def retire_the_gone(self) -> bool:
        """Give no more calls to what has left; tell whether there is anything to close."""
        if self._snapshot() is not self._seen:
            self._follow_snapshot()
        return bool(self._retired)

    def take_idle(self) -> Any:
        """Take one transport that has left and on which nothing is in flight any more, to be closed; or None."""
        with self._lock:
            for index, connections in enumerate(self._retired):
                if connections.close_if_idle():
                    del self._retired[index]
                    return connections.transport
        return None

    def take_all(self) -> list[Any]:
        """Take every transport: they are to be closed."""
        with self._lock:
            every = [*self._table.values(), *self._retired]
            self._table.clear()
            self._retired.clear()
        for connections in every:
            connections.closed = True
        return [connections.transport for connections in every]

    def _follow_snapshot(self) -> None:
        with self._lock:
            self._seen = self._snapshot()
            known = {_place(instance) for instance in self._seen.instances} if self._seen is not None else set[_Place]()
            for key, connections in list(self._table.items()):
                if _place(connections.instance) not in known:
                    self._retired.append(self._table.pop(key))
            for key in [key for key in self._gates if key[:3] not in known]:
                del self._gates[key]

    def _wear_out(self, worn: Connections) -> None:
        """Give no more calls to this transport, although its instance stays: the next one is a fresh one."""
        with self._lock:
            for key, connections in list(self._table.items()):
                if connections is worn:
                    self._retired.append(self._table.pop(key))
                    self._gates[key] = worn.gate

    def _is_known(self, instance: Instance) -> bool:
        return self._seen is None or any(_place(instance) == _place(one) for one in self._seen.instances)


def _place(instance: Instance) -> _Place:
    return instance.id, instance.host, instance.port
