"""A small simulation of a client and its instances: open-loop arrivals, latencies, a clock that jumps."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TypeAlias

from resilient.balancing import Balancer, Pick
from resilient.events import Event
from resilient.instance import Instance
from resilient.snapshot import Snapshot
from resilient.verdict import Verdict

Behaviour: TypeAlias = Callable[[str, float], tuple[Verdict, float]]
"""What an instance does with a call that comes at a moment: the verdict, and after how many seconds.

For `OK` these are a mean: the latencies are distributed exponentially around it.
"""


def instance(name: str, **fields: object) -> Instance:
    return Instance(id=name, host="127.0.0.1", port=8000, **fields)  # type: ignore[arg-type]  # as the test gives them


def snapshot(*instances: Instance | str, version: int = 1, stale_since: float | None = None) -> Snapshot:
    members = tuple(instance(one) if isinstance(one, str) else one for one in instances)
    return Snapshot(version=version, instances=members, stale_since=stale_since)


def steady(latency: float = 0.01) -> Behaviour:
    return lambda _name, _now: (Verdict.OK, latency)


@dataclass
class Fleet:
    """One client that calls through a balancer."""

    balancer: Balancer
    seed: int = 0
    now: float = 0.0
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = Random(self.seed)
        self._number = itertools.count()
        self._ends: list[tuple[float, int, Pick, Verdict, float]] = []

    def apply(self, *instances: Instance | str) -> None:
        self.events += self.balancer.apply(snapshot(*instances), self.now, self._random.random)

    def run(self, seconds: float, rate: float, behave: Behaviour) -> Counter[str]:
        """Call `rate` times a second for `seconds`; return how often each instance was picked."""
        picked: Counter[str] = Counter()
        until = self.now + seconds
        while (arrival := self.now + self._random.expovariate(rate)) < until:
            self._finish(arrival)
            self.now = arrival
            pick = self.balancer.pick(self.now, self._random.random)
            picked[pick.instance.id] += 1
            verdict, latency = behave(pick.instance.id, self.now)
            if verdict is Verdict.OK:
                latency *= self._random.expovariate(1.0)
            heapq.heappush(self._ends, (self.now + latency, next(self._number), pick, verdict, latency))
        self._finish(until)
        self.now = until
        return picked

    def _finish(self, until: float) -> None:
        while self._ends and self._ends[0][0] <= until:
            at, _, pick, verdict, latency = heapq.heappop(self._ends)
            self.events += self.balancer.settle(pick, verdict, latency, at, self._random.random)


def share(picked: Counter[str], name: str) -> float:
    return picked[name] / picked.total()
