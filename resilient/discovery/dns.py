"""Instances that the domain name system knows, by their addresses or by SRV records."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from types import MappingProxyType
from typing import Literal, TypeAlias, TypedDict, cast, final, get_args

import anyio

from resilient.backends.dns import Answer, Exchange, Kind, Resolver, Server, Srv, SrvAnswer, check_name, check_server
from resilient.context import current_runtime
from resilient.discovery.documents import address
from resilient.discovery.last_good import LastGood, OnEmpty
from resilient.discovery.location import Location
from resilient.discovery.polling import Poll
from resilient.discovery.protocol import Discovery
from resilient.discovery.schemes import Scheme
from resilient.errors import DiscoveryError
from resilient.instance import Instance
from resilient.machines.backoff import Backoff
from resilient.runtime import Runtime
from resilient.snapshot import Snapshot

__all__ = ["ADDRESSES", "SERVICES", "Dns", "DnsSrv", "Family"]

Family: TypeAlias = Literal["4", "6", "any", "both"]
"""Which addresses count: of IPv4, of IPv6, of IPv4 or where there are none of IPv6, or all of them."""

_MIN_TTL = 1.0
_MAX_TTL = 30.0
_TIMEOUT = 2.0
_GRACE = 30.0
_JITTER = 0.1
_AT_ONCE = 8
_SOON = 5.0
_PORT = 53
_OPTIONS = ("nameserver", "family", "min_ttl", "max_ttl", "timeout", "on_empty", "grace")

_KINDS: Mapping[Family, tuple[Kind, ...]] = {"4": ("A",), "6": ("AAAA",), "any": ("A", "AAAA"), "both": ("A", "AAAA")}

_log = logging.getLogger("resilient.discovery")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Named:
    """What the two have in common."""

    name: str = field(kw_only=False)
    nameservers: Sequence[Server] = ()
    family: Family = "any"
    min_ttl: float = _MIN_TTL
    max_ttl: float = _MAX_TTL
    timeout: float = _TIMEOUT
    on_empty: OnEmpty = "grace"
    grace: float = _GRACE
    runtime: Runtime | None = field(default=None, repr=False)
    exchange: Exchange | None = field(default=None, repr=False)
    _versions: Iterator[int] = field(init=False, repr=False, default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        check_name(self.name)
        for server in self.nameservers:
            check_server(*server)
        if self.family not in get_args(Family):
            raise ValueError(f"family={self.family!r}: one of {', '.join(get_args(Family))}")
        if not (math.isfinite(self.max_ttl) and 0 < self.min_ttl <= self.max_ttl):
            raise ValueError(
                f"min_ttl={self.min_ttl!r}, max_ttl={self.max_ttl!r}: finite numbers of seconds, more than 0, "
                "min_ttl not above max_ttl"
            )
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise ValueError(f"timeout={self.timeout!r}: a finite number of seconds, more than 0")
        LastGood(self.on_empty, self.grace)  # refuses what is wrong with them

    def _poll(self, url: str, look_up: Callable[[Resolver], Awaitable[_Found]]) -> Poll:
        """Look up, and again when what was found is no longer valid."""
        runtime = self.runtime or current_runtime()
        resolver = Resolver(self.nameservers, timeout=self.timeout, exchange=self.exchange)
        again = Backoff(base=self.min_ttl, cap=self.max_ttl)
        wait, failures = self.min_ttl, 0

        async def ask() -> Iterable[Instance]:
            nonlocal wait, failures
            try:
                found = await look_up(resolver)
            except (OSError, DiscoveryError):
                failures += 1
                wait = max(self.min_ttl, again.delay(failures, runtime.random))
                raise
            failures = 0
            # Never early, which would only fetch the old answer from a cache; a little late, so that the callers of one
            # service do not ask in step.
            bounded = min(max(found.ttl, self.min_ttl), self.max_ttl)
            wait = bounded * (1.0 + _JITTER * runtime.random())
            return found.instances

        known = LastGood(self.on_empty, self.grace, self._versions)

        def interval() -> float:
            # That there are none is asked once more when it would be believed.
            return min(wait, max(self.min_ttl, known.settles_at - runtime.now()))

        return Poll(url, ask, interval=interval, known=known, runtime=runtime)

    async def _addresses(
        self, resolver: Resolver, name: str, along: Mapping[tuple[str, Kind], Answer[str]] = MappingProxyType({})
    ) -> Answer[str]:
        """The addresses of a host, in the wanted families. `along` is what is known of it beforehand."""
        kinds = _KINDS[self.family]
        found: list[str] = []
        ttl = math.inf
        for kind in kinds:
            answer = along.get((name, kind)) or await resolver.addresses(name, kind)
            found += answer.records
            ttl = min(ttl, answer.ttl)
            if not answer.exists or (found and self.family == "any"):
                break
        return Answer(tuple(found), ttl)


@dataclass(frozen=True, slots=True)
class _Found:
    instances: tuple[Instance, ...]
    ttl: float


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dns(_Named):
    """The addresses of a host name: `dns://orders.internal:8080`.

    Each address is an instance, with the one `port`. Asked again when the time to live is over, which is the shortest
    in a chain of aliases, but at least `min_ttl` (1 s: a record of 0 s does not make a storm) and at most `max_ttl`
    seconds (30: records that live for hours are common, and a deployment must be seen sooner; a caching name server
    answers the additional questions). Answers in another order are no change.

    `nameservers` are pairs of an IP address and a port; none: those of the system. `timeout` is how long each has for
    an answer, in seconds (2.0). While they fail, refuse or are silent, the last good instances stay in force and are
    marked stale, and they are asked again with backoff. That a name does not exist, or has no address, is an
    authoritative empty answer (`on_empty`, with `grace` seconds), valid for as long as the zone's SOA record says,
    within the same bounds.

    `family` is "4", "6", "any" (IPv4, or where there is none IPv6: an instance that has both counts once) or "both".
    Names are absolute: the search list of resolv.conf is not used, and /etc/hosts is not read.

    Needs the extra `dns`. Raises `ValueError` for a bad argument.
    """

    port: int

    def __post_init__(self) -> None:
        _Named.__post_init__(self)  # a class with slots is made twice, which super() does not notice
        Instance(id="-", host="-", port=self.port)  # refuses what is no port

    def watch(self) -> AsyncIterator[Snapshot]:
        """Yield the instances at the name's addresses, and again when they change."""
        return self._poll(f"dns://{self.name}:{self.port}", self._look_up)

    async def _look_up(self, resolver: Resolver) -> _Found:
        answer = await self._addresses(resolver, self.name)
        hosts = dict.fromkeys(answer.records)
        instances = tuple(Instance(id=address(host, self.port), host=host, port=self.port) for host in hosts)
        return _Found(instances, answer.ttl)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DnsSrv(_Named):
    """The instances that SRV records list: `dns+srv://_http._tcp.orders.internal` (RFC 2782).

    Each address of each target is an instance, with the record's port. Its metadata has the `target` and the
    `priority`. The addresses that a name server sends along are used, any other is asked for.

    The records of every priority are listed. A `Service` uses those with the lowest one, and the next ones as the first
    cannot be reached (`balancing.Priorities`, which it has of itself here). Weights are shares as in the RFC, among the
    records of one priority: all of 0 are equal, and beside others those of 0 together count as much as a weight of 1.
    A target with several addresses shares its weight among them. An address that is listed with several priorities has
    the lowest. A lone target "." says that there is no service: an authoritative empty answer.

    `backups`
        Whether records are listed whose priority is not the lowest (True): for whoever knows what to do with them. If
        not, those of the next priority are listed only where none of the lowest has an address.

    A target that cannot be looked up keeps the addresses it had; only if that is so of all of them the whole answer is
    stale. Everything else is as for `Dns`.
    """

    backups: bool = True

    def watch(self) -> AsyncIterator[Snapshot]:
        """Yield the instances of the SRV records, and again when they change."""
        return self._poll(f"dns+srv://{self.name}", partial(self._look_up, _Memory()))

    async def _look_up(self, memory: _Memory, resolver: Resolver) -> _Found:
        answer = await resolver.services(self.name)
        usable = [record for record in answer.records if record.target != "." and record.port > 0]
        memory.forget_all_but({record.target for record in usable})
        ttl = answer.ttl
        troubles: list[str] = []
        instances: dict[str, Instance] = {}
        confirmed = False
        usable.sort(key=attrgetter("priority", "target", "port", "weight"))
        for _, group in itertools.groupby(usable, attrgetter("priority")):
            records = tuple(group)
            resolved = await self._resolve(resolver, [*dict.fromkeys(one.target for one in records)], answer)
            failed = [str(found) for _, found in sorted(resolved.items()) if isinstance(found, DiscoveryError)]
            for target, found in resolved.items():
                if isinstance(found, Answer):
                    memory.addresses[target] = found.records
                    ttl = min(ttl, found.ttl)
            instances = _instances(records, memory.addresses) | instances
            troubles += failed
            confirmed = confirmed or len(failed) < len(resolved)
            if instances and not self.backups:
                break
        if troubles and not (instances and confirmed):
            raise DiscoveryError("; ".join(troubles))
        self._tell(memory, "; ".join(troubles))
        return _Found(tuple(instances.values()), min(ttl, _SOON) if troubles else ttl)

    async def _resolve(
        self, resolver: Resolver, targets: Sequence[str], sent: SrvAnswer
    ) -> dict[str, Answer[str] | DiscoveryError]:
        """Look up all targets, a few at a time."""
        results: dict[str, Answer[str] | DiscoveryError] = {}
        waiting = iter(targets)

        async def work() -> None:
            for target in waiting:
                try:
                    results[target] = await self._addresses(resolver, target, sent.addresses)
                except DiscoveryError as error:
                    results[target] = error

        async with anyio.create_task_group() as tasks:
            for _ in range(min(_AT_ONCE, len(targets))):
                tasks.start_soon(work)
        return results

    def _tell(self, memory: _Memory, trouble: str) -> None:
        """Tell of targets that could not be looked up, once."""
        if trouble and trouble != memory.told:
            _log.warning("dns+srv://%s: some targets could not be looked up: %s", self.name, trouble)
        memory.told = trouble


