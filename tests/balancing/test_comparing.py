"""Instances that fail more often than the others are ejected, by the same circuit and under the same cap."""

from __future__ import annotations

from collections import Counter

import pytest

from resilient.balancing import Balancer, Comparison, Ejection, PeakEwma, RoundRobin
from resilient.events import InstanceEjected, InstanceRestored
from resilient.verdict import Verdict
from tests.balancing.fleet import Behaviour, Fleet

NAMES = [f"i{number}" for number in range(10)]
SEEDS = range(3)


def some_fail(share: float, *names: str) -> Behaviour:
    """So large a share of the calls of each of them fails, as evenly as it can: rarely two in a row."""
    count: Counter[str] = Counter()

    def behave(name: str, _now: float) -> tuple[Verdict, float]:
        count[name] += 1
        failed = int(count[name] * share) > int((count[name] - 1) * share)
        return (Verdict.FAILED if name in names and failed else Verdict.OK), 0.01

    return behave


def fleet(seed: int = 0, **ejection: object) -> Fleet:
    rules = Ejection(**{"comparison": Comparison(), "duration": 5.0, **ejection})  # type: ignore[arg-type]  # as the test gives them
    made = Fleet(Balancer(RoundRobin(), ejection=rules), seed)
    made.apply(*NAMES)
    return made


def ejected(made: Fleet) -> list[InstanceEjected]:
    return [event for event in made.events if isinstance(event, InstanceEjected)]


@pytest.mark.parametrize("seed", SEEDS)
def test_one_that_fails_a_fifth_is_ejected_by_comparison_and_by_nothing_else(seed: int) -> None:
    alone = fleet(seed, comparison=None)
    alone.run(30.0, 200.0, some_fail(0.2, "i0"))
    assert ejected(alone) == []
    made = fleet(seed)
    made.run(30.0, 200.0, some_fail(0.2, "i0"))
    assert {event.instance for event in ejected(made)} == {"i0"}
    assert "of its calls succeeded" in ejected(made)[0].reason
    assert 10.0 <= ejected(made)[0].at < 12.0  # an interval, and the next failure


def test_it_comes_back_by_one_call_and_is_out_for_longer_the_next_time() -> None:
    made = fleet()
    made.run(60.0, 200.0, some_fail(0.3, "i0"))
    seconds = [event.seconds for event in ejected(made) if event.instance == "i0"]
    assert seconds[0] == 5.0
    assert any(isinstance(event, InstanceRestored) for event in made.events)
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("seed", SEEDS)
def test_more_than_a_fifth_of_the_fleet_hides_itself_from_the_mean(seed: int) -> None:
    made = fleet(seed)
    made.run(30.0, 400.0, some_fail(0.2, "i0", "i1", "i2"))
    assert ejected(made) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_the_cap_holds_for_the_comparison_too(seed: int) -> None:
    made = fleet(seed, max_ejected=0.1)
    out: set[str] = set()
    made.run(40.0, 400.0, some_fail(0.3, "i0", "i1"))
    for event in made.events:
        if isinstance(event, InstanceEjected):
            out.add(event.instance)
        elif isinstance(event, InstanceRestored):
            out.remove(event.instance)
        assert len(out) <= 1
    assert ejected(made)


def test_nobody_is_compared_before_an_interval_is_over() -> None:
    made = fleet()
    made.run(9.9, 400.0, some_fail(0.4, "i0"))
    assert ejected(made) == []


def test_shares_of_failures_are_compared_where_the_ejection_does_not_look_at_shares() -> None:
    made = fleet(failure_ratio=None, consecutive_failures=None, comparison=Comparison(deviations=None))
    made.run(11.0, 100.0, some_fail(0.9, "i0"))
    assert [event.instance for event in ejected(made)] == ["i0"]
    assert ejected(made)[0].reason.endswith("where the limit is 85%")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_picker_that_counts_failures_leaves_nothing_to_compare(seed: int) -> None:
    """Why it is off by default: who fails a tenth of its calls gets so few that the test never looks at it."""
    made = Fleet(Balancer(PeakEwma(), ejection=Ejection(consecutive_failures=None, comparison=Comparison())), seed)
    made.apply(*NAMES)
    made.run(10.0, 1000.0, some_fail(0.1, "i0"))
    assert made.run(10.0, 1000.0, some_fail(0.1, "i0"))["i0"] < 20
    assert ejected(made) == []
