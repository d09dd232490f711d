"""A share of the calls goes to another version."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

from resilient.balancing.member import Member, Split
from resilient.call import Call
from resilient.machines.picking import Chance

__all__ = ["TrafficSplit"]

_ALL = 100.0
_DIGITS = 9


@final
@dataclass(frozen=True, slots=True)
class TrafficSplit:
    """Give instances with certain metadata a share of the calls: `TrafficSplit("version", {"v2": 5})`, a canary.

    The shares are exact, however many instances a group has and whatever the picker thinks of them: first the group is
    drawn, then the picker chooses in it. A group of which nobody may be called leaves its share to the rest, and an
    attempt that has been everywhere in its group goes elsewhere. With the share 0 a group gets nothing, ever.

    `metadata`
        What tells the groups apart.
    `shares`
        For some of its values the percentage of the calls. All other instances, those without the metadata too, share
        what is left of 100; if nothing is left, they get nothing.
    `key`
        What calls that belong together have in common, such as the number of a customer: they go to the same group, in
        every process, and stay with a canary while its share grows. Strings, numbers, or tuples of these; calls for
        which it is None draw by chance, and so do all if there is no such function (None).

    Raises `ValueError` or `TypeError` for an argument out of its range.
    """

    metadata: str
    shares: Mapping[str, float] = field(hash=False)
    key: Callable[[Call], Hashable] | None = field(default=None, kw_only=True)
    removes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        given: Any = self.shares
        if not self.metadata:
            raise ValueError("metadata='': the name of the metadata that tells the groups apart, such as 'version'")
        if not (isinstance(given, Mapping) and given):
            raise ValueError(f"shares={given!r}: percentages by value of {self.metadata!r}, such as {{'v2': 5}}")
        for value, share in self.shares.items():
            if not 0 <= share <= _ALL:
                raise ValueError(f"shares[{value!r}]={share!r}: a percentage, from 0 to 100")
        if self._rest < 0:
            raise ValueError(f"shares={self.shares!r}: more than 100 % of the calls")
        if not (self.key is None or callable(self.key)):
            raise TypeError(f"key={self.key!r}: a function of the call, such as lambda call: call.idempotency_key")

    @property
    def name(self) -> str:
        """What explanations call it."""
        return f"split by {self.metadata}"

    def filtering(self) -> TrafficSplit:
        """Return itself: it remembers nothing."""
        return self

    def weigh(self, members: Sequence[Member], now: float, random: Chance) -> tuple[Sequence[float], float]:
        """Leave out who gets nothing."""
        shares = self._by_group
        return [member.weight if shares[self._group(member)] > 0 else 0.0 for member in members], math.inf

    def split(self, members: Sequence[Member]) -> Split | None:
        """Divide the calls among the groups that are there."""
        shares = {group: share for group, share in self._by_group.items() if share > 0}
        groups: dict[str | None, list[Member]] = {}
        for member in members:
            groups.setdefault(self._group(member), []).append(member)
        there = {group: share for group, share in shares.items() if group in groups}
        if None in there:
            there[None] += _ALL - math.fsum(there.values())
        total = math.fsum(there.values())
        told = [f"{share / total:.4g} to {'the rest' if group is None else group}" for group, share in there.items()]
        told += [f"nobody is {group}" for group in shares if group is not None and group not in there]
        return Split(
            groups=tuple(tuple(groups[group]) for group in there),
            shares=tuple(share / total for share in there.values()),
            note=f"{self.name}: {', '.join(told)}",
            sticky=None if self.key is None else self.metadata,
        )

    @property
    def _by_group(self) -> dict[str | None, float]:
        """The shares, and last that of the rest, under None."""
        shares: dict[str | None, float] = dict(self.shares.items())
        shares[None] = self._rest
        return shares

    @property
    def _rest(self) -> float:
        return round(_ALL - math.fsum(self.shares.values()), _DIGITS)

    def _group(self, member: Member) -> str | None:
        value = member.instance.metadata.get(self.metadata)
        return value if value in self.shares else None
