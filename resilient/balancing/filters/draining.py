"""Instances that are about to leave get nothing new."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from resilient.balancing.member import Member
from resilient.machines.picking import Chance

__all__ = ["Draining"]


@final
@dataclass(frozen=True, slots=True)
class Draining:
    """Send nothing new to instances whose metadata says that they are draining; calls that are with them go on.

    For registries in which a state is easier to write than a weight: the weight 0 drains without any filter. To this
    client they are gone: they count neither for the cap of the ejection nor for the panic threshold.

    `metadata`, `values`
        The metadata that says so: `state`, which is `draining`.

    Raises `ValueError` for an empty name, and if there are no values.
    """

    metadata: str = "state"
    values: Sequence[str] = ("draining",)
    name: ClassVar[str] = "draining"
    removes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.metadata:
            raise ValueError("metadata='': the name of the metadata that tells who is draining")
        if not self.values or isinstance(self.values, str):
            raise ValueError(f"values={self.values!r}: the values that mean draining, such as ('draining', 'leaving')")

    def filtering(self) -> Draining:
        """Return itself: it remembers nothing."""
        return self

    def weigh(self, members: Sequence[Member], now: float, random: Chance) -> tuple[Sequence[float], float]:
        """Leave out who drains."""
        leaving = (member.instance.metadata.get(self.metadata) in self.values for member in members)
        return [0.0 if left else member.weight for member, left in zip(members, leaving, strict=True)], math.inf
