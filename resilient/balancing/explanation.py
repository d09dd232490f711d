"""Why calls go where they go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from resilient.balancing.member import State
from resilient.instance import Instance

__all__ = ["Explanation", "Standing"]


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
