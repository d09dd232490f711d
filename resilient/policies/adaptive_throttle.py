"""Stop sending what the far side refuses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

from resilient.call import Call, Next, Policy, Priority
from resilient.errors import Overloaded
from resilient.machines.throttle import Throttle
from resilient.policies.base import OwnPolicy, Role, refuse
from resilient.turn import Turn
from resilient.verdict import Verdict

__all__ = ["AdaptiveThrottle"]

# By themselves: on 3.11 to look up a member of an enumeration takes as long as a layer.
_OK, _LOCAL, _CANCELLED = Verdict.OK, Verdict.LOCAL, Verdict.CANCELLED


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AdaptiveThrottle(OwnPolicy):
    """Reject calls here, with `Overloaded`, in proportion to what the far side refuses.

    An overloaded service spends its last strength on refusing. Over the last `window` seconds (10.0) each
    attempt counts when it ends, and counts as accepted unless the far side turned it away (a 429 or 503, see
    `Verdict`): an error of the application is an accept. Up to `k` (2.0) times what is accepted is sent; a
    lower `k` rejects sooner and finds out later that the service is well again. Without refusals nothing is
    ever rejected. Unlike a circuit breaker it has no open state: the share rejected follows the share refused.

    Each priority is counted by itself. A service that sheds the least important first refuses all of those and none of
    the most important; one count for all would reject both here alike, and undo what the service does.

    The window must be longer than refusals take to come, or the throttle notices an outage only when it is over; and as
    long as it is, calls are rejected after the last refusal. Source: Google SRE, "Handling Overload", client-side
    throttling, whose window of two minutes does that for two minutes. Thread-safe.

    Raises `ValueError` for a `k` below 1 or a `window` that is not positive.
    """

    k: float = 2.0
    window: float = 10.0
    _machines: tuple[Throttle, ...] = field(init=False, repr=False)
    """One for each priority."""
    _turn: Turn = field(init=False, repr=False, default_factory=Turn)
    role: ClassVar[Role] = Role.ADMISSION

    def __post_init__(self) -> None:
        if not (math.isfinite(self.k) and self.k >= 1):
            raise ValueError(f"k={self.k!r}: how many calls are sent for each accepted one, at least 1")
        if not (math.isfinite(self.window) and self.window > 0):
            raise ValueError(f"window={self.window!r}: a finite number of seconds, more than 0")
        object.__setattr__(self, "_machines", tuple(Throttle(k=self.k, window=self.window) for _ in Priority))

    def probability(self, now: float, priority: Priority = Priority.CRITICAL) -> float:
        """The share of calls of that priority that is rejected at the runtime's second `now`."""
        with self._turn:
            return self._machines[priority].probability(now)

    def refusing(self, call: Call) -> bool:
        """Whether any call of this priority is rejected."""
        return self.probability(call.runtime.now(), call.priority) > 0

    def link(self, nxt: Next[Any], below: Sequence[Policy]) -> Next[Any]:
        """Count, and perhaps reject, before `nxt`."""
        del below
        machines, settle, take, give = self._machines, self._settle, self._turn.take, self._turn.give

        async def layer(call: Call) -> Any:
            runtime = call.runtime
            now = runtime.now()
            machine = machines[call.priority]
            take()
            try:
                admitted = machine.admit(now, runtime.random)
            finally:
                give(None)
            if not admitted:
                message = f"{call.name}: not sent, the far side refuses most calls"
                raise refuse(call, Overloaded(message, policy=self))
            try:
                result = await nxt(call)
            except BaseException as error:
                settle(call, call.classify.error(error))
                raise
            judge = call.classify.result
            settle(call, _OK if judge is None else judge(result))
            return result

        return layer

    def _settle(self, call: Call, verdict: Verdict) -> None:
        if verdict is _LOCAL or verdict is _CANCELLED:
            return  # they say nothing about the far side
        machine = self._machines[call.priority]
        count = machine.refused if verdict.refusal else machine.accepted
        now = call.runtime.now()
        self._turn.take()
        try:
            count(now)
        finally:
            self._turn.give(None)
