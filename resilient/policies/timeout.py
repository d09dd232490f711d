"""Bound how long a call may take."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

from resilient.call import Call, Next, Policy
from resilient.deadline import no_time_left, send
from resilient.policies.base import OwnPolicy, Role, has_foreign

__all__ = ["Timeout"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Timeout(OwnPolicy):
    """End what is below after `seconds`, with `DeadlineExceeded`.

    Outside a `Retry` it bounds the whole call, inside it bounds each attempt. It only ever lowers the deadline that
    the call has already, so nested ones need no arithmetic; what repeats the call outside finds its own one again, so
    that no attempt inherits a spent one. A call that has no time left is refused at once, with `sent` False.

    Only a limit of its own becomes a `DeadlineExceeded`: the caller's cancellation and the timeouts of other
    scopes pass unchanged. What the limit interrupts is the innermost step and the waits of our own policies;
    where a foreign policy stands below, everything from here down.

    A limit that speaks more than a quarter of its length too late was slept through: this process stood still, the
    answer may have come meanwhile. Its `DeadlineExceeded` is `overslept`, and no instance or breaker is blamed for it.

    A plain function cannot be interrupted: there, retries, queues, the HTTP client and the calls made inside honour
    the deadline, and a call that comes too late is not made, but a function that hangs keeps its thread.

    Raises `ValueError` unless `seconds` is finite and positive.
    """

    seconds: float = field(kw_only=False)
    role: ClassVar[Role] = Role.TIMEOUT
    stateful: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ValueError(f"seconds={self.seconds!r}: a finite number of seconds, more than 0")

    def link(self, nxt: Next[Any], below: Sequence[Policy]) -> Next[Any]:
        """Lower the deadline around `nxt`."""
        seconds = self.seconds

        def lower(call: Call) -> Awaitable[Any]:
            now = call.runtime.now()
            mine, theirs = now + seconds, call.deadline
            if theirs is not None:
                if theirs <= now:
                    raise no_time_left(call)
                if theirs <= mine:
                    return nxt(call)
            if call.ends is not None:
                # A stream outlives this call of `nxt`: its reads need a deadline of their own, which nobody restores.
                return nxt(call.evolve(deadline=mine))
            call.deadline = mine  # restored by what calls `nxt` again; here, that would take another coroutine
            return nxt(call)

        async def scope(call: Call) -> Any:
            mine = call.runtime.now() + seconds
            if call.deadline is None or mine < call.deadline:
                call = call.evolve(deadline=mine)
            return await send(call, nxt)

        return scope if has_foreign(below) else lower
