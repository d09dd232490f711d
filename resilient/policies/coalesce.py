"""One call for all who ask the same at the same time."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, final

from resilient.backends.background import start
from resilient.call import Call, Next, Policy
from resilient.deadline import no_time_left
from resilient.errors import DeadlineExceeded
from resilient.events import StaleServed, send_event
from resilient.machines.freshness import Freshness, Kept
from resilient.policies.base import OwnPolicy, Role
from resilient.verdict import Outcome, Verdict
from resilient.waiting import Waiter, waiter_for

__all__ = ["Coalesce"]

_JOINS = 3
"""Flights that a call joins before it goes by itself: each of them was given up, which is no accident any more."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Coalesce(OwnPolicy):
    """Let calls that ask the same at the same time share one flight, and what comes of it.

    When a cached value expires, everybody asks for it at once, and what was one call a minute is a thousand in a
    second. Here the first one takes off, and whoever has the same key until it lands gets the same result, or the same
    error.

    `key`
        What is asked for: calls with equal `key(call)`, and of the same operation, are the same. None: this one flies
        alone. Only you know what the answer depends on: the arguments, and perhaps the user.
    `ttl`
        Seconds for which a good result answers later calls, too; 0.0: none is kept.
    `stale_while_revalidate`
        Seconds after that in which the old result is the answer while a new one is fetched in the background; a plain
        function, which has none, fetches it.
    `stale_if_error`
        Seconds after `ttl` in which the old result is the answer where there would be none (RFC 5861).
    `max_entries`
        How many results are kept (1,000); beyond that, the one unused for longest is forgotten.

    A flight belongs to all who wait for it. It goes on when the one who began it is cancelled or out of time, until the
    last one has left; then it is cancelled. So its deadline is the latest of theirs. Everybody waits to their own
    deadline. A plain function has no task to fly in: there the first caller makes the call in its own thread, and
    should it be interrupted or out of time, one of the others begins anew.

    All get the very same object: do not change it. A stream can be read once, and is never shared. Thread-safe, across
    event loops. Put it outside of everything that costs something: retries, limits, the balancer.

    Raises `ValueError` for negative or infinite seconds, or `max_entries` below 1.
    """

    key: Callable[[Call], Hashable | None] = field(kw_only=False)
    ttl: float = 0.0
    stale_while_revalidate: float = 0.0
    stale_if_error: float = 0.0
    max_entries: int = 1000
    _kept: Freshness = field(init=False, repr=False)
    _flights: dict[Hashable, _Flight] = field(init=False, repr=False)
    _lock: threading.Lock = field(init=False, repr=False, default_factory=threading.Lock)
    role: ClassVar[Role] = Role.ADMISSION
    moves_tasks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, seconds in (
            ("ttl", self.ttl),
            ("stale_while_revalidate", self.stale_while_revalidate),
            ("stale_if_error", self.stale_if_error),
        ):
            if not (math.isfinite(seconds) and seconds >= 0):
                raise ValueError(f"{name}={seconds!r}: a finite number of seconds, at least 0")
        if self.max_entries < 1:
            raise ValueError(f"max_entries={self.max_entries!r}: results that are kept, at least 1")
        kept = Freshness(
            ttl=self.ttl,
            while_revalidating=self.stale_while_revalidate,
            if_error=self.stale_if_error,
            most=self.max_entries,
        )
        object.__setattr__(self, "_kept", kept)
        object.__setattr__(self, "_flights", {})

    def link(self, nxt: Next[Any], below: Sequence[Policy]) -> Next[Any]:
        """Share flights of `nxt`."""
        del below

        async def layer(call: Call) -> Any:
            key = None if call.ends is not None else self.key(call)
            if key is None:
                return await nxt(call)
            key = (call.name, key)
            with self._lock:
                kept = self._kept.find(key, call.runtime.now())
            if kept is not None and kept.fresh:
                return kept.value
            if kept is not None and kept.meanwhile and not call.blocking:
                self._revalidate(key, call, nxt)
                return _stale(call, kept, "revalidating")
            landing = await self._fly(key, call, nxt)
            if kept is not None and kept.fallback and not landing.outcome.verdict.good:
                return _stale(call, kept, "error")
            return landing.surface()

        return layer

    async def _fly(self, key: Hashable, call: Call, nxt: Next[Any]) -> _Landing:
        """What comes of the flight that is on its way, or of a new one."""
        for _ in range(_JOINS):
            if call.deadline is not None and call.deadline <= call.runtime.now():
                raise no_time_left(call)
            waiter = waiter_for(call)
            with self._lock:
                flight = self._flights.get(key)
                first = flight is None
                if flight is None:
                    flight = self._flights[key] = _Flight(self, key)
                flight.waiting.add(waiter)
            if first and call.blocking:
                return await flight.go_here(call, nxt)
            if first:
                own = call.evolve()
                own.deadline = None  # those who wait have theirs
                flight.begin(own, nxt)
            await self._await(flight, waiter, call)
            if flight.landing is not None:
                return flight.landing
        return await _judged(call, nxt)

    async def _await(self, flight: _Flight, waiter: Waiter, call: Call) -> None:
        remaining = call.remaining
        try:
            landed = await waiter.wait(math.inf if remaining is None else max(remaining, 0.0))
        except BaseException:
            self._leave(flight, waiter)
            raise
        if not landed and flight.landing is None:
            self._leave(flight, waiter)
            raise DeadlineExceeded(f"{call.name}: no answer within the deadline (of a flight that is shared)")

    def _leave(self, flight: _Flight, waiter: Waiter) -> None:
        """Wait no longer; the last one to leave ends the flight."""
        with self._lock:
            flight.waiting.discard(waiter)
            nobody = not flight.waiting
            if nobody and self._flights.get(flight.key) is flight:
                del self._flights[flight.key]
        if nobody and flight.cancel is not None:
            flight.cancel()

    def _revalidate(self, key: Hashable, call: Call, nxt: Next[Any]) -> None:
        """Fetch a new result in the background, unless somebody does; for as long as the old one may be used."""
        with self._lock:
            if key in self._flights:
                return
            flight = self._flights[key] = _Flight(self, key)
        own = call.evolve()
        own.deadline = call.runtime.now() + self.stale_while_revalidate
        flight.begin(own, nxt)

    def land(self, flight: _Flight, landing: _Landing | None, now: float) -> None:
        """Tell all who wait; None: it was given up, and says nothing."""
        flight.landing = landing
        with self._lock:
            if self._flights.get(flight.key) is flight:
                del self._flights[flight.key]
            if landing is not None and landing.outcome.verdict is Verdict.OK:
                self._kept.keep(flight.key, landing.outcome.result, now)
            waiting, flight.waiting = flight.waiting, set()
        for waiter in waiting:
            waiter.wake()


