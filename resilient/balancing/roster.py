"""Who there is: the members of a service."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import compress, count
from operator import is_not
from typing import final

from resilient.balancing.member import Member
from resilient.instance import Instance
from resilient.machines.picking import Chance

__all__ = ["Roster"]

_BLOCK = 256


@final
class Roster:
    """The members of one service, whose state survives as long as their ids are in its snapshots."""

    __slots__ = ("_draining", "_instances", "_members", "order", "unfit")

    def __init__(self) -> None:
        self._instances: Sequence[Instance] = ()
        self._members: dict[str, Member] = {}
        self._draining: set[Member] = set()
        self.order: list[Member] = []
        """All of them; each came to a place by chance, so that clients do not use them in the same order."""
        self.unfit: set[Member] = set()
        """Those that are not healthy. Usually they are none, so none of thousands has to be asked."""

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Member]:
        """In the order of the snapshot."""
        return map(self._members.__getitem__, [instance.id for instance in self._instances])

    def get(self, name: str) -> Member | None:
        """The one with this id."""
        return self._members.get(name)

    def serving(self) -> list[Member]:
        """Those that are to have calls, as far as discovery is concerned, in their order."""
        if not self._draining:
            return self.order.copy()
        return [member for member in self.order if member not in self._draining]

    def note(self, member: Member) -> None:
        """Its health may be another one than before."""
        if member.healthy:
            self.unfit.discard(member)
        else:
            self.unfit.add(member)

    def follow(
        self, instances: Sequence[Instance], new: Callable[[Instance], Member], random: Chance
    ) -> tuple[list[Member], list[Member]]:
        """Take over the instances of a snapshot; return who came and who left, in the order of the snapshots.

        Where one of thousands changes, the others are compared as objects and not looked into.
        """
        left, came = _differences(self._instances, instances, self._members)
        self._instances = instances
        added: list[Member] = []
        for instance in came:
            member = self._members.get(instance.id)
            if member is None:
                member = self._members[instance.id] = new(instance)
                added.append(member)
            member.instance = instance
            member.weight = instance.weight
            if instance.weight == 0:
                self._draining.add(member)
            else:
                self._draining.discard(member)
        there = {instance.id for instance in came}
        removed = [self._members.pop(instance.id) for instance in left if instance.id not in there]
        if removed:
            for member in removed:
                member.gone = True
            self._draining.difference_update(removed)
            self.unfit.difference_update(removed)
            self.order = [member for member in self.order if not member.gone]
        for member in added:
            self.order.insert(int(random() * (len(self.order) + 1)), member)
        return added, removed


def _differences(
    old: Sequence[Instance], new: Sequence[Instance], known: Collection[str]
) -> tuple[list[Instance], list[Instance]]:
    """Those of `old` that have no place in `new`, and those of `new` that had none in `old`; `known` are the old ids.

    Where both have the same objects in the same order they are passed over at the speed of C. Who only moved may be in
    both, and so is who has another object than before.
    """
    left: list[Instance] = []
    came: list[Instance] = []
    here = there = 0
    while here < len(old) and there < len(new):
        one, other = old[here], new[there]
        if one is other:
            same = _same(old[here : here + _BLOCK], new[there : there + _BLOCK])
            here += same
            there += same
            continue
        replaced = one.id == other.id
        if replaced or other.id in known:
            left.append(one)
            here += 1
        if replaced or other.id not in known:
            came.append(other)
            there += 1
    left += old[here:]
    came += new[there:]
    return left, came


def _same(one: Sequence[Instance], other: Sequence[Instance]) -> int:
    """How many are the same at the beginning."""
    return next(compress(count(), map(is_not, one, other)), min(len(one), len(other)))
