"""The line in front of places for calls."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal, TypeAlias, final

from resilient.call import Call
from resilient.deadline import no_time_left
from resilient.errors import Rejected
from resilient.machines.lines import AdaptiveLifo, CoDel, Fifo
from resilient.machines.slots import Slots, SlotsLine
from resilient.policies.base import refuse
from resilient.waiting import Waiter, waiter_for

__all__ = ["Line", "Order", "Ticket"]

Order: TypeAlias = Literal["fifo", "adaptive-lifo", "codel"]
"""Who is next, of the calls that wait for a place.

`fifo`
    First come, first served.
`adaptive-lifo`
    The same until a queue has not been empty for 0.1 s; then the newest first, whose callers still wait, and whoever
    waited for more than 0.5 s is refused ("Fail at Scale", Maurer 2015).
`codel`
    First come, first served; but when for 0.1 s nobody waited less than 5 ms, whoever waited longer than 10 ms is
    refused (controlled delay: Nichols and Jacobson 2012, in the form of Facebook's wangle).
"""


@final
class Ticket:
    """A call that waits."""

    __slots__ = ("arrived", "deadline", "now", "priority", "refused", "waiter")

    def __init__(self, call: Call, now: float) -> None:
        self.now = call.runtime.now
        """The clock of its deadline, which need not be that of whoever gives a place back."""
        self.arrived = now
        self.deadline = call.deadline
        self.priority: int = call.priority
        self.waiter: Waiter = waiter_for(call)
        self.refused = False
        """It was turned away while it waited."""


def _line_of(order: Order, max_queue: int) -> SlotsLine[Ticket]:
    kinds: dict[str, Callable[[int], SlotsLine[Ticket]]] = {
        "fifo": Fifo,
        "adaptive-lifo": AdaptiveLifo,
        "codel": CoDel,
    }
    if order not in kinds:
        raise ValueError(f"order={order!r}: one of {', '.join(map(repr, kinds))}")
    return kinds[order](max_queue)


@final
class Line:
    """`limit` places, and calls that wait for one: of threads, of event loops, or of both.

    `give_back` is called for a place that was handed to somebody who does not wait any more, and `rejection` makes the
    error of a call that gets none, from why.
    """

    __slots__ = ("_give_back", "_lock", "_max_queue", "_max_wait", "_patient", "_rejection", "slots")

    def __init__(
        self,
        limit: int,
        *,
        max_queue: int,
        max_wait: float,
        order: Order,
        give_back: Callable[[], object],
        rejection: Callable[[Call, str], Rejected],
    ) -> None:
        self.slots: Slots[Ticket] = Slots(limit=limit, line=_line_of(order, max_queue))
        self._max_queue = max_queue
        self._max_wait = max_wait
        self._patient = order != "adaptive-lifo"
        """Whoever waits is never turned away for somebody who comes."""
        self._give_back = give_back
        self._rejection = rejection
        self._lock = threading.Lock()

    def hand_over(self) -> None:
        """Give the places that are free to those who wait."""
        with self._lock:
            waiting = self.slots.waiters
            if not waiting:
                return
            lucky, gone = self.slots.hand_over(waiting[0].now())
            for ticket in gone:
                ticket.refused = True
        for ticket in (*lucky, *gone):
            ticket.waiter.wake()

    async def wait(self, call: Call) -> None:
        """Wait in line until a place is the call's; it raises where there is none to be had in time."""
        now = call.runtime.now()
        longest = self._max_wait
        remaining = None if call.deadline is None else call.deadline - now
        if remaining is not None:
            if remaining <= 0:
                raise no_time_left(call)
            longest = min(longest, remaining)
        if self._patient and len(self.slots.waiters) >= self._max_queue:  # before a ticket is made for most refusals
            raise self._refusal(call, self._full())
        ticket = Ticket(call, now)
        self._enqueue(call, ticket, now)
        self.hand_over()  # a place may have become free since we looked
        try:
            woken = await ticket.waiter.wait(longest)
        except BaseException:
            if not self._leave(ticket) and not ticket.refused:
                self._give_back()
            raise
        if not woken and self._leave(ticket):
            if remaining is not None and remaining <= self._max_wait:
                raise no_time_left(call)
            raise self._refusal(call, f"none came free within {self._max_wait:g} s")
        if ticket.refused:
            if call.deadline is not None and call.deadline <= call.runtime.now():
                raise no_time_left(call)
            raise self._refusal(call, "others were chosen, or it cannot be done before its deadline any more")

    def _enqueue(self, call: Call, ticket: Ticket, now: float) -> None:
        with self._lock:
            refused = self.slots.enqueue(ticket, now)
            hopeless = refused is ticket and self.slots.hopeless(ticket, now)
            if refused is not None:
                refused.refused = True
        if refused is ticket:
            raise self._refusal(call, "it would not be done before its deadline" if hopeless else self._full())
        if refused is not None:
            refused.waiter.wake()

    def _leave(self, ticket: Ticket) -> bool:
        """Leave the line; False: we were given a place at this very moment, or turned away."""
        with self._lock:
            return self.slots.forget(ticket)

    def _full(self) -> str:
        return f"{self._max_queue} more wait" if self._max_queue else "none may wait"

    def _refusal(self, call: Call, why: str) -> Rejected:
        return refuse(call, self._rejection(call, why))
