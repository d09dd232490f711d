"""Counting over the last seconds, or over the last calls."""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol, final

__all__ = ["CallWindow", "TimeWindow", "Window"]

_BUCKETS = 10


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
    """Counts of the last `length` seconds, kept in ten buckets: what is older than that, give or take a bucket,
    is forgotten.

    `current` and `edge` are for the hot path: while `now < edge`, `current[kind] += 1` is all there is to do.
    """

    __slots__ = ("_kinds", "_length", "_past", "_sums", "current", "edge")

    def __init__(self, length: float, kinds: int) -> None:
        self._length = length
        self._kinds = kinds
        self.clear()

    def clear(self) -> None:
        self.current = [0] * self._kinds
        self.edge = -math.inf
        self._past: deque[tuple[float, list[int]]] = deque()
        self._sums = [0] * self._kinds

    def add(self, kind: int, now: float, count: int = 1) -> None:
        if now >= self.edge:
            self.roll(now)
        self.current[kind] += count

    def roll(self, now: float) -> None:
        """Close the current bucket, begin one at `now`, and drop those that ended a window ago."""
        if any(self.current):
            self._past.append((self.edge, self.current))
            self._sums = [a + b for a, b in zip(self._sums, self.current, strict=True)]
        self.current = [0] * self._kinds
        self.edge = now + self._length / _BUCKETS
        while self._past and self._past[0][0] <= now - self._length:
            _, gone = self._past.popleft()
            self._sums = [a - b for a, b in zip(self._sums, gone, strict=True)]

    def totals(self, now: float) -> list[int]:
        if now >= self.edge:
            self.roll(now)
        return [a + b for a, b in zip(self._sums, self.current, strict=True)]


@final
class CallWindow:
    """Counts of the last `length` calls."""

    __slots__ = ("_kinds", "_last", "_length", "_sums")

    def __init__(self, length: int, kinds: int) -> None:
        self._length = length
        self._kinds = kinds
        self.clear()

    def clear(self) -> None:
        self._last: deque[int] = deque()
        self._sums = [0] * self._kinds

    def add(self, kind: int, now: float) -> None:
        del now
        self._last.append(kind)
        self._sums[kind] += 1
        if len(self._last) > self._length:
            self._sums[self._last.popleft()] -= 1

    def totals(self, now: float) -> list[int]:
        del now
        return self._sums.copy()
