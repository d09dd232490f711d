"""Rate limiters as most programs have them, for comparison with `RateLimit`.

Those of the package `limits` read `time.time` themselves, which virtual time cannot reach; so these are written anew
from the published definitions. Each admits up to `limit` calls in `window` seconds, by its own idea of that, and
refuses the rest with `RateLimited`. They go by the monotonic clock, or by the `wall` clock, as those must whose counts
are in the store of somebody else. Not thread-safe: they are for the lab.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import TypeVar, final

from resilient.call import Call, Next
from resilient.errors import RateLimited

__all__ = ["FixedWindow", "Limiter", "MovingWindow", "SlidingWindowCounter", "TokenBucket"]

T = TypeVar("T")


class Limiter(ABC):
    """Refuses calls for which there is no room."""

    def __init__(self, limit: int, window: float, *, wall: bool = False) -> None:
        self.limit = limit
        self.window = window
        self.wall = wall

    async def __call__(self, call: Call, nxt: Next[T]) -> T:
        """Make the call if there is room for it now."""
        now = call.runtime.wall() if self.wall else call.runtime.now()
        if not self.admit(now):
            raise RateLimited(f"{call.name}: {self.limit} calls in {self.window:g} s", policy=self)
        return await nxt(call)

    @abstractmethod
    def admit(self, now: float) -> bool:
        """Whether there is room; then it is taken."""


@final
class FixedWindow(Limiter):
    """Counts calls in windows that begin at multiples of their length; each begins at 0."""

    _index = 0
    _count = 0

    def admit(self, now: float) -> bool:
        """Take one of the window's."""
        index = int(now // self.window)
        if index != self._index:
            self._index, self._count = index, 0
        if self._count >= self.limit:
            return False
        self._count += 1
        return True


@final
class SlidingWindowCounter(Limiter):
    """Estimates the calls of the last window: those of the present fixed one, and a part of those of the last one.

    The part is how much of that window the sliding one still covers, as if its calls had come evenly.
    """

    _index = 0
    _count = 0
    _before = 0

    def admit(self, now: float) -> bool:
        """Take one if the estimate leaves room for it."""
        index, elapsed = divmod(now, self.window)
        if index != self._index:
            self._before = self._count if index == self._index + 1 else 0
            self._index, self._count = int(index), 0
        estimate = self._before * (1.0 - elapsed / self.window) + self._count
        if estimate + 1 > self.limit:
            return False
        self._count += 1
        return True


@final
class MovingWindow(Limiter):
    """Remembers when each call was admitted: exact, and as much memory as the limit."""

    def __init__(self, limit: int, window: float, *, wall: bool = False) -> None:
        super().__init__(limit, window, wall=wall)
        self._admitted: deque[float] = deque()

    def admit(self, now: float) -> bool:
        """Take one if fewer than the limit were admitted in the window that ends now."""
        admitted = self._admitted
        while admitted and now - admitted[0] >= self.window:
            admitted.popleft()
        if len(admitted) >= self.limit:
            return False
        admitted.append(now)
        return True


@final
class TokenBucket(Limiter):
    """Holds up to `limit` tokens, one a call, and is refilled by the time since the last call, so many a window."""

    def __init__(self, limit: int, window: float, *, wall: bool = False) -> None:
        super().__init__(limit, window, wall=wall)
        self._tokens = float(limit)
        self._filled: float | None = None

    def admit(self, now: float) -> bool:
        """Refill, and take one."""
        if self._filled is not None:
            self._tokens = min(self.limit, self._tokens + (now - self._filled) * self.limit / self.window)
        self._filled = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
