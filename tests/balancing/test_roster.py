"""Who there is, from one snapshot to the next."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.balancing import Ejection, Member
from resilient.balancing.roster import Roster, _differences
from resilient.instance import Instance
from tests.balancing.fleet import instance

PRISTINE = Ejection().circuit()


def new(one: Instance) -> Member:
    return Member(one, PRISTINE, 0.0)


@st.composite
def snapshots(draw: st.DrawFn) -> list[tuple[Instance, ...]]:
    """Some that have most of their instances in common: the same objects, or others with the same ids."""
    known = {name: instance(name) for name in "abcdefghijkl"}
    found: list[tuple[Instance, ...]] = []
    for names in draw(st.lists(st.lists(st.sampled_from(sorted(known)), unique=True), max_size=8)):
        for name in draw(st.sets(st.sampled_from(sorted(known)), max_size=3)):
            known[name] = instance(name, weight=draw(st.sampled_from([0.0, 1.0, 1.0, 2.0])))
        found.append(tuple(known[name] for name in (sorted(names) if draw(st.booleans()) else names)))
    return found


@given(snapshots())
def test_it_follows_every_snapshot_and_keeps_the_members_that_stay(given_: list[tuple[Instance, ...]]) -> None:
    roster, random = Roster(), Random(0).random
    before: dict[str, Member] = {}
    for instances in given_:
        added, removed = roster.follow(instances, new, random)
        members = {member.id: member for member in roster}
        assert [member.instance for member in roster] == list(instances)
        assert all(member.instance is one for member, one in zip(roster, instances, strict=True))
        assert [member.weight for member in roster] == [one.weight for one in instances]
        assert added == [members[one.id] for one in instances if one.id not in before]
        assert removed == [member for name, member in before.items() if name not in members]
        assert all(members[name] is member for name, member in before.items() if name in members)
        assert all(member.gone for member in removed)
        assert not any(member.gone for member in roster)
        assert sorted(member.id for member in roster.order) == sorted(members)
        assert len(roster) == len(members)
        assert roster.serving() == [member for member in roster.order if member.weight > 0]
        before = members


def test_those_that_stay_keep_their_places_and_who_comes_gets_any() -> None:
    roster = Roster()
    roster.follow([instance(name) for name in "abc"], new, lambda: 0.999)
    assert [member.id for member in roster.order] == ["a", "b", "c"]
    roster.follow([instance(name) for name in "cxb"], new, lambda: 0.5)
    assert [member.id for member in roster.order] == ["b", "x", "c"]


def test_who_left_is_not_unfit_any_more() -> None:
    roster = Roster()
    roster.follow([instance("a"), instance("b")], new, lambda: 0.0)
    member = roster.get("a")
    assert member is not None
    member.problem = "503"
    roster.note(member)
    assert roster.unfit == {member}
    roster.follow([instance("b")], new, lambda: 0.0)
    assert roster.unfit == set()
    assert roster.get("a") is None


class Watched:
    """An instance that counts how often somebody looks into it."""

    looks = 0

    def __init__(self, name: str) -> None:
        self._id = name

    @property
    def id(self) -> str:
        type(self).looks += 1
        return self._id


def replaced(before: list[Watched], *places: int) -> list[Watched]:
    """Some leave, and as many others come at the end."""
    stay = [one for place, one in enumerate(before) if place not in places]
    return [*stay, *(Watched(f"new {place}") for place in places)]


@pytest.mark.parametrize("places", [(0,), (9_999,), (1_234,), (0, 256, 257, 5_000)])
def test_one_of_thousands_costs_no_look_at_the_others(places: tuple[int, ...]) -> None:
    before = [Watched(f"{number}") for number in range(10_000)]
    known = {one.id for one in before}
    after = replaced(before, *places)
    Watched.looks = 0
    differences: Any = _differences
    left, came = differences(before, after, known)
    assert left == [before[place] for place in places]
    assert came == after[-len(places) :]
    assert Watched.looks <= 4 * len(places)
