"""Counting for many at once, over the last seconds."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar, final

from resilient.machines.window import BUCKETS

__all__ = ["Share", "Tallies"]

S = TypeVar("S", bound=Hashable)


@final
class Tallies(Generic[S]):
    """A count for each of many subjects: what a `TimeWindow` each would say of the last `length` seconds.

    A window each would have to move whenever the first thing in a bucket is counted; where subjects are so many that
    each has something seldom, that is nearly always. Here all of them share the buckets, each of which knows those
    that had something in it and nobody else.

    For the hot path: once `now < edge`, or after a `roll(now)`, `present[subject] = present.get(subject, 0) + 1` counts
    one. (A `defaultdict` would take twice as long for the first of a subject, which most are where they are many.)
    """

    __slots__ = ("_buckets", "_width", "edge", "present")

    def __init__(self, length: float) -> None:
        self._width = length / BUCKETS
        self._buckets: deque[tuple[float, dict[S, int]]] = deque()
        self.present: dict[S, int] = {}
        self.edge = -math.inf

    def add(self, subject: S, now: float) -> None:
        """Count one."""
        if now >= self.edge:
            self.roll(now)
        self.present[subject] = self.present.get(subject, 0) + 1

    def total(self, subject: S, now: float) -> int:
        """The count of one subject."""
        if now >= self.edge:
            self.roll(now)
        return sum([counts.get(subject, 0) for _, counts in self._buckets])

    def any(self, now: float) -> bool:
        """Whether anything is counted, for anybody."""
        if now >= self.edge:
            self.roll(now)
        return any(counts for _, counts in self._buckets)

    def forget(self, subject: S) -> None:
        """Count from nothing again."""
        for _, counts in self._buckets:
            counts.pop(subject, None)

    def roll(self, now: float) -> None:
        """Begin the bucket that `now` is in, and drop those that are too old."""
        bucket = now // self._width
        self.edge = (bucket + 1) * self._width
        buckets = self._buckets
        # The edge is rounded, so `now` may still be in the bucket that it seems to end.
        if not buckets or buckets[-1][0] < bucket:
            self.present = {}
            buckets.append((bucket, self.present))
        while buckets[0][0] < bucket - BUCKETS:
            buckets.popleft()


@final
class Share(Generic[S]):
    """What tallies of several kinds count for one subject: a `Window`."""

    __slots__ = ("_subject", "_tallies")

    def __init__(self, tallies: Sequence[Tallies[S]], subject: S) -> None:
        self._tallies = tallies
        self._subject = subject

    def add(self, kind: int, now: float) -> None:
        """Count one of `kind`."""
        self._tallies[kind].add(self._subject, now)

    def totals(self, now: float) -> list[int]:
        """The counts by kind."""
        return [tallies.total(self._subject, now) for tallies in self._tallies]

    def clear(self) -> None:
        """Forget everything."""
        for tallies in self._tallies:
            tallies.forget(self._subject)
