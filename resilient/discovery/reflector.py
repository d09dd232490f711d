"""Snapshots of a source that can be listed and watched: Kubernetes, etcd, Consul.

A scheme implements `resilient.backends.listwatch.Source` with candidates as its objects (see there: it lists, watches,
and says what it cannot), and returns `Reflector(name, source, known=LastGood(...), runtime=...)` from its `watch`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Self, TypeAlias, final

import anyio

from resilient.backends.background import Background
from resilient.backends.listwatch import ListWatch, Source
from resilient.discovery.last_good import LastGood
from resilient.discovery.polling import report
from resilient.errors import DiscoveryError
from resilient.instance import Instance
from resilient.machines.backoff import Backoff
from resilient.runtime import Runtime
from resilient.snapshot import Snapshot

__all__ = ["Candidate", "Candidates", "Reflector"]

_MOST = 100_000


@final
@dataclass(frozen=True, slots=True)
class Candidate:
    """What one object of a source says of an instance.

    Several objects may speak of one instance, and not agree: the highest `rank` is believed (at a tie, the object with
    the lowest key). Of all instances only those of the highest rank that there is are in the snapshot. So a source that
    has second-best instances, to be called only where there is no good one, gives them a lower rank; all others have 0.
    """

    instance: Instance
    rank: int = 0


Candidates: TypeAlias = Iterable[Candidate]
"""All that one object of a source says: a slice's endpoints, one key's record, a query's answer."""


@final
class Merged:
    """The candidates of all objects. A change costs what it touches, however many there are.

    It keeps at most `most` (100,000): a `DiscoveryError` refuses more.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._objects: dict[str, dict[str, Candidate]] = {}
        self._owners: dict[str, tuple[str, ...]] = {}
        """Which objects speak of an instance, by its id."""
        self._believed: dict[str, Candidate] = {}
        self._ranks: dict[int, dict[str, Instance]] = {}
        """The instances by rank; none is empty."""

    def replace(self, objects: Mapping[str, Candidates]) -> None:
        """Keep exactly these objects; what they say again stays the same."""
        self.update(objects, [key for key in self._objects if key not in objects])
        for rank, instances in self._ranks.items():  # what is nearly sorted is sorted fast, at every change
            self._ranks[rank] = dict(sorted(instances.items()))

    def update(self, put: Mapping[str, Candidates], removed: Collection[str]) -> None:
        """Keep these objects too, or anew, and forget those."""
        for key in removed:
            self._put(key, {})
        for key, candidates in put.items():
            found: dict[str, Candidate] = {}
            for candidate in candidates:
                other = found.get(candidate.instance.id)
                if other is None or other.rank < candidate.rank:
                    found[candidate.instance.id] = candidate
            self._put(key, found)

    def instances(self) -> list[Instance]:
        """Those that may be called."""
        return list(self._ranks[max(self._ranks)].values()) if self._ranks else []

    def _put(self, key: str, new: dict[str, Candidate]) -> None:
        old = self._objects.get(key, {})
        for name, candidate in new.items():
            known = old.get(name)
            if known is not None and known == candidate:
                new[name] = known  # the same object again: whoever compares snapshots has less to do
        gone = old.keys() - new.keys()
        fewer = sum(self._owners[name] == (key,) for name in gone)
        if len(self._believed) - fewer + len(new.keys() - self._believed.keys()) > self._most:
            raise DiscoveryError(f"there are more than {self._most} instances")
        if new:
            self._objects[key] = new
        else:
            self._objects.pop(key, None)
        for name in gone:
            self._owners[name] = tuple(owner for owner in self._owners[name] if owner != key)
            self._judge(name)
        for name, candidate in new.items():
            if name not in old:
                self._owners[name] = tuple(sorted((*self._owners.get(name, ()), key)))
            if old.get(name) is not candidate:
                self._judge(name)

    def _judge(self, name: str) -> None:
        """Find out whom to believe about one instance."""
        before = self._believed.pop(name, None)
        owners = self._owners[name]
        if not owners:
            del self._owners[name]
        else:
            best = max((self._objects[owner][name] for owner in owners), key=_rank)
            self._believed[name] = best
            self._ranks.setdefault(best.rank, {})[name] = best.instance
        if before is not None and (not owners or before.rank != self._believed[name].rank):
            instances = self._ranks[before.rank]
            del instances[name]
            if not instances:
                del self._ranks[before.rank]


def _rank(candidate: Candidate) -> int:
    return candidate.rank


@final
class Reflector:
    """The snapshots that follow from listing and watching `source`. `name` is for events and the log.

    A task of its own follows the source from the first step on, as `ListWatch` says: it resumes, lists again, backs off
    with jitter and finds dead connections. Errors keep the last good instances and mark them stale.

    The first answer is a snapshot at once. After it, what happens within `debounce` seconds of a change is one
    snapshot: 0.1 by default, which is less than anybody notices, and a burst of a thousand events gives at most ten a
    second. The time counts from the first change and is never prolonged. Nobody waits for a slow consumer, who skips
    to the newest; memory holds one set of instances.

    An iterator and no generator: it may be left at any point, and a step that was cancelled can be repeated. `aclose`
    ends the task and waits for it; it also ends by itself once the iterator is garbage.

    `backoff` and `list_timeout` are those of `ListWatch`. Raises `ValueError` for a bad argument.
    """

    def __init__(
        self,
        name: str,
        source: Source[Candidates],
        *,
        known: LastGood,
        runtime: Runtime,
        debounce: float = 0.1,
        backoff: Backoff | None = None,
        list_timeout: float = 60.0,
    ) -> None:
        if not (math.isfinite(debounce) and debounce >= 0):
            raise ValueError(f"debounce={debounce!r}: a finite number of seconds, at least 0")
        self._name = name
        self._known = known
        self._runtime = runtime
        self._debounce = debounce
        self._merged = Merged()
        self._follower = ListWatch(source, self._merged, runtime=runtime, backoff=backoff, list_timeout=list_timeout)
        self._answered = False
        self._closed = False
        self._task: Background | None = None

    @property
    def trouble(self) -> str | None:
        """Why the source is not believed at this moment; None: it is, or has not answered yet."""
        return self._known.trouble

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Snapshot:
        """Wait until something changes."""
        if self._closed:
            raise StopAsyncIteration
        if self._task is None:
            self._task = Background(self._follower.run, self)
        while True:
            await self._something()
            snapshot = self._look()
            if snapshot is not None:
                return snapshot

    async def aclose(self) -> None:
        """End the task, and with it the connections to the source."""
        self._closed = True
        if self._task is not None:
            await self._task.stop()

    async def _something(self) -> None:
        """Wait for news and their debounce, or until an empty answer has to be believed."""
        follower, now = self._follower, self._runtime.now()
        if follower.pending_since is None:
            patience = math.inf if follower.trouble is not None else self._known.settles_at - now
            with anyio.move_on_after(max(0.0, patience)):
                await follower.news()
            now = self._runtime.now()
        if follower.pending_since is not None and self._answered:
            await self._runtime.sleep(max(0.0, follower.pending_since + self._debounce - now))

    def _look(self) -> Snapshot | None:
        """Make a snapshot of what is known now; None if nothing changed."""
        follower, known = self._follower, self._known
        follower.take()
        before = known.trouble
        if follower.trouble is None:
            self._answered = True
            snapshot = known.learn(self._merged.instances(), self._runtime.now())
        else:
            known.confirm(follower.heard_at)
            snapshot = known.fail(follower.trouble)
        if before is None and known.trouble is not None:
            report(self._name, known.trouble, self._runtime)
        return snapshot
