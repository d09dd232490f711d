"""Instances that have just come are spared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from resilient.balancing.filters.arguments import check_positive
from resilient.balancing.member import Member
from resilient.machines.picking import Chance

__all__ = ["SlowStart"]

_STEPS = 20


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SlowStart:
    """Raise the weight of an instance from a tenth to all of it, over its first seconds: its caches are still cold.

    It begins when the instance comes, when its ejection ends, and when it passes its health checks again. If more than
    half of those that may be called are that young, nobody is spared: the others could not take their share.

    `RoundRobin` and `LeastRequest` give a weight of a tenth a tenth of the calls, or of the load. For `PeakEwma` it is
    a handicap: until the instance seems ten times as quick as the others, it gets next to nothing.

    `window`
        How many seconds it lasts (30.0).
    `aggression`
        1.0 raises the weight steadily, a larger number sooner: after half of the window it is at
        `0.5 ** (1 / aggression)`.
    `least`
        The share of its weight that an instance begins with (0.1).

    Raises `ValueError` for an argument out of its range. Envoy, slow start mode.
    """

    window: float = 30.0
    aggression: float = 1.0
    least: float = 0.1
    name: ClassVar[str] = "slow start"

    def __post_init__(self) -> None:
        check_positive("window", self.window, "number of seconds")
        check_positive("aggression", self.aggression, "number")
        if not 0 < self.least <= 1:
            raise ValueError(f"least={self.least!r}: a share, above 0 and at most 1")

    def filtering(self) -> SlowStart:
        """Return itself: when an instance came is known of the instance."""
        return self

    def weigh(self, members: Sequence[Member], now: float, random: Chance) -> tuple[Sequence[float], float]:
        """Weigh the young ones by their age; ask again when a twentieth of the window is over."""
        weights = [member.weight for member in members]
        young = [
            place for place, member in enumerate(members) if member.healthy and now < member.healthy_since + self.window
        ]
        if not young:
            return weights, math.inf
        until = min(members[place].healthy_since for place in young) + self.window
        if 2 * len(young) > sum(member.healthy for member in members):
            return weights, until
        for place in young:
            weights[place] *= self.share(now - members[place].healthy_since)
        return weights, min(until, now + self.window / _STEPS)

    def share(self, age: float) -> float:
        """The share of its weight that an instance has `age` seconds after it came."""
        return min(1.0, max(self.least, math.pow(max(age, 1.0) / self.window, 1.0 / self.aggression)))
