"""What differs between two results."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from resilient.lab.reporting.comparison import compare
from resilient.lab.results import Results, ScenarioFacts
from tests.lab.samples import made, run, sample


def changed(results: Results, change, policy="default") -> Results:
    """The same, with the metrics of a policy passed through `change(name, value, seed)`."""
    runs = []
    for old in results.runs:
        metrics = {n: v if v is None else change(n, v, old.seed) for n, v in old.metrics.items()}
        runs.append(replace(old, metrics=metrics) if old.policy == policy else old)
    return Results(header=results.header, runs=runs)


def test_the_same_results_differ_in_nothing():
    results = sample(seeds=6)
    found = compare(results, results)
    assert (found.common, found.identical) == (72, 72)
    assert found.clear == found.better == found.worse == []
    assert all(change.difference.low == change.difference.high == 0 for change in found.changes if change.before.seeds)


def test_what_is_worse_in_every_seed_is_clearly_worse():
    before = sample(scenarios=["slow-instance"], seeds=8)
    after = changed(before, lambda name, value, seed: value * (1.05 + seed / 1000) if name == "p99" else value)
    found = compare(before, after)
    worse: Any = found.worse[0]
    assert len(found.worse) == 1
    assert (worse.scenario, worse.policy, worse.difference.measure.name) == ("slow-instance", "default", "p99")
    assert worse.primary
    assert worse.difference.centre == pytest.approx(worse.after.centre - worse.before.centre)
    assert 0 < worse.difference.low <= worse.difference.high
    assert found.better == []
    assert (found.common, found.identical) == (32, 24)
    back = compare(after, before)
    assert [change.difference.measure.name for change in back.better] == ["p99"]


def test_what_is_now_worse_and_now_better_is_not_clear():
    before = sample(scenarios=["slow-instance"], seeds=8)
    after = changed(before, lambda name, value, seed: value + (-1) ** seed * 0.1)
    assert compare(before, after).clear == []


def test_what_only_one_of_them_has_is_left_out_and_listed():
    whole = sample(scenarios=["recovery-herd", "slow-instance"], policies=["none", "default"], seeds=3)
    one = made([run for run in whole.runs if run.seed < 2])
    other = made([run for run in whole.runs if run.policy == "none" and run.scenario == "recovery-herd"])
    found = compare(one, other)
    assert (found.common, found.identical) == (2, 2)
    assert {(change.scenario, change.policy) for change in found.changes} == {("recovery-herd", "none")}
    assert found.only_after == [("recovery-herd", "none", 2)]
    assert len(found.only_before) == 6


def test_only_metrics_that_both_have_are_compared():
    found = compare(made([run(p99=1.0, old=1.0)]), made([run(p99=2.0, new=1.0)]))
    assert [change.difference.measure.name for change in found.changes] == ["p99"]


def test_nothing_in_common_is_an_error():
    with pytest.raises(ValueError, match="no run of the same scenario, policy and seed"):
        compare(made([run("outage", "a")]), made([run("outage", "b")]))


@pytest.mark.parametrize(
    ("field", "value"),
    [("duration", 8.0), ("knobs", {"load": 1.0}), ("trigger", (1.0, 2.0)), ("deadline", 3.0), ("warmup", 1.0)],
)
def test_another_scenario_of_the_same_name_is_an_error(field, value):
    facts = ScenarioFacts(title="outage", duration=9.0, primary=["recovery"])
    one, other = (made([run()], scenarios={"outage": f}) for f in (facts, replace(facts, **{field: value})))
    with pytest.raises(ValueError, match=f"scenario 'outage' is not the same in both: {field}="):
        compare(one, other)
