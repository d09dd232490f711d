"""A client that speaks to a few instances of many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from resilient.balancing.member import Member
from resilient.machines.lots import lot
from resilient.machines.picking import Chance

__all__ = ["Subset"]

_LEAST = 2


@final
@dataclass(frozen=True, slots=True)
class Subset:
    """Use `size` instances of many: a thousand clients of a thousand instances would hold a million connections.

    Every client ranks the instances by lot (rendezvous hashing) and uses the first ones, so that all clients together
    spread evenly, and one that comes or leaves changes at most one place in the subset of each. The instances outside
    of it are to this client as if they were not there; but where less than `healthy` of the subset is healthy, the next
    in its ranking help out, up to as many again.

    `size`
        How many instances (20, at least 2). Balancing, ejection and retries elsewhere need a choice. Fewer clients
        than instances leave some idle, and with small subsets some get much more than others: clients times size should
        be at least ten times the number of instances.
    `seed`
        What tells this client from the others, if it should use the same instances again after a restart, such as the
        name of its host; two clients with the same seed use the same instances. By default it is drawn by chance.
    `healthy`
        The share of the subset that has to be healthy (0.5, the panic threshold).

    Raises `ValueError` for an argument out of its range. gRPC's proposal A68.
    """

    size: int = 20
    seed: str | int | None = None
    healthy: float = 0.5

    def __post_init__(self) -> None:
        if self.size < _LEAST:
            raise ValueError(
                f"size={self.size!r}: a number of instances, at least {_LEAST}, or there is nothing to choose from"
            )
        if not 0 <= self.healthy <= 1:
            raise ValueError(f"healthy={self.healthy!r}: a share, from 0 to 1")

    def filtering(self) -> Subsetting:
        """Return a new machine."""
        return Subsetting(self)


@final
class Subsetting:
    """The subset of one client."""

    name: ClassVar[str] = "subset"
    removes: ClassVar[bool] = True

    __slots__ = ("_lots", "_rule", "_seed")

    def __init__(self, rule: Subset) -> None:
        self._rule = rule
        self._seed: object = rule.seed
        self._lots: dict[str, float] = {}

    def weigh(self, members: Sequence[Member], now: float, random: Chance) -> tuple[Sequence[float], float]:
        """Leave out all but the first ones in the ranking."""
        if self._seed is None:
            self._seed = random()
        known = self._lots
        lots = {member.id: known.get(member.id) for member in members}
        self._lots = {name: lot(self._seed, name) if drawn is None else drawn for name, drawn in lots.items()}
        present = [member for member in members if member.weight > 0]
        present.sort(key=lambda member: (self._lots[member.id], member.id))
        size = self._rule.size
        chosen = {member.id for member in present[:size]}
        healthy = sum(member.healthy for member in present[:size])
        for member in present[size : 2 * size]:
            if healthy >= self._rule.healthy * len(chosen):
                break
            chosen.add(member.id)
            healthy += member.healthy
        return [member.weight if member.id in chosen else 0.0 for member in members], math.inf
