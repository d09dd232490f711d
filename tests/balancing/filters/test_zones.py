"""Calls that stay in their zone, and those that spill over."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.balancing import Member, PeakEwma, PreferZone, RoundRobin, ZoneHints
from tests.balancing.filters.fleets import balancing, counts, eject, member, pick, weights
from tests.balancing.fleet import instance


def zone(spec: str) -> list[Member]:
    """`a a- b`: two in zone a, of which one is ejected, and one in zone b."""
    return [member(f"{one}{n}", zone=one[0], healthy=not one.endswith("-")) for n, one in enumerate(spec.split())]


def first(rule: PreferZone | ZoneHints, members: Sequence[Member]) -> list[str]:
    """Who gets first attempts, if some do not; all, if all do."""
    assert weights(rule, members) == [one.weight for one in members]
    split = rule.split(members)
    if split is None:
        return [one.id for one in members]
    assert split.shares == (1.0, 0.0)
    return [one.id for one in split.groups[0]]


@pytest.mark.parametrize(
    ("fleet", "at_least", "stays"),
    [
        ("a a b", 2, True),
        ("a b b", 2, False),
        ("a b b", 1, True),
        ("a a- b", 2, False),  # the ejected do not count, where a panic makes candidates of them
        ("a a a- b", 2, True),
        ("b b b", 2, False),
        ("a a a", 2, True),
    ],
)
def test_calls_stay_where_enough_are_healthy(fleet: str, at_least: int, stays: bool) -> None:
    members = zone(fleet)
    near = [one.id for one in members if one.instance.zone == "a"]
    assert first(PreferZone("a", at_least), members) == (near if stays else [one.id for one in members])


def test_an_attempt_that_follows_a_failed_one_goes_anywhere() -> None:
    instances = [instance(name, zone=name[0]) for name in ("a0", "a1", "a2", "b0", "c0")]
    balancer = balancing(PreferZone("a"), instances=instances)
    assert {pick(balancer).instance.id for _ in range(50)} == {"a0", "a1", "a2"}
    assert pick(balancer).reason == "balanced"
    found = {pick(balancer, tried=["a0"]) for _ in range(100)}
    assert {one.instance.id for one in found} == {"a1", "a2", "b0", "c0"}
    assert {one.reason for one in found} == {"elsewhere"}


def test_who_drains_does_not_count() -> None:
    instances = [instance("a1", zone="a", weight=0.0), instance("a2", zone="a"), instance("b", zone="b")]
    assert set(counts(balancing(PreferZone("a"), instances=instances))) == {"a2", "b"}


@pytest.mark.parametrize(
    ("near", "far", "clients", "stays"),
    [
        (5, 5, 0.5, 1.0),
        (3, 7, 0.5, 0.6),  # Envoy: U / O = 30 % / 50 %
        (2, 8, 0.8, 0.25),
        (7, 3, 0.5, 1.0),  # more than enough
    ],
)
def test_what_there_is_no_capacity_for_spills_over(near: int, far: int, clients: float, stays: float) -> None:
    instances = [instance(f"a{n}", zone="a") for n in range(near)] + [instance(f"b{n}", zone="b") for n in range(far)]
    for picker in (RoundRobin(), PeakEwma()):
        balancer = balancing(PreferZone("a", clients=clients), instances=instances, picker=picker)
        found = counts(balancer, times=4000)
        assert sum(count for name, count in found.items() if name[0] == "a") / 4000 == pytest.approx(stays, abs=0.03)
        assert pick(balancer).reason == ("balanced" if stays == 1.0 else "split")


def test_capacity_is_weight() -> None:
    instances = [instance("a0", zone="a", weight=3.0), instance("a1", zone="a", weight=3.0), instance("b", zone="b")]
    balancer = balancing(PreferZone("a", clients=0.5), instances=instances)
    assert set(counts(balancer)) == {"a0", "a1"}


def test_explanations_tell_how_much_spills_over_and_who_is_left_out() -> None:
    instances = [instance(name, zone=name[0]) for name in ("a0", "a1", "b0", "b1")]
    balancer = balancing(PreferZone("a", clients=0.8), instances=instances)
    assert balancer.explain(0.0).notes == ("zone: 62% of the first attempts stay in a",)
    assert "62% of the first" in str(balancer.explain(0.0))
    balancer = balancing(PreferZone("a"), instances=instances)
    assert [one.detail for one in balancer.instances(0.0)] == ["", "", *["filtered: zone, but for retries"] * 2]


def test_when_the_zone_fails_all_are_used_and_the_zone_again_when_it_is_back() -> None:
    instances = [instance(name, zone=name[0]) for name in ("a0", "a1", "a2", "b0", "b1", "b2", "c0", "c1", "c2")]
    balancer = balancing(PreferZone("a"), instances=instances, picker=RoundRobin())
    assert set(counts(balancer)) == {"a0", "a1", "a2"}
    eject(balancer, "a0", "a1")
    assert set(counts(balancer)) == {"a2", "b0", "b1", "b2", "c0", "c1", "c2"}
    balancer.check("a0", None, 1.0, lambda: 0.5, restore=balancer.era("a0"))
    assert set(counts(balancer, 1.0)) == {"a0", "a2"}


@given(st.integers(2, 30), st.integers(0, 30), st.floats(0.01, 1.0))
def test_the_spill_is_what_envoy_computes(near: int, far: int, clients: float) -> None:
    members = [member(f"a{n}", zone="a") for n in range(near)] + [member(f"b{n}", zone="b") for n in range(far)]
    upstream = near / (near + far)
    split = PreferZone("a", clients=clients).split(members)
    if split is None:
        assert far == 0
    else:
        assert split.shares[0] == pytest.approx(min(1.0, upstream / clients))
        assert sum(split.shares) == pytest.approx(1.0)
        assert tuple(map(len, split.groups)) == (near, far)


# Hints


@pytest.mark.parametrize(
    ("hints", "expected"),
    [
        (["a", "b", "a"], [0, 2]),
        (["a", "b", None], [0, 1, 2]),  # one has none
        (["a", "b", ""], [0, 1, 2]),
        (["b", "b", "c"], [0, 1, 2]),  # nobody is for this zone
        (["a, b", "b", "b"], [0]),  # one may serve several
    ],
)
def test_hints_are_honoured_only_if_every_ready_instance_has_one(hints: list[str | None], expected: list[int]) -> None:
    members = [
        member(str(n), metadata={} if hint is None else {"for_zones": hint}, zone="x") for n, hint in enumerate(hints)
    ]
    assert first(ZoneHints("a"), members) == [str(n) for n in expected]


def test_instances_that_are_not_ready_need_no_hint() -> None:
    members = [member("0", metadata={"for": "a"}), member("1", metadata={"for": "b"}), member("2", healthy=False)]
    assert first(ZoneHints("a", metadata="for"), members) == ["0"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PreferZone(""), "zone='': the zone that this client is in"),
        (lambda: PreferZone("a", 0), "at_least=0: a number of healthy instances, at least 1"),
        (lambda: PreferZone("a", clients=0.0), "clients=0.0: a share of all clients, above 0"),
        (lambda: PreferZone("a", clients=1.1), "clients=1.1"),
        (lambda: ZoneHints(""), "zone=''"),
        (lambda: ZoneHints("a", metadata=""), "metadata='': the name of the metadata"),
    ],
)
def test_arguments_that_cannot_work_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
