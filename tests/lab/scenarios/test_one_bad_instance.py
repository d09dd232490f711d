"""One instance of ten is slow, silent or quick to fail: who notices, and what it costs."""

from __future__ import annotations

from functools import partial

import pytest

from tests.lab.scenarios.playing import metrics

slow = partial(metrics, "slow-instance", load=240.0, duration=25.0)
hole = partial(metrics, "black-hole", load=160.0, clients=4)
sinkhole = partial(metrics, "sinkhole", duration=10.0)


def test_in_turn_the_slow_instance_makes_the_tail():
    assert slow("none")["success"] == 1
    assert slow("none")["p99"] == pytest.approx(1.15, rel=0.2)  # 0.5 * ln(0.1 / 0.01)
    assert slow("retry3")["p99"] == slow("none")["p99"]


def test_the_more_a_picker_looks_the_less_goes_to_the_slow_instance():
    shares = [slow(f"default{picker}")["share.app-0"] for picker in ("-round-robin", "-least-request", "")]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == pytest.approx(0.1, abs=0.01)
    assert shares[2] < 0.03
    tails = [slow(f"default{picker}")["p99"] for picker in ("-round-robin", "-least-request", "")]
    assert tails == sorted(tails, reverse=True)


def test_by_turns_it_gets_what_it_says_that_it_can_do():
    assert slow("default-weighted")["share.app-0"] < 0.4 * slow("default-round-robin")["share.app-0"]


def test_a_hedge_cuts_what_is_left_of_the_tail():
    for picker in ("", "-round-robin"):
        assert slow(f"default{picker}-hedge")["p999"] < 0.6 * slow(f"default{picker}")["p999"]
        assert slow(f"default{picker}-hedge")["amplification"] < 1.15


def test_with_few_workers_it_is_no_longer_slow_but_lost():
    assert slow("none", workers=4, load=480.0, duration=15.0)["success"] < 0.95
    assert slow("default", workers=4, load=480.0, duration=15.0)["success"] > 0.999


def test_a_black_hole_costs_those_who_never_learn_a_tenth():
    assert hole("none")["goodput.during"] == pytest.approx(0.9 * hole("none")["goodput.before"], rel=0.1)
    assert hole("retry3")["p99"] > 1.0  # each of its calls waits for a timeout first
    assert hole("retry3")["success"] > 0.999


def test_a_black_hole_costs_those_who_learn_a_few_calls():
    assert hole("default")["success"] > 0.999
    assert hole("default")["p99"] < 0.4
    assert hole("default")["amplification"] < 1.02
    assert hole("default-round-robin")["amplification"] < 1.03
    assert hole("default-no-ejection")["amplification"] < 1.02


def test_a_sinkhole_attracts_what_looks_at_load_alone():
    assert sinkhole("none")["share.app-0"] == pytest.approx(0.1, abs=0.005)
    assert sinkhole("least-request")["share.app-0"] == pytest.approx(0.18, abs=0.03)
    assert sinkhole("least-request", clients=20)["share.app-0"] < sinkhole("least-request")["share.app-0"]


def test_a_sinkhole_repels_what_counts_failures():
    for policy in ("least-request-ejection", "peak-ewma", "default"):
        assert sinkhole(policy)["share.app-0"] < 0.01
        assert sinkhole(policy)["success"] > 0.99
    assert sinkhole("default")["success"] == 1
    for policy in ("prequal", "prequal-ejection"):  # who fails at once has nothing in flight
        assert sinkhole(policy, duration=15.0)["share.app-0"] < 0.01
        assert sinkhole(policy, duration=15.0)["success"] > 0.99


def test_on_trio_it_is_the_same():
    assert sinkhole("default", backend="trio")["success"] == 1
    assert sinkhole("none", backend="trio", duration=5.0) == sinkhole("none", duration=5.0)
