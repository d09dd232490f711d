"""Places for calls in flight, and the line in front of them."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar, final

__all__ = ["Slots"]

W = TypeVar("W")


@final
class Slots(Generic[W]):
    """`limit` places and a first-in, first-out queue of at most `max_queue` waiters.

    A place is a token in a list. Taking one (`free.pop`) and giving it back (`free.append`) are single steps of
    the interpreter, so the common case needs no lock; everything that concerns the queue or the limit does. Whoever
    gives a place back while somebody waits, and whoever has just queued, calls `hand_over`: one of the two sees the
    other. Between the two steps another thread may take the place; the line then waits for that one's. Every place
    that was taken or handed over is given back exactly once.

    =========  ===============================  ===================================================
    event      condition                        effect
    =========  ===============================  ===================================================
    take       a place is free                  it is held
    take       none is free                     refused
    enqueue    the queue has room               the waiter waits, behind all others
    enqueue    the queue is full                refused
    give       no more are held than the limit  it is free
    give       more are held than the limit     it is gone
    resize     to more                          there are more free places
    resize     to fewer                         free places are gone, and held ones as they are given back
    hand_over  a place is free, somebody waits  the first waiter holds it, and is to be woken; the
                                                next ones too, while places are free
    hand_over  none is free, or nobody waits    nothing
    forget     the waiter still waits           it left the queue
    forget     the waiter was given a place     refused: the place is its own, to be given back
    =========  ===============================  ===================================================
    """

    __slots__ = ("_surplus", "free", "limit", "max_queue", "waiters")

    def __init__(self, *, limit: int, max_queue: int) -> None:
        self.limit = limit
        self.max_queue = max_queue
        self.free: list[None] = [None] * limit
        self.waiters: deque[W] = deque()
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

    def enqueue(self, waiter: W) -> bool:
        """Stand in line."""
        if len(self.waiters) >= self.max_queue:
            return False
        self.waiters.append(waiter)
        return True

    def hand_over(self) -> list[W]:
        """Give free places to those who wait, first come, first served; return who is to be woken."""
        lucky: list[W] = []
        while self.waiters and self.take():
            lucky.append(self.waiters.popleft())
        return lucky

    def forget(self, waiter: W) -> bool:
        """Leave the line; False: the waiter is not in it, since it was given a place."""
        try:
            self.waiters.remove(waiter)
        except ValueError:
            return False
        return True
