"""Assertions about policies, for tests of users."""

from __future__ import annotations

import pytest

from resilient import Pipeline, Retry, Timeout
from resilient.lab.arrivals import poisson
from resilient.lab.assertions import assert_amplification, assert_metric, assert_recovers
from resilient.lab.faults import Stop
from resilient.lab.scenario import OpenLoop, Scenario, Tier
from resilient.lab.world.service_times import Exponential

OUTAGE = Scenario(
    name="outage",
    title="",
    source="",
    naive="",
    good="",
    tiers=[Tier(name="db", workers=4, service_time=Exponential(0.1))],
    load=OpenLoop(arrivals=lambda random: poisson(25, random)),
    duration=60,
    timeout=10,
    attempt_timeout=1,
    faults=[Stop(at=10, seconds=5)],
    trigger=(10, 15),
)


def patient() -> Pipeline:
    return Pipeline(Timeout(5.0), Timeout(1.0))


def stubborn() -> Pipeline:
    return Pipeline(Timeout(10.0), Retry(attempts=4, on=Exception, budget=None), Timeout(1.0))


def test_what_recovers_passes(backend):
    assert_recovers(OUTAGE, patient, within=20, seeds=2, backend=backend)
    assert_amplification(OUTAGE, patient, at_most=1.0, seeds=2, backend=backend)


def test_what_does_not_is_told_by_seed():
    with pytest.raises(AssertionError) as caught:
        assert_recovers(OUTAGE, "retry3", within=1, seeds=2)
    assert str(caught.value) == ("outage: recovery of retry3: expected at most 1, got never (seed 0), never (seed 1)")
    with pytest.raises(
        AssertionError, match=r"amplification of stubborn: expected at most 1\.1, got \d\.\d+ \(seed 0\)"
    ):
        assert_amplification(OUTAGE, stubborn, at_most=1.1, seeds=1)
    with pytest.raises(AssertionError, match=r"success of none: expected at least 1, got 0\.\d+ \(seed 0\)"):
        assert_metric(OUTAGE, "none", "success", at_least=1, seeds=1)


def test_a_metric_a_policy_a_scenario_or_a_knob_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="has no metric 'speed'; there are calls, success"):
        assert_metric(OUTAGE, "none", "speed", seeds=1)
    with pytest.raises(ValueError, match="policy 'retry0': one of none"):
        assert_recovers("metastable-retry-storm", "retry0", within=1)
    with pytest.raises(ValueError, match=r"scenario .nothing.: one of"):
        assert_recovers("nothing", "none", within=1)
    with pytest.raises(ValueError, match=r"has no knob .lod.: load=280"):
        assert_recovers("metastable-retry-storm", "none", within=1, knobs={"lod": 1})
    with pytest.raises(ValueError, match="seeds=0"):
        assert_recovers("metastable-retry-storm", "none", within=1, seeds=0)