class _Memory:
    """What a watch knows of the targets."""

    def __init__(self) -> None:
        self.addresses: dict[str, tuple[str, ...]] = {}
        self.told = ""

    def forget_all_but(self, targets: set[str]) -> None:
        self.addresses = {target: found for target, found in self.addresses.items() if target in targets}


def _instances(records: Iterable[Srv], addresses: Mapping[str, Sequence[str]]) -> dict[str, Instance]:
    """The instances of records of one priority, with their shares."""
    found = [
        (record, host) for record in dict.fromkeys(records) for host in dict.fromkeys(addresses.get(record.target, ()))
    ]
    # RFC 2782 draws a number from 0 to the sum of the weights, and 0 is for those of weight 0.
    idle = {record for record, _ in found if not record.weight}
    least = 1.0 / len(idle) if 0 < len(idle) < len({record for record, _ in found}) else 1.0
    shares: dict[str, Instance] = {}
    for record, host in found:
        weight = (record.weight or least) / len(set(addresses[record.target]))
        name = address(host, record.port)
        if name in shares:  # two targets, one address
            weight += shares[name].weight
        metadata = MappingProxyType({"target": record.target.rstrip("."), "priority": str(record.priority)})
        shares[name] = Instance(id=name, host=host, port=record.port, weight=weight, metadata=metadata)
    return shares


