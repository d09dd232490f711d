"""Who is about to leave gets nothing new."""

from __future__ import annotations

import pytest

from resilient.balancing import Draining, RoundRobin
from resilient.verdict import Verdict
from tests.balancing.filters.fleets import RANDOM, balancing, counts, kept, member, pick
from tests.balancing.fleet import instance, snapshot


@pytest.mark.parametrize(
    ("rule", "metadata", "stays"),
    [
        (Draining(), {}, True),
        (Draining(), {"state": "ready"}, True),
        (Draining(), {"state": "draining"}, False),
        (Draining("status", ("leaving", "ill")), {"status": "ill"}, False),
        (Draining("status", ("leaving",)), {"state": "draining"}, True),
    ],
)
def test_metadata_says_who_drains(rule: Draining, metadata: dict[str, str], stays: bool) -> None:
    assert bool(kept(rule, [member("a", metadata=metadata)])) is stays


def test_calls_in_flight_end_and_nothing_new_comes() -> None:
    balancer = balancing(Draining(), instances="ab", picker=RoundRobin())
    held = [pick(balancer) for _ in range(2)]
    balancer.apply(snapshot(instance("a", metadata={"state": "draining"}), "b", version=2), 1.0, RANDOM)
    assert set(counts(balancer, 1.0)) == {"b"}
    draining = balancer.instances(1.0)[0]
    assert (draining.state, draining.detail, draining.active) == ("filtered", "filtered: draining", 1)
    for one in held:
        assert balancer.settle(one, Verdict.OK, 0.1, 1.0, RANDOM) == ()
    assert balancer.instances(1.0)[0].active == 0


def test_who_drains_does_not_count_for_the_panic_threshold() -> None:
    leaving = [instance(f"old{n}", metadata={"state": "draining"}) for n in range(8)]
    balancer = balancing(Draining(), instances=[*leaving, "a", "b"], picker=RoundRobin())
    assert balancer.explain(0.0).panic is False
    assert set(counts(balancer)) == {"a", "b"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Draining(""), "metadata='': the name of the metadata"),
        (lambda: Draining(values=()), r"values=\(\): the values that mean draining"),
        (lambda: Draining(values="draining"), "values='draining'"),
    ],
)
def test_arguments_that_cannot_work_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
