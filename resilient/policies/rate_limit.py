"""Bound how many calls are made in a time."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, final

from resilient.call import Call, End, Next, Policy
from resilient.errors import RateLimited
from resilient.machines.gcra import Gcra
from resilient.machines.keyed import Keyed
from resilient.policies.base import Holder, Role, refuse
from resilient.turn import Turn
from resilient.waiting import pause

if TYPE_CHECKING:
    from limits import RateLimitItem

__all__ = ["RateLimit"]

_MAX_KEYS = 10_000
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_RATE = 'one limit in the notation of `limits`, such as "100/second" or "10 per 5 minutes", or an item of that package'
_NOTATION = re.compile(r"\s*(\d+)\s*(?:/|per)\s*(\d*)\s*(second|minute|hour|day)s?\s*", re.IGNORECASE)


def _parse(rate: str | RateLimitItem) -> tuple[int, float]:
    """The amount and the period in seconds."""
    amount = period = 0
    if not isinstance(rate, str):
        if not hasattr(rate, "get_expiry"):
            raise TypeError(f"rate={rate!r}: {_RATE}")
        amount, period = rate.amount, rate.get_expiry()
    elif (match := _NOTATION.fullmatch(rate)) is not None:
        amount, period = int(match[1]), int(match[2] or 1) * _SECONDS[match[3].lower()]
    else:
        # Months, years and whatever else the notation of `limits` grows to: its own parser is asked last, because it
        # takes several milliseconds to import.
        from limits import parse_many

        with suppress(ValueError):
            items = parse_many(rate)
            if len(items) == 1:
                amount, period = items[0].amount, items[0].get_expiry()
    if not (amount >= 1 and period > 0):
        raise ValueError(f"rate={rate!r}: {_RATE}")
    return amount, float(period)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RateLimit(Holder):
    """Let through at most `rate`, evenly spread; refuse the rest with `RateLimited`.

    `rate`
        `"100/second"`, `"10 per 5 minutes"`, or an item of the package `limits`.
    `burst`
        How many calls may come at once after a silence. The default, a tenth of the amount and at least 1,
        keeps the most that is admitted in any span of W seconds at `burst + rate * W`: 1.1 times the limit. A
        window with fixed edges admits twice the limit around an edge.
    `max_wait`
        Seconds that a call may wait for its turn instead of being refused; 0.0 by default. First come, first
        served. A call that would have to wait past its deadline is refused at once.
    `key`
        Separate limits for each value of `key(call)`, at most 10,000 of them: beyond that, the one unused for
        longest is forgotten, and with it what that key has used up.

    The algorithm is GCRA: exact, one number a key, no window edges. `RateLimited.retry_after` is the exact wait.
    Thread-safe. Raises `ValueError` for a rate that cannot be read (or is several), a `burst` below 1 or a negative
    `max_wait`.
    """

    rate: str | RateLimitItem = field(kw_only=False)
    burst: int | None = None
    max_wait: float = 0.0
    key: Callable[[Call], Hashable] | None = None
    _machine: Gcra = field(init=False, repr=False)
    _keyed: Keyed[Gcra] = field(init=False, repr=False)
    _turn: Turn = field(init=False, repr=False, default_factory=Turn)
    role: ClassVar[Role] = Role.ADMISSION

    def __post_init__(self) -> None:
        amount, period = _parse(self.rate)
        burst = max(1, amount // 10) if self.burst is None else self.burst
        if burst < 1:
            raise ValueError(f"burst={self.burst!r}: how many calls may come at once, at least 1")
        if not (math.isfinite(self.max_wait) and self.max_wait >= 0):
            raise ValueError(f"max_wait={self.max_wait!r}: a finite number of seconds, at least 0")
        object.__setattr__(self, "burst", burst)

        def make() -> Gcra:
            return Gcra(amount=amount, period=period, burst=burst)

        object.__setattr__(self, "_machine", make())
        object.__setattr__(self, "_keyed", Keyed(make, _MAX_KEYS))

    def link(self, nxt: Next[Any], below: Sequence[Policy]) -> Next[Any]:
        """Admit a call, or let it wait or refuse it, before `nxt`."""
        if self.key is not None:
            return Holder.link(self, nxt, below)
        take, give = self._turn.take, self._turn.give
        machine, interval, wait_turn = self._machine, self._machine.interval, self._wait_turn

        def single(call: Call) -> Awaitable[Any]:
            now = call.runtime.now()
            take()
            if machine.tat <= now:
                machine.tat = now + interval  # what `admit` does where nobody came lately, in this frame
                give(None)
                return nxt(call)
            try:
                early = machine.admit(now)
            finally:
                give(None)
            return late(call, early) if early else nxt(call)

        async def late(call: Call, early: float) -> Any:
            await wait_turn(call, machine, early)
            return await nxt(call)

        return single

    async def hold(self, call: Call) -> End:
        """Take a place for the call now, or after its turn came."""
        key = None if self.key is None else self.key(call)  # somebody else's code: not in our turn
        with self._turn:
            machine = self._machine if self.key is None else self._keyed[key]
            early = machine.admit(call.runtime.now())
        if early:
            await self._wait_turn(call, machine, early)
        return _nothing_to_settle

    async def _wait_turn(self, call: Call, machine: Gcra, early: float) -> None:
        now = call.runtime.now()
        # A caller that waits could be told a longer time than `early`: others may stand in line since.
        longest = self.max_wait if call.deadline is None else min(self.max_wait, call.deadline - now)
        with self._turn:
            turn = machine.reserve(now, longest) if longest > 0 else None
        if turn is None:
            message = f"{call.name}: the rate limit {self.rate} has no room for {early:.3g} s"
            raise refuse(call, RateLimited(message, policy=self, retry_after=early))
        early, token = turn
        try:
            await pause(call, early)
        except BaseException:
            with self._turn:
                machine.give_back(token)
            raise


def _nothing_to_settle(_error: BaseException | None) -> None:
    """A place in time is used up when it is taken."""
