"""Several sources as one: the first that has instances, or all of them together."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self, TypeAlias, cast, final

import anyio

from resilient.backends.background import Background
from resilient.context import current_runtime
from resilient.discovery.following import Follower
from resilient.discovery.location import Location
from resilient.discovery.protocol import Discovery
from resilient.discovery.schemes import Scheme, connect
from resilient.instance import Instance
from resilient.runtime import Runtime
from resilient.snapshot import Snapshot

__all__ = ["FAILOVER", "UNION", "Failover", "Sources", "Union"]

Sources: TypeAlias = Mapping[str, "Discovery | str"] | Iterable["Discovery | str"]
"""Discoveries or their URLs, under names of your choice or in a row, where they are called 1, 2, and so on."""

_MAX_STALE = 60.0
_HOLD = 10.0
_PATIENCE = 1.0

_log = logging.getLogger("resilient.discovery")


@final
class Failover:
    """The instances of the first source that has any: `failover://?primary=URL&backup=URL`.

    A source is passed over while it has no instances, or was stale for longer than `max_stale` seconds (60: discovery
    that is down for a moment says nothing about the instances). The next one is used at once. A source further up is
    used again after it was good for `hold` seconds on end (10), so that one that comes and goes does not take the calls
    with it. At the beginning a source further up has `patience` seconds (1.0) to answer before the next one is used.

    If no source is good, stale instances are better than none, and those in use better than others; only if all that
    answered have none, there are none.

    `sources` are discoveries or URLs, the preferred first; a mapping gives them names, for the log and for errors.
    Raises `ValueError` for a bad argument.
    """

    def __init__(
        self,
        sources: Sources,
        *,
        max_stale: float = _MAX_STALE,
        hold: float = _HOLD,
        patience: float = _PATIENCE,
        runtime: Runtime | None = None,
    ) -> None:
        self.sources = _named(sources, runtime)
        if not max_stale > 0:
            raise ValueError(f"max_stale={max_stale!r}: a number of seconds, more than 0")
        self.max_stale = max_stale
        self.hold = _at_least_0("hold", hold)
        self.patience = _at_least_0("patience", patience)
        self._runtime = runtime
        self._versions = itertools.count(1)

    def __repr__(self) -> str:
        options = f"max_stale={self.max_stale!r}, hold={self.hold!r}, patience={self.patience!r}"
        return f"Failover({self.sources!r}, {options})"

    @property
    def backups(self) -> bool:
        """Whether one of the sources lists instances that are only to be used where others cannot be reached."""
        return _any_backups(self.sources)

    def watch(self) -> AsyncIterator[Snapshot]:
        """Yield the instances of the source in use, and again when they or the source change."""
        runtime = self._runtime or current_runtime()
        return _Watch(self.sources, _Preference(self, runtime.now()), self._versions, runtime)


@final
class Union:
    """The instances of all sources together: `union://?old=URL&new=URL`.

    An id that several sources have is one instance, as the first of them describes it. A source that fails keeps its
    instances, and the whole is stale for as long as one of them is. At the beginning they have `patience` seconds (1.0)
    to answer, before those that did are used without the others.

    `sources` are as for `Failover`.
    """

    def __init__(self, sources: Sources, *, patience: float = _PATIENCE, runtime: Runtime | None = None) -> None:
        self.sources = _named(sources, runtime)
        self.patience = _at_least_0("patience", patience)
        self._runtime = runtime
        self._versions = itertools.count(1)

    def __repr__(self) -> str:
        return f"Union({self.sources!r}, patience={self.patience!r})"

    @property
    def backups(self) -> bool:
        """Whether one of the sources lists instances that are only to be used where others cannot be reached."""
        return _any_backups(self.sources)

    def watch(self) -> AsyncIterator[Snapshot]:
        """Yield all instances, and again when they change."""
        runtime = self._runtime or current_runtime()
        return _Watch(self.sources, _Merger(self.patience, runtime.now()), self._versions, runtime)


def _any_backups(sources: Mapping[str, Discovery]) -> bool:
    return any(getattr(source, "backups", False) for source in sources.values())


@dataclass(slots=True, eq=False)
class _Member:
    """A source, and what it said last."""

    name: str
    snapshot: Snapshot | None = None
    good_since: float | None = None


@dataclass(frozen=True, slots=True)
class _Decision:
    """What is published (None: nothing yet), and until when nothing but a new snapshot changes it."""

    instances: tuple[Instance, ...] | None
    stale_since: float | None = None
    until: float = math.inf


class _Preference:
    """Decides for `Failover`. No I/O: time is an argument."""

    def __init__(self, rules: Failover, began: float) -> None:
        self._rules = rules
        self._waits_until = began + rules.patience
        self._used: _Member | None = None

    def decide(self, members: list[_Member], now: float) -> _Decision:
        """Choose a member."""
        until = math.inf
        for member in members:
            worn = self._worn_out(member)
            if now < worn and member.snapshot is not None and member.snapshot.instances:
                until = min(until, worn)
                if member.good_since is None:
                    member.good_since = now
            else:
                member.good_since = None
        used = self._used
        chosen: _Member | None = None
        for member in members:
            if member.good_since is None:
                if used is None and member.snapshot is None and now < self._waits_until:
                    return _Decision(None, until=self._waits_until)
                continue
            back = member.good_since + self._rules.hold
            # The one in use is good and further down, or it would have been chosen before.
            if used is not None and used is not member and used.good_since is not None and now < back:
                until = min(until, back)
                continue
            chosen = member
            break
        if chosen is None:
            chosen = self._least_bad(members)
            if chosen is None:
                return _Decision(None)
        if chosen is not used:
            self._tell(used, chosen)
            self._used = chosen
        assert chosen.snapshot is not None
        return _Decision(chosen.snapshot.instances, chosen.snapshot.stale_since, until)

    def _worn_out(self, member: _Member) -> float:
        """When the member has been stale for too long."""
        stale_since = None if member.snapshot is None else member.snapshot.stale_since
        return math.inf if stale_since is None else stale_since + self._rules.max_stale

    def _least_bad(self, members: list[_Member]) -> _Member | None:
        candidates = [self._used, *members] if self._used is not None else members
        for member in candidates:
            if member.snapshot is not None and member.snapshot.instances:
                return member
        return next((member for member in candidates if member.snapshot is not None), None)

    def _tell(self, used: _Member | None, chosen: _Member) -> None:
        if used is None or used.snapshot is None:
            return
        if chosen.good_since is None or used.good_since is not None:
            why = "it is good again"
        else:
            why = f"{used.name} {'has been stale for too long' if used.snapshot.instances else 'has no instances'}"
        _log.warning("failover from %s to %s: %s", used.name, chosen.name, why)


class _Merger:
    """Decides for `Union`."""

    def __init__(self, patience: float, began: float) -> None:
        self._waits_until = began + patience

    def decide(self, members: list[_Member], now: float) -> _Decision:
        """Merge what is known."""
        known = [member.snapshot for member in members if member.snapshot is not None]
        if len(known) < len(members) and now < self._waits_until:
            return _Decision(None, until=self._waits_until)
        if not known:
            return _Decision(None)
        merged: dict[str, Instance] = {}
        for snapshot in known:
            for instance in snapshot.instances:
                merged.setdefault(instance.id, instance)
        stale = [snapshot.stale_since for snapshot in known if snapshot.stale_since is not None]
        return _Decision(tuple(merged[name] for name in sorted(merged)), min(stale, default=None))


class _Bell:
    """Rings when a member says something."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def ring(self) -> None:
        self._event.set()

    def listen(self) -> anyio.Event:
        """Return what is set from now on."""
        if self._event.is_set():
            self._event = anyio.Event()
        return self._event


