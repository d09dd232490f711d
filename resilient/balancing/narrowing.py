"""What the filters of one service make of its instances."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Hashable, Sequence
from itertools import accumulate
from typing import Any, TypeAlias, final

from resilient.balancing.member import Filter, Filtering, Mark, Member, Splitting
from resilient.call import Call
from resilient.machines.lots import lot
from resilient.machines.picking import Chance

__all__ = ["Fork", "Narrowing"]

Key: TypeAlias = Callable[[Call], Hashable]
Candidates: TypeAlias = tuple[Member, ...]


@final
class Fork:
    """Which of several groups of candidates a call goes to: one lot a split, however many instances there are."""

    __slots__ = ("branches", "ends", "sticky")

    def __init__(self, shares: Sequence[float], branches: Sequence[Fork | Candidates], sticky: str | None) -> None:
        self.ends = list(accumulate(shares))[:-1]
        self.branches = tuple(branches)
        self.sticky = sticky

    def choose(self, key: Hashable, random: Chance) -> Candidates:
        """Draw the group of a call; calls with the same `key` draw the same where the split is sticky."""
        branch: Fork | Candidates = self
        while isinstance(branch, Fork):
            drawn = random() if branch.sticky is None or key is None else lot(branch.sticky, key)
            branch = branch.branches[bisect_right(branch.ends, drawn)]
        return branch


@final
class Narrowing:
    """The filters of one service, one after the other."""

    __slots__ = ("_rules", "_splittings", "key")

    def __init__(self, filters: Sequence[Filter]) -> None:
        self._rules = [(rule, _name(rule), bool(getattr(rule, "removes", False))) for rule in map(_machine, filters)]
        self._splittings = [rule for rule, _, _ in self._rules if isinstance(rule, Splitting)]
        keys: set[Key] = {key for rule in self._splittings if (key := getattr(rule, "key", None)) is not None}
        if len(keys) > 1:
            raise ValueError(f"filters={filters!r}: a call has one key; give the same function to all that want one")
        self.key = keys.pop() if keys else None
        """What the splits go by, of a call."""

    def weigh(self, members: list[Member], now: float, random: Chance) -> tuple[list[Member], float]:
        """Give `members` their weights; return those that exist to this client, and when this changes by itself."""
        until = math.inf
        if not self._rules:
            return members, until
        for member in members:
            member.weight = member.instance.weight
            member.marks = ()
        for rule, name, removes in self._rules:
            weights, end = rule.weigh(members, now, random)
            until = min(until, end)
            for member, weight in zip(members, weights, strict=True):
                if weight != member.weight:
                    member.marks = (*member.marks, Mark(name, weight / member.weight if member.weight else weight))
                    member.weight = weight
            if removes:
                members = [member for member in members if member.weight > 0]
        return members, until

    def weights(self, members: Sequence[Member]) -> list[float]:
        """The weights of `members`, as far as filters may have changed them."""
        return [member.weight for member in members] if self._rules else []

    def left(self, members: Candidates) -> Candidates:
        """Those of `members` that no filter leaves out."""
        return tuple([member for member in members if member.weight > 0]) if self._rules else members

    def first(self, candidates: Candidates) -> Fork | Candidates:
        """Where the first attempts of calls go."""
        return _grow(candidates, self._splittings, first=True)

    def again(self, candidates: Candidates) -> Fork | Candidates:
        """Where attempts go that follow a failed one."""
        return _grow(candidates, self._splittings, first=False)

    def notes(self, candidates: Candidates) -> tuple[tuple[str, ...], dict[str, str]]:
        """What is to be said of the splits, and of single instances, by their ids: who gets no first attempts."""
        splits = [(rule, rule.split(candidates)) for rule in self._splittings] if candidates else []
        told: list[str] = []
        spared: dict[str, str] = {}
        for rule, split in splits:
            if split is not None:
                told.append(split.note)
                for group, share in zip(split.groups, split.shares, strict=True):
                    if share <= 0:
                        spared.update((member.id, f"filtered: {_name(rule)}, but for retries") for member in group)
        return tuple(told), spared


def _grow(members: Candidates, splittings: Sequence[Splitting], *, first: bool) -> Fork | Candidates:
    for number, rule in enumerate(splittings, 1):
        split = rule.split(members) if members else None
        if split is not None and (first or not split.loose):
            shared = [(share, group) for share, group in zip(split.shares, split.groups, strict=True) if share > 0]
            branches = [_grow(group, splittings[number:], first=first) for _, group in shared]
            return Fork([share for share, _ in shared], branches, split.sticky) if len(shared) > 1 else branches[0]
    return members


def _machine(one: Filter) -> Filtering:
    make: Any = getattr(one, "filtering", None)
    if make is None:
        raise TypeError(f"filters: {one!r} is no Filter: it has no filtering() that makes what weighs the instances")
    rule: Filtering = make()
    return rule


def _name(rule: Filtering) -> str:
    return str(getattr(rule, "name", type(rule).__name__))
