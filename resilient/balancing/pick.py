"""The choice of an instance for one attempt, and why."""

from __future__ import annotations

from typing import Literal, TypeAlias, final

from resilient.balancing.member import Member
from resilient.instance import Instance
from resilient.machines.circuit import Permit
from resilient.machines.picking import Why

__all__ = ["Pick", "Reason"]

Reason: TypeAlias = Literal["balanced", "only", "panic", "trial", "elsewhere", "again", "split"] | Why
"""Why an instance was picked: by the picker's rule; it is the only one; too few are healthy, so all are used; to find
out whether it works again; the call was tried at others before; the call was tried at all of them before; by the
picker's rule among the group that a split gave the call to.

Some rules say more than `balanced`: `bounded`, the key's own instance has as much as it may have; `cold`, the quickest
of those that are not loaded; `hot`, all are loaded, and it is least; `fallback`, at random or in turn, since the rule
had nothing to go by."""


@final
class Pick:
    """The instance of one attempt, and why this one. Settle it exactly once; the rest is the balancer's business."""

    __slots__ = ("answered", "instance", "member", "permit", "reason", "settled")

    instance: Instance
    reason: Reason
    member: Member
    permit: Permit | None
    """None where the circuit has no say: in a panic."""
    answered: bool
    settled: bool

    def __init__(self, member: Member, permit: Permit | None, reason: Reason) -> None:
        self.instance = member.instance
        self.reason = reason
        self.member = member
        self.permit = permit
        self.answered = self.settled = False

    def __repr__(self) -> str:
        return f"Pick({self.instance.id!r}, {self.reason!r})"
