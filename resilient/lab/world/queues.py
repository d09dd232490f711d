"""What a server does with calls that must wait for a worker.

A discipline is asked twice: `push` may refuse a call (or another one in its stead), `pop` may discard what is no longer
worth serving. Both name who goes; the server answers those with 503.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Literal, Protocol, final

from resilient.lab.world.job import Job

__all__ = ["AdaptiveLifo", "CoDel", "Fifo", "Priorities", "Queue", "discipline"]


class Queue(Protocol):
    """A line of calls in front of a server's workers."""

    def push(self, job: Job, now: float) -> Job | None:
        """Let the call wait; return who is refused for it (itself, or another), or None."""
        ...

    def pop(self, now: float, discard: Callable[[Job], object]) -> Job | None:
        """Return who is served next, or None where nobody waits; `discard` whoever is not worth it any more."""
        ...

    def __len__(self) -> int: ...


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 0:
        raise ValueError(f"limit={limit!r}: how many calls may wait, at least 0, or None for no bound")


@final
class Fifo:
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
        _check_limit(limit)
        if drop not in {None, "expired", "hopeless"}:
            raise ValueError(f"drop={drop!r}: None, 'expired' or 'hopeless'")
        if (drop == "hopeless") != (expected is not None):
            raise ValueError(f"drop={drop!r}, expected={expected!r}: the expected seconds of work go with 'hopeless'")
        self._limit = math.inf if limit is None else limit
        self._line: deque[Job] = deque()
        self._needed = -math.inf if drop is None else expected or 0.0

    def __len__(self) -> int:
        return len(self._line)

    def push(self, job: Job, now: float) -> Job | None:
        """To the end of the line."""
        del now
        if len(self._line) >= self._limit:
            return job
        self._line.append(job)
        return None

    def pop(self, now: float, discard: Callable[[Job], object]) -> Job | None:
        """From its front."""
        while self._line:
            job = self._line.popleft()
            if job.deadline is None or now + self._needed <= job.deadline:
                return job
            discard(job)
        return None


@final
class AdaptiveLifo:
    """First come, first served until a queue persists; then the newest first, whose callers still wait.

    A queue persists when it has not been empty for `interval` seconds; from then on whoever waited longer than
    `timeout` is discarded. After "Fail at Scale" (Maurer, ACM Queue 2015), which does this with 100 ms and 5 ms: such a
    `timeout` fits calls that take less than a millisecond, the default fits calls of tens of them.
    """

    def __init__(self, limit: int | None = 1000, interval: float = 0.1, timeout: float = 0.5) -> None:
        _check_limit(limit)
        self._limit = math.inf if limit is None else limit
        self._interval = interval
        self._timeout = timeout
        self._line: deque[Job] = deque()
        self._empty_at = -math.inf

    def __len__(self) -> int:
        return len(self._line)

    def push(self, job: Job, now: float) -> Job | None:
        """To the end of the line; where it is full, its oldest gives way once a queue persists."""
        line = self._line
        if not line:
            self._empty_at = now
        if len(line) >= self._limit:
            if not line or not self._persists(now):
                return job
            line.append(job)
            return line.popleft()
        line.append(job)
        return None

    def pop(self, now: float, discard: Callable[[Job], object]) -> Job | None:
        """From its front, or from its end."""
        line = self._line
        if self._persists(now):
            while line and now - line[0].arrived > self._timeout:
                discard(line.popleft())
            return line.pop() if line else None
        return line.popleft() if line else None

    def _persists(self, now: float) -> bool:
        return now - self._empty_at > self._interval


@final
class CoDel:
    """Controlled delay: judges a queue by its shortest wait, not by its length (Nichols and Jacobson, 2012).

    If during `interval` seconds nobody waited less than `target`, the server is overloaded during the next interval,
    and whoever waited longer than twice the target is discarded: the form for servers of Facebook's wangle.
    """

    def __init__(self, limit: int | None = 1000, interval: float = 0.1, target: float = 0.005) -> None:
        _check_limit(limit)
        self._limit = math.inf if limit is None else limit
        self._interval = interval
        self._target = target
        self._line: deque[Job] = deque()
        self._ends = -math.inf
        self._shortest = math.inf
        self._overloaded = False

    def __len__(self) -> int:
        return len(self._line)

    def push(self, job: Job, now: float) -> Job | None:
        """To the end of the line."""
        del now
        if len(self._line) >= self._limit:
            return job
        self._line.append(job)
        return None

    def pop(self, now: float, discard: Callable[[Job], object]) -> Job | None:
        """From its front."""
        while self._line:
            job = self._line.popleft()
            waited = now - job.arrived
            if now >= self._ends:
                # An interval in which nobody was served says nothing.
                self._overloaded = self._target < self._shortest < math.inf
                self._ends = now + self._interval
                self._shortest = waited
            else:
                self._shortest = min(self._shortest, waited)
            if not (self._overloaded and waited > 2 * self._target):
                return job
            discard(job)
        return None


@final
class Priorities:
    """The most important first, among equals the oldest; where it is full, the least important gives way."""

    def __init__(self, limit: int | None = 1000) -> None:
        _check_limit(limit)
        self._limit = math.inf if limit is None else limit
        self._lines: dict[int, deque[Job]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def push(self, job: Job, now: float) -> Job | None:
        """To the end of its priority's line."""
        del now
        line = self._lines.setdefault(job.priority, deque())
        if self._size < self._limit:
            line.append(job)
            self._size += 1
            return None
        least = min((priority for priority, waiting in self._lines.items() if waiting), default=job.priority)
        if least >= job.priority:
            return job
        line.append(job)
        return self._lines[least].pop()

    def pop(self, now: float, discard: Callable[[Job], object]) -> Job | None:
        """From the front of the most important line."""
        del now, discard
        for priority in sorted(self._lines, reverse=True):
            if self._lines[priority]:
                self._size -= 1
                return self._lines[priority].popleft()
        return None


def discipline(name: str, *, limit: int, expected: float) -> Callable[[], Queue]:
    """Return what makes the queues that scenarios know by name, for calls that take `expected` seconds on average.

    `unbounded`, and `bounded` to `limit` calls; `expired` and `hopeless`, which discard those calls (see `Fifo`); and
    `lifo`, which is an `AdaptiveLifo`. `ValueError` for any other name.
    """
    kinds: dict[str, Callable[[], Queue]] = {
        "unbounded": Fifo,
        "bounded": lambda: Fifo(limit),
        "expired": lambda: Fifo(drop="expired"),
        "hopeless": lambda: Fifo(drop="hopeless", expected=expected),
        "lifo": lambda: AdaptiveLifo(limit=None),
    }
    if name not in kinds:
        raise ValueError(f"queue={name!r}: one of {', '.join(kinds)}")
    return kinds[name]
