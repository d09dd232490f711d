"""What results say in words."""

from __future__ import annotations

import pytest

from resilient.lab.reporting.findings import findings, headline, overall, worst_seed
from resilient.lab.results import ScenarioFacts
from tests.lab.samples import made, run, sample


def results(metric="recovery", *, primary=None, **policies):
    """One scenario, judged by one metric; each policy with its values seed by seed."""
    facts = ScenarioFacts(title="Outage", duration=99, trigger=(9, 19), primary=primary or [metric])
    name = metric.replace(".", "__")
    runs = [
        run("outage", policy, seed, **{name: value})
        for policy, values in policies.items()
        for seed, value in enumerate(values)
    ]
    return made(runs, scenarios={"outage": facts})


def said(*args, **policies):
    (finding,) = findings(results(*args, **policies), "outage")
    return finding.text, tuple(finding.best), finding.clear


MINUS = "\N{MINUS SIGN}"
SOON = [1.0, 1.4, 0.9, 1.2, 1.6, 0.8, 1.2, 1.1]
LATER = [113.0, 121.0, 109.0, 117.0, 110.0, 116.0, 114.0, 112.0]


def test_the_headline_tells_what_each_policy_does():
    found = results(retry3=[None] * 8, none=LATER, default=SOON)
    assert headline(found, "outage") == (
        "`default` recovers in 1.1 s [0.9, 1.5]; `none` recovers in 114 s [110, 118]; `retry3` never recovers"
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([None, None, None], "`a` never recovers"),
        ([None, None, 4.0], "`a` recovers in only 1 of 3 seeds"),
        ([3.0, None, 4.0], "`a` recovers in 4.0 s [3.0, never] (1 of 3 seeds never)"),
        ([3.0], "`a` recovers in 3 s"),
    ],
)
def test_the_headline_tells_how_many_seeds_recover(values, words):
    assert headline(results(a=values), "outage") == words


def test_what_is_the_same_is_said_once():
    found = results(retry1=[None] * 8, default=SOON, retry3=[None] * 8)
    assert headline(found, "outage").endswith("; `retry1` and `retry3` never recover")


def test_a_policy_without_a_value_is_named():
    found = results("p99", a=[0.1], b=[None], c=[None])
    assert headline(found, "outage") == "`a` shows a p99 latency of 100 ms; `b` and `c` have no value of p99"


@pytest.mark.parametrize(
    ("metric", "policies", "text", "best", "clear"),
    [
        (
            "recovery",
            {"none": LATER, "default": SOON, "retry3": [None] * 8},
            "`default` is clearly best: 112 s [108, 116] less than `none`, the next",
            ("default",),
            True,
        ),
        (
            "recovery",
            {"default": SOON, "retry3": [None] * 8},
            "`default` is clearly best; the next, `retry3` never recovers",
            ("default",),
            True,
        ),
        (
            "recovery",
            {"default": SOON, "retry3": [*[None] * 7, 80.0]},
            "`default` is clearly best; the next, `retry3` recovers in only 1 of 8 seeds",
            ("default",),
            True,
        ),
        (
            "success",
            {"a": [0.9, 0.91, 0.92, 0.93, 0.9, 0.91], "b": [0.98, 0.97, 0.99, 0.98, 0.97, 0.98]},
            "`b` is clearly best: 7 points [5, 8] more than `a`, the next",
            ("b",),
            True,
        ),
        (
            "p99",
            {"a": [0.1, 0.3, 0.2, 0.1, 0.3, 0.2], "b": [0.2, 0.1, 0.3, 0.3, 0.2, 0.1], "c": [2.0] * 6},
            f"no clear difference between `a` and `b` (0 ms [{MINUS}167, 150] over 6 seeds); `c` is clearly worse",
            ("a", "b"),
            False,
        ),
        (
            "p99",
            {"a": [0.1, 0.3] * 3, "b": [0.3, 0.1] * 3, "c": [0.2, 0.2001] * 3, "d": [9.0] * 6, "e": [8.0] * 6},
            "no clear difference between `a`, `b` and `c`; `e` and `d` are clearly worse",
            ("a", "b", "c"),
            False,
        ),
        ("duplicates", {"a": [0] * 6, "b": [0] * 6}, "the same for all: 0", ("a", "b"), False),
        (
            "p99",
            {"a": [0.1] * 5, "b": [0.2] * 5},
            "`a` came out best, but 5 seeds are too few to call a difference clear (at least 6)",
            (),
            False,
        ),
        (
            "p99",
            {"a": [0.1], "b": [0.2]},
            "`a` came out best, but 1 seed is too few to call a difference clear (at least 6)",
            (),
            False,
        ),
        ("own", {"a": [0.5] * 6, "b": [0.7] * 6}, "`a` 0.5; `b` 0.7", (), False),
        ("p99", {"a": [0.1] * 6}, "`a` 100 ms", (), False),
        ("p99", {"a": [None] * 6, "b": [None] * 6}, "no run has a value", (), False),
        ("p99", {"a": [None] * 6, "b": [0.1] * 6}, "`b` 100 ms; `a` has no value", ("b",), True),
        ("p99", {"a": [None] * 5, "b": [0.1] * 5}, "`b` 100 ms; `a` has no value", (), False),
        (
            "p99",
            {"a": [0.01, *[None] * 7], "b": [0.1] * 8, "c": [0.2] * 8},
            "`b` is clearly best: 100 ms less than `c`, the next; `a` has a value in only 1 of 8 seeds and is left out",
            ("b",),
            True,
        ),
        ("own", {"a": [0.5] * 6, "b": [None] * 6}, "`a` 0.5; `b` has no value", (), False),
    ],
)
def test_it_is_said_who_is_best_and_how_clearly(metric, policies, text, best, clear):
    assert said(metric, **policies) == (text, best, clear)


def test_what_is_written_the_same_is_not_called_different():
    """Clear, and nobody could tell the two apart."""
    policies = {"a": [0.1] * 8, "b": [0.100001] * 8}
    assert said("p99", **policies) == ("the same for all: 100 ms", ("a", "b"), False)


def test_every_primary_metric_is_judged():
    found = findings(sample(seeds=6), "metastable-retry-storm")
    assert [finding.measure.name for finding in found] == ["recovery", "amplification", "goodput.after"]
    assert [finding.best for finding in found] == [["default"], ["none"], ["default"]]


def test_overall_policies_are_counted():
    assert overall(sample(seeds=6)) == (
        "`default` is best or level with the best in 5 of 6 primary metrics, `none` in 1, `retry1` in 0, `retry3` in 0"
    )
    assert overall(results(default=SOON, none=LATER)) == (
        "`default` is best or level with the best in 1 of 1 primary metric, `none` in 0"
    )


def test_overall_nothing_is_said_where_there_is_nothing_to_compare():
    assert overall(sample(policies=["default"], seeds=6)) == ""
    assert overall(sample(seeds=3)) == ""


@pytest.mark.parametrize(
    ("metric", "values", "seed"),
    [
        ("recovery", [1.0, 9.0, 3.0], 1),
        ("recovery", [1.0, 9.0, None], 2),
        ("success", [0.9, 0.5, 0.7], 1),
        ("p99", [0.1, None, 0.2], 2),
        ("p99", [None, None], None),
        ("own", [0.1, 0.2], None),
    ],
)
def test_the_worst_seed_is_found(metric, values, seed):
    assert worst_seed(results(metric, a=values), "outage", "a") == seed
