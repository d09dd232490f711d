"""Why calls go where they go."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import final

from resilient.balancing.arrangement import Arrangement
from resilient.balancing.member import State
from resilient.balancing.narrowing import Narrowing
from resilient.balancing.roster import Roster
from resilient.instance import Instance
from resilient.machines.picking import Picking
from resilient.snapshot import Snapshot

__all__ = ["Explanation", "Standing", "describe", "explain"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How one instance stands."""

    instance: Instance
    state: State
    """`healthy`; `unhealthy` by its health checks; `ejected` because it failed; on `trial`, one call at a time;
    `draining` (its weight is 0); `filtered` out."""
    candidate: bool
    """Whether a call may be sent to it now: the healthy ones, in a panic all of them."""
    weight: float
    active: int
    """Calls of ours that are with it now."""
    score: float
    """What the picker compares; lower is better."""
    failures: int
    """In a row."""
    ejected_for: float
    """The seconds until its trial."""
    detail: str = ""
    """What its health checks and the filters say: `503 from /health`, `filtered: zone`, `slow start 35%`."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What a call made now would find; `str()` makes a table of it."""

    reason: str
    version: int | None
    """Of the snapshot in force; None before the first."""
    stale_for: float | None
    """How many seconds ago discovery last confirmed it, if that fails."""
    panic: bool
    standings: tuple[Standing, ...]
    notes: tuple[str, ...] = ()
    """How the filters divide the calls."""

    def __str__(self) -> str:
        rows = [("instance", "address", "state", "weight", "active", "score", "failures", "ejected for", "")]
        rows.extend(
            (
                ("* " if one.candidate else "  ") + one.instance.id,
                one.instance.address,
                one.state,
                f"{one.weight:g}",
                str(one.active),
                f"{one.score:.4g}",
                str(one.failures),
                f"{one.ejected_for:.1f} s" if one.ejected_for else "",
                one.detail,
            )
            for one in self.standings
        )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join([self.reason, *self.notes, *lines])


def describe(snapshot: Snapshot | None, roster: Roster, found: Arrangement) -> str:
    """Say in a line how those stand of whom discovery knows."""
    if snapshot is None:
        return "discovery has not answered yet"
    if not roster:
        return "discovery knows no instance"
    states = Counter(member.state(found.trial) for member in roster)
    told = ", ".join(f"{count} {state}" for state, count in states.items())
    if found.division.panic:
        return f"panic, too few are healthy, so all are used: {told}"
    return f"{len(found.candidates)} of {len(roster)} instances are used: {told}"


def explain(
    snapshot: Snapshot | None, roster: Roster, found: Arrangement, narrowing: Narrowing, picking: Picking, now: float
) -> Explanation:
    """Why a call made now would go where it goes."""
    notes, spared = narrowing.notes(found.candidates)
    stale_since = None if snapshot is None else snapshot.stale_since
    candidates = set(found.candidates)
    return Explanation(
        reason=describe(snapshot, roster, found),
        version=None if snapshot is None else snapshot.version,
        stale_for=None if stale_since is None else now - stale_since,
        panic=found.division.panic,
        notes=notes,
        standings=tuple(
            Standing(
                instance=member.instance,
                state=member.state(found.trial),
                candidate=member in candidates,
                weight=member.weight,
                active=member.active,
                score=picking.score(member, now) if member.weight > 0 else math.inf,
                failures=member.circuit.failures(),
                ejected_for=0.0 if member.circuit.closed is not None else max(0.0, member.circuit.until - now),
                detail="; ".join([*filter(None, [member.problem, spared.get(member.id)]), *map(str, member.marks)]),
            )
            for member in roster
        ),
    )
