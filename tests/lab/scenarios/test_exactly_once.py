"""What a network that loses and repeats does to writes: one-plus-one, ambiguous-timeouts."""

from __future__ import annotations

import pytest

from resilient.lab.scenarios import find
from tests.lab.measured import metrics_of


def test_one_plus_one_is_right_only_under_a_key():
    scenario = find("one-plus-one")(sums=20, steps=100, chance=0.004)
    none, reckless, default = (metrics_of(scenario, policy) for policy in ("none", "retry3", "default"))
    assert none["right"] == pytest.approx((1 - 0.004) ** 100, abs=0.2)
    assert none["right"] <= reckless["right"] < 1.0  # a lost request is mended,
    assert reckless["success"] == 1.0
    assert reckless["duplicates"] > none["duplicates"]  # and a lost reply made worse
    assert (default["right"], default["duplicates"], default["success"]) == (1.0, 0, 1.0)


def test_where_no_keys_are_honoured_the_default_repeats_no_addition():
    scenario = find("one-plus-one")(sums=20, steps=100, chance=0.004, honours_keys=False)
    none, default = (metrics_of(scenario, policy) for policy in ("none", "default"))
    assert default["amplification"] == 1.0
    assert (default["right"], default["duplicates"]) == (none["right"], none["duplicates"])


def test_retries_double_what_lost_replies_leave_open_and_keys_do_not():
    scenario = find("ambiguous-timeouts")(duration=20.0)
    none, reckless, default = (metrics_of(scenario, policy) for policy in ("none", "retry3", "default"))
    assert none["duplicated"] == 0
    assert none["unknown"] == pytest.approx(1 - none["success"])  # all that failed was done
    assert none["unknown"] == pytest.approx(0.01, abs=0.005)
    assert reckless["success"] == default["success"] == 1.0
    assert reckless["duplicated"] > none["unknown"] - 1e-9
    assert (default["duplicated"], default["unknown"]) == (0, 0)


def test_where_no_keys_are_honoured_the_default_says_that_it_does_not_know():
    scenario = find("ambiguous-timeouts")(duration=20.0, honours_keys=False)
    none, default = (metrics_of(scenario, policy) for policy in ("none", "default"))
    assert default["duplicated"] == 0
    assert default["unknown"] == none["unknown"] > 0


@pytest.mark.parametrize("name", ["one-plus-one", "ambiguous-timeouts"])
def test_trio_agrees(name):
    knobs = {"one-plus-one": {"sums": 10, "steps": 50, "chance": 0.004}, "ambiguous-timeouts": {"duration": 10.0}}
    scenario = find(name)(**knobs[name])
    asyncio, trio = (metrics_of(scenario, "default", backend=backend) for backend in ("asyncio", "trio"))
    assert {metric: asyncio[metric] for metric in scenario.primary} == {
        metric: trio[metric] for metric in scenario.primary
    }
