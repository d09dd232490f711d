"""What a scenario is: a small world, what users ask of it, what goes wrong, and what must come of it."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeAlias, final

from resilient.call import Priority
from resilient.lab.faults import Fault
from resilient.lab.stacks import Stack
from resilient.lab.world.job import Errand
from resilient.lab.world.queues import Fifo, Queue
from resilient.lab.world.service_times import ServiceTime

if TYPE_CHECKING:
    from resilient.lab.simulation.world import World

__all__ = ["Arrivals", "Band", "Computations", "Load", "OpenLoop", "Scenario", "Tier", "Users", "Zipf"]

Arrivals: TypeAlias = "Callable[[Callable[[], float]], Iterator[float]]"
"""Makes the instants of a run from its random numbers: `lambda random: poisson(280, random)`."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A service of the world: equal servers that discovery knows by the tier's name.

    `workers`
        How many calls each server works on at once.
    `queue`
        Makes the line in front of them. Without a bound, as most servers are, unless it says otherwise.
    `zones`
        Where the servers are, in turn.
    `calls`
        The tiers that each of its calls calls next, one after the other, through the policies that are tried.
    `lag`
        Seconds until callers learn of a change.
    `honours_keys`
        Whether work under one idempotency key has its effect once.
    `partition`
        In which partition of each server the work on a key is done. Every partition has `workers` and a queue of its
        own, so a hot one delays only the keys that share it. None: all keys share one.
    `log`
        Whether `Fleet.log` keeps the instant at which each attempt was sent, for scenarios that measure by it.
    """

    name: str
    service_time: ServiceTime
    instances: int = 1
    workers: int = 1
    queue: Callable[[], Queue] = Fifo
    zones: Sequence[str | None] = (None,)
    calls: Sequence[str] = ()
    lag: float = 0.0
    honours_keys: bool = False
    partition: Callable[[int], int] | None = None
    log: bool = False

    def __post_init__(self) -> None:
        for name, value in (("instances", self.instances), ("workers", self.workers), ("zones", len(self.zones))):
            if value < 1:
                raise ValueError(f"{name}={value!r} of tier {self.name!r}: at least 1")


@final
class Zipf:
    """Keys 0, 1, ..., few of them hot and most cold: the n-th is asked for in proportion to `n ** -exponent`."""

    def __init__(self, keys: int, exponent: float = 1.2) -> None:
        if keys < 1 or not exponent >= 0:
            raise ValueError(f"keys={keys!r}, exponent={exponent!r}: at least one key, and an exponent of at least 0")
        weights = [*accumulate((rank + 1) ** -exponent for rank in range(keys))]
        self._cumulative = [weight / weights[-1] for weight in weights]

    def key(self, u: float) -> int:
        """The key at the fraction `u`."""
        return bisect_left(self._cumulative, u)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What all kinds of load have in common.

    `writes`
        The fraction of calls that may not run twice. Their effects are counted.
    `priorities`
        The share of each priority.
    `keys`
        Which key each call concerns.
    """

    writes: float = 0.0
    priorities: Mapping[Priority, float] = field(default_factory=lambda: {Priority.CRITICAL: 1.0})
    keys: Zipf | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoop(Load):
    """Many users who know nothing of each other: calls come when they come, however slow the answers are."""

    arrivals: Arrivals


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Users(Load):
    """So many users, each of whom thinks, calls, and waits for the answer before thinking again (a closed loop).

    They ask less as answers become slower, and so hide an overload that an open loop shows. How long each thinks is the
    same under every policy; when they call is not.
    """

    count: int
    think: ServiceTime

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count={self.count!r}: how many users there are, at least 1")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Computations(Load):
    """`count` sums at once of `steps` remote additions each, every one of which begins when the last has come back.

    Each adds 1 to its sum's own account, which is the key of its calls. A sum ends with its last step, or with the
    first that fails. The metric `right` is the fraction of sums that made all their steps and whose account holds
    exactly `steps` at the end; those that the run's `duration` was too short for are wrong.
    """

    count: int
    steps: int
    writes: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("count", self.count), ("steps", self.steps)):
            if value < 1:
                raise ValueError(f"{name}={value!r} of computations: at least 1")
        if self.keys is not None:
            raise ValueError(f"keys={self.keys!r}: a computation's key is its account")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """What must come of a scenario: a metric of a policy, on average over the seeds, lies between two values.

    `low` and `high` are bounds (`math.inf` for a recovery that never comes). With `of`, they are factors of the same
    metric of that policy, in the same seeds.
    """

    policy: str
    metric: str
    low: float = -math.inf
    high: float = math.inf
    of: str | None = None
    why: str = ""

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"low={self.low!r}, high={self.high!r}: a band has its lower bound first")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One experiment, the same for every policy.

    `tiers`
        The services; users call the first.
    `duration`, `warmup`, `drain`
        Seconds of load; of which so many at the beginning do not count; and that calls may still take afterwards. What
        is not finished then has failed.
    `deadline`
        Seconds from when a call was due, beyond which its answer is worth nothing.
    `timeout`, `attempt_timeout`
        What the policies are given: seconds of a whole call, and of one attempt.
    `clients`
        Processes that share the users, each with policies, balancer and breakers of its own.
    `trigger`
        From when to when what is to be recovered from lasts. Whole seconds.
    `policies`
        What is compared where nobody says what. `contenders` are policies of this scenario only, by name.
    `group`
        Names the group that a call counts for; the success of each is a metric, `success.<group>`. So is that of each
        priority, where the load has several.
    `measure`
        Computes metrics of its own from the world at the end.
    """

    name: str
    title: str
    source: str
    naive: str
    """What naive policies do."""
    good: str
    """What good ones do."""
    tiers: Sequence[Tier]
    load: Load
    duration: float
    timeout: float
    attempt_timeout: float
    deadline: float = math.inf
    warmup: float = 0.0
    drain: float = 10.0
    clients: int = 1
    client_zones: Sequence[str | None] = (None,)
    latency: ServiceTime | None = None
    faults: Sequence[Fault] = ()
    trigger: tuple[float, float] | None = None
    policies: Sequence[str] = ("none", "retry3", "default")
    contenders: Mapping[str, Stack] = field(default_factory=dict[str, Stack])
    primary: Sequence[str] = ("success", "p99", "amplification")
    """The metrics that matter here, the most important first."""
    bands: Sequence[Band] = ()
    group: Callable[[Errand], str] | None = None
    measure: Callable[[World], Mapping[str, float | None]] | None = None
    knobs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The arguments that it was made with."""
    calibration: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The knobs of a version of it that is small enough to be played in real time, by one process: at most about 100
    attempts a second, and some 15 seconds."""

    def __post_init__(self) -> None:
        if not self.tiers:
            raise ValueError(f"tiers=() of {self.name!r}: a scenario has at least one service")
        if not 0 <= self.warmup < self.duration < math.inf:
            raise ValueError(
                f"warmup={self.warmup!r}, duration={self.duration!r}: a finite run, longer than its warm-up"
            )
        if self.trigger is not None and not 0 <= self.trigger[0] < self.trigger[1]:
            raise ValueError(f"trigger={self.trigger!r} of {self.name!r}: from one second to a later one")
        names = [tier.name for tier in self.tiers]
        missing = [name for tier in self.tiers for name in tier.calls if name not in names]
        if missing or len({*names}) < len(names):
            raise ValueError(f"tiers of {self.name!r}: names are unique, and {missing} are called but not there")
