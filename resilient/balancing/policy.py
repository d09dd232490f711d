"""Where in a pipeline the instance is picked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias, final

from resilient.balancing.balancer import Balancer
from resilient.balancing.pick import Pick
from resilient.call import Attribute, Call, End, Next, Policy
from resilient.errors import NoInstance
from resilient.events import Event, InstancePicked, send_event
from resilient.policies.base import OwnPolicy, Role, refuse
from resilient.runtime import Runtime
from resilient.verdict import Outcome, Verdict

__all__ = ["ADMISSION", "Admission", "Balance"]

Admission: TypeAlias = Callable[[Call], Awaitable[End]]
ADMISSION: Attribute[Admission | None] = Attribute("admission", None)
"""How an attempt gets a place at the instance that was picked for it; what that returns gives it back.

Set by the adapter of a protocol that has places, such as connections. It is asked where the instance is picked, outside
of the attempt's timeout: the wait for a place of ours is not the instance's fault.
"""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Balance(OwnPolicy):
    """Pick an instance for each attempt, and learn from how the attempt ends.

    In the `policies` of a `Service`, `Balance()` marks the place; the service brings the balancer. What stands
    inside sees single attempts at one instance, and what stands outside sees all of them. Ejection is fed from
    here: a timeout inside counts against the instance, one outside does not.

    Raises `NoInstance` where there is none to send to.
    """

    balancer: Balancer | None = field(default=None, kw_only=False)
    role: ClassVar[Role] = Role.BALANCE

    def link(self, nxt: Next[Any], below: Sequence[Policy]) -> Next[Any]:
        """Pick, and settle the pick around `nxt`."""
        del below
        balancer = self.balancer
        if balancer is None:
            raise TypeError("Balance(): marks a place in the policies of a Service; elsewhere give it a Balancer")

        key_of, probing = balancer.key, balancer.probing

        async def layer(call: Call) -> Any:
            runtime = call.runtime
            key = None if key_of is None else key_of(call)
            started = runtime.now()
            try:
                pick = balancer.pick(started, runtime.random, call.tried, key)
            except NoInstance as rejection:
                raise refuse(call, rejection) from None
            if probing is not None:
                probing.want(balancer.probes(runtime.random))
            if call.tried is not None:
                call.tried.append(pick.instance)
            if runtime.emit is not None:
                picked = InstancePicked(at=started, name=call.name, instance=pick.instance.id, reason=pick.reason)
                send_event(runtime.emit, picked)
            attempt = _Attempt(balancer, pick, call, started)
            child = call.evolve(instance=pick.instance)
            admit = call.get(ADMISSION)
            leave = None if admit is None else await attempt.admitted(admit, child)
            try:
                result = await nxt(child)
            except BaseException as error:
                if leave is not None:
                    leave(error)
                attempt.settle(call.classify.judge_error(error))
                raise
            judge = call.classify.result
            outcome = _GOOD if judge is None else call.classify.judge_result(result)
            ends = call.ends
            if ends is None:
                attempt.settle(outcome)
                if leave is not None:
                    leave(None)
            else:
                ends.append(attempt.streaming(outcome))
                if leave is not None:
                    ends.append(leave)
            return result

        return layer


_GOOD = Outcome(None, None, Verdict.OK)
_NOT_SENT = Outcome(None, None, Verdict.LOCAL)


@final
class _Attempt:
    """One pick, from its beginning to its end."""

    __slots__ = ("balancer", "call", "pick", "started")

    def __init__(self, balancer: Balancer, pick: Pick, call: Call, started: float) -> None:
        self.balancer = balancer
        self.pick = pick
        self.call = call
        self.started = started

    async def admitted(self, admit: Admission, child: Call) -> End:
        """Get a place; the wait for it is not the instance's latency."""
        try:
            leave = await admit(child)
        except BaseException:
            self.settle(_NOT_SENT)
            raise
        self.started = self.call.runtime.now()
        return leave

    def settle(self, outcome: Outcome, latency: float | None = None) -> None:
        runtime = self.call.runtime
        now = runtime.now()
        if latency is None:
            latency = now - self.started
        verdict, hint = outcome.verdict, outcome.retry_after
        _announce(runtime, self.balancer.settle(self.pick, verdict, latency, now, runtime.random, hint))

    def streaming(self, outcome: Outcome) -> End:
        """Note the latency, which is that of the first byte; the rest is settled when the stream is over."""
        runtime = self.call.runtime
        now = runtime.now()
        latency = now - self.started
        if outcome.verdict.good:
            _announce(runtime, self.balancer.first_byte(self.pick, latency, now, runtime.random))

        def end(error: BaseException | None) -> None:
            if error is None:
                self.settle(outcome, latency)
            else:
                self.settle(self.call.classify.judge_error(error))

        return end


def _announce(runtime: Runtime, events: Iterable[Event]) -> None:
    if runtime.emit is not None:
        for event in events:
            send_event(runtime.emit, event)
