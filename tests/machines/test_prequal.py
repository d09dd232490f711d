"""The choice by what a few instances have just said."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.machines.load import Load
from resilient.machines.picking import Explaining, Observer
from resilient.machines.prequal import PrequalPicking, Prober, reuse_budget
from tests.machines.stubs import Stub, change

RANDOM = Random(0).random


def stubs(count: int) -> tuple[Stub, ...]:
    return tuple(Stub(f"i{number}") for number in range(count))


def started(members: Sequence[Stub], **changes: float) -> PrequalPicking:
    usual = {"pool": 16, "probes": 3.0, "removals": 1.0, "age": 1.0, "quantile": 2**-0.25}
    rule = PrequalPicking(**{**usual, **changes})  # type: ignore[arg-type]  # the pool is an int
    rule.update(change(members), 0.0, RANDOM)
    return rule


def told(rule: PrequalPicking, member: Stub, rif: int, latency: float | None = 0.01, now: float = 0.0) -> None:
    rule.answered(member, Load(in_flight=rif, latency=latency), now, RANDOM)


def pick(rule: PrequalPicking, members: Sequence[Stub], now: float = 0.0, random=RANDOM) -> tuple[str, str | None]:
    return rule.pick(members, now, random, None).id, rule.why


def pool(rule: PrequalPicking) -> list[tuple[str, float]]:
    return [(answer.id, answer.rif) for answer in rule._pool]


@pytest.mark.parametrize(("probes", "removals", "budget"), [(3.0, 1.0, 1.32), (1.0, 0.25, 3.39), (0.5, 0.25, 11.76)])
def test_the_reuse_budgets_of_the_paper(probes: float, removals: float, budget: float) -> None:
    found = reuse_budget(100, pool=16, probes=probes, removals=removals)
    assert found == pytest.approx(budget, abs=0.005)


@pytest.mark.parametrize(("members", "defined"), [(16, False), (20, False), (24, False), (25, True), (1000, True)])
def test_small_sets_have_no_reuse_budget(members: int, defined: bool) -> None:
    assert (reuse_budget(members, pool=16, probes=3.0, removals=1.0) is not None) is defined


def test_a_budget_is_never_below_one() -> None:
    assert reuse_budget(10**6, pool=16, probes=100.0, removals=1.0) == 1.0


def test_it_is_told_of_failures_and_says_why() -> None:
    rule = started(stubs(2))
    assert isinstance(rule, Observer)
    assert isinstance(rule, Explaining)
    assert isinstance(rule, Prober)


def test_the_quickest_of_those_that_are_not_loaded_is_chosen() -> None:
    members = stubs(100)
    rule = started(members)
    for number, (rif, latency) in enumerate([(1, 0.3), (2, 0.1), (2, 0.2), (2, 0.4), (9, 0.01)]):
        told(rule, members[number], rif, latency)
    assert pick(rule, members) == ("i1", "cold")


def test_where_all_are_loaded_the_least_loaded_is_chosen() -> None:
    members = stubs(100)
    rule = started(members, quantile=0.0, removals=0.0)
    told(rule, members[0], 1, 9.0)  # so that the others are above the least that was told of late
    for number, rif in enumerate([7, 5, 6], start=1):
        told(rule, members[number], rif, 0.01 * rif)
    for _ in range(9):
        told(rule, members[0], 1, 9.0)
    rule._pool[:] = [answer for answer in rule._pool if answer.id != "i0"]
    assert pick(rule, members) == ("i2", "hot")


def test_with_fewer_than_two_answers_it_is_any() -> None:
    members = stubs(100)
    rule = started(members)
    told(rule, members[0], 0)
    picked = Counter(pick(rule, members) for _ in range(300))
    assert {why for _, why in picked} == {"fallback"}
    assert len(picked) > 50


def test_answers_grow_old() -> None:
    members = stubs(100)
    rule = started(members, removals=0.0)
    for member in members[:3]:
        told(rule, member, 0, now=5.0)
    assert pick(rule, members, now=6.0)[1] == "cold"
    assert pick(rule, members, now=6.001)[1] == "fallback"


def test_a_full_pool_forgets_the_oldest() -> None:
    members = stubs(100)
    rule = started(members)
    for member in members[:20]:
        told(rule, member, 0)
    assert [name for name, _ in pool(rule)] == [f"i{number}" for number in range(4, 20)]


def test_a_choice_counts_as_one_more_request_until_its_answer_is_used_up() -> None:
    members = stubs(100)
    rule = started(members, probes=1.0, removals=0.25)  # 3.39 choices an answer
    told(rule, members[0], 3, 0.1)
    told(rule, members[0], 4, 0.2)
    told(rule, members[1], 9, 0.3)
    uses = rule._pool[0].uses
    assert uses in {3, 4}
    assert pick(rule, members) == ("i0", "cold")
    assert pool(rule) == [("i0", 4), ("i0", 5), ("i1", 9)]


def test_budgets_are_rounded_at_random() -> None:
    members = stubs(100)
    rule = started(members, probes=1.0, removals=0.25)
    uses = []
    for turn in range(2000):
        told(rule, members[turn % 100], 0)
        uses.append(rule._pool[-1].uses)
    assert set(uses) == {3, 4}
    assert sum(uses) / 2000 == pytest.approx(3.39, abs=0.05)


def test_the_oldest_and_the_worst_are_removed_in_turn() -> None:
    members = stubs(100)
    rule = started(members, removals=1.0, probes=1.5)
    rifs = [1, 1, 1, 1, 9, 1]
    for number, rif in enumerate(rifs):
        told(rule, members[number], rif, 0.1 * (number + 1))
    for answer in rule._pool:
        answer.uses = 9
    pick(rule, members)  # removes the oldest: i0
    assert [name for name, _ in pool(rule)] == ["i1", "i2", "i3", "i4", "i5"]
    pick(rule, members)  # removes the most loaded: i4
    assert [name for name, _ in pool(rule)] == ["i1", "i2", "i3", "i5"]
    pick(rule, members)
    assert [name for name, _ in pool(rule)] == ["i2", "i3", "i5"]
    for answer in rule._pool:
        answer.rif = 0
    pick(rule, members)  # nobody is loaded: removes the slowest
    assert "i5" not in [name for name, _ in pool(rule)]


@pytest.mark.parametrize("probes", [0.5, 1.0, 2.75, 3.0])
def test_so_many_are_asked_for_each_choice_and_no_two_are_the_same(probes: float) -> None:
    members = stubs(100)
    rule = started(members, probes=probes, removals=0.25)
    asked = 0
    everybody: Counter[str] = Counter()
    for _ in range(400):
        pick(rule, members)
        now = [one.id for one in rule.probes(members, RANDOM)]
        assert len(now) == len(set(now)) <= math.ceil(probes)
        asked += len(now)
        everybody.update(now)
    assert asked == 400 * probes
    assert len(everybody) > 80


# -- small sets ---------------------------------------------------------------------------------------------------


def test_one_instance_is_not_asked() -> None:
    members = stubs(1)
    rule = started(members)
    assert pick(rule, members) == ("i0", "fallback")
    assert rule.probes(members, RANDOM) == ()


def test_of_two_both_are_asked_and_each_has_one_answer() -> None:
    members = stubs(2)
    rule = started(members)
    pick(rule, members)
    assert {one.id for one in rule.probes(members, RANDOM)} == {"i0", "i1"}
    for rif in (5, 6, 7):
        told(rule, members[0], rif)
    told(rule, members[1], 1)
    assert pool(rule) == [("i0", 7), ("i1", 1)]
    assert pick(rule, members) == ("i1", "cold")
    assert pool(rule) == [("i0", 7)]  # an answer serves one choice
    assert pick(rule, members)[1] == "fallback"


@pytest.mark.parametrize(("count", "capacity"), [(2, 2), (3, 2), (4, 2), (5, 3), (10, 5), (16, 8), (24, 12), (25, 16)])
def test_the_pool_of_a_small_set_holds_half_of_it(count: int, capacity: int) -> None:
    members = stubs(count)
    rule = started(members)
    for member in members:
        told(rule, member, 0)
    assert len(pool(rule)) == capacity


@pytest.mark.parametrize(("count", "reason"), [(10, "i1"), (100, "i0")])
def test_a_small_set_sooner_counts_as_loaded(count: int, reason: str) -> None:
    members = stubs(count)
    rule = started(members)
    for turn in range(10):
        told(rule, members[turn % 3 + 2], turn // 2)  # from 0 to 4 requests in flight
    told(rule, members[0], 3, 0.001)  # the 0.6-quantile is 2, the 0.84-quantile 4
    told(rule, members[1], 2, 0.005)
    assert pick(rule, members)[0] == reason


@pytest.mark.parametrize("count", [2, 3, 10, 100])
def test_those_that_are_alike_get_equal_shares(count: int) -> None:
    """Whether nobody has anything to do, or all take as long: who is asked first must not win each time."""
    members = stubs(count)
    rule = started(members)
    random = Random(1).random
    picked: Counter[str] = Counter()
    for turn in range(200 * count):
        picked[rule.pick(members, turn * 0.01, random, None).id] += 1
        for one in rule.probes(members, random):
            rule.answered(one, Load(in_flight=0, latency=None), turn * 0.01, random)
    assert len(picked) == count
    assert max(picked.values()) < 200 * 1.4


def test_of_those_that_are_as_quick_the_less_loaded_is_chosen() -> None:
    members = stubs(100)
    rule = started(members, quantile=1.0)
    for number, rif in enumerate((5, 3, 4)):
        told(rule, members[number], rif)
    assert pick(rule, members) == ("i1", "cold")


def test_a_set_that_grows_and_shrinks_keeps_what_was_said() -> None:
    members = stubs(30)
    rule = started(members)
    for member in members[:5]:
        told(rule, member, 1)
    rule.update(change(members[2:], members), 0.0, RANDOM)
    assert [name for name, _ in pool(rule)] == ["i2", "i3", "i4"]
    assert rule.score(members[2], 0.0) == 0.01
    assert rule.score(members[0], 0.0) == math.inf


# -- failures -----------------------------------------------------------------------------------------------------


def test_what_a_failing_instance_said_is_forgotten() -> None:
    members = stubs(100)
    rule = started(members)
    told(rule, members[0], 0, 0.0001)
    told(rule, members[1], 5)
    told(rule, members[2], 5)
    rule.observe_failure(members[0], 0.001, None, 0.0)
    assert "i0" not in [name for name, _ in pool(rule)]
    told(rule, members[0], 0, 0.0001)
    assert "i0" in [name for name, _ in pool(rule)]


def test_after_five_failures_it_is_not_believed_and_then_for_twice_as_long() -> None:
    members = stubs(100)
    rule = started(members)
    now = 0.0
    for _ in range(4):
        rule.observe_failure(members[0], 0.001, None, now)
    for seconds in (1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
        rule.observe_failure(members[0], 0.001, None, now)
        told(rule, members[0], 0, now=now + 0.99 * seconds)
        assert pool(rule) == []
        now += seconds
        told(rule, members[0], 0, now=now)
        assert pool(rule) == [("i0", 0)]
    rule.observe(members[0], 0.01, now)
    for _ in range(4):
        rule.observe_failure(members[0], 0.001, None, now)
    told(rule, members[0], 0, now=now)
    assert pool(rule) == [("i0", 0)]


def test_who_is_not_believed_is_hardly_ever_chosen_at_random() -> None:
    members = stubs(10)
    rule = started(members)
    for _ in range(5):
        rule.observe_failure(members[0], 0.001, None, 0.0)
    assert Counter(pick(rule, members)[0] for _ in range(1000))["i0"] <= 3


def test_never_more_than_half_are_not_believed() -> None:
    members = stubs(4)
    rule = started(members)
    for member in members:
        for _ in range(5):
            rule.observe_failure(member, 0.001, None, 0.0)
    for member in members:
        told(rule, member, 0)
    assert [name for name, _ in pool(rule)] == ["i2", "i3"]


def test_a_call_that_was_given_up_says_nothing() -> None:
    members = stubs(3)
    rule = started(members)
    told(rule, members[0], 1)
    rule.observe_unfinished(members[0], 9.0, 0.0)
    assert pool(rule) == [("i0", 1)]


# -- what is said -------------------------------------------------------------------------------------------------


def test_who_has_served_nothing_yet_counts_as_the_median() -> None:
    members = stubs(100)
    rule = started(members)
    told(rule, members[0], 0, None)
    assert rule.score(members[0], 0.0) == 0.0
    for number, latency in enumerate((0.1, 0.2, 0.3), start=1):
        told(rule, members[number], 0, latency)
    told(rule, members[9], 0, None)
    assert rule.score(members[9], 0.0) == 0.1


def test_a_weight_is_a_handicap() -> None:
    members = (Stub("light", 0.5), Stub("heavy", 2.0))
    rule = started(members)
    told(rule, members[0], 2, 0.1)
    told(rule, members[1], 2, 0.1)
    assert pool(rule) == [("light", 4.0), ("heavy", 1.0)]
    assert pick(rule, members)[0] == "heavy"


def test_an_answer_without_requests_in_flight_says_nothing() -> None:
    members = stubs(3)
    rule = started(members)
    rule.answered(members[0], Load(latency=0.1), 0.0, RANDOM)
    rule.answered(Stub("drained", 0.0), Load(in_flight=1), 0.0, RANDOM)
    assert pool(rule) == []


def test_scores_put_the_loaded_behind_all_others() -> None:
    members = stubs(100)
    rule = started(members)
    for number in range(10):
        told(rule, members[number], number)
    assert rule.score(members[9], 0.0) == 1e6 + 9
    assert rule.score(members[7], 0.0) == 0.01


@given(
    count=st.integers(1, 40),
    probes=st.floats(0.1, 5.0),
    steps=st.lists(st.tuples(st.integers(0, 39), st.integers(0, 20), st.floats(0.0, 2.0)), max_size=80),
    seed=st.integers(0, 3),
)
def test_whatever_is_said_a_candidate_is_chosen_and_the_pool_stays_within_its_size(count, probes, steps, seed) -> None:
    members = stubs(count)
    random = Random(seed).random
    rule = started(members, probes=probes, removals=probes / 4)
    now = 0.0
    for who, rif, seconds in steps:
        now += seconds * 0.1
        member = members[who % count]
        if rif == 20:
            rule.observe_failure(member, 0.01, None, now)
        else:
            rule.answered(member, Load(in_flight=rif, latency=seconds), now, random)
        candidates = members if who % 3 else members[: max(1, count // 2)]
        assert rule.pick(candidates, now, random, None) in candidates
        asked = rule.probes(candidates, random)
        assert len({one.id for one in asked}) == len(asked)
        assert all(one in candidates for one in asked)
        assert len(rule._pool) <= max(2, min(16, count))
        ages = [answer.at for answer in rule._pool]
        assert ages == sorted(ages)
        assert rule._order == sorted(rule._recent)


def test_members_without_weight_are_not_counted_and_lose_their_answers() -> None:
    members = stubs(4)
    rule = started(members)
    for member in members:
        told(rule, member, rif=1)
    members[0].weight = 0.0
    rule.update(change(members, members), 0.0, RANDOM)
    assert "i0" not in {name for name, _ in pool(rule)}
    assert pool(rule)