@final
class _Watch:
    """The snapshots that follow from those of the members, each of which is followed by a task of its own.

    A step that was cancelled can be repeated. The tasks end with `aclose`, or when the iterator is forgotten.
    """

    def __init__(
        self,
        sources: Mapping[str, Discovery],
        rule: _Preference | _Merger,
        versions: Iterator[int],
        runtime: Runtime,
    ) -> None:
        self._sources = sources
        self._rule = rule
        self._versions = versions
        self._runtime = runtime
        self._members = [_Member(name) for name in sources]
        self._followers: list[Follower] = []
        self._tasks: list[Background] = []
        self._last: Snapshot | None = None
        self._closed = False

    @property
    def trouble(self) -> str | None:
        """What is wrong with the sources, by name; None: nothing."""
        told = [(member.name, one.trouble) for member, one in zip(self._members, self._followers, strict=False)]
        return "; ".join(f"{name}: {trouble}" for name, trouble in told if trouble is not None) or None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Snapshot:
        if self._closed:
            raise StopAsyncIteration
        if not self._tasks:
            self._start()
        while True:
            rung = self._bell.listen()
            now = self._runtime.now()
            decision = self._rule.decide(self._members, now)
            if decision.instances is not None and (
                self._last is None
                or (self._last.instances, self._last.stale_since) != (decision.instances, decision.stale_since)
            ):
                version = next(self._versions)
                self._last = Snapshot(version=version, instances=decision.instances, stale_since=decision.stale_since)
                return self._last
            with anyio.move_on_after(decision.until - now):
                await rung.wait()

    def _start(self) -> None:
        self._bell = _Bell()
        for member, discovery in zip(self._members, self._sources.values(), strict=True):
            follower = Follower(member.name, discovery, _delivery(member, self._bell), self._runtime)
            self._followers.append(follower)
            self._tasks.append(Background(follower.run, self))

    async def aclose(self) -> None:
        """Stop following, and wait until every member is closed."""
        self._closed = True
        async with anyio.create_task_group() as closing:
            for task in self._tasks:
                closing.start_soon(task.stop)


