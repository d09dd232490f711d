"""Instances in Consul."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from ssl import SSLContext
from typing import TYPE_CHECKING, Any, TypeVar, final

from resilient.backends.consul import Answer
from resilient.backends.consul import Consul as Protocol
from resilient.backends.conversation import Conversation, Endpoints, speak, speak_blocking
from resilient.backends.listwatch import Changes, Listing
from resilient.context import current_runtime
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
from resilient.machines.gcra import Gcra
from resilient.runtime import Runtime
from resilient.snapshot import Snapshot

if TYPE_CHECKING:
    import httpx

__all__ = ["SCHEME", "Consul"]

T = TypeVar("T")

_WAIT = 60.0
_JITTER = 17 / 16
"""By how much a server lengthens a wait, so that not all of them end at once."""
_BURST = 10
"""Changes in a row that are told at once; then one a second: a service that flaps must not make its callers poll."""
_FORGOTTEN = 60.0
"""Seconds after which an instance that stopped renewing is removed; Consul allows no less."""
_WEIGHT, _ZONE, _TAGS, _OWNER = "weight", "zone", "tags", "resilient-owner"
_META_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")
_MOST_META, _LONGEST_META = 64, 512


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Consul:
    """The healthy instances of a service in Consul: `consul://host:port/orders`.

    Followed with blocking queries: a change is told at once, and nothing is asked meanwhile.

    `endpoints`
        Base URLs of agents or servers, tried in turn: `("http://127.0.0.1:8500",)`.
    `service`
        Its name.
    `tags`
        The instances have all of these. In a URL `tag=a,b`.
    `datacenter`
        The one of the agent, if it is None. In a URL `dc`.
    `passing`
        True: only instances whose checks all pass (the default). False: also those with a warning, with the weight that
        Consul has for that; never those with a critical check.
    `wait`
        Seconds that a query waits for a change (60).
    `max_stale`
        Servers other than the leader may answer, if they heard from it within so many seconds: less load on the leader,
        and answers while there is none. None: only the leader answers.
    `token`, `token_file`
        An ACL token, or a file with one, which is read for every list. A URL takes `token_file`, or `token` for what is
        no secret; without either the environment's CONSUL_HTTP_TOKEN counts.
    `timeout`
        Seconds for each endpoint to answer, beyond its waiting (5).
    `tls`
        For https. In a URL `consuls://`, with `ca`, `cert` and `key` as options.

    The weight of an instance is its weight in Consul, its zone the `zone` of its metadata, and its tags stand under
    `tags` in the metadata. A service without an address has its node's. The id is the service's, or, where that is the
    name of the service or several nodes have the same, `node/id`.

    Errors keep the last instances, marked stale; `on_empty` and `grace` are as for every source, `debounce` is that of
    the reflector. Raises `ValueError` for a bad argument.
    """

    endpoints: tuple[str, ...]
    service: str
    tags: tuple[str, ...] = ()
    datacenter: str | None = None
    passing: bool = True
    wait: float = _WAIT
    max_stale: float | None = None
    token: str | None = field(default=None, repr=False)
    token_file: str | None = None
    timeout: float = TIMEOUT
    tls: Tls | None = None
    on_empty: OnEmpty = "grace"
    grace: float = GRACE
    debounce: float = DEBOUNCE
    runtime: Runtime | None = field(default=None, repr=False)
    _versions: Iterator[int] = field(init=False, repr=False, default_factory=versions)

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise ValueError("endpoints=(): at least one base URL, such as http://127.0.0.1:8500")
        if not self.service:
            raise ValueError("service='': the name of a service")
        if not 0.01 <= self.wait <= 600.0:  # noqa: PLR2004 - named in the message
            raise ValueError(
                f"wait={self.wait!r}: between 0.01 and 600 seconds, which is the longest that Consul waits"
            )
        if self.max_stale is not None and not self.max_stale > 0:
            raise ValueError(f"max_stale={self.max_stale!r}: a number of seconds, more than 0")
        check(self)

    def watch(self) -> AsyncIterator[Snapshot]:
        """Yield the instances, and again when they change."""
        runtime = self.runtime or current_runtime()
        return Reflector(
            f"consul {self.service} at {', '.join(self.endpoints)}",
            _Source(self, runtime),
            known=LastGood(self.on_empty, self.grace, self._versions),
            runtime=runtime,
            debounce=self.debounce,
        )

    def enter(self, instance: Instance, ttl: float) -> EntryFactory:
        """Return what makes the entry of `instance`. Raises `ValueError` for what Consul cannot hold."""
        definition = _definition(self, instance, ttl)
        return lambda runtime: _Entry(self, definition, runtime.new_id(), ttl)

    def protocol(self) -> Protocol:
        """Return conversations of one's own."""
        return Protocol(Endpoints(self.endpoints), datacenter=self.datacenter, max_stale=self.max_stale)

    def headers(self) -> dict[str, str]:
        """Return the token, read anew. Blocking."""
        token = Path(self.token_file).read_text().strip() if self.token_file is not None else self.token
        return {} if token is None else {"X-Consul-Token": token}


