"""The gate: which rules are refused, and which hold."""

from __future__ import annotations

import re

import pytest

from resilient.lab.reporting import gate
from resilient.lab.reporting.gate import BadFile, Rule, judge, read_rules
from tests.lab.samples import made, run, sample

SIX = range(6)


def of(values, metric="p99", policy="default"):
    name = metric.replace(".", "__")
    return made([run("outage", policy, seed, **{name: value}) for seed, value in enumerate(values)])


def judged(results, *, scenario="outage", policy="default", metric="p99", **rule):
    (found,) = judge([Rule(scenario=scenario, policy=policy, metric=metric, **rule)], results)
    return found


def holds(results, **rule):
    return judged(results, **rule).holds


# The file


RULE = '[[rule]]\nscenario = "outage"\npolicy = "default"\nmetric = "p99"\n'


def written(tmp_path, content):
    path = tmp_path / "bench.toml"
    path.write_text(content)
    return path


def test_rules_are_read(tmp_path):
    of([0.1]).write(tmp_path / "baseline.json")
    path = written(
        tmp_path,
        RULE + "at_most = 30\n" + RULE + "at_least = 0.5\nat_most = 1\n" + RULE + 'within=0.05\nof="baseline.json"',
    )
    one, two, three = read_rules(path)
    assert one == Rule(scenario="outage", policy="default", metric="p99", at_most=30)
    assert (two.at_least, two.at_most) == (0.5, 1)
    assert (three.within, three.of) == (0.05, of([0.1]))


def test_the_example_in_the_documentation_is_a_gate(tmp_path):
    (example,) = re.findall(r"```toml\n(.*?)```", gate.__doc__ or "", flags=re.DOTALL)
    sample(seeds=1).write(tmp_path / "baseline.json")
    rules = read_rules(written(tmp_path, example))
    assert [rule.metric for rule in rules] == ["recovery", "success", "p99"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "rule is missing"),
        ("rule = []", "the document={'rule': []}: at least one [[rule]]"),
        ("rule = 1", "rule=1: a list"),
        ("rule = [1]", "rule[0]=1: a table"),
        ("[[rule]", "not valid TOML"),
        (
            RULE.replace("policy", "polcy"),
            "rule[0].polcy='default': unknown; allowed are scenario, policy, metric, at_",
        ),
        ('[[rule]]\nscenario="o"\npolicy="d"\nat_most=1', "rule[0].metric is missing"),
        ('[[rule]]\nscenario="o"\nmetric="d"\nat_most=1', "rule[0].policy is missing"),
        ('[[rule]]\npolicy="o"\nmetric="d"\nat_most=1', "rule[0].scenario is missing"),
        (RULE, "rule[0]: a rule has at_most, at_least or both; or else within and of"),
        (RULE + "at_most = '3'", "rule[0].at_most='3': a finite number"),
        (RULE + "at_most = inf", "rule[0].at_most=inf: a finite number"),
        (RULE + "at_least = nan", "rule[0].at_least=nan: a finite number"),
        (RULE + "at_most = true", "rule[0].at_most=True: a finite number"),
        (RULE + "within = 0.1", "rule[0]: within=0.1: it goes with of, the results that it is measured against"),
        (RULE + 'of = "b.json"', "rule[0]: within=None: it goes with of"),
        (RULE + 'within = -0.1\nof = "b.json"', "rule[0]: within=-0.1: a fraction, 0 or more"),
        (RULE + 'within = 0.1\nof = "b.json"\nat_most = 1', "rule[0]: a rule has at_most, at_least or both; or else"),
        (RULE + "at_most = 3\n\n[other]\nx = 1", "other={'x': 1}: unknown; allowed are rule"),
        (RULE + "at_most = 3\n" + RULE.replace('"p99"', '""'), "rule[1].metric='': a text, not empty"),
    ],
)
def test_a_bad_file_is_refused_with_what_is_wrong(tmp_path, content, message):
    of([0.1]).write(tmp_path / "b.json")
    path = written(tmp_path, content)
    with pytest.raises(BadFile, match=f"^{re.escape(f'{path}: {message}')}"):
        read_rules(path)


def test_a_baseline_that_is_none_is_refused_by_its_own_name(tmp_path):
    path = written(tmp_path, RULE + 'within = 0.1\nof = "gone.json"')
    with pytest.raises(BadFile, match=r"gone\.json: cannot be read"):
        read_rules(path)


@pytest.mark.parametrize("wrong", [{"at_most": float("nan")}, {"within": float("inf"), "of": of([1.0])}, {}])
def test_a_rule_made_in_code_is_checked_too(wrong):
    with pytest.raises(ValueError, match=r"finite|a rule has"):
        Rule(scenario="s", policy="p", metric="m", **wrong)


