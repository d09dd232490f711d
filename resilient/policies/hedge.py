"""Ask a second instance when the first one is slow."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

from resilient.call import Call, Next, Policy
from resilient.errors import DeadlineExceeded
from resilient.machines.keyed import Keyed
from resilient.machines.sketch import RecentQuantile
from resilient.policies.base import OwnPolicy, Role
from resilient.policies.racing import Terms, race
from resilient.turn import Turn

__all__ = ["Hedge"]

_MAX_KEYS = 1000
_LEAST = 100
"""Calls below which a quantile near the end says nothing."""
_MOST = 2000
_WINDOW = 300.0
_SHORTEST = 0.001
"""Seconds: who answers in less is no network away."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hedge(OwnPolicy):
    """Send another attempt when no answer came within `delay` seconds, and take the first success.

    It trades a little load for a much shorter tail: with `delay` at the 95th percentile of latency, one call in
    twenty is sent twice (Dean and Barroso, "The Tail at Scale", 2013). At most `max_hedges` (1) extra attempts
    a call; each is paid from the call's retry budget, and an empty budget means no hedge. Attempts of one call
    go to different instances.

    `delay`
        Seconds, or None, the default: the `quantile` (0.95) of recent latencies, of which it then sends about one call
        in twenty twice, however fast the far side is. Recent are the last 2,000 to 4,000 calls, none older than ten
        minutes; before there are 100 nothing is hedged, and never within a millisecond.
    `key`
        Latencies are counted separately for each value of `key(call)`, at most 1,000 of them; by the name of the
        operation by default, since a quick one says nothing about a slow one.

    Only repeatable calls are hedged, and none that is out of time. None is while a circuit breaker below is not closed,
    or an adaptive throttle below rejects: a far side in trouble needs fewer calls, not more. The first *success* wins,
    not the first end: a fast failure does not beat a slow success. An attempt that fails before `delay` is left to
    `Retry`. The losers are cancelled and awaited before the call returns; when all fail, the attempt that may have had
    an effect is what surfaces.

    The first attempt runs in its caller's task, each other one in a task of its own. On asyncio a loser is cancelled
    as `asyncio.timeout` would do it: once, and through the shields of anyio. What must not be torn belongs in a task
    that outlives it.

    Needs an event loop, so a plain function cannot be hedged, and neither can an async generator, which may not move
    between tasks. Raises `ValueError` unless `delay` is finite and positive, `quantile` between 0 and 1, and
    `max_hedges` at least 1.
    """

    delay: float | None = field(kw_only=False, default=None)
    quantile: float = 0.95
    max_hedges: int = 1
    key: Callable[[Call], Hashable] | None = None
    _latencies: Keyed[RecentQuantile] = field(init=False, repr=False)
    _turn: Turn = field(init=False, repr=False, default_factory=Turn)
    role: ClassVar[Role] = Role.HEDGE
    needs_loop: ClassVar[str | None] = "it runs attempts at the same time"
    moves_tasks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.delay is not None and not (math.isfinite(self.delay) and self.delay > 0):
            raise ValueError(f"delay={self.delay!r}: a finite number of seconds, more than 0")
        if not 0 < self.quantile < 1:
            raise ValueError(f"quantile={self.quantile!r}: a share of the calls, more than 0 and less than 1")
        if self.max_hedges < 1:
            raise ValueError(f"max_hedges={self.max_hedges!r}: extra attempts a call, at least 1")

        def make() -> RecentQuantile:
            return RecentQuantile(self.quantile, window=_WINDOW, least=_LEAST, most=_MOST, now=-math.inf)

        object.__setattr__(self, "_latencies", Keyed(make, _MAX_KEYS))

    def current_delay(self, key: Hashable) -> float | None:
        """Seconds after which a call of `key` (an operation's name, by default) is sent again; None: it is not."""
        if self.delay is not None:
            return self.delay
        with self._turn:
            value = self._latencies[key].value
        return None if value is None else max(value, _SHORTEST)

    def link(self, nxt: Next[Any], below: Sequence[Policy]) -> Next[Any]:
        """Race attempts of `nxt`."""
        refusing = tuple(policy.refusing for policy in below if isinstance(policy, OwnPolicy))
        if self.delay is None:
            return self._link_by_quantile(nxt, refusing)
        terms = Terms(self.delay, self.max_hedges, refusing)

        def layer(call: Call) -> Awaitable[Any]:
            return race(terms, call, nxt) if call.repeatable else nxt(call)

        return layer

    def _link_by_quantile(self, nxt: Next[Any], refusing: tuple[Callable[[Call], bool], ...]) -> Next[Any]:
        key = self.key or _name
        max_hedges = self.max_hedges

        async def layer(call: Call) -> Any:
            if not call.repeatable:
                return await nxt(call)
            now = call.runtime.now
            began = now()
            operation = key(call)
            delay = self.current_delay(operation)
            try:
                if delay is None:
                    result = await nxt(call)
                else:
                    result = await race(Terms(delay, max_hedges, refusing), call, nxt)
            except DeadlineExceeded as error:
                if error.sent:
                    self._observe(operation, now() - began, now())
                raise
            self._observe(operation, now() - began, now())
            return result

        return layer

    def _observe(self, key: Hashable, latency: float, now: float) -> None:
        # The time of a hedged call is less than what its first attempt would have taken, but at least `delay`: above
        # the quantile, which is all that matters to it. Without those calls it would fall, and hedge ever more.
        with self._turn:
            self._latencies[key].add(latency, now)


def _name(call: Call) -> Hashable:
    return call.name
