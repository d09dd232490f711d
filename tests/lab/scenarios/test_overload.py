"""Too much load: what sustains it, what ends it, and what multiplies it."""

from __future__ import annotations

from functools import partial

import pytest

from tests.lab.scenarios.playing import metrics

storm = partial(metrics, "metastable-retry-storm", workers=10, load=70.0, outage=5.0, duration=75.0)
spike = partial(metrics, "demand-spike", seconds=5.0, duration=60.0)
sweep = partial(metrics, "error-rate-sweep", duration=20.0)
tiers = partial(metrics, "multi-tier-amplification", load=40.0, duration=30.0)
herd = partial(metrics, "recovery-herd", clients=300, outage=5.0, background=5.0, duration=100.0)


# -- the metastable storm ---------------------------------------------------------------------------------------------


def test_retries_keep_a_storm_alive_that_ends_without_them():
    assert storm("none")["recovery"] < 25
    assert storm("retry3")["recovery"] is None
    assert storm("retry3")["goodput.after"] < 0.1 * storm("none")["goodput.after"]


def test_a_budget_of_a_tenth_lets_a_service_recover_that_has_a_tenth_to_spare():
    assert storm("retry3-budget")["recovery"] is not None
    assert storm("retry3-budget", load=95.0, outage=10.0)["recovery"] is None
    assert storm("default", load=95.0, outage=10.0)["amplification"] < 1.12


def test_a_breaker_ends_the_storm():
    assert storm("retry3-breaker", load=95.0, outage=10.0)["recovery"] < 25


@pytest.mark.parametrize("queue", ["bounded", "lifo"])
@pytest.mark.parametrize("policy", ["none", "retry3", "default"])
def test_a_server_that_does_not_let_its_queue_grow_recovers_at_once_whatever_its_callers_do(queue, policy):
    assert storm(policy, queue=queue)["recovery"] <= 2


def test_a_server_that_drops_what_is_expired_needs_callers_that_say_when_and_do_not_multiply():
    busy = partial(storm, load=95.0, outage=10.0, queue="expired")
    assert busy("default")["recovery"] < 15
    assert busy("retry3-budget")["recovery"] is None  # which tells no deadline
    assert busy("retry3-deadline")["recovery"] is None  # what it serves is about to expire, and is followed by more


def test_a_server_that_drops_what_is_hopeless_recovers_sooner():
    busy = partial(storm, load=95.0, outage=10.0)
    assert busy("default", queue="hopeless")["recovery"] <= busy("default", queue="expired")["recovery"]
    assert busy("default", queue="hopeless")["wasted"] < 0.5 * busy("default", queue="expired")["wasted"]


def test_refusals_are_what_a_throttle_throttles():
    swamped = partial(storm, workers=4, load=80.0, outage=1.0, duration=40.0)  # twice what it can do
    refusing, silent = partial(swamped, queue="bounded"), partial(swamped, queue="unbounded")
    assert refusing("retry3-throttle")["amplification"] < 0.8 * refusing("retry3")["amplification"]
    assert silent("retry3-throttle")["amplification"] == silent("retry3")["amplification"]


# -- a spike of demand ------------------------------------------------------------------------------------------------


def test_a_spike_outlives_itself_by_retries_alone():
    assert spike("none")["recovery"] < 15
    assert spike("none")["recovery"] <= spike("default")["recovery"] < 30
    assert spike("retry3")["recovery"] is None


def test_a_bounded_queue_makes_of_it_what_it_is():
    assert spike("retry3", queue="bounded")["recovery"] <= 1
    assert spike("retry3", queue="bounded")["goodput.after"] > 0.95 * spike("retry3")["goodput.before"]
    assert spike("retry3")["goodput.after"] < 0.5 * spike("retry3")["goodput.before"]


# -- rates of failure -------------------------------------------------------------------------------------------------


def test_success_and_load_are_what_arithmetic_says():
    assert sweep("none", failing=0.1)["success"] == pytest.approx(0.9, abs=0.02)
    assert sweep("retry3", failing=0.1)["amplification"] == pytest.approx(1.11, abs=0.02)
    assert sweep("retry3")["success"] == pytest.approx(0.9375, abs=0.02)
    assert sweep("retry3")["amplification"] == pytest.approx(1.875, abs=0.05)
    assert sweep("retry3", failing=1.0)["amplification"] == 4.0
    assert sweep("retry3", failing=1.0)["success"] == 0.0


def test_a_budget_repairs_rare_failures_and_does_not_multiply_the_load_of_a_service_that_is_down():
    assert sweep("default", failing=0.1)["success"] > 0.98
    assert sweep("default", failing=1.0)["amplification"] < 1.25
    assert sweep("none")["success"] < sweep("default")["success"] < sweep("retry3")["success"]


def test_a_breaker_makes_half_an_outage_a_whole_one():
    assert sweep("retry3-breaker")["success"] < 0.5 * sweep("none")["success"]
    assert sweep("retry3-consecutive")["success"] < 0.5 * sweep("none")["success"]
    assert sweep("retry3-breaker", failing=0.1)["success"] > 0.99


def test_many_small_clients_have_a_floor_each():
    assert sweep("default", clients=100)["amplification"] > 1.3 > sweep("default")["amplification"]


# -- tiers ------------------------------------------------------------------------------------------------------------


def test_retries_of_layers_multiply_and_budgets_hardly():
    assert tiers("none")["amplification.during"] == pytest.approx(1.0, abs=0.1)
    assert tiers("retry1")["amplification.during"] == pytest.approx(8, abs=1)
    assert tiers("retry2", load=15.0)["amplification.during"] == pytest.approx(27, abs=4)
    assert tiers("default")["amplification.during"] < 1.6


def test_a_saturated_tier_is_not_let_go():
    saturated = partial(tiers, trouble="saturated", load=120.0, duration=40.0)
    assert saturated("default")["recovery"] <= 3
    assert saturated("retry1")["recovery"] is None


# -- a herd -----------------------------------------------------------------------------------------------------------


def test_without_jitter_a_herd_stays_together():
    assert herd("no-jitter")["peak.100ms"] > 250
    for jitter in ("equal-jitter", "full-jitter"):
        assert herd(jitter)["success"] == 1
        assert herd(jitter)["peak.100ms"] < 80
        assert herd(jitter)["completion"] < 0.7 * herd("no-jitter")["completion"]


def test_three_attempts_are_no_answer_to_an_outage():
    assert herd("default")["success"] < 0.7
    assert herd("default")["completion"] is None


# -- both event loops -------------------------------------------------------------------------------------------------


def test_on_trio_it_is_the_same():
    metric = storm("none", backend="trio")
    assert metric == storm("none")
    assert herd("full-jitter", backend="trio", clients=50)["success"] == 1
