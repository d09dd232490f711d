"""What the balancer knows of one instance, and what narrows its choice among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, final, runtime_checkable

from resilient.instance import Instance
from resilient.machines.circuit import Circuit
from resilient.machines.picking import Chance

__all__ = ["Filter", "Filtering", "Mark", "Member", "Split", "Splitting", "State"]

State: TypeAlias = Literal["healthy", "unhealthy", "ejected", "trial", "draining", "filtered"]


@final
@dataclass(frozen=True, slots=True)
class Mark:
    """What a filter made of an instance's weight: `share` of what it was, 0 where it is left out."""

    name: str
    share: float

    def __str__(self) -> str:
        return f"{self.name} {self.share:.0%}" if self.share > 0 else f"filtered: {self.name}"


@final
class Member:
    """One instance and its state, which survives every change of the snapshot that keeps its id. Read only."""

    __slots__ = ("active", "circuit", "gone", "healthy_since", "id", "instance", "marks", "memory", "problem", "weight")

    id: str
    instance: Instance
    weight: float
    """Its share at this moment: the instance's, as the filters changed it; 0: no calls."""
    active: int
    """Calls of ours that are with it now."""
    circuit: Circuit
    """The same for all to whom no call ever failed."""
    healthy_since: float
    """The monotonic second when it came, or was restored, or passed its health checks again."""
    gone: bool
    """It left, or another one has its id now."""
    problem: str | None
    """Why it fails its health checks; None: it does not, or there are none."""
    marks: tuple[Mark, ...]
    """What the filters made of its weight, in their order."""
    memory: Any
    """What the picker remembers of it."""

    def __init__(self, instance: Instance, circuit: Circuit, now: float) -> None:
        self.id = instance.id
        self.instance = instance
        self.weight = instance.weight
        self.active = 0
        self.circuit = circuit
        self.healthy_since = now
        self.gone = False
        self.problem = None
        self.marks = ()
        self.memory = None

    @property
    def passing(self) -> bool:
        """Whether it does not fail its health checks."""
        return self.problem is None

    @property
    def healthy(self) -> bool:
        """Whether it is neither ejected nor on trial, and does not fail its health checks."""
        return self.circuit.closed is not None and self.problem is None

    def state(self, trial: Sequence[Member]) -> State:
        """Its state, where those in `trial` are on trial."""
        if self.instance.weight == 0:
            return "draining"
        if not self.passing:
            return "unhealthy"
        if not self.healthy:
            return "trial" if self in trial else "ejected"
        return "healthy" if self.weight > 0 else "filtered"


class Filter(Protocol):
    """Narrows or tilts the choice among the instances: by zone, to a subset, while one is warming up.

    The configuration, without any state, so that services may share it.
    """

    def filtering(self) -> Filtering:
        """Return the filter's machine, new: one a service. What remembers nothing may return itself."""
        ...


class Filtering(Protocol):
    """The memory and the choice of one filter, for one service. Calls to it are serialised by its owner.

    It is asked when the instances change, when one of them is ejected or restored, fails its health checks or passes
    them again, and at the moment that it named itself; not for each call.

    Explanations call it by its attribute `name`, or by that of its class. With an attribute `removes` that is true,
    who gets the weight 0 is to this client as if discovery did not know it: it does not count where the balancer asks
    how many are healthy. Otherwise it does: it is at hand, should the filter change its mind.
    """

    def weigh(self, members: Sequence[Member], now: float, random: Chance) -> tuple[Sequence[float], float]:
        """Return a weight for each of `members`, and the monotonic second when they change by themselves.

        The members are those that take calls, healthy or not, with the weights that the filter before has given.
        A weight of 0 leaves the instance out. `math.inf` says that nothing changes by itself.
        """
        ...


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Groups of instances, and the share of the calls that each gets, whatever the picker thinks of its members."""

    groups: tuple[tuple[Member, ...], ...]
    """None of them empty."""
    shares: tuple[float, ...]
    """They sum up to 1; with the share 0 a group is for attempts that follow a failed one."""
    loose: bool = False
    """Whether an attempt that follows a failed one may go to any group; otherwise only if its own has been tried."""
    note: str
    """For explanations."""
    sticky: str | None = None
    """Calls with the same key go to the same group; splits of another name draw other lots. None: each by chance."""


@runtime_checkable
class Splitting(Protocol):
    """A `Filtering` that gives exact shares of the calls to groups of instances.

    Weights cannot do that: what they mean is the picker's business, and to a picker that looks at latencies they are a
    handicap. With an attribute `key`, a function of the call, its splits may be sticky.
    """

    def split(self, members: Sequence[Member]) -> Split | None:
        """Divide `members`, those that may be called; at least one. None: nothing is to be divided."""
        ...
