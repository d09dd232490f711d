"""Who is next, of those who wait: the disciplines of a line.

A discipline is asked twice: `push` may refuse somebody (or another one in their stead), `pop` may discard who is no
longer worth serving. Both name who goes, and whoever keeps the line turns those away.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Generic, Literal, Protocol, TypeVar, final

__all__ = ["AdaptiveLifo", "CoDel", "Fifo", "Line", "Priorities", "Waiting"]


class Waiting(Protocol):
    """Somebody who waits."""

    @property
    def arrived(self) -> float:
        """Since which second."""
        ...

    @property
    def deadline(self) -> float | None:
        """Until which second it makes sense."""
        ...

    @property
    def priority(self) -> int:
        """How much it matters: more is more."""
        ...


W = TypeVar("W", bound=Waiting)


class Line(Protocol[W]):
    """Those who wait."""

    def push(self, waiting: W, now: float) -> W | None:
        """Let somebody wait; return who is refused for it (themselves, or another), or None."""
        ...

    def pop(self, now: float, discard: Callable[[W], object]) -> W | None:
        """Return who is served next, or None where nobody waits; `discard` whoever is not worth it any more."""
        ...

    def remove(self, waiting: W) -> bool:
        """Let somebody leave; False: they do not wait."""
        ...

    def __len__(self) -> int: ...


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 0:
        raise ValueError(f"limit={limit!r}: how many may wait, at least 0, or None for no bound")


def _remove(line: deque[W], waiting: W) -> bool:
    try:
        line.remove(waiting)
    except ValueError:
        return False
    return True


class _InOrder(Generic[W]):
    """One line of at most `limit`, in the order in which they came."""

    def __init__(self, limit: int | None) -> None:
        _check_limit(limit)
        self._limit = math.inf if limit is None else limit
        self.line: deque[W] = deque()

    def __len__(self) -> int:
        return len(self.line)

    def push(self, waiting: W, now: float) -> W | None:
        """To the end of the line."""
        del now
        if len(self.line) >= self._limit:
            return waiting
        self.line.append(waiting)
        return None

    def remove(self, waiting: W) -> bool:
        """Let somebody leave."""
        return _remove(self.line, waiting)


@final
class Fifo(_InOrder[W]):
    """First come, first served.

    `limit`
        How many may wait. None, the default of most servers and the root of most collapses, is no bound.
    `drop`
        Whom to discard when their turn has come: nobody (None), who is `"expired"` (its caller's deadline has passed),
        or who is `"hopeless"`: it would pass before the work of `expected` seconds is done. Between the two lies the
        difference between a server that recovers and one that serves calls which all come too late.
    """

    def __init__(
        self,
        limit: int | None = None,
        drop: Literal["expired", "hopeless"] | None = None,
        expected: float | None = None,
    ) -> None:
        super().__init__(limit)
        if drop not in {None, "expired", "hopeless"}:
            raise ValueError(f"drop={drop!r}: None, 'expired' or 'hopeless'")
        if (drop == "hopeless") != (expected is not None):
            raise ValueError(f"drop={drop!r}, expected={expected!r}: the expected seconds of work go with 'hopeless'")
        self._needed = -math.inf if drop is None else expected or 0.0

    def pop(self, now: float, discard: Callable[[W], object]) -> W | None:
        """From its front."""
        while self.line:
            waiting = self.line.popleft()
            if waiting.deadline is None or now + self._needed <= waiting.deadline:
                return waiting
            discard(waiting)
        return None


@final
class AdaptiveLifo(_InOrder[W]):
    """First come, first served until a queue persists; then the newest first, whose callers still wait.

    A queue persists when it has not been empty for `interval` seconds; from then on whoever waited longer than
    `timeout` is discarded. After "Fail at Scale" (Maurer, ACM Queue 2015), which does this with 100 ms and 5 ms: such a
    `timeout` fits calls that take less than a millisecond, the default fits calls of tens of them.
    """

    def __init__(self, limit: int | None = 1000, interval: float = 0.1, timeout: float = 0.5) -> None:
        super().__init__(limit)
        self._interval = interval
        self._timeout = timeout
        self._empty_at = -math.inf

    def push(self, waiting: W, now: float) -> W | None:
        """To the end of the line; where it is full, its oldest gives way once a queue persists."""
        line = self.line
        if not line:
            self._empty_at = now
        if len(line) >= self._limit:
            if not line or not self._persists(now):
                return waiting
            line.append(waiting)
            return line.popleft()
        line.append(waiting)
        return None

    def pop(self, now: float, discard: Callable[[W], object]) -> W | None:
        """From its front, or from its end."""
        line = self.line
        if self._persists(now):
            while line and now - line[0].arrived > self._timeout:
                discard(line.popleft())
            return line.pop() if line else None
        return line.popleft() if line else None

    def _persists(self, now: float) -> bool:
        return now - self._empty_at > self._interval


@final
class CoDel(_InOrder[W]):
    """Controlled delay: judges a queue by its shortest wait, not by its length (Nichols and Jacobson, 2012).

    If during `interval` seconds nobody waited less than `target`, the server is overloaded during the next interval,
    and whoever waited longer than twice the target is discarded: the form for servers of Facebook's wangle.
    """

    def __init__(self, limit: int | None = 1000, interval: float = 0.1, target: float = 0.005) -> None:
        super().__init__(limit)
        self._interval = interval
        self._target = target
        self._ends = -math.inf
        self._shortest = math.inf
        self._overloaded = False

    def pop(self, now: float, discard: Callable[[W], object]) -> W | None:
        """From its front."""
        while self.line:
            waiting = self.line.popleft()
            waited = now - waiting.arrived
            if now >= self._ends:
                # An interval in which nobody was served says nothing.
                self._overloaded = self._target < self._shortest < math.inf
                self._ends = now + self._interval
                self._shortest = waited
            else:
                self._shortest = min(self._shortest, waited)
            if not (self._overloaded and waited > 2 * self._target):
                return waiting
            discard(waiting)
        return None


@final
class Priorities(Generic[W]):
    """The most important first, among equals the oldest; where it is full, the least important gives way."""

    def __init__(self, limit: int | None = 1000) -> None:
        _check_limit(limit)
        self._limit = math.inf if limit is None else limit
        self.lines: dict[int, deque[W]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def remove(self, waiting: W) -> bool:
        """Let somebody leave."""
        found = _remove(self.lines.get(waiting.priority, deque()), waiting)
        self._size -= found
        return found

    def push(self, waiting: W, now: float) -> W | None:
        """To the end of its priority's line."""
        del now
        line = self.lines.setdefault(waiting.priority, deque())
        if self._size < self._limit:
            line.append(waiting)
            self._size += 1
            return None
        least = min((priority for priority, those in self.lines.items() if those), default=waiting.priority)
        if least >= waiting.priority:
            return waiting
        line.append(waiting)
        return self.lines[least].pop()

    def pop(self, now: float, discard: Callable[[W], object]) -> W | None:
        """From the front of the most important line."""
        del now, discard
        for priority in sorted(self.lines, reverse=True):
            if self.lines[priority]:
                self._size -= 1
                return self.lines[priority].popleft()
        return None
