"""Quantiles of a stream, in bounded memory."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import final

__all__ = ["RecentQuantile", "Sketch"]

_SMALLEST = 1e-9
_LARGEST = 1e9


@final
class Sketch:
    """Quantiles of positive numbers, each within `accuracy` of the true one: a DDSketch.

    Every number is counted in a bucket whose edges grow by a constant factor, so the error is relative, and the same
    for a microsecond and an hour. What lies outside of 1e-9 to 1e9 counts as the nearest of the two, which bounds the
    buckets: 2,073 of them for the accuracy of 1 %, and a few dozen for latencies of a service.

    Masson, Rim and Lee, "DDSketch: A fast and fully-mergeable quantile sketch with relative-error guarantees" (2019).
    """

    __slots__ = ("_buckets", "_factor", "_middle", "count")

    def __init__(self, accuracy: float = 0.01) -> None:
        growth = (1 + accuracy) / (1 - accuracy)
        self._factor = 1 / math.log(growth)
        self._middle = 2 / (1 + growth)
        self._buckets: dict[int, int] = {}
        self.count = 0

    def add(self, number: float) -> None:
        """Count a number."""
        bucket = math.ceil(math.log(min(max(number, _SMALLEST), _LARGEST)) * self._factor)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1

    def merged(self, other: Sketch) -> Sketch:
        """Return a sketch of what both have counted; their accuracy must be the same."""
        both = Sketch()
        both._factor, both._middle = self._factor, self._middle
        both._buckets = self._buckets.copy()
        for bucket, count in other._buckets.items():
            both._buckets[bucket] = both._buckets.get(bucket, 0) + count
        both.count = self.count + other.count
        return both

    def quantile(self, share: float) -> float:
        """The number below which `share` of them lie. Raises `ValueError` where nothing was counted."""
        if not self.count:
            raise ValueError("no quantile of nothing")
        rank = share * (self.count - 1)
        buckets = sorted(self._buckets)
        reached = zip(accumulate(self._buckets[bucket] for bucket in buckets), buckets, strict=True)
        bucket = next(bucket for count, bucket in reached if count > rank)
        return math.exp(bucket / self._factor) * self._middle

    def clear(self) -> None:
        """Forget everything."""
        self._buckets.clear()
        self.count = 0


@final
class RecentQuantile:
    """One quantile of the recent numbers: of the last `most` to twice as many, none older than twice `window` seconds.

    `value` is None until `least` numbers were counted, and afterwards as new as the last 1/16 of them, since reading
    a sketch costs more than counting in it.
    """

    __slots__ = ("_began", "_due", "_least", "_most", "_new", "_old", "_share", "_window", "value")

    def __init__(self, share: float, *, window: float, least: int, most: int, now: float) -> None:
        self._share = share
        self._window = window
        self._least = least
        self._most = most
        self._new = Sketch()
        self._old = Sketch()
        self._began = now
        self._due = least
        self.value: float | None = None

    def add(self, number: float, now: float) -> None:
        """Count a number, at the second `now`."""
        if self._new.count >= self._most or now - self._began >= self._window:
            self._turn(now)
        self._new.add(number)
        count = self._new.count + self._old.count
        if count >= self._due:
            self._due = count + max(1, count // 16)
            self.value = self._new.merged(self._old).quantile(self._share)

    def _turn(self, now: float) -> None:
        """Begin the next generation."""
        long_ago = now - self._began >= 2 * self._window
        self._old = Sketch() if long_ago else self._new
        self._new = Sketch()
        self._began = now
        self._due = max(self._least, self._old.count)
        if self._old.count < self._least:
            self.value = None
