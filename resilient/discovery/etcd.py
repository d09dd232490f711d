"""Instances in etcd: a key each, under a common prefix."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import TypeVar, final
from urllib.parse import quote

import anyio
import httpx

from resilient.backends.conversation import Conversation, Endpoints, request_for, speak, speak_blocking, unreachable
from resilient.backends.etcd import Etcd as Protocol
from resilient.backends.etcd import KeyValue
from resilient.backends.lines import Lines, lines_of
from resilient.backends.listwatch import Changes, Expired, Listing, SourceFailed
from resilient.context import current_runtime
from resilient.discovery.documents import decode, fields_of, instance_from
from resilient.discovery.last_good import LastGood, OnEmpty
from resilient.discovery.location import Location
from resilient.discovery.polling import in_thread
from resilient.discovery.reflector import Candidate, Candidates, Reflector
from resilient.discovery.registration import EntryFactory, RemoteEntry
from resilient.discovery.remote import (
    COMMON,
    DEBOUNCE,
    GRACE,
    TIMEOUT,
    TLS,
    Clients,
    Tls,
    believing,
    check,
    urls,
    versions,
)
from resilient.discovery.schemes import Scheme
from resilient.errors import DiscoveryError
from resilient.instance import Instance
from resilient.runtime import Runtime
from resilient.snapshot import Snapshot

__all__ = ["SCHEME", "Etcd"]

_log = logging.getLogger("resilient.discovery")

T = TypeVar("T")

_WINDOW = 60.0
_MOST = 10_000
_OK = 200


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Etcd:
    """The instances under a prefix in etcd 3.3 or later: `etcd://host:port,host:port/services/orders`.

    Each key under the prefix and a slash (`/services/orders/...`) holds one instance as JSON: `host` and `port`, and,
    where it is wanted, `id` (`host:port`, if it is left out), `weight`, `zone`, `metadata`. A value that is no such
    record is logged; what the key held before stays in force. What etcd does in one transaction is one change here too.

    `endpoints`
        Base URLs of the members, tried in turn: `("http://10.0.0.1:2379",)`.
    `credentials`
        User and password; in a URL `etcd://user:password@host:port/...`.
    `window`
        Seconds after which a watch that was told nothing is opened anew, where it ended (60). A connection that only
        seems to be there is found by this: etcd's own reports of progress come every ten minutes.
    `timeout`
        Seconds for each endpoint to answer (5).
    `api`
        The version of the JSON gateway: "v3", or "v3beta" for etcd 3.3.
    `tls`
        For https. In a URL `etcds://`, with `ca`, `cert` and `key` as options.

    Errors keep the last instances, marked stale; `on_empty` and `grace` are as for every source, `debounce` is that of
    the reflector. Raises `ValueError` for a bad argument.
    """

    endpoints: tuple[str, ...]
    prefix: str
    credentials: tuple[str, str] | None = field(default=None, repr=False)
    window: float = _WINDOW
    timeout: float = TIMEOUT
    api: str = "v3"
    tls: Tls | None = None
    on_empty: OnEmpty = "grace"
    grace: float = GRACE
    debounce: float = DEBOUNCE
    runtime: Runtime | None = field(default=None, repr=False)
    _versions: Iterator[int] = field(init=False, repr=False, default_factory=versions)

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise ValueError("endpoints=(): at least one base URL, such as http://127.0.0.1:2379")
        if not self.prefix.strip("/"):
            raise ValueError(f"prefix={self.prefix!r}: a prefix of keys that is not empty, such as /services/orders")
        check(self, "window")

    def watch(self) -> AsyncIterator[Snapshot]:
        """Yield the instances, and again when they change."""
        name = f"etcd {self.prefix} at {', '.join(self.endpoints)}"
        return Reflector(
            name,
            _Source(self, name),
            known=LastGood(self.on_empty, self.grace, self._versions),
            runtime=self.runtime or current_runtime(),
            debounce=self.debounce,
        )

    def enter(self, instance: Instance, ttl: float) -> EntryFactory:
        """Return what makes the entry of `instance`, for `register`."""
        return lambda _: _Entry(self, instance, ttl)

    def protocol(self) -> Protocol:
        """Return conversations of one's own."""
        return Protocol(Endpoints(self.endpoints), api=self.api, credentials=self.credentials)

    def folder(self) -> str:
        """Return what all keys begin with."""
        return self.prefix.rstrip("/") + "/"


