"""Places for calls in flight, and the line in front of them."""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar, final

from resilient.machines.lines import Line, Waiting

__all__ = ["Slots", "SlotsLine"]

W = TypeVar("W", bound=Waiting)
V = TypeVar("V", bound=Waiting)

_WEIGHT = 0.1
"""Of a call, in what is expected of the next one: about the last twenty count."""


class SlotsLine(Line[V], Protocol[V]):
    """A line of which one can see at a glance whether anybody waits."""

    line: deque[V]


@final
class Slots(Generic[W]):
    """`limit` places, and a line of those who wait for one.

    A place is a token in a list. Taking one (`free.pop`) and giving it back (`free.append`) are single steps of
    the interpreter, so the common case needs no lock; everything that concerns the queue or the limit does. Whoever
    gives a place back while somebody waits, and whoever has just queued, calls `hand_over`: one of the two sees the
    other. Between the two steps another thread may take the place; the line then waits for that one's. Every place
    that was taken or handed over is given back exactly once.

    A place is no use to somebody whose deadline comes before a call is over, as long as calls take on average: they are
    hopeless, and turned away so that the place goes to somebody else.

    =========  ===============================  ===================================================
    event      condition                        effect
    =========  ===============================  ===================================================
    take       a place is free                  it is held
    take       none is free                     refused
    enqueue    the line has room                the waiter waits
    enqueue    the line is full                 refused
    enqueue    the waiter is hopeless           refused
    give       no more are held than the limit  it is free
    give       more are held than the limit     it is gone
    resize     to more                          there are more free places
    resize     to fewer                         free places are gone, and held ones as they are given back
    hand_over  a place is free, somebody waits  the next waiter holds it, and is to be woken; the
                                                next ones too, while places are free
    hand_over  the next waiter is hopeless      it left the line, and is to be turned away
    hand_over  none is free, or nobody waits    nothing
    forget     the waiter still waits           it left the line
    forget     the waiter was given a place     refused: the place is its own, to be given back
    =========  ===============================  ===================================================
    """

    __slots__ = ("_line", "_surplus", "expected", "free", "limit", "waiters")

    def __init__(self, *, limit: int, line: SlotsLine[W]) -> None:
        self.limit = limit
        self.free: list[None] = [None] * limit
        self.waiters = line.line
        """Those who wait; only to be looked at."""
        self.expected: float | None = None
        """Seconds that a call holds its place, on average; None before the first."""
        self._line = line
        self._surplus = 0

    @property
    def held(self) -> int:
        """How many places are taken."""
        return self.limit + self._surplus - len(self.free)

    def take(self) -> bool:
        """Take a free place."""
        try:
            self.free.pop()
        except IndexError:
            return False
        return True

    def give(self) -> None:
        """Give a place back. Where places are never resized, `free.append` does the same."""
        if self._surplus:
            self._surplus -= 1
        else:
            self.free.append(None)

    def resize(self, limit: int) -> None:
        """Have `limit` places; those that are too many and held go as they are given back."""
        self._surplus += self.limit - limit
        self.limit = limit
        while self._surplus > 0 and self.take():
            self._surplus -= 1
        self.free += [None] * -self._surplus
        self._surplus = max(self._surplus, 0)

    def took(self, seconds: float) -> None:
        """Learn that a call held its place for so long."""
        expected = self.expected
        self.expected = seconds if expected is None else expected + _WEIGHT * (seconds - expected)

    def hopeless(self, waiter: W, now: float) -> bool:
        """Whether its deadline comes before a call that began now is over."""
        return waiter.deadline is not None and now + (self.expected or 0.0) > waiter.deadline

    def enqueue(self, waiter: W, now: float) -> W | None:
        """Stand in line; return who is turned away for it: the waiter, or another one, or None."""
        return waiter if self.hopeless(waiter, now) else self._line.push(waiter, now)

    def hand_over(self, now: float) -> tuple[list[W], list[W]]:
        """Give free places to those who wait; return who is to be woken, and who is to be turned away."""
        lucky: list[W] = []
        gone: list[W] = []
        while self.waiters and self.take():
            waiter = self._line.pop(now, gone.append)
            while waiter is not None and self.hopeless(waiter, now):
                gone.append(waiter)
                waiter = self._line.pop(now, gone.append)
            if waiter is None:
                self.give()
                break
            lucky.append(waiter)
        return lucky, gone

    def forget(self, waiter: W) -> bool:
        """Leave the line; False: the waiter is not in it, since it was given a place or turned away."""
        return self._line.remove(waiter)
