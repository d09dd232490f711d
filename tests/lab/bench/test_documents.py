"""Scenarios and stacks in TOML."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from resilient.call import Priority
from resilient.lab.bench.documents import read_scenario, read_stack
from resilient.lab.faults import Stop
from resilient.lab.scenario import Computations, OpenLoop, Users
from resilient.lab.stacks import Setting
from resilient.lab.world.service_times import Exponential, Lognormal
from resilient.policies.retry import Retry
from tests.lab.measured import metrics_of

HERE = Path(__file__).parent
STORM = HERE / "storm.toml"
STACKS = HERE / "stacks.toml"


def test_a_file_says_all_that_a_scenario_is():
    scenario = read_scenario(STORM, {})
    front, db = scenario.tiers
    assert (scenario.name, scenario.duration, scenario.trigger, scenario.clients) == ("small-storm", 30, (10, 12), 2)
    assert (front.service_time, front.calls, front.instances) == (Lognormal(0.01), ["db"], 2)
    assert (db.service_time, db.honours_keys) == (Exponential(0.05), True)
    assert scenario.faults == [Stop(tier="db", at=10, seconds=2)]
    assert isinstance(scenario.load, OpenLoop)
    assert scenario.load.priorities == {Priority.CRITICAL: 0.8, Priority.SHEDDABLE: 0.2}
    assert [(band.policy, band.metric, band.low, band.high) for band in scenario.bands] == [
        ("default", "recovery", -math.inf, 5.0)
    ]


def test_it_plays(backend):
    metrics = metrics_of(read_scenario(STORM, {}), "default", backend=backend)
    assert metrics["calls"] == pytest.approx(28 * 30, rel=0.15)
    assert metrics["duplicates"] == 0
    assert metrics["success"] > 0.8


def test_a_knob_is_a_path_in_the_file():
    scenario = read_scenario(STORM, {"tiers.1.workers": 8, "load.arrivals.poisson.rate": 60})
    assert scenario.tiers[1].workers == 8
    assert scenario.knobs == {"tiers.1.workers": 8, "load.arrivals.poisson.rate": 60}
    assert metrics_of(scenario, "none")["calls"] == pytest.approx(28 * 60, rel=0.15)


@pytest.mark.parametrize(
    "load", ["users = { count = 3, think.constant = { mean = 1.0 } }", "computations = { count = 2, steps = 3 }"]
)
def test_the_other_kinds_of_load(tmp_path, load):
    text = STORM.read_text().replace("arrivals.poisson = { rate = 30 }", load)
    text = text.replace("keys = { keys = 10, exponent = 1.0 }", "")
    (tmp_path / "scenario.toml").write_text(text)
    assert isinstance(read_scenario(tmp_path / "scenario.toml", {}).load, Users | Computations)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("workers = 4", "worker = 4", r"tiers\[1\]: no argument 'worker'; there are name, service_time"),
        ("exponential", "exponentail", r"tiers\[1\].service_time: expected one of exponential, lognormal"),
        ("limit = 50", "limit = -1", r"tiers\[1\].queue.fifo: limit=-1"),
        ("rate = 30", "rate = 0", r"load.arrivals.poisson: rate=0"),
        ("rate = 30", "speed = 30", r"load.arrivals.poisson: no argument 'speed'; there are rate, start"),
        ("sheddable = 0.2", "shed = 0.2", r"load.priorities: no priority 'shed'; there are sheddable,"),
        ('stop = { tier = "db", at', "stop = { at = 1, att", r"faults\[0\].stop: no argument 'att'"),
        ("high = 5.0", "high = 5.0\nhihg = 1", r"bands\[0\]: no argument 'hihg'"),
        ("arrivals.poisson = { rate = 30 }", "", r"load: expected arrivals, users or computations"),
        ("duration = 30", "", r"duration: missing"),
        ("duration = 30", "duration = 1", r"the scenario: warmup=2, duration=1"),
        ("[[tiers]]", "[[tiers", r"scenario.toml: "),
        ("[load]", "[laod]", r"load: expected a table, got None"),
    ],
)
def test_what_is_wrong_is_told_with_its_place_and_what_is_allowed(tmp_path, old, new, told):
    file = tmp_path / "scenario.toml"
    file.write_text(STORM.read_text().replace(old, new))
    with pytest.raises(ValueError, match=told):
        read_scenario(file, {})


@pytest.mark.parametrize(
    ("knob", "told"),
    [
        ("load.rate", "knob load.rate: nothing there called 'rate'; there is writes, priorities, keys, arrivals"),
        ("tiers.2.workers", "knob tiers.2.workers: nothing there called '2'; there is 0, 1"),
        ("duration.seconds", "knob duration.seconds: nothing there called 'seconds'; there is a value"),
    ],
)
def test_a_knob_that_is_not_there_is_told_with_those_that_are(knob, told):
    with pytest.raises(ValueError, match=told):
        read_scenario(STORM, {knob: 1})


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"nothing.toml: No such file"):
        read_scenario(tmp_path / "nothing.toml", {})


# Stacks


def policies_of(name: str) -> list[Any]:
    unopened: Any = None
    setting = Setting(name="db", timeout=1, attempt_timeout=1)
    return [*read_stack(STACKS, name).make(setting, unopened).pipeline.policies]


def test_a_stack_is_made_of_its_tables_in_their_order():
    assert read_stack(STACKS, "careful").name == f"{STACKS}:careful"
    assert [type(policy).__name__ for policy in policies_of("careful")] == [
        "Timeout",
        "Honoured",
        "Retry",
        "AdaptiveThrottle",
        "CircuitBreaker",
        "Balance",
        "Timeout",
    ]


def test_it_is_made_anew_for_each_client():
    stack, setting, unopened = read_stack(STACKS, "careful"), Setting(name="db", timeout=1, attempt_timeout=1), None
    first, second = (stack.make(setting, unopened).pipeline.policies for _ in range(2))  # type: ignore[arg-type]  # never opened
    assert all(one is not other for one, other in zip(first, second, strict=True))


def test_no_budget_is_written_as_false():
    retry = next(policy for policy in policies_of("boundless") if isinstance(policy, Retry))
    assert (retry.attempts, retry.budget) == (4, None)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "policies: expected a table"),
        ("[policies.other]", "policies: none is called 'mine'; there are other"),
        ("[policies.mine]\nretry = { attemps = 2 }", "policies.mine.retry: no argument 'attemps'; there are attempts"),
        ("[policies.mine]\nretry = { attempts = 0 }", "policies.mine.retry: attempts=0"),
        ("[policies.mine]\nretyr = {}", "policies.mine: no policy 'retyr'; there are balancer, timeout"),
        ('[policies.mine]\nbalancer = "best"', "policies.mine.balancer: 'best': one of round_robin"),
    ],
)
def test_what_is_wrong_with_a_stack_is_told(tmp_path, text, told):
    file = tmp_path / "stacks.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=told):
        read_stack(file, "mine")