def _delivery(member: _Member, bell: _Bell) -> Callable[[Snapshot], None]:
    """What takes the member's snapshots, without holding the watch."""

    def deliver(snapshot: Snapshot) -> None:
        member.snapshot = snapshot
        bell.ring()

    return deliver


def _named(sources: Sources, runtime: Runtime | None) -> Mapping[str, Discovery]:
    if isinstance(sources, str):
        raise TypeError(f"sources={sources!r}: a list or a mapping of discoveries or URLs, not one URL")
    if isinstance(sources, Mapping):
        pairs = cast("Mapping[str, Discovery | str]", sources)
    else:
        pairs = {str(number): one for number, one in enumerate(sources, 1)}
    found = {name: connect(one, runtime=runtime) if isinstance(one, str) else one for name, one in pairs.items()}
    if not found:
        raise ValueError("sources: at least one")
    return found


def _at_least_0(name: str, value: float) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name}={value!r}: a finite number of seconds, at least 0")
    return value


def _sources(location: Location, runtime: Runtime | None, *options: str) -> dict[str, Discovery]:
    if location.authority or location.path:
        location.refuse(f"the sources are options: {location.scheme}://?name=URL&name=URL")
    found: dict[str, Discovery] = {}
    for name, value in location.options.items():
        if name in options:
            continue
        if "://" not in value:
            location.refuse(
                f"unknown option {name!r}; the options of {location.scheme}:// are {', '.join(options)}, and any other "
                "name is that of a source, with its URL"
            )
        try:
            found[name] = connect(value, runtime=runtime)
        except ValueError as error:
            location.refuse(f"source {name!r}: {error} (in the URL of a source, %26 stands for & and %25 for %)")
    if not found:
        location.refuse(f"it has no source: {location.scheme}://?name=URL&name=URL")
    return found


def _connect_failover(location: Location, runtime: Runtime | None) -> Discovery:
    return Failover(
        _sources(location, runtime, "max_stale", "hold", "patience"),
        max_stale=location.seconds("max_stale", _MAX_STALE),
        hold=location.seconds("hold", _HOLD),
        patience=location.seconds("patience", _PATIENCE),
        runtime=runtime,
    )


def _connect_union(location: Location, runtime: Runtime | None) -> Discovery:
    sources = _sources(location, runtime, "patience")
    return Union(sources, patience=location.seconds("patience", _PATIENCE), runtime=runtime)


FAILOVER = Scheme(_connect_failover)
UNION = Scheme(_connect_union)