@final
class _Source:
    def __init__(self, consul: Consul, runtime: Runtime) -> None:
        self._patience = consul.wait * _JITTER + consul.timeout
        self.silence = self._patience + 2 * consul.timeout  # a backstop: the queries end by themselves
        self._consul = consul
        self._protocol = consul.protocol()
        self._context: SSLContext | None = None
        self._pace = Gcra(amount=1, period=1.0, burst=_BURST)
        self._runtime = runtime

    async def listing(self) -> Listing[Candidates]:
        """Ask for the present."""
        async with await self._client(self._consul.timeout) as client:
            return self._told(await self._ask(client, 0))

    async def watch(self, revision: str) -> AsyncGenerator[Listing[Candidates] | Changes[Candidates], None]:
        """Ask again and again, each time for what comes after the last answer."""
        index = int(revision)
        async with await self._client(self._patience) as client:
            while True:
                await self._keep_pace()
                answer = await self._ask(client, index)
                yield self._told(answer)
                if answer.index == 0:
                    return  # a server that tells no index cannot be waited for, only asked at intervals
                # Behind what we know, after a restart or a restored snapshot, the server is not waited for.
                index = answer.index if answer.index >= index else 0

    async def _keep_pace(self) -> None:
        wait = self._pace.admit(self._runtime.now())
        while wait > 0.0:
            await self._runtime.sleep(wait * (1.0 + 0.2 * self._runtime.random()))
            wait = self._pace.admit(self._runtime.now())

    async def _ask(self, client: httpx.AsyncClient, index: int) -> Answer:
        consul = self._consul
        question = self._protocol.health(
            consul.service, tags=consul.tags, passing=consul.passing, index=index, wait=consul.wait
        )
        return await speak(question, client)

    def _told(self, answer: Answer) -> Listing[Candidates]:
        return Listing({"": tuple(Candidate(each) for each in instances_in(answer.instances))}, str(answer.index))

    async def _client(self, read: float) -> httpx.AsyncClient:
        consul = self._consul
        headers = consul.headers() if consul.token_file is None else await in_thread(consul.headers)
        if consul.tls is not None and self._context is None:
            self._context = await in_thread(consul.tls.context)
        return Clients(consul.tls, headers, consul.timeout).client(read, self._context)


def instances_in(entries: Iterable[Mapping[str, Any]]) -> list[Instance]:
    """Read an answer about the health of a service. What has no port cannot be called, and is left out."""
    healthy = [entry for entry in entries if "critical" not in _states(entry) and entry["Service"].get("Port")]
    same = Counter(str(entry["Service"]["ID"]) for entry in healthy)
    return [_instance(entry, unique=same[str(entry["Service"]["ID"])] == 1) for entry in healthy]


def _states(entry: Mapping[str, Any]) -> set[str]:
    return {str(check["Status"]) for check in entry.get("Checks") or ()}


def _instance(entry: Mapping[str, Any], *, unique: bool) -> Instance:
    node, service = entry["Node"], entry["Service"]
    meta: dict[str, str] = dict(service.get("Meta") or {})
    passing = _states(entry) <= {"passing"}
    weights: dict[str, float] = service.get("Weights") or {}
    weight = float(weights.get("Passing" if passing else "Warning", 1))
    exact = meta.pop(_WEIGHT, None)
    meta.pop(_OWNER, None)
    if exact is not None and passing:
        weight = _number(exact, weight)
    if service.get("Tags"):
        meta.setdefault(_TAGS, ",".join(service["Tags"]))
    identity = str(service["ID"])
    if not unique or identity == service["Service"]:
        identity = f"{node['Node']}/{identity}"
    try:
        return Instance(
            id=identity,
            host=str(service.get("Address") or node["Address"]),
            port=int(service["Port"]),
            weight=weight,
            zone=meta.pop(_ZONE, None),
            metadata=meta,
        )
    except ValueError as error:
        raise DiscoveryError(f"{identity}: {error}") from None


def _number(text: str, default: float) -> float:
    try:
        found = float(text)
    except ValueError:
        return default
    return found if math.isfinite(found) and found >= 0 else default


