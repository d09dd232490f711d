"""Fleets in which something changes: who is there, who is slow, who has gone, and who learns of it."""

from __future__ import annotations

from functools import partial

import pytest

from tests.lab.scenarios.playing import metrics

healthy = partial(metrics, "balancing-healthy")
antagonists = partial(metrics, "antagonists")
pauses = partial(metrics, "gc-pauses")
zone = partial(metrics, "zonal-outage")
deploy = partial(metrics, "rolling-deploy")
churn = partial(metrics, "churn")
cold = partial(metrics, "cold-start")
recovered = partial(metrics, "recovered-instance")
thin = partial(metrics, "thin-clients")
half = partial(metrics, "half-down")


def test_where_all_are_well_a_picker_costs_nothing():
    assert healthy("peak-ewma")["p99"] == pytest.approx(healthy("none")["p99"], rel=0.05)
    assert healthy("default")["amplification"] == 1


def test_who_looks_at_load_or_latency_avoids_those_who_are_slow_for_a_while():
    assert antagonists("none")["success"] < 0.97
    assert antagonists("least-request")["success"] > 0.999
    assert antagonists("default")["success"] > 0.999


@pytest.mark.parametrize(("fleet", "seconds"), [(antagonists, 6.0), (pauses, 8.0)])
def test_who_asks_servers_how_busy_they_are_has_the_shortest_tails(fleet, seconds):
    asking, guessing = (fleet(policy, duration=seconds) for policy in ("prequal", "least-request"))
    assert asking["p99"] < 0.6 * guessing["p99"]
    assert asking["success"] >= guessing["success"]


@pytest.mark.parametrize("policy", ["random", "rendezvous", "ring-hash", "maglev"])
def test_pickers_that_look_at_nothing_share_out_the_calls_and_queue_a_little_longer(policy):
    usual = healthy("none", duration=4.0)
    found = healthy(policy, duration=4.0)
    assert found["success"] == 1
    assert usual["p99"] * 0.95 < found["p99"] < usual["p99"] * 1.3
    shares = [found[f"share.app-{number}"] for number in range(10)]
    assert all(0.07 < share < 0.13 for share in shares)


def test_ejections_that_outlast_the_pauses_do_more_harm_than_the_pauses():
    assert pauses("long-ejection")["success.after"] < 0.8 * pauses("none")["success.after"]
    assert pauses("default")["success.after"] > 1.2 * pauses("long-ejection")["success.after"]


def test_a_lost_zone_costs_a_third_until_discovery_or_the_policies_notice():
    assert zone("none")["success.during"] == pytest.approx(1 - 5 / 12 / 3, abs=0.012)
    assert zone("default")["success.during"] > 0.999
    assert zone("default")["goodput.during"] > 1.12 * zone("none")["goodput.during"]


def test_a_deployment_costs_as_many_calls_as_discovery_is_late():
    assert deploy("none")["success.during"] == pytest.approx(1 - 0.1 * 2 / 6, abs=0.007)
    assert deploy("least-request")["success.during"] < deploy("none")["success.during"]
    assert deploy("default")["success.during"] > 0.998
    assert deploy("default")["duplicates"] == 0


def test_an_instance_that_is_drained_for_longer_than_discovery_takes_costs_nothing():
    assert deploy("none", drain=4.0)["success"] == 1
    assert deploy("none", drain=4.0)["refused"] == 0


@pytest.mark.parametrize("policy", ["random", "prequal", "rendezvous", "ring-hash", "maglev"])
def test_no_picker_calls_who_has_gone(policy):
    assert churn(policy, duration=6.0)["astray"] == 0
    assert churn(policy, duration=6.0)["refused"] > 0


def test_nobody_is_called_who_is_known_to_have_gone_but_by_those_who_do_not_listen():
    assert churn("none")["astray"] == churn("default")["astray"] == 0
    assert churn("none")["refused"] > 0.04
    assert churn("default")["success"] > 0.995
    assert churn("resolve-once")["astray"] > 1000


def test_one_that_joins_cold_gets_little_until_it_is_warm():
    assert cold("none")["success.during"] < 0.92
    assert cold("default")["success.during"] > 0.999
    assert cold("default")["p99.joining"] < cold("least-request")["p99.joining"]
    assert cold("default")["share.cold"] < 0.01
    assert cold("default")["share.warm"] > 0.05


def test_one_that_recovers_is_back_the_sooner_the_shorter_the_memory():
    quick, usual, long = (recovered(policy) for policy in ("least-request", "peak-ewma", "peak-ewma-10s"))
    assert quick["back"] < usual["back"] <= 7
    assert long["back"] is None
    assert long["share.slow"] < usual["share.slow"] < quick["share.slow"] < 0.03


def test_thin_clients_do_not_see_who_is_slow_by_their_own_calls():
    assert thin("least-request")["success"] < 0.985
    assert thin("peak-ewma")["success"] > 0.998


def test_half_a_fleet_that_can_do_the_work_does_it():
    assert half("none")["success.during"] == pytest.approx(0.5, abs=0.01)
    assert half("retry3")["success.during"] == pytest.approx(0.976, abs=0.01)
    assert half("default")["success.during"] > 0.998


def test_on_trio_it_is_so_too():
    assert antagonists("prequal", backend="trio", duration=4.0)["success"] == 1
    assert churn("default", backend="trio")["astray"] == 0
    assert churn("default", backend="trio")["success"] > 0.995
