"""Counting over the last seconds, or over the last calls."""

from __future__ import annotations

import math
from collections import deque
from operator import sub
from typing import Protocol, final

__all__ = ["BUCKETS", "CallWindow", "TimeWindow", "Window"]

BUCKETS = 10
"""How many make a window of time."""


class Window(Protocol):
    """Counts of several kinds, of recent things only."""

    def add(self, kind: int, now: float) -> None:
        """Count one of `kind` (0, 1, ...)."""
        ...

    def totals(self, now: float) -> list[int]:
        """The counts by kind."""
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...


@final
class TimeWindow:
    """Counts of the last `length` seconds: all that is younger is counted, and nothing older than 1.1 times that.

    It works like the odometers of a car. `counts` only ever grow; what they read when a bucket began, a tenth of
    `length`, is kept, and `base` is what they read when the window began. So nothing drifts, and a clock that
    stood still for long (a suspended machine) just moves the window. A `now` behind an earlier one, as threads
    may bring it, counts as the earlier one.

    For the hot path: once `now < edge`, or after a `roll(now)`, `counts[kind] += 1` counts one, and
    `counts[kind] - base[kind]` are in the window. Where threads share the window, all else needs a lock, but this may
    do without: CPython does not switch threads within that statement, and where it has no global lock, two that count
    in the same instant may count one. That is nothing to a count of all calls; failures are counted under the lock.
    """

    __slots__ = ("_kinds", "_marks", "_width", "base", "counts", "edge")

    def __init__(self, length: float, kinds: int) -> None:
        self._width = length / BUCKETS
        self._kinds = kinds
        self._marks: deque[tuple[float, list[int]]] = deque()
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.counts = [0] * self._kinds
        self.base = self.counts.copy()
        self.edge = -math.inf
        self._marks.clear()

    def add(self, kind: int, now: float) -> None:
        """Count one of `kind`."""
        if now >= self.edge:
            self.roll(now)
        self.counts[kind] += 1

    def totals(self, now: float) -> list[int]:
        """The counts by kind."""
        if now >= self.edge:
            self.roll(now)
        return list(map(sub, self.counts, self.base))

    def roll(self, now: float) -> None:
        """Begin the bucket that `now` is in, and move the window there."""
        bucket = now // self._width
        self.edge = (bucket + 1) * self._width
        marks = self._marks
        # The edge is rounded, so `now` may still be in the bucket that it seems to end.
        if not marks or marks[-1][0] < bucket:
            marks.append((bucket, self.counts.copy()))
        while marks[0][0] < bucket - BUCKETS:
            marks.popleft()
        self.base = marks[0][1]


@final
class CallWindow:
    """Counts of the last `length` calls."""

    __slots__ = ("_kinds", "_last", "_length", "_sums")

    def __init__(self, length: int, kinds: int) -> None:
        self._length = length
        self._kinds = kinds
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._last: deque[int] = deque()
        self._sums = [0] * self._kinds

    def add(self, kind: int, now: float) -> None:
        """Count one of `kind`."""
        del now
        self._last.append(kind)
        self._sums[kind] += 1
        if len(self._last) > self._length:
            self._sums[self._last.popleft()] -= 1

    def totals(self, now: float) -> list[int]:
        """The counts by kind."""
        del now
        return self._sums.copy()
