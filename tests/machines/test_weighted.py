"""Turns by what instances say they can take."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.machines.load import Load, Reporting
from resilient.machines.picking import Explaining
from resilient.machines.weighted import WeightedRoundRobinPicking
from tests.machines.stubs import Stub, change

RANDOM = Random(0).random


def picking(**changes) -> WeightedRoundRobinPicking:
    usual = {"penalty": 1.0, "blackout": 10.0, "expiry": 180.0, "period": 1.0}
    return WeightedRoundRobinPicking(**{**usual, **changes})


def counts(rule: WeightedRoundRobinPicking, members: Sequence[Stub], now: float, picks: int = 1000) -> Counter[str]:
    return Counter(rule.pick(members, now, RANDOM, None).id for _ in range(picks))


def started(members: Sequence[Stub], **changes) -> WeightedRoundRobinPicking:
    rule = picking(**changes)
    rule.update(change(members), 0.0, RANDOM)
    return rule


def reported(members: Sequence[Stub], loads: Sequence[Load], until: float = 11.0, **changes):
    """A rule whose members have reported the same each second."""
    rule = started(members, **changes)
    for second in range(int(until) + 1):
        for member, load in zip(members, loads, strict=False):
            rule.report(member, load, float(second))
    return rule


def busy(rps: float, utilization: float, eps: float = 0.0) -> Load:
    return Load(rps=rps, application_utilization=utilization, eps=eps)


def test_without_reports_it_is_round_robin() -> None:
    members = tuple(Stub(name) for name in "abcde")
    rule = started(members)
    for _ in range(20):
        assert len({rule.pick(members, 0.0, RANDOM, None).id for _ in range(5)}) == 5
    assert rule.why == "fallback"
    assert isinstance(rule, Explaining)
    assert isinstance(rule, Reporting)


def test_shares_are_requests_for_each_unit_of_utilisation() -> None:
    members = (Stub("small"), Stub("large"))
    rule = reported(members, [busy(100, 0.5), busy(300, 0.5)])
    assert counts(rule, members, 11.0) == {"small": 250, "large": 750}
    assert rule.why is None
    assert rule.score(members[0], 11.0) == pytest.approx(3 * rule.score(members[1], 11.0))


@given(
    st.lists(st.tuples(st.floats(1.0, 50.0), st.floats(0.1, 1.0), st.floats(0.0, 1.0)), min_size=2, max_size=6),
    st.floats(0.0, 3.0),
)
def test_shares_follow_the_formula(reports: list[tuple[float, float, float]], penalty: float) -> None:
    members = tuple(Stub(f"i{number}") for number in range(len(reports)))
    loads = [busy(rps, used, rps * failing) for rps, used, failing in reports]
    rule = reported(members, loads, penalty=penalty)
    weights = [rps / (used + failing * penalty) for rps, used, failing in reports]
    picked = counts(rule, members, 11.0, picks=2000)
    for member, weight in zip(members, weights, strict=True):
        assert picked[member.id] == pytest.approx(2000 * weight / math.fsum(weights), abs=2.5)


def test_reports_count_after_the_blackout_and_until_they_expire() -> None:
    members = (Stub("a"), Stub("b"))
    rule = reported(members, [busy(100, 0.2), busy(100, 0.8)], until=9.0)
    assert counts(rule, members, 9.9)["a"] == 500
    assert counts(rule, members, 10.9)["a"] == 800
    assert counts(rule, members, 188.0)["a"] == 800
    assert counts(rule, members, 189.0)["a"] == 500
    for member in members:  # after that they must come for a while again
        rule.report(member, busy(100, 0.5 if member.id == "a" else 1.0), 200.0)
    assert counts(rule, members, 209.0)["a"] == 500
    assert counts(rule, members, 210.1)["a"] == pytest.approx(667, abs=1)


def test_who_says_nothing_counts_as_the_average() -> None:
    members = tuple(Stub(name) for name in "abcd")
    rule = reported(members, [busy(100, 0.25), busy(100, 0.5), busy(0, 0.0), Load()])
    picked = counts(rule, members, 11.0, picks=1200)
    assert picked == {"a": 400, "b": 200, "c": 300, "d": 300}


def test_a_single_weight_is_none() -> None:
    members = (Stub("a"), Stub("b"))
    rule = reported(members, [busy(100, 0.1)])
    assert counts(rule, members, 11.0)["a"] == 500
    assert rule.why == "fallback"


def test_weights_are_taken_over_once_a_period() -> None:
    members = (Stub("a"), Stub("b"))
    rule = reported(members, [busy(100, 0.5), busy(100, 0.5)], period=2.0)
    assert counts(rule, members, 12.0)["a"] == 500
    rule.report(members[0], busy(100, 0.125), 12.1)
    assert counts(rule, members, 13.9)["a"] == 500
    assert counts(rule, members, 14.0)["a"] == 800


def test_weights_of_discovery_multiply() -> None:
    members = (Stub("a", 3.0), Stub("b"))
    assert counts(started(members), members, 0.0)["a"] == pytest.approx(750, abs=1)
    assert counts(reported(members, [busy(100, 0.5), busy(100, 0.25)]), members, 11.0)["a"] == pytest.approx(600, abs=1)


def test_the_utilisation_is_the_applications_then_the_largest_named_then_the_processors() -> None:
    members = (Stub("a"), Stub("b"), Stub("c"))
    loads = [
        Load(rps=100, application_utilization=0.5, cpu_utilization=0.01, named={"cache": 0.9}),
        Load(rps=100, application_utilization=0.0, cpu_utilization=0.01, named={"cache": 0.25, "disk": 0.125}),
        Load(rps=100, cpu_utilization=0.5, named={"other": 0.9}),
    ]
    rule = reported(members, loads, metrics=("disk", "cache"))
    assert counts(rule, members, 11.0, picks=800) == {"a": 200, "b": 400, "c": 200}


def test_the_first_turns_are_scattered() -> None:
    members = tuple(Stub(f"i{number}") for number in range(50))
    firsts = set()
    for seed in range(20):
        rule = picking()
        rule.update(change(members), 0.0, Random(seed).random)
        firsts.add(rule.pick(members, 0.0, RANDOM, None).id)
    assert len(firsts) > 10


def test_those_that_stay_keep_their_weight_and_who_comes_takes_turns_at_once() -> None:
    a, b, c = Stub("a"), Stub("b"), Stub("c")
    rule = reported((a, b), [busy(100, 0.25), busy(100, 0.75)])
    counts(rule, (a, b), 11.0)
    members = (a, b, c)
    rule.update(change(members, (a, b)), 11.0, RANDOM)
    assert counts(rule, members, 11.5, picks=1200) == {"a": 600, "b": 200, "c": 400}


def test_who_comes_back_makes_up_for_one_turn_and_no_more() -> None:
    members = tuple(Stub(name) for name in "abc")
    rule = started(members)
    assert set(counts(rule, members[1:], 0.0)) == {"b", "c"}
    again = tuple(members)[:3]
    picked = [rule.pick([*again], 0.0, RANDOM, None).id for _ in range(1)]
    members = [*again]  # type: ignore[assignment]  # another sequence: the candidates have changed
    picked += [rule.pick(members, 0.0, RANDOM, None).id for _ in range(8)]
    assert Counter(picked)["a"] in {3, 4}


def test_a_member_of_weight_zero_waits_for_its_first_turn() -> None:
    a, b = Stub("a"), Stub("b", 0.0)
    rule = started((a, b))
    assert rule.score(b, 0.0) == math.inf
    assert set(counts(rule, (a,), 0.0, picks=10)) == {"a"}
    b.weight = 1.0
    rule.update(change((a, b), (a, b)), 0.0, RANDOM)
    members = (a, b)
    assert counts(rule, members, 0.0, picks=100)["b"] == 50


def test_who_leaves_is_forgotten_and_who_comes_back_has_said_nothing() -> None:
    members = [Stub("a"), Stub("b")]
    rule = reported(members, [busy(100, 0.9), busy(100, 0.1)])
    rule.update(change([members[0]], members), 12.0, RANDOM)
    back = Stub("b")
    rule.update(change([members[0], back], [members[0]]), 12.0, RANDOM)
    shares = counts(rule, [members[0], back], 12.0)
    assert shares["b"] == pytest.approx(500, abs=60)