@final
class _Flight:
    """A call that is on its way, and who waits for it."""

    __slots__ = ("_policy", "cancel", "key", "landing", "waiting")

    def __init__(self, policy: Coalesce, key: Hashable) -> None:
        self._policy = policy
        self.key = key
        self.waiting: set[Waiter] = set()
        self.cancel: Callable[[], object] | None = None
        """None: it flies in the thread of the one who began it."""
        self.landing: _Landing | None = None

    def begin(self, call: Call, nxt: Next[Any]) -> None:
        """Make the call in a task of its own."""
        self.cancel = start(lambda: self._go(call, nxt))

    async def _go(self, call: Call, nxt: Next[Any]) -> None:
        landing = None
        try:
            landing = await _judged(call, nxt)
        finally:
            self._policy.land(self, landing, call.runtime.now())

    async def go_here(self, call: Call, nxt: Next[Any]) -> _Landing:
        """Make the call in this thread."""
        landing = None
        try:
            landing = await _judged(call, nxt)
            return landing
        finally:
            # Whoever has more time than this caller had begins anew.
            late = landing is not None and isinstance(landing.outcome.error, DeadlineExceeded)
            self._policy.land(self, None if late and call.deadline is not None else landing, call.runtime.now())


class _Landing(NamedTuple):
    """What came of a flight."""

    outcome: Outcome
    traceback: TracebackType | None

    def surface(self) -> Any:
        """Return the result, or raise the error."""
        error = self.outcome.error
        if error is None:
            return self.outcome.result
        # All who wait raise it, and each would add its own frames to what the others see.
        raise error.with_traceback(self.traceback)


async def _judged(call: Call, nxt: Next[Any]) -> _Landing:
    """Make the call, and judge what comes of it."""
    try:
        try:
            result = await nxt(call)
        except Exception as error:  # noqa: BLE001 - it surfaces in all who wait
            return _Landing(call.classify.judge_error(error), error.__traceback__)
        return _Landing(call.classify.judge_result(result), None)
    except Exception as broken:  # noqa: BLE001 - the classifier's own: in a task of its own it would end a run of trio
        return _Landing(Outcome(None, broken, Verdict.LOCAL), broken.__traceback__)


def _stale(call: Call, kept: Kept, reason: str) -> Any:
    emit = call.runtime.emit
    if emit is not None:
        send_event(emit, StaleServed(at=call.runtime.now(), name=call.name, age=kept.age, reason=reason))
    return kept.value