# Bounds


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"at_most": 0.2}, True),
        ({"at_most": 0.19}, False),
        ({"at_least": 0.2}, True),
        ({"at_least": 0.21}, False),
        ({"at_least": 0.1, "at_most": 0.3}, True),
        ({"at_least": 0.1, "at_most": 0.15}, False),
        ({"at_least": 0.25, "at_most": 0.3}, False),
    ],
)
def test_a_bound_is_held_against_the_mean(rule, expected):
    assert holds(of([0.2 for _ in SIX]), **rule) is expected


def test_a_bound_on_recovery_fails_with_a_single_seed_that_never_recovers():
    assert holds(of([1.0] * 10, "recovery"), metric="recovery", at_most=30)
    found = judged(of([1.0] * 9 + [None], "recovery"), metric="recovery", at_most=30)
    assert not found.holds
    assert found.text == (
        "outage: default: recovery 1 s (1 of 10 seeds never), asked for at most 30 s; 1 of 10 seeds never got there"
    )


def test_what_must_fail_can_be_asked_for():
    """That a naive policy never recovers shows that the scenario is hard."""
    assert holds(of([None] * 6, "recovery"), metric="recovery", at_least=100)


def test_a_bound_fails_where_a_seed_has_no_value():
    found = judged(of([0.1] * 5 + [None]), at_most=1)
    assert not found.holds
    assert found.reason == "1 of 6 seeds have no value"


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"scenario": "outrage"}, "the scenario was not run; there are outage"),
        ({"policy": "defalt"}, "the policy was not run; there are default"),
        ({"metric": "p9"}, "there is no such metric; there are p99"),
    ],
)
def test_what_was_not_run_fails(rule, reason):
    for bound in ({"at_most": 9.0}, {"within": 0.5, "of": of([0.1])}):
        found = judged(of([0.1]), **rule, **bound)
        assert (found.holds, found.measured, found.reason) == (False, None, reason)
        assert "not measured" in found.text


def test_what_has_no_value_fails():
    assert judged(of([None, None]), at_most=9.0).reason == "no seed has a value"


# Baselines


@pytest.mark.parametrize(
    ("metric", "before", "after", "within", "expected"),
    [
        ("p99", 0.1, 0.105, 0.06, True),
        ("p99", 0.1, 0.107, 0.06, False),
        ("p99", 0.1, 0.01, 0.0, True),  # better is never wrong
        ("p99", 0.1, 0.1, 0.0, True),
        ("success", 0.9, 0.88, 0.05, True),
        ("success", 0.9, 0.8, 0.05, False),
        ("success", 0.9, 1.0, 0.05, True),
        ("own", 0.5, 0.52, 0.05, True),
        ("own", 0.5, 0.6, 0.05, False),
        ("own", 0.5, 0.4, 0.05, False),
        ("duplicates", 0, 0, 0.05, True),
        ("duplicates", 0, 1, 0.05, False),
        ("recovery", None, None, 0.05, True),
        ("recovery", None, 5.0, 0.05, True),
        ("recovery", 5.0, None, 99.0, False),
    ],
)
def test_a_baseline_bounds_how_much_worse_it_may_be(metric, before, after, within, expected):
    old, new = (of([value for _ in SIX], metric) for value in (before, after))
    assert holds(new, metric=metric, within=within, of=old) is expected


def test_it_is_told_how_the_seeds_differ_from_the_baseline():
    old = of([0.1, 0.2, 0.3, 0.1, 0.2, 0.3])
    new = of([0.11, 0.21, 0.31, 0.11, 0.21, 0.32])
    found = judged(new, within=0.01, of=old)
    assert not found.holds
    assert found.change.clear
    assert found.text == (
        "outage: default: p99 212 ms [127, 300] (+12 ms [10, 17] against the baseline), "
        "asked for at most 1 % higher than 200 ms"
    )


def test_one_more_seed_that_never_recovers_is_worse_than_the_baseline():
    old, new = of([1.0] * 9 + [None], "recovery"), of([1.0] * 8 + [None] * 2, "recovery")
    assert holds(old, metric="recovery", within=0.1, of=old)
    found = judged(new, metric="recovery", within=0.1, of=old)
    assert (found.holds, found.reason) == (False, "2 of 10 seeds never got there, before 1 of 10")
    assert holds(old, metric="recovery", within=0.1, of=new)


def test_one_more_seed_without_a_value_is_worse_than_the_baseline():
    found = judged(of([0.1, None]), within=0.1, of=of([0.1, 0.1]))
    assert (found.holds, found.reason) == (False, "1 of 2 seeds have no value, before 0 of 2")


def test_a_baseline_without_the_metric_fails():
    found = judged(of([0.1]), within=0.1, of=of([0.1], "p50"))
    assert (found.holds, found.reason) == (False, "the baseline has no value")
    assert found.measured is not None


def test_every_rule_is_judged():
    rules = [Rule(scenario="outage", policy="default", metric="p99", at_most=bound) for bound in (1.0, 0.01, 2.0)]
    assert [found.holds for found in judge(rules, of([0.1]))] == [True, False, True]
