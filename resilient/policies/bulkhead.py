"""Bound how many calls are in flight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, final

from resilient.call import Call, End, Next, Policy
from resilient.errors import ConcurrencyExceeded
from resilient.machines.slots import Slots
from resilient.policies.base import Holder, Role
from resilient.policies.line import Line
from resilient.waiting import Waiter

__all__ = ["Bulkhead"]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bulkhead(Holder):
    """Let at most `limit` calls be in flight at once; refuse the rest with `ConcurrencyExceeded`.

    `max_queue`
        How many calls may wait for a place; 0 by default, since a queue in front of something slow only adds
        its own delay. First come, first served, and nobody overtakes.
    `max_wait`
        The longest a call waits, 1.0 s, and never past its deadline.

    A place is held until the call is over: for a stream, until the stream is. No place is ever lost to a
    waiter that was cancelled or timed out: a place that was just handed to it passes on to the next.

    Thread-safe. Raises `ValueError` for a `limit` below 1, or a negative `max_queue` or `max_wait`.
    """

    limit: int = field(kw_only=False)
    max_queue: int = 0
    max_wait: float = 1.0
    order: Literal["fifo"] = "fifo"
    _machine: Slots[Waiter] = field(init=False, repr=False)
    _line: Line = field(init=False, repr=False)
    role: ClassVar[Role] = Role.ADMISSION

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ValueError(f"limit={self.limit!r}: how many calls may be in flight, at least 1")
        if self.max_queue < 0:
            raise ValueError(f"max_queue={self.max_queue!r}: how many calls may wait, at least 0")
        if not (math.isfinite(self.max_wait) and self.max_wait >= 0):
            raise ValueError(f"max_wait={self.max_wait!r}: a finite number of seconds, at least 0")
        if self.order != "fifo":
            raise ValueError(f"order={self.order!r}: 'fifo' is the only order")
        slots: Slots[Waiter] = Slots(limit=self.limit, max_queue=self.max_queue)
        line = Line(slots, max_wait=self.max_wait, give_back=lambda: self._settle(None), rejection=self._rejection)
        object.__setattr__(self, "_machine", slots)
        object.__setattr__(self, "_line", line)

    @property
    def in_flight(self) -> int:
        """How many calls hold a place now."""
        return self._machine.held

    @property
    def queued(self) -> int:
        """How many calls wait for a place now."""
        return len(self._machine.waiters)

    def link(self, nxt: Next[Any], below: Sequence[Policy]) -> Next[Any]:
        """Hold a place around `nxt`."""
        del below
        settle, waiters = self._settle, self._machine.waiters
        queue, hand_over = self._line.wait, self._line.hand_over
        take, give = self._machine.free.pop, self._machine.free.append  # single steps: see Slots

        async def layer(call: Call) -> Any:
            if waiters:  # nobody overtakes them, even when a place is just becoming free
                await queue(call)
            else:
                try:
                    take()
                except IndexError:
                    await queue(call)
            try:
                result = await nxt(call)
            except BaseException:
                settle(None)
                raise
            if call.ends is not None:
                call.ends.append(settle)
                return result
            give(None)
            if waiters:
                hand_over()
            return result

        return layer

    async def hold(self, call: Call) -> End:
        """Take a place, now or from the queue."""
        if self._machine.waiters or not self._machine.take():
            await self._line.wait(call)
        return self._settle

    def _settle(self, _error: BaseException | None) -> None:
        self._machine.give()
        if self._machine.waiters:
            self._line.hand_over()

    def _rejection(self, call: Call, why: str) -> ConcurrencyExceeded:
        return ConcurrencyExceeded(f"{call.name}: {self.limit} calls are in flight and {why}", policy=self)