def _connect_addresses(location: Location, runtime: Runtime | None) -> Discovery:
    location.allow(*_OPTIONS)
    if location.path:
        location.refuse("dns:// has no path: dns://host:port")
    endpoints = location.endpoints()
    if len(endpoints) != 1:
        location.refuse("dns:// has one name, which may have any number of addresses: dns://host:port")
    ((name, port),) = endpoints
    try:
        return Dns(name, port=port, **_options(location, runtime))
    except ValueError as error:
        location.refuse(str(error))


def _connect_services(location: Location, runtime: Runtime | None) -> Discovery:
    location.allow(*_OPTIONS, "backups")
    if location.path or ":" in location.authority:
        location.refuse("the ports are in the records: dns+srv://_http._tcp.name")
    try:
        backups = location.choice("backups", "yes", ("yes", "no")) == "yes"
        return DnsSrv(location.authority, backups=backups, **_options(location, runtime))
    except ValueError as error:
        location.refuse(str(error))


class _Options(TypedDict):
    nameservers: Sequence[Server]
    family: Family
    min_ttl: float
    max_ttl: float
    timeout: float
    on_empty: OnEmpty
    grace: float
    runtime: Runtime | None


def _options(location: Location, runtime: Runtime | None) -> _Options:
    return _Options(
        nameservers=location.servers("nameserver", _PORT),
        family=cast("Family", location.choice("family", "any", get_args(Family))),
        min_ttl=location.seconds("min_ttl", _MIN_TTL),
        max_ttl=location.seconds("max_ttl", _MAX_TTL),
        timeout=location.seconds("timeout", _TIMEOUT),
        on_empty=cast("OnEmpty", location.choice("on_empty", "grace", get_args(OnEmpty))),
        grace=location.seconds("grace", _GRACE),
        runtime=runtime,
    )


ADDRESSES = Scheme(_connect_addresses)
SERVICES = Scheme(_connect_services)
