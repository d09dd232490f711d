"""Whom to turn away first."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import final

__all__ = ["COHORTS", "Pressure", "PriorityGate"]

COHORTS = 128
"""Levels within a priority: groups of users, of whom the same ones are served until the groups are drawn anew."""
_BITS = 9
_LEVELS = 1 << _BITS
"""Four priorities of 128 cohorts."""
_REMEMBERED = 1000
_LEAST = 10
_AVERAGED = 0.1
_AIM = 0.1
_PROPORTION = 0.5
_INTEGRAL = 0.3
"""Of the excess, for each second that it lasts."""


@final
class Pressure:
    """Which share of the requests has to go, for the queue to stay short: a proportional and integral controller.

    What it looks at is the queue, as a share of `full` times the limit (or of ten, if that is more), averaged over a
    tenth of a second; what it aims at is a tenth of that. The integral finds the share that keeps it there, and holds
    it while the queue is empty now and then; the proportion answers a burst. By proportion alone the queue has to stand
    for as long as the overload lasts: then it turns people away by itself, whoever they are, and with a line that is
    drawn anew for every request those in the middle are torn apart.
    """

    __slots__ = ("_at", "_average", "_full", "_integral")

    def __init__(self, full: float) -> None:
        self._full = full
        self._average = 0.0
        self._integral = 0.0
        self._at = math.inf

    def read(self, queued: int, limit: int, now: float) -> float:
        """The share to turn away now, of those that come."""
        filled = min(queued / (self._full * max(limit, _LEAST)), 1.0)
        passed = max(now - self._at, 0.0)
        self._at = now
        self._average += (1.0 - math.exp(-passed / _AVERAGED)) * (filled - self._average)
        excess = self._average - _AIM
        self._integral = min(max(self._integral + _INTEGRAL * min(passed, 1.0) * excess, 0.0), 1.0)
        return min(self._integral + _PROPORTION * max(excess, 0.0), 1.0)


@final
class PriorityGate:
    """Turns away the share of requests that matters least, of those that came lately.

    A request has a level: its priority, and within it the cohort of its user. Of the last 1,000 it knows how many had a
    lower one, and where that share is below the share that has to go, the request goes. So a whole priority is turned
    away before any of the next, and within one the same users are served every time. A task that takes ten calls gets
    all of them or none: chance would let one task in a thousand through at half of the calls (Tencent's DAGOR).
    """

    __slots__ = ("_recent", "_tree")

    def __init__(self) -> None:
        self._recent: deque[int] = deque()
        self._tree = [0] * (_LEVELS + 1)  # of sums, after Fenwick: a count below a level takes nine steps

    def admit(self, level: int, pressure: float, random: Callable[[], float]) -> bool:
        """Take note of a request of that level; False: turn it away. Among equals chance decides."""
        recent = self._recent
        recent.append(level)
        self._add(level, 1)
        if len(recent) > _REMEMBERED:
            self._add(recent.popleft(), -1)
        if pressure <= 0 or pressure >= 1:
            return pressure <= 0
        below = self._below(level)
        equal = self._below(level + 1) - below
        return below + random() * equal >= pressure * len(recent)

    def _below(self, level: int) -> int:
        count = 0
        while level > 0:
            count += self._tree[level]
            level &= level - 1
        return count

    def _add(self, level: int, change: int) -> None:
        index = level + 1
        while index <= _LEVELS:
            self._tree[index] += change
            index += index & -index
