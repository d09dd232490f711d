"""What a user types."""

from __future__ import annotations

from pathlib import Path

import pytest

from resilient.lab.bench.references import find_policy, knobs_of, make_scenario, parse_knobs, parse_range
from resilient.lab.scenarios import find, names

STORM = str(Path(__file__).parent / "storm.toml")


@pytest.mark.parametrize("name", names())
def test_every_scenario_is_made_under_its_name_and_says_what_it_is(name):
    scenario = make_scenario(name)
    assert scenario.name == name
    assert scenario.title
    assert scenario.source
    assert scenario.naive
    assert scenario.good
    assert scenario.bands
    assert scenario.knobs == knobs_of(name)
    for policy in (*scenario.policies, *scenario.contenders):
        assert find_policy(policy, scenario).name == policy
    assert {band.policy for band in scenario.bands} <= {*scenario.policies}  # or nobody would judge them


def test_a_knob_is_turned():
    turned = make_scenario("slow-instance", {"duration": 60.0})
    assert (turned.duration, turned.knobs["duration"]) == (60.0, 60.0)


def test_a_scenario_may_be_a_file_or_a_function_of_ones_own():
    assert make_scenario(STORM).name == "small-storm"
    assert make_scenario("resilient.lab.scenarios.sinkhole:scenario").name == "sinkhole"


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("sinkhol", "scenario 'sinkhol': one of ambiguous-timeouts, .*sinkhole"),
        ("nowhere:scenario", "scenario 'nowhere:scenario': No module named 'nowhere'"),
        ("resilient.lab.scenarios.sinkhole:make", "scenario .* has no attribute 'make'"),
    ],
)
def test_a_scenario_that_is_not_there_is_told(reference, told):
    with pytest.raises(ValueError, match=told):
        make_scenario(reference)


def test_a_policy_may_be_a_contender_a_file_or_a_name():
    storm = find("metastable-retry-storm")()
    contender = next(iter(storm.contenders))
    assert find_policy(contender, storm) is storm.contenders[contender]
    assert find_policy("retry2", storm).name == "retry2"
    stacks = str(Path(__file__).parent / "stacks.toml:careful")
    assert find_policy(stacks, storm).name == stacks


def test_a_policy_that_is_not_there_is_told_with_the_scenario_s_own():
    storm = find("metastable-retry-storm")()
    first = next(iter(storm.contenders))
    with pytest.raises(ValueError, match=rf"policy 'retry': one of none.*; of metastable-retry-storm: {first}"):
        find_policy("retry", storm)


def test_knobs_are_python_s_literals_or_texts():
    assert parse_knobs(["load=2.5", "queue=fifo", "deep=True", "zones=('a', 'b')"]) == {
        "load": 2.5,
        "queue": "fifo",
        "deep": True,
        "zones": ("a", "b"),
    }
    with pytest.raises(ValueError, match="'load': a knob is written as name=value"):
        parse_knobs(["load"])


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("load=100..300:100", [100, 200, 300]),
        ("load=0.1..0.3:0.1", pytest.approx([0.1, 0.2, 0.3])),
        ("load=5..5:1", [5]),
        ("queue=fifo,lifo", ["fifo", "lifo"]),
        ("load=1,2.5", [1, 2.5]),
    ],
)
def test_a_range(text, values):
    assert parse_range(text)[1] == values


@pytest.mark.parametrize(
    "text",
    ["load", "load=", "=1..2:1", "load=1..2", "load=2..1:1", "load=1..2:0", "load=a..b:1", "load=0..1e9:1"],
)
def test_a_range_that_is_none(text):
    with pytest.raises(ValueError, match=r"load|=1"):
        parse_range(text)
