"""Who may be called, from one moment on."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import final

from resilient.balancing.member import Member
from resilient.balancing.narrowing import Fork, Narrowing
from resilient.balancing.pick import Reason
from resilient.balancing.roster import Roster
from resilient.instance import Instance
from resilient.machines.circuit import Permit
from resilient.machines.outlier import Ejection
from resilient.machines.picking import Chance

__all__ = ["Arrangement"]


@final
class Arrangement:
    """What filters, ejection and health checks leave of the members, until something changes."""

    __slots__ = ("again", "candidates", "division", "first", "reason", "straight", "trial", "until")

    def __init__(self, roster: Roster, narrowing: Narrowing, rules: Ejection, now: float, random: Chance) -> None:
        serving, until = narrowing.weigh(roster.serving(), now, random)
        self.division = division = rules.divide(serving, roster.unfit, now)
        self.until = min(until, division.until)
        self.candidates, self.trial = narrowing.left(division.usable), narrowing.left(division.trial)
        self.first, self.again = narrowing.first(self.candidates), narrowing.again(self.candidates)
        self.straight = None if self.trial or isinstance(self.first, Fork) else self.first
        """Where first attempts go without further ado; None: somebody is on trial, or a lot has to be drawn."""
        self.reason: Reason = "only" if len(self.candidates) == 1 else "balanced"
        if self.division.panic:
            self.reason = "panic"

    def narrow(
        self, now: float, random: Chance, tried: Sequence[Instance] | None, key: Hashable
    ) -> tuple[tuple[Member, ...], Reason, Permit | None]:
        """Choose where some were tried before, somebody is on trial, or calls are divided.

        A permit says that it is the only candidate.
        """
        before = {instance.id for instance in tried} if tried else set[str]()
        fresh = tuple(member for member in self.candidates if member.id not in before) if before else ()
        # A call that failed once already is no probe, unless it has nowhere else to go.
        if not fresh:
            for member in self.trial:
                permit = None if member.id in before else member.circuit.admit(now)
                if permit is not None:
                    return (member,), "trial", permit
        tree = self.again if before else self.first
        group = tree.choose(key, random) if isinstance(tree, Fork) else tree
        if not before:
            return group, self.reason if group is tree or self.division.panic else "split", None
        if fresh:
            return tuple(member for member in group if member.id not in before) or fresh, "elsewhere", None
        return group, "again", None

    def retry_after(self, now: float) -> float | None:
        """Seconds until somebody who is ejected may be tried; None if nobody is."""
        waits = [member.circuit.retry_after(now) for member in self.division.trial]
        waits.append(self.division.until - now)
        soonest = min(wait for wait in waits if wait is not None)
        return soonest if math.isfinite(soonest) else None
