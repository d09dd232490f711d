"""A client that speaks to a few of many."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.balancing import RoundRobin, Subset
from resilient.verdict import Verdict
from tests.balancing.filters.fleets import RANDOM, balancing, counts, eject, kept, member, pick
from tests.balancing.fleet import snapshot

NAMES = [f"i{n}" for n in range(100)]
names = st.lists(st.sampled_from(NAMES), unique=True, min_size=1)


def chosen(fleet: list[str], size: int, seed: object = "client") -> set[str]:
    return set(kept(Subset(size, seed=seed), [member(name) for name in fleet]))  # type: ignore[arg-type]  # any will do


@given(names, st.integers(2, 30), st.integers())
def test_it_has_its_size_or_all_there_are(fleet: list[str], size: int, seed: int) -> None:
    assert len(chosen(fleet, size, seed)) == min(size, len(fleet))


@given(names, st.integers(2, 30), st.integers())
def test_one_that_leaves_changes_at_most_one_place(fleet: list[str], size: int, seed: int) -> None:
    before, left = chosen(fleet, size, seed), fleet[0]
    after = chosen(fleet[1:], size, seed) if len(fleet) > 1 else set()
    assert before - after == before & {left}
    assert len(after - before) <= (left in before)


@given(names, st.integers(2, 30), st.integers())
def test_one_that_comes_changes_at_most_one_place(fleet: list[str], size: int, seed: int) -> None:
    before, after = chosen(fleet, size, seed), chosen([*fleet, "new"], size, seed)
    assert after - before <= {"new"}
    assert len(before - after) <= 1


@given(st.permutations(NAMES[:20]), st.integers())
def test_the_order_of_the_snapshot_does_not_matter(fleet: list[str], seed: int) -> None:
    assert chosen(fleet, 5, seed) == chosen(NAMES[:20], 5, seed)


def test_clients_together_spread_evenly() -> None:
    load = Counter(name for seed in range(400) for name in chosen(NAMES, 10, seed))
    assert set(load) == set(NAMES)
    assert max(load.values()) < 2 * 40
    assert min(load.values()) > 40 / 2


def test_without_a_seed_each_client_draws_its_own_and_keeps_it() -> None:
    rule = Subset(5)
    subsets = set()
    for _ in range(20):
        balancer = balancing(rule, instances=NAMES, picker=RoundRobin())
        found = set(counts(balancer, times=20))
        assert len(found) == 5
        balancer.apply(snapshot(*NAMES, "new", version=2), 1.0, RANDOM)
        assert len(found - set(counts(balancer, 1.0, times=20))) <= 1
        subsets.add(frozenset(found))
    assert len(subsets) > 15


def test_where_most_of_it_is_unhealthy_the_next_in_the_ranking_help_out() -> None:
    members = [member(name) for name in NAMES]
    rule = Subset(4, seed="client")
    before = kept(rule, members)
    for one in members:
        one.problem = "down" if one.id in before[:2] else None
    assert kept(rule, members) == before  # half is enough
    for one in members:
        one.problem = "down" if one.id in before[:3] else None
    assert set(before) < set(kept(rule, members))
    assert len(kept(rule, members)) == 6  # of which three are healthy
    for one in members:
        one.problem = "down"
    assert len(kept(rule, members)) == 8  # up to as many again


def test_the_cap_and_the_panic_threshold_are_those_of_the_subset() -> None:
    balancer = balancing(Subset(4, seed="client"), instances=NAMES, picker=RoundRobin())
    used = sorted(counts(balancer))
    eject(balancer, *used[:2])
    assert sorted(counts(balancer)) == used[2:]
    for _ in range(30):  # a third of four
        balancer.settle(pick(balancer), Verdict.FAILED, 0.0, 0.0, RANDOM)
    assert sorted(counts(balancer)) == used[2:]
    assert [one.detail for one in balancer.instances(0.0) if one.state == "filtered"] == ["filtered: subset"] * 96
    for name in used:
        balancer.check(name, "down", 0.0, RANDOM)
    assert balancer.explain(0.0).panic is False  # four others help out
    assert len(counts(balancer)) == 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Subset(1), "size=1: a number of instances, at least 2"),
        (lambda: Subset(healthy=1.1), "healthy=1.1: a share, from 0 to 1"),
    ],
)
def test_arguments_that_cannot_work_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
