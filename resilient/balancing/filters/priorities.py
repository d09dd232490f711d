"""Levels of instances, of which the next one is there for when the last one is not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from resilient.balancing.member import Member, Split
from resilient.machines.circuit import CircuitState
from resilient.machines.picking import Chance

__all__ = ["Priorities"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Priorities:
    """Use the instances with the lowest priority number; those of the next one as the first ones fail.

    A level takes all calls as long as enough of it is healthy. Below that a part of them spills over to the next level,
    as much as is missing there; if none of it can be reached, everything does. It has its calls back as soon as its
    instances are: each that was ejected is tried with single calls, one instance of the level after the other.

    Where there is a level to go on to, ejecting does no harm, however many it concerns: so the cap of the ejection and
    its panic threshold are for what is in use, without those that are out of use at upper levels. The last level is
    treated as any set of instances. If too few are healthy of all levels together (`panic`), nobody is left out for the
    sake of a level, and the balancer's own panic threshold decides.

    An attempt that follows a failed one goes on at the level of the call, and to another one when all of it was tried.

    `metadata`
        What holds the number (`priority`, where `dns+srv://` discovery puts it). An instance without a number is of
        level 0.
    `overprovision`
        How much more than its share a healthy instance can do (1.4): a level takes everything until less than 1/1.4,
        71 %, of its weight is healthy. `math.inf` keeps everything at a level while a single instance of it is healthy,
        as RFC 2782 has it to the letter.
    `panic`
        The share of the weight of every level below which no level is good enough (0.5).

    A `Service` whose discovery lists backups, as `dns+srv://` does, has it of itself. Raises `ValueError` for an
    argument out of its range. Envoy's priority levels; RFC 2782.
    """

    metadata: str = "priority"
    overprovision: float = 1.4
    panic: float = 0.5
    name: ClassVar[str] = "priority"

    def __post_init__(self) -> None:
        if not self.metadata:
            raise ValueError("metadata='': the name of the metadata that holds the number")
        if not self.overprovision >= 1:
            raise ValueError(f"overprovision={self.overprovision!r}: a factor, at least 1; math.inf: no spill-over")
        if not 0 <= self.panic <= 1:
            raise ValueError(f"panic={self.panic!r}: a share, from 0 (never) to 1")

    def filtering(self) -> _Levels:
        """Return a new machine: it remembers how the levels stand."""
        return _Levels(self)

    def level(self, member: Member) -> int:
        """The number of an instance."""
        try:
            return int(member.instance.metadata.get(self.metadata, "0"))
        except ValueError:
            return 0


@final
class _Levels:
    """Who is out of use at an upper level is removed, until it is to be tried again: one at a time."""

    name: ClassVar[str] = Priorities.name
    removes: ClassVar[bool] = True

    def __init__(self, rule: Priorities) -> None:
        self._rule = rule
        self._shares: dict[int, float] = {}
        """Of the calls, by level, the first one first; empty where there is only one."""

    def weigh(self, members: Sequence[Member], now: float, random: Chance) -> tuple[Sequence[float], float]:
        """Remove who is ejected where there is a level to go on to."""
        weights = [member.weight for member in members]
        levels: dict[int, list[int]] = {}
        for place, member in enumerate(members):
            levels.setdefault(self._rule.level(member), []).append(place)
        self._shares = {}
        if len(levels) < 2:  # noqa: PLR2004 - no level to go on to
            return weights, math.inf
        order = sorted(levels)
        healthy = {number: _healthy([members[place] for place in levels[number]]) for number in order}
        self._shares = _shares(healthy, self._rule.overprovision)
        if max(healthy.values()) < self._rule.panic:
            return weights, math.inf
        last = levels[order[-1]]
        out = [place for place, member in enumerate(members) if not member.healthy]
        upper = [place for place in out if place not in last]
        tried = _next([members[place] for place in upper], now)
        waiting = [place for place in out if place in last and not _over(members[place], now)]
        well, count = len(members) - len(out), len(members) - len(upper) + 1
        while tried is not None and well < self._rule.panic * count:
            # Those in use would be too few for the balancer, though nobody but the one on trial has joined them.
            if waiting:
                weights[waiting.pop()] = 0.0
                count -= 1
            else:  # somebody of the last level is on trial: one after the other
                tried = None
        until = math.inf
        for place in upper:
            member = members[place]
            if member is not tried:
                weights[place] = 0.0
                if tried is None and not _over(member, now) and member.circuit.closed is None:
                    until = min(until, member.circuit.until)
        return weights, until

    def split(self, members: Sequence[Member]) -> Split | None:
        """Give each level its share."""
        if not self._shares:
            return None
        groups: dict[int, list[Member]] = {}
        for member in members:
            groups.setdefault(self._rule.level(member), []).append(member)
        if len(groups) < 2:  # noqa: PLR2004 - nothing to divide
            return None
        total = math.fsum(self._shares.get(number, 0.0) for number in groups)
        order = sorted(groups)
        shares = [self._shares.get(number, 0.0) / total if total else float(number == order[0]) for number in order]
        told = ", ".join(f"{share:.0%} at {number}" for number, share in zip(order, shares, strict=True))
        return Split(
            groups=tuple(tuple(groups[number]) for number in order), shares=tuple(shares), note=f"priority: {told}"
        )


def _healthy(members: Sequence[Member]) -> float:
    """The share of their weight that is healthy."""
    return math.fsum(member.weight for member in members if member.healthy) / math.fsum(
        member.weight for member in members
    )


def _shares(healthy: dict[int, float], overprovision: float) -> dict[int, float]:
    """What each level takes of the calls: as much as it can do, of what those before it left."""
    shares: dict[int, float] = {}
    left = 1.0
    for number, share in healthy.items():
        can = min(1.0, share * overprovision) if share else 0.0
        shares[number] = min(left, can)
        left -= shares[number]
    total = 1.0 - left
    return {number: share / total for number, share in shares.items()} if total > 0 else shares


def _next(members: Sequence[Member], now: float) -> Member | None:
    """Who of those that are out of use is on trial, or is to be next."""
    due = [member for member in members if member.passing and _over(member, now)]
    return min(due, key=lambda one: (one.circuit.state is not CircuitState.HALF_OPEN, one.circuit.until), default=None)


def _over(member: Member, now: float) -> bool:
    circuit = member.circuit
    return circuit.state is CircuitState.HALF_OPEN or (circuit.state is CircuitState.OPEN and now >= circuit.until)
