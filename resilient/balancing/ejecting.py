"""The ejection at work: what the ends of calls say of the instances of one service."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import final

from resilient.balancing.member import Member
from resilient.events import Event, InstanceEjected, InstanceRestored
from resilient.instance import Instance
from resilient.machines.circuit import GOOD, Circuit, CircuitState, Judgement, Permit
from resilient.machines.outlier import Ejection
from resilient.machines.picking import Chance
from resilient.machines.tallies import Share, Tallies

__all__ = ["Ejecting"]

_KINDS = 4


@final
class Ejecting:
    """Keeps the circuits of the members, and tells of what they go through.

    All members share one circuit until a call to them fails: it is closed, and stays so. What succeeds is counted for
    all of them together. So a member that never fails costs next to nothing, and thousands of them fit into a cache.
    """

    __slots__ = ("_compared", "_name", "_spotless", "_tallies", "good", "rules")

    def __init__(self, rules: Ejection, name: str) -> None:
        self.rules = rules
        self._name = name
        self._spotless: Circuit = rules.circuit()
        self._tallies = [Tallies[Member](rules.window) for _ in range(_KINDS)]
        self.good = self._tallies[GOOD]
        """What succeeded, for whoever counts without a call."""
        self._compared = math.inf

    def begin(self, now: float) -> None:
        """Compare the members no sooner than a window from now."""
        self._compared = now

    def member(self, instance: Instance, now: float) -> Member:
        """A new one."""
        return Member(instance, self._spotless, now)

    def forget(self, member: Member) -> None:
        """It left."""
        for tallies in self._tallies:
            tallies.forget(member)

    def busy(self, now: float) -> bool:
        """Whether calls ended within the window."""
        return any(tallies.any(now) for tallies in self._tallies)

    def judge(self, member: Member, permit: Permit, judgement: Judgement, now: float, random: Chance) -> list[Event]:
        """Tell the circuit what a call came to; return the transitions."""
        if member.circuit is self._spotless and judgement is not Judgement.BAD:
            return []
        circuit = self._own(member)
        row = circuit.failures()
        circuit.settle(permit, judgement, 0.0, now, random)
        return self._changes(member, now, lambda: self.rules.why(row + 1)) if circuit.changed else []

    def outliers(self, members: Sequence[Member], now: float) -> list[tuple[Member, str]]:
        """Who is one, and why, unless that was asked a short while ago."""
        comparison = self.rules.comparison
        if comparison is None or now - self._compared < self.rules.window:
            return []
        self._compared = now
        judged = [member for member in members if member.healthy and member.weight > 0]
        found = comparison.outliers([self._tally(member, now) for member in judged])
        return [(judged[place], reason) for place, reason in found]

    def eject(self, member: Member, reason: str, now: float, random: Chance) -> list[Event]:
        """Take a healthy member out of use."""
        self._own(member).trip(now, random)
        return self._changes(member, now, lambda: reason)

    def restore(self, member: Member, now: float) -> list[Event]:
        """End its ejection."""
        member.circuit.reset(now)
        return self._changes(member, now, str)

    def _own(self, member: Member) -> Circuit:
        """The circuit of `member`, and of nobody else."""
        if member.circuit is self._spotless:
            member.circuit = self.rules.circuit(Share(self._tallies, member))
        return member.circuit

    def _tally(self, member: Member, now: float) -> tuple[int, int]:
        return self.good.total(member, now), 0 if member.circuit is self._spotless else member.circuit.tally(now)[1]

    def _changes(self, member: Member, now: float, why: Callable[[], str]) -> list[Event]:
        """What the circuit of `member` went through."""
        events: list[Event] = []
        for change in member.circuit.take_changes():
            if change.new is CircuitState.OPEN:
                reason = "its trial failed" if change.old is CircuitState.HALF_OPEN else why()
                seconds = change.cooldown
                events.append(
                    InstanceEjected(at=now, name=self._name, instance=member.id, seconds=seconds, reason=reason)
                )
            elif change.new is CircuitState.CLOSED:
                member.healthy_since = now
                events.append(InstanceRestored(at=now, name=self._name, instance=member.id))
        return events
