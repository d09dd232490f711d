"""What the balancer knows of one instance, and what narrows its choice among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias, final

from resilient.instance import Instance
from resilient.machines.circuit import Circuit

__all__ = ["Filter", "Member", "State"]

State: TypeAlias = Literal["healthy", "ejected", "trial", "draining", "filtered"]


@final
class Member:
    """One instance and its state, which survives every change of the snapshot that keeps its id. Read only."""

    __slots__ = ("active", "circuit", "gone", "healthy_since", "id", "instance", "weight")

    id: str
    instance: Instance
    weight: float
    """Its share at this moment: the instance's, as the filters changed it; 0: no calls."""
    active: int
    """Calls of ours that are with it now."""
    circuit: Circuit
    healthy_since: float
    """The monotonic second when it came, or was restored."""
    gone: bool
    """It left, or another one has its id now."""

    def __init__(self, instance: Instance, circuit: Circuit, now: float) -> None:
        self.id = instance.id
        self.instance = instance
        self.weight = instance.weight
        self.active = 0
        self.circuit = circuit
        self.healthy_since = now
        self.gone = False

    @property
    def healthy(self) -> bool:
        """Whether it is neither ejected nor on trial."""
        return self.circuit.closed is not None


class Filter(Protocol):
    """Narrows or tilts the choice among the instances: by zone, to a subset, while one is warming up.

    It is asked when the instances change, when one of them is ejected or restored, and at the moment that it named
    itself; not for each call.
    """

    def weigh(self, members: Sequence[Member], now: float) -> tuple[Sequence[float], float]:
        """Return a weight for each of `members`, and the monotonic second when they change by themselves.

        The members are those that take calls, healthy or not, with the weights that the filter before has given.
        A weight of 0 leaves the instance out. `math.inf` says that nothing changes by itself.
        """
        ...
