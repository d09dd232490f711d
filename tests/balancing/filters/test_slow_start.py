"""Who has just come is spared."""

from __future__ import annotations

import math

import pytest

from resilient.balancing import LeastRequest, PeakEwma, RoundRobin, SlowStart
from resilient.verdict import Verdict
from tests.balancing.filters.fleets import RANDOM, balancing, member, weights
from tests.balancing.fleet import Fleet, instance, share, steady


@pytest.mark.parametrize(
    ("age", "aggression", "expected"),
    [
        (0.0, 1.0, 0.1),
        (2.9, 1.0, 0.1),  # never less
        (6.0, 1.0, 0.2),
        (15.0, 1.0, 0.5),
        (29.9, 1.0, 29.9 / 30),
        (30.0, 1.0, 1.0),
        (99.0, 1.0, 1.0),
        (7.5, 2.0, 0.5),  # sooner
        (15.0, 0.5, 0.25),  # later
        (0.0, 2.0, (1 / 30) ** 0.5),  # an age below one second is one
    ],
)
def test_a_weight_rises_with_age(age: float, aggression: float, expected: float) -> None:
    assert SlowStart(aggression=aggression).share(age) == pytest.approx(expected)
    members = [member("a", since=100.0, weight=3.0), *(member(name) for name in "bc")]
    assert weights(SlowStart(aggression=aggression), members, 100.0 + age) == pytest.approx([3.0 * expected, 1.0, 1.0])


@pytest.mark.parametrize(
    ("old", "young", "spared"), [(0, 1, False), (0, 3, False), (1, 2, False), (2, 2, True), (3, 2, True)]
)
def test_nobody_is_spared_where_most_are_new(old: int, young: int, spared: bool) -> None:
    members = [member(f"old{n}") for n in range(old)] + [member(f"young{n}", since=100.0) for n in range(young)]
    assert (min(weights(SlowStart(), members, 101.0)) < 1.0) is spared


def test_those_that_may_not_be_called_do_not_count_for_most() -> None:
    members = [member("a", since=100.0), member("b"), member("c", healthy=False), member("d", healthy=False)]
    assert weights(SlowStart(), members, 100.0) == pytest.approx([0.1, 1.0, 1.0, 1.0])
    members = [member("a", since=100.0), member("c", healthy=False), member("d", healthy=False)]
    assert weights(SlowStart(), members, 100.0) == [1.0, 1.0, 1.0]


def test_it_is_asked_again_in_steps_and_not_when_all_are_old() -> None:
    members = [member("a", since=100.0), member("b")]
    assert SlowStart(window=40.0).weigh(members, 100.0, RANDOM)[1] == 102.0
    assert SlowStart(window=40.0).weigh(members, 139.0, RANDOM)[1] == 140.0
    assert SlowStart(window=40.0).weigh(members, 140.0, RANDOM)[1] == math.inf
    new = [member("a", since=100.0), member("b", since=110.0)]
    assert SlowStart(window=40.0).weigh(new, 120.0, RANDOM)[1] == 140.0  # then only half of them are new


def test_it_begins_when_an_instance_comes_and_when_it_is_back() -> None:
    balancer = balancing(SlowStart(), instances="abc", picker=RoundRobin())
    balancer.check("a", "503 from /health", 50.0, RANDOM)
    balancer.check("a", None, 100.0, RANDOM)
    standing = balancer.instances(100.0)[0]
    assert standing.weight == pytest.approx(0.1)
    assert standing.detail == "slow start 10%"
    assert "slow start 10%" in str(balancer.explain(100.0))
    one = balancer.pick(115.0, RANDOM)
    balancer.settle(one, Verdict.OK, 0.01, 115.0, RANDOM)
    assert balancer.instances(115.0)[0].detail == "slow start 50%"
    balancer.pick(130.0, RANDOM)
    assert balancer.instances(130.0)[0].detail == ""


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("picker", "low", "high"), [(RoundRobin(), 0.02, 0.04), (LeastRequest(), 0.02, 0.05)])
def test_a_newcomer_gets_its_share_by_weight(picker, low: float, high: float, seed: int) -> None:
    names = [f"i{n}" for n in range(9)]
    made = Fleet(balancing(SlowStart(), instances=names, picker=picker), seed)
    made.apply(*names)
    made.run(60.0, 100.0, steady())
    made.apply(*names, "new")
    assert low < share(made.run(15.0, 200.0, steady()), "new") < high  # a quarter of a tenth, and a bit
    made.run(20.0, 100.0, steady())
    assert share(made.run(20.0, 200.0, steady()), "new") == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_to_a_picker_that_looks_at_latencies_it_is_a_handicap(seed: int) -> None:
    names = [f"i{n}" for n in range(9)]
    made = Fleet(balancing(SlowStart(), instances=names, picker=PeakEwma()), seed)
    made.apply(*names)
    made.run(60.0, 100.0, steady())
    made.apply(*names, "new")
    assert share(made.run(10.0, 200.0, steady()), "new") < 0.02
    made.run(30.0, 100.0, steady())
    assert share(made.run(20.0, 200.0, steady()), "new") == pytest.approx(0.1, abs=0.04)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 0.0}, "window=0.0: a finite number of seconds, more than 0"),
        ({"window": math.inf}, "window=inf"),
        ({"aggression": 0.0}, "aggression=0.0: a finite number, more than 0"),
        ({"least": 0.0}, "least=0.0: a share, above 0 and at most 1"),
        ({"least": 1.5}, "least=1.5"),
    ],
)
def test_arguments_that_cannot_work_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SlowStart(**arguments)


def test_a_lighter_instance_stays_lighter() -> None:
    balancer = balancing(SlowStart(), instances=[instance("a", weight=2.0), instance("b"), instance("c")])
    balancer.check("a", "down", 50.0, RANDOM)
    balancer.check("a", None, 100.0, RANDOM)
    assert [one.weight for one in balancer.instances(100.0)] == pytest.approx([0.2, 1.0, 1.0])