@final
class _Source:
    """Lists and watches; remembers what each key held last, for when it holds what nobody can read."""

    def __init__(self, etcd: Etcd, name: str) -> None:
        self.silence = etcd.window + 2 * etcd.timeout  # a backstop: the window is closed from here
        self._etcd = etcd
        self._name = name
        self._protocol = etcd.protocol()
        self._clients = Clients(etcd.tls, {}, etcd.timeout)
        self._context: SSLContext | None = None
        self._known: dict[str, Candidates] = {}

    async def listing(self) -> Listing[Candidates]:
        """Read all keys."""
        async with await self._client(0.0) as client:
            found = await speak(self._protocol.range(self._etcd.folder(), limit=_MOST), client)
        objects = {each.key: self._candidates(each) for each in found.keys}
        self._known = objects
        return Listing(dict(objects), f"{found.cluster}:{found.revision}")

    async def watch(self, revision: str) -> AsyncGenerator[Listing[Candidates] | Changes[Candidates], None]:
        """Tell what changes after `revision`, until nothing did for a window."""
        cluster, _, number = revision.rpartition(":")
        told = int(number)
        async with await self._client(self._etcd.window) as client, self._lines(client, told + 1) as lines:
            patience = self._etcd.timeout  # for its first message, which says that there is a watch at all
            while True:
                line = None
                with anyio.move_on_after(patience) as waiting:
                    line = await lines.next()
                if line is None and waiting.cancelled_caught and patience != self._etcd.window:
                    raise SourceFailed(f"{self._protocol.endpoints.current} opens no watch")
                if line is None:  # the window is closed, or etcd has ended the watch
                    return
                heard = self._protocol.hear(line)
                if heard.cluster != cluster or heard.revision < told:
                    # It would say nothing until it gets there, and then speak of other keys.
                    raise Expired(f"this is not the cluster that was at revision {told}")
                patience = self._etcd.window
                told = max(told, heard.told)
                yield self._changes(f"{cluster}:{told}", heard.events)

    def _changes(self, revision: str, events: Sequence[KeyValue]) -> Changes[Candidates]:
        put: dict[str, Candidates] = {}
        removed: set[str] = set()
        for event in events:  # of one key there may be several
            if event.value is None:
                self._known.pop(event.key, None)
                put.pop(event.key, None)
                removed.add(event.key)
            else:
                self._known[event.key] = put[event.key] = self._candidates(event)
                removed.discard(event.key)
        return Changes(revision, put, removed)

    @asynccontextmanager
    async def _lines(self, client: httpx.AsyncClient, revision: int) -> AsyncGenerator[Lines, None]:
        protocol = self._protocol
        try:
            with anyio.fail_after(self._etcd.timeout):
                ask = await speak(protocol.watch(self._etcd.folder(), revision), client)
                response = await client.send(request_for(client, ask), stream=True)
        except (httpx.HTTPError, TimeoutError) as error:
            failed = protocol.endpoints.current
            protocol.endpoints.turn()
            raise DiscoveryError(f"{failed} opens no watch: {error}") from error
        async with aclosing(response):
            if response.status_code != _OK:
                protocol.forget_token()
                protocol.endpoints.turn()
                raise SourceFailed(f"the watch was refused: {response.status_code}")
            try:
                async with lines_of(response.aiter_raw()) as lines:
                    yield lines
            except httpx.HTTPError as error:
                protocol.endpoints.turn()
                raise unreachable(ask.url, error) from error
            except SourceFailed:
                protocol.forget_token()  # it may have been cancelled for that
                protocol.endpoints.turn()
                raise

    async def _client(self, waiting: float) -> httpx.AsyncClient:
        tls = self._etcd.tls
        if tls is not None and self._context is None:
            self._context = await in_thread(tls.context)
        return self._clients.client(self._etcd.timeout + waiting, self._context)

    def _candidates(self, found: KeyValue) -> Candidates:
        try:
            return _parse(found)
        except DiscoveryError as error:
            _log.warning("%s: the value of %s: %s; what it said before stays in force", self._name, found.key, error)
            return self._known.get(found.key, ())


def _parse(found: KeyValue) -> Candidates:
    return (Candidate(instance_from(decode(found.value or b"", "json"), "the record")),)


@final
class _Entry(RemoteEntry):
    """A key of one's own, which a lease holds."""

    def __init__(self, etcd: Etcd, instance: Instance, ttl: float) -> None:
        super().__init__()
        self._protocol = etcd.protocol()
        self._clients = Clients(etcd.tls, {}, etcd.timeout)
        self._http: httpx.Client | None = None
        self._key = etcd.folder() + quote(instance.id, safe=":@[]")
        self._value = json.dumps(fields_of(instance)).encode()
        self._ttl = ttl
        self._lease: str | None = None

    def _create(self) -> None:
        try:
            self._lease = lease = self._speak(self._protocol.grant(self._ttl))
            self._speak(self._protocol.put(self._key, self._value, lease))
        except BaseException:
            with suppress(OSError, DiscoveryError):
                self._withdraw()  # it may have been written all the same
            raise

    def _renew(self) -> None:
        lease = self._lease
        if lease is None or not self._speak(self._protocol.keep_alive(lease)):
            self._lease = lease = self._speak(self._protocol.grant(self._ttl))
        holder = self._speak(self._protocol.put_if_absent(self._key, self._value, lease))
        if holder != lease:
            # A later life of the same instance; or two that were given one id.
            raise DiscoveryError(f"somebody else is registered as {self._key}")

    def _withdraw(self) -> None:
        lease, self._lease = self._lease, None
        try:
            if lease is not None:
                self._speak(self._protocol.revoke(lease))
        finally:
            http, self._http = self._http, None
            if http is not None:
                http.close()

    def _speak(self, conversation: Conversation[T]) -> T:
        if self._http is None:
            self._http = self._clients.blocking(self._ttl)
        return speak_blocking(conversation, self._http)


def _etcd(location: Location, runtime: Runtime | None) -> Etcd:
    tls = location.scheme == "etcds"
    location.allow("api", "window", *COMMON, *(TLS if tls else ()))
    if location.path.strip("/") == "":
        location.refuse(f"{location.scheme}://host:port/services/orders: the path is the prefix of the keys")
    return Etcd(
        endpoints=urls(location, tls=tls, credentials=True),
        prefix=location.path,
        credentials=location.credentials(),
        window=location.seconds("window", _WINDOW),
        timeout=location.seconds("timeout", TIMEOUT),
        api=location.choice("api", "v3", ("v3", "v3beta")),
        tls=Tls.of(location) if tls else None,
        runtime=runtime,
        **believing(location),
    )


def _register(location: Location, instance: Instance, ttl: float) -> EntryFactory:
    return _etcd(location, None).enter(instance, ttl)


SCHEME = Scheme(_etcd, _register)
