"""Bound how many calls are in flight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

from resilient.call import Call, End, Next, Policy
from resilient.errors import ConcurrencyExceeded
from resilient.policies.base import Holder, Role
from resilient.policies.line import Line, Order

__all__ = ["Bulkhead"]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bulkhead(Holder):
    """Let at most `limit` calls be in flight at once; refuse the rest with `ConcurrencyExceeded`.

    `max_queue`
        How many calls may wait for a place; 0 by default, since a queue in front of something slow only adds
        its own delay.
    `max_wait`
        The longest a call waits, 1.0 s, and never past its deadline. A call that would not be answered before its
        deadline, as long as calls take on average, is refused at once and does not take the place of one that would.
    `order`
        Who is next: `"fifo"`, first come, first served, and nobody overtakes; `"adaptive-lifo"`, the same until a queue
        persists for 0.1 s, then the newest first, whose callers still wait, while whoever waited for 0.5 s is refused;
        `"codel"`, first come, first served, but while nobody waits less than 5 ms whoever waited 10 ms is refused.

    A place is held until the call is over: for a stream, until the stream is. No place is ever lost to a
    waiter that was cancelled or timed out: a place that was just handed to it passes on to the next.

    Thread-safe. Raises `ValueError` for a `limit` below 1, a negative `max_queue` or `max_wait`, or another `order`.
    """

    limit: int = field(kw_only=False)
    max_queue: int = 0
    max_wait: float = 1.0
    order: Order = "fifo"
    _line: Line = field(init=False, repr=False)
    role: ClassVar[Role] = Role.ADMISSION

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ValueError(f"limit={self.limit!r}: how many calls may be in flight, at least 1")
        if self.max_queue < 0:
            raise ValueError(f"max_queue={self.max_queue!r}: how many calls may wait, at least 0")
        if not (math.isfinite(self.max_wait) and self.max_wait >= 0):
            raise ValueError(f"max_wait={self.max_wait!r}: a finite number of seconds, at least 0")
        line = Line(
            self.limit,
            max_queue=self.max_queue,
            max_wait=self.max_wait,
            order=self.order,
            give_back=lambda: self._settle(None),
            rejection=self._rejection,
        )
        object.__setattr__(self, "_line", line)

    @property
    def in_flight(self) -> int:
        """How many calls hold a place now."""
        return self._line.slots.held

    @property
    def queued(self) -> int:
        """How many calls wait for a place now."""
        return len(self._line.slots.waiters)

    def link(self, nxt: Next[Any], below: Sequence[Policy]) -> Next[Any]:
        """Hold a place around `nxt`."""
        del below
        settle, hold, slots = self._settle, self.hold, self._line.slots
        take, give = slots.free.pop, slots.free.append  # single steps: see Slots

        async def layer(call: Call) -> Any:
            try:
                take()
            except IndexError:
                await hold(call)  # it refuses, unless a place has just become free
            try:
                result = await nxt(call)
            except BaseException:
                settle(None)
                raise
            if call.ends is None:
                give(None)
            else:
                call.ends.append(settle)
            return result

        if not self.max_queue:
            return layer

        async def measured(call: Call) -> Any:
            await hold(call)
            began = call.runtime.now()
            try:
                result = await nxt(call)
            except BaseException:
                settle(None)
                raise
            slots.took(call.runtime.now() - began)  # to the answer: that of a stream is its beginning
            if call.ends is None:
                settle(None)
            else:
                call.ends.append(settle)
            return result

        return measured

    async def hold(self, call: Call) -> End:
        """Take a place, now or from the queue."""
        slots = self._line.slots
        if slots.waiters or not slots.take():
            await self._line.wait(call)
        return self._settle

    def _settle(self, _error: BaseException | None) -> None:
        slots = self._line.slots
        slots.give()
        if slots.waiters:
            self._line.hand_over()

    def _rejection(self, call: Call, why: str) -> ConcurrencyExceeded:
        return ConcurrencyExceeded(f"{call.name}: {self.limit} calls are in flight and {why}", policy=self)
