"""What of the runs is drawn."""

from __future__ import annotations

import pytest

from resilient.lab.drawing.chart import Band
from resilient.lab.reporting.panels import panels
from resilient.lab.results import ScenarioFacts
from tests.lab.samples import made, run, sample


def drawn(*runs, trigger=None, duration=3.0):
    facts = ScenarioFacts(title="Outage", duration=duration, trigger=trigger, primary=["recovery"])
    return {plot.title: plot for plot in panels(made(runs, scenarios={"outage": facts}), "outage")}


def only(*runs, **facts):
    (plot,) = drawn(*runs, **facts).values()
    return plot


def test_every_scenario_has_the_same_panels_in_the_same_order():
    found = sample(seeds=2)
    assert [plot.title for plot in panels(found, "metastable-retry-storm")] == [
        "Goodput", "Latency of successes, p99", "Amplification", "Calls queued", "Circuits open",
    ]  # fmt: skip
    assert "Instances ejected" in [plot.title for plot in panels(found, "slow-instance")]


def test_a_line_is_the_mean_over_the_seeds_and_its_area_reaches_from_the_lowest_to_the_highest():
    plot = only(
        run("outage", "a", 0, series={"p99": [0.1, None, 0.3]}),
        run("outage", "a", 1, series={"p99": [0.3, None, None]}),
    )
    (line,) = plot.lines
    assert line.label == "a"
    assert line.points == [(0.5, 0.2), (1.5, None), (2.5, 0.3)]
    assert line.spread == [(0.5, 0.1, 0.3), (1.5, None, None), (2.5, 0.3, 0.3)]
    assert plot.log


def test_one_seed_has_no_area():
    (line,) = only(run("outage", "a", 0, series={"p99": [0.1, 0.2]})).lines
    assert line.spread == ()


def test_a_shorter_run_ends_earlier():
    (line,) = only(
        run("outage", "a", 0, series={"p99": [1.0, 2.0]}), run("outage", "a", 1, series={"p99": [3.0]})
    ).lines
    assert line.points == [(0.5, 2.0), (1.5, 2.0)]


def test_the_trigger_is_shaded_over_the_whole_run():
    plot = only(run(series={"goodput": [1.0] * 9}), trigger=(1.0, 2.0), duration=9.0)
    assert plot.bands == [Band(1.0, 2.0, "trigger")]
    assert (plot.start, plot.end) == (0.0, 9.0)
    assert only(run(series={"goodput": [1.0]})).bands == []


def test_what_was_offered_stands_grey_behind_the_goodput():
    found = drawn(
        run("outage", "a", 0, series={"offered": [10.0, 20.0], "goodput": [1.0, 2.0]}),
        run("outage", "b", 0, series={"offered": [10.0, 20.0], "goodput": [3.0, 4.0]}),
    )
    assert list(found) == ["Goodput"]
    behind, *policies = found["Goodput"].lines
    assert (behind.label, behind.muted, behind.points) == ("offered", True, [(0.5, 10.0), (1.5, 20.0)])
    assert [line.label for line in policies] == ["a", "b"]
    assert found["Goodput"].note == "Grey: offered."


def test_amplification_is_attempts_for_each_call_that_was_due():
    plot = only(run(series={"attempts": [10.0, 5.0, None], "offered": [5.0, 0.0, 5.0]}))
    assert plot.title == "Amplification"
    assert plot.lines[0].points == [(0.5, 2.0), (1.5, None), (2.5, None)]
    assert drawn(run(series={"attempts": [10.0]})) == {}


@pytest.mark.parametrize("name", ["ejected", "open", "queue", "rejected", "throttled"])
def test_what_never_happens_is_not_drawn(name):
    assert drawn(run(series={name: [0.0, None, 0.0]})) == {}
    assert len(drawn(run(series={name: [0.0, 1.0]}))) == 1


def test_queues_that_are_far_apart_are_drawn_on_a_logarithmic_scale():
    near = only(
        *(run("outage", policy, 0, series={"queue": [0.0, top]}) for policy, top in (("a", 10.0), ("b", 300.0)))
    )
    far = only(*(run("outage", policy, 0, series={"queue": [0.0, top]}) for policy, top in (("a", 10.0), ("b", 301.0))))
    assert (near.log, near.note) == (False, "")
    assert (far.log, far.note) == (True, "What is less than 1 is drawn at 1.")
    assert [line.points[0] for line in near.lines] == [(0.5, 0.0)] * 2
    assert [line.points[0] for line in far.lines] == [(0.5, 1.0)] * 2


def test_a_series_that_nobody_knows_is_drawn_under_its_name():
    found = drawn(run(series={"arrivals": [1.0, 2.0], "failures": [1.0], "p50": [0.1]}))
    assert list(found) == ["arrivals"]


def test_a_scenario_without_series_has_no_panels():
    assert drawn(run(p99=1.0)) == {}
