"""The line in front of places for calls."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import final

from resilient.call import Call
from resilient.deadline import no_time_left
from resilient.errors import Rejected
from resilient.machines.slots import Slots
from resilient.policies.base import refuse
from resilient.waiting import Waiter, waiter_for

__all__ = ["Line"]


@final
class Line:
    """Lets calls wait for a place: of threads, of event loops, or of both.

    `give_back` is called for a place that was handed to somebody who does not wait any more, and `rejection` makes the
    error of a call that gets none, from why.
    """

    __slots__ = ("_give_back", "_lock", "_max_wait", "_rejection", "_slots")

    def __init__(
        self,
        slots: Slots[Waiter],
        *,
        max_wait: float,
        give_back: Callable[[], object],
        rejection: Callable[[Call, str], Rejected],
    ) -> None:
        self._slots = slots
        self._max_wait = max_wait
        self._give_back = give_back
        self._rejection = rejection
        self._lock = threading.Lock()

    def hand_over(self) -> None:
        """Give the places that are free to those who wait."""
        with self._lock:
            lucky = self._slots.hand_over()
        for waiter in lucky:
            waiter.wake()

    async def wait(self, call: Call) -> None:
        """Wait in line until a place is the call's; it raises where there is none to be had in time."""
        longest = self._max_wait
        remaining = call.remaining
        if remaining is not None:
            if remaining <= 0:
                raise no_time_left(call)
            longest = min(longest, remaining)
        if len(self._slots.waiters) >= self._slots.max_queue:  # most refusals, before a waiter is made for them
            raise self._refusal(call, self._full())
        waiter = waiter_for(call)
        with self._lock:
            queued = self._slots.enqueue(waiter)
        if not queued:
            raise self._refusal(call, self._full())
        self.hand_over()  # a place may have become free since we looked
        try:
            woken = await waiter.wait(longest)
        except BaseException:
            if not self._leave(waiter):
                self._give_back()
            raise
        if not woken and self._leave(waiter):
            if remaining is not None and remaining <= self._max_wait:
                raise no_time_left(call)
            raise self._refusal(call, f"none came free within {self._max_wait:g} s")

    def _leave(self, waiter: Waiter) -> bool:
        """Leave the line; False: a place was handed over at this very moment, and is ours."""
        with self._lock:
            return self._slots.forget(waiter)

    def _full(self) -> str:
        return f"{self._slots.max_queue} more wait" if self._slots.max_queue else "none may wait"

    def _refusal(self, call: Call, why: str) -> Rejected:
        return refuse(call, self._rejection(call, why))
