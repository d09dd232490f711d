"""Turns by weights that the instances' own reports give."""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Sequence
from itertools import count
from typing import TypeVar, final

from resilient.machines.drawing import Chance
from resilient.machines.load import Load
from resilient.machines.picking import Candidate, Change, Why

__all__ = ["WeightedRoundRobinPicking"]

C = TypeVar("C", bound=Candidate)


@final
class _Reported:
    """What is known of one instance."""

    __slots__ = ("at", "deadline", "factor", "since", "weight")

    def __init__(self) -> None:
        self.weight = 0.0
        self.at = -math.inf
        """Of the last report."""
        self.since = math.inf
        """Of the first one of an unbroken series."""
        self.factor = 1.0
        """What its weight is multiplied by now."""
        self.deadline = math.nan
        """When its next turn is."""


@final
class WeightedRoundRobinPicking:
    """In turn, each as often as it can take: by requests a second for each unit of utilisation (gRPC's A58).

    A report gives the weight `rps / (utilisation + eps / rps * penalty)`; without requests or utilisation it says
    nothing. It counts once reports have come for `blackout` seconds, and until none has come for `expiry`; before and
    after, the average of the others does. With fewer than two that count it is plain round robin, which the reason
    `fallback` tells. Weights are taken over every `period`. What discovery says of weights multiplies them.

    Turns are given out by earliest deadline: whoever had one gets the next after `1 / weight`. The first ones are
    scattered over that time, so that clients do not fall into step.
    """

    __slots__ = (
        "_blackout",
        "_expiry",
        "_heap",
        "_metrics",
        "_number",
        "_of",
        "_penalty",
        "_period",
        "_recompute_at",
        "_reporting",
        "_virtual",
        "why",
    )

    def __init__(
        self, *, penalty: float, blackout: float, expiry: float, period: float, metrics: Sequence[str] = ()
    ) -> None:
        self._penalty = penalty
        self._blackout = blackout
        self._expiry = expiry
        self._period = period
        self._metrics = metrics
        self._reporting: dict[str, _Reported] = {}
        """Those who have ever said something: all others have the factor 1."""
        self._heap: list[tuple[float, int, int]] = []
        self._number = count()
        self._virtual = 0.0
        self._recompute_at = -math.inf
        self._of: Sequence[Candidate] = ()
        self.why: Why | None = "fallback"

    def update(self, change: Change, now: float, random: Chance) -> None:
        """Learn who there is; those that stay keep their weight and their turn."""
        for member in change.removed:
            self._reporting.pop(member.id, None)
        self._recompute(now)
        for member in change.added:
            member.memory = _Reported()
            if member.weight > 0:
                self._first_turn(member, random)

    def _first_turn(self, member: Candidate, random: Chance) -> None:
        member.memory.deadline = self._virtual + random() / (member.memory.factor * member.weight)

    def pick(self, candidates: Sequence[C], now: float, random: Chance, key: Hashable) -> C:
        """Choose the one whose turn it is."""
        if now >= self._recompute_at:
            self._recompute(now)
        if candidates is not self._of:
            self._line_up(candidates, random)
        deadline, _, position = self._heap[0]
        chosen = candidates[position]
        one: _Reported = chosen.memory
        self._virtual = deadline
        one.deadline = deadline + 1 / (one.factor * chosen.weight)
        heapq.heapreplace(self._heap, (one.deadline, next(self._number), position))
        return chosen

    def _line_up(self, candidates: Sequence[Candidate], random: Chance) -> None:
        """Put them in the order of their turns. Who was out of use has missed its own, but for one."""
        self._of = candidates
        self._heap = []
        for position, candidate in enumerate(candidates):
            one: _Reported = candidate.memory
            if math.isnan(one.deadline):  # it came without a weight
                self._first_turn(candidate, random)
            one.deadline = max(one.deadline, self._virtual - 1 / (one.factor * candidate.weight))
            self._heap.append((one.deadline, next(self._number), position))
        heapq.heapify(self._heap)

    def score(self, candidate: Candidate, now: float) -> float:
        """The time between two turns of it, relative to that of others."""
        weight: float = candidate.memory.factor * candidate.weight
        return 1 / weight if weight else math.inf

    def report(self, candidate: Candidate, load: Load, now: float) -> None:
        """Learn from a report."""
        utilization, rps = self._utilization(load), load.rps or 0.0
        if utilization <= 0 or rps <= 0:
            return
        one: _Reported = candidate.memory
        self._reporting[candidate.id] = one
        if now - one.at >= self._expiry:
            one.since = now
        one.at = now
        one.weight = rps / (utilization + (load.eps or 0.0) / rps * self._penalty)

    def _utilization(self, load: Load) -> float:
        if load.application_utilization is not None and load.application_utilization > 0:
            return load.application_utilization
        named = max((load.named.get(name, 0.0) for name in self._metrics), default=0.0)
        return named if named > 0 else load.cpu_utilization or 0.0

    def _recompute(self, now: float) -> None:
        """Take over the weights."""
        self._recompute_at = now + self._period
        counting = [
            one for one in self._reporting.values() if now - one.at < self._expiry and now - one.since >= self._blackout
        ]
        average = 0.0
        if len(counting) > 1:  # or there is nothing to compare
            # As multiples of the average, so that who has no weight has 1.0.
            average = math.fsum(one.weight for one in counting) / len(counting)
        self.why = None if average else "fallback"
        factors = {id(one): one.weight / average for one in counting} if average else {}
        for one in self._reporting.values():
            factor = factors.get(id(one), 1.0)
            if factor != one.factor:
                # What is left of the time until its turn shrinks or grows with the time between turns.
                one.deadline = self._virtual + (one.deadline - self._virtual) * one.factor / factor
                one.factor = factor
                self._of = ()