def _definition(consul: Consul, instance: Instance, ttl: float) -> dict[str, Any]:
    meta = dict(instance.metadata)
    if instance.zone is not None:
        meta[_ZONE] = instance.zone
    share = max(1, round(instance.weight))  # all that Consul can hold
    if share != instance.weight:
        meta[_WEIGHT] = repr(instance.weight)
    for key, value in meta.items():
        if not _META_KEY.fullmatch(key) or len(value) > _LONGEST_META:
            raise ValueError(
                f"metadata {key}={value!r}: in Consul a key has up to 128 letters, digits, - and _, "
                f"and a value up to {_LONGEST_META} characters"
            )
    if len(meta) >= _MOST_META:
        raise ValueError(f"metadata: {len(meta)} entries; Consul holds {_MOST_META}, of which one is ours")
    return {
        "ID": instance.id,
        "Name": consul.service,
        "Address": instance.host,
        "Port": instance.port,
        "Tags": list(consul.tags),
        "Meta": meta,
        "Weights": {"Passing": share, "Warning": 1},
        "Check": {
            "TTL": f"{round(ttl * 1000)}ms",
            "Status": "passing",
            "DeregisterCriticalServiceAfter": f"{max(_FORGOTTEN, ttl):.0f}s",
        },
    }


@final
class _Entry(RemoteEntry):
    """A service at an agent, with a check that has to be passed in time."""

    def __init__(self, consul: Consul, definition: dict[str, Any], owner: str, ttl: float) -> None:
        super().__init__()
        # At one agent: another would know nothing of it, and a check that fails here would not be passed there.
        self._protocol = Protocol(Endpoints(consul.endpoints[:1]))
        self._consul = consul
        self._id = str(definition["ID"])
        self._definition = definition | {"Meta": definition["Meta"] | {_OWNER: owner}}
        self._owner = owner
        self._ttl = ttl
        self._http: httpx.Client | None = None

    def _create(self) -> None:
        try:
            self._register()
        except BaseException:
            with suppress(OSError, DiscoveryError):
                self._withdraw()  # it may be there all the same
            raise

    def _register(self) -> None:
        self._speak(self._protocol.register(self._definition))
        # What was registered under this id before may have left its check as it was.
        self._speak(self._protocol.pass_check(f"service:{self._id}"))

    def _renew(self) -> None:
        known = self._speak(self._protocol.service(self._id))
        if known is not None and not self._is_mine(known):
            # A later life of the same instance; or two that were given one id.
            raise DiscoveryError(f"somebody else is registered as {self._id}")
        if known is None or not self._speak(self._protocol.pass_check(f"service:{self._id}")):
            self._register()

    def _withdraw(self) -> None:
        try:
            known = self._speak(self._protocol.service(self._id))
            if known is not None and self._is_mine(known):
                self._speak(self._protocol.deregister(self._id))
        finally:
            http, self._http = self._http, None
            if http is not None:
                http.close()

    def _is_mine(self, known: Mapping[str, Any]) -> bool:
        meta: dict[str, str] = known.get("Meta") or {}
        return meta.get(_OWNER) == self._owner

    def _speak(self, conversation: Conversation[T]) -> T:
        if self._http is None:
            consul = self._consul
            self._http = Clients(consul.tls, consul.headers(), consul.timeout).blocking(self._ttl)
        return speak_blocking(conversation, self._http)


def _consul(location: Location, runtime: Runtime | None) -> Consul:
    tls = location.scheme == "consuls"
    location.allow("tag", "dc", "passing", "wait", "max_stale", "token", "token_file", *COMMON, *(TLS if tls else ()))
    service = location.path.strip("/")
    if not service or "/" in service:
        location.refuse(f"{location.scheme}://host:port/orders: the path is the name of a service")
    options = location.options
    token = options.get("token")
    if token is None and "token_file" not in options:
        token = os.environ.get("CONSUL_HTTP_TOKEN") or None
    return Consul(
        endpoints=urls(location, tls=tls),
        service=service,
        tags=tuple(tag for tag in options.get("tag", "").split(",") if tag),
        datacenter=options.get("dc"),
        passing=location.choice("passing", "true", ("true", "false")) == "true",
        wait=location.seconds("wait", _WAIT),
        max_stale=location.seconds("max_stale", 0.0) if "max_stale" in options else None,
        token=token,
        token_file=options.get("token_file"),
        timeout=location.seconds("timeout", TIMEOUT),
        tls=Tls.of(location) if tls else None,
        runtime=runtime,
        **believing(location),
    )


def _register(location: Location, instance: Instance, ttl: float) -> EntryFactory:
    return _consul(location, None).enter(instance, ttl)


SCHEME = Scheme(_consul, _register)
