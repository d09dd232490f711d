"""Ask a second instance when the first one is slow."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

from resilient.call import Call, Next, Policy
from resilient.policies.base import OwnPolicy, Role
from resilient.policies.racing import race

__all__ = ["Hedge"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Hedge(OwnPolicy):
    """Send another attempt when no answer came within `delay` seconds, and take the first success.

    It trades a little load for a much shorter tail: with `delay` at the 95th percentile of latency, one call in
    twenty is sent twice (Dean and Barroso, "The Tail at Scale", 2013). At most `max_hedges` (1) extra attempts
    a call; each is paid from the call's retry budget, and an empty budget means no hedge. Attempts of one call
    go to different instances.

    Only repeatable calls are hedged, and none that is out of time. The first *success* wins, not the first end: a
    fast failure does not beat a slow success. An attempt that fails before `delay` is left to `Retry`. The losers are
    cancelled and awaited before the call returns; when all fail, the attempt that may have had an effect is what
    surfaces.

    The first attempt runs in its caller's task, each other one in a task of its own. On asyncio a loser is cancelled
    as `asyncio.timeout` would do it: once, and through the shields of anyio. What must not be torn belongs in a task
    that outlives it.

    Needs an event loop, so a plain function cannot be hedged, and neither can an async generator, which may not move
    between tasks. Raises `ValueError` unless `delay` is finite and positive and `max_hedges` at least 1.
    """

    delay: float = field(kw_only=False)
    max_hedges: int = 1
    role: ClassVar[Role] = Role.HEDGE
    stateful: ClassVar[bool] = False
    needs_loop: ClassVar[str | None] = "it runs attempts at the same time"
    moves_tasks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.delay) and self.delay > 0):
            raise ValueError(f"delay={self.delay!r}: a finite number of seconds, more than 0")
        if self.max_hedges < 1:
            raise ValueError(f"max_hedges={self.max_hedges!r}: extra attempts a call, at least 1")

    def link(self, nxt: Next[Any], below: Sequence[Policy]) -> Next[Any]:
        """Race attempts of `nxt`."""
        del below

        def layer(call: Call) -> Awaitable[Any]:
            return race(self, call, nxt) if call.repeatable else nxt(call)

        return layer
