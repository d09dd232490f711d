"""Limits and clocks: window-boundary, clock-jumps, closed-loop-blindness."""

from __future__ import annotations

import pytest

from resilient.lab.scenarios import find
from tests.lab.measured import metrics_of


def test_an_adversary_gets_twice_the_limit_of_windows_and_a_burst_more_of_gcra(backend):
    scenario = find("window-boundary")()
    admitted = {policy: metrics_of(scenario, policy, backend=backend)["admitted.60s"] for policy in scenario.policies}
    assert admitted["fixed-window"] == 200
    assert 197 <= admitted["sliding-counter"] < 200
    assert admitted["moving-window"] == 100
    assert 198 <= admitted["gcra-full-burst"] <= 200
    assert 109 <= admitted["gcra"] <= 110


def test_without_a_limiter_everything_is_admitted():
    metrics = metrics_of(find("window-boundary")(), "none")
    assert metrics["admitted.60s"] == pytest.approx(200 + 20 * 60, abs=5)


@pytest.mark.parametrize("by", [3600.0, -3600.0])
def test_no_clock_that_jumps_makes_our_limit_admit_more(by):
    metrics = metrics_of(find("clock-jumps")(by=by), "default-limited")
    assert metrics["admitted.1s"] <= 5 + 50
    assert metrics["admitted.10s"] <= 5 + 500
    assert metrics["goodput.after"] == pytest.approx(50, abs=2)
    assert metrics["recovery"] <= 3
    assert metrics["lost"] <= 45  # what was under way when everything was suspended
    assert metrics["ejected"] == 0


def test_limits_by_the_wall_clock_break():
    scenario = find("clock-jumps")()
    window, bucket = (metrics_of(scenario, policy) for policy in ("wall-window", "wall-bucket"))
    assert window["admitted.10s"] > 900
    assert window["admitted.1s"] > 400
    assert bucket["goodput.after"] == 0


def test_the_trio_world_agrees():
    scenario = find("clock-jumps")(load=60.0, limit=20)
    asyncio, trio = (metrics_of(scenario, "default-limited", backend=backend) for backend in ("asyncio", "trio"))
    for metric in ("admitted.1s", "admitted.10s", "ejected"):
        assert asyncio[metric] == trio[metric]
    assert trio["admitted.10s"] <= 202
    assert trio["goodput.after"] == pytest.approx(20, abs=1)


def test_users_who_wait_hide_a_standstill_that_others_see(backend):
    closed, opened = (
        metrics_of(find("closed-loop-blindness")(closed=closed, duration=60.0), "none", backend=backend)
        for closed in (True, False)
    )
    assert closed["goodput"] == pytest.approx(opened["goodput"], rel=0.1)
    assert closed["max"] == pytest.approx(opened["max"], rel=0.05)
    assert closed["p99"] < 0.06
    assert opened["p99"] > 1.5
