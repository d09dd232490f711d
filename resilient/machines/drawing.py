"""Drawing candidates at random, each as often as its weight says."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from math import floor
from operator import attrgetter
from typing import Protocol, TypeAlias, TypeVar, final

__all__ = ["Chance", "Drawing", "Weighed", "even", "two"]

_WEIGHT = attrgetter("weight")

Chance: TypeAlias = Callable[[], float]


class Weighed(Protocol):
    """Somebody with a weight."""

    @property
    def weight(self) -> float:
        """Its share relative to the others."""
        ...


W = TypeVar("W", bound=Weighed)


def even(members: Sequence[Weighed]) -> bool:
    """Whether those that have a share at all have the same."""
    return len(set(map(_WEIGHT, members)) - {0.0}) <= 1


def two(candidates: Sequence[W], random: Chance) -> tuple[W, W]:
    """Two different candidates, each pair equally likely.

    Drawn without replacement: with it, one of `n` would still get a call in `n * n` however bad it is.
    """
    count = len(candidates)
    first = floor(random() * count)
    second = floor(random() * (count - 1))
    if second >= first:
        second += 1
    return candidates[first], candidates[second]


@final
class Drawing:
    """Draws in proportion to the weights, in O(log n): it adds them up once for the same sequence of candidates."""

    __slots__ = ("_ends", "_of")

    def __init__(self) -> None:
        self._of: Sequence[Weighed] = ()
        self._ends: list[float] = []

    def one(self, candidates: Sequence[W], random: Chance) -> W:
        """One of them."""
        self._look_at(candidates)
        return candidates[self._at(random() * self._ends[-1])]

    def two(self, candidates: Sequence[W], random: Chance) -> tuple[W, W]:
        """Two different ones, drawn one after the other."""
        self._look_at(candidates)
        ends = self._ends
        first = self._at(random() * ends[-1])
        begin, end = ends[first - 1] if first else 0.0, ends[first]
        # The first one's stretch is left out: what lies beyond it moves up.
        at = random() * (ends[-1] - (end - begin))
        second = self._at(at if at < begin else at + (end - begin))
        if second == first:  # by rounding, or because its weight dwarfs the others' together
            second = first + 1 if first + 1 < len(ends) else first - 1
        return candidates[first], candidates[second]

    def _look_at(self, candidates: Sequence[Weighed]) -> None:
        if candidates is not self._of:
            self._ends = list(accumulate(candidate.weight for candidate in candidates))
            self._of = candidates

    def _at(self, at: float) -> int:
        return min(bisect_right(self._ends, at), len(self._ends) - 1)
