"""Loads whose callers wait for their answers."""

from __future__ import annotations

import pytest

from resilient.lab.faults import Corruption, Fail, Stop
from resilient.lab.scenario import Computations, Load, Scenario, Tier, Users, Zipf
from resilient.lab.world.job import Errand
from resilient.lab.world.service_times import Constant, Exponential
from tests.lab.measured import measure, metrics_of


def world(load: Load, *faults, workers: int = 100, seconds: float = 0.1, **changes) -> Scenario:
    settings = {"duration": 100.0, "timeout": 10.0, "attempt_timeout": 10.0} | changes
    return Scenario(
        name="test",
        title="",
        source="",
        naive="",
        good="",
        tiers=[Tier(name="accounts", workers=workers, service_time=Exponential(seconds), honours_keys=True)],
        load=load,
        faults=faults,
        **settings,
    )


# Users


def test_so_many_users_ask_as_little_s_law_says(backend):
    """N users who think for Z and wait for R make N / (Z + R) calls a second."""
    users = Users(count=20, think=Exponential(0.3))
    metrics = metrics_of(world(users), "none", backend=backend)
    assert metrics["mean"] == pytest.approx(0.1, rel=0.05)
    assert metrics["goodput"] == pytest.approx(20 / (0.3 + 0.1), rel=0.03)


def test_they_ask_no_more_than_a_full_server_answers(backend):
    """Beyond saturation the throughput is the server's capacity X, and R = N / X - Z."""
    users = Users(count=20, think=Exponential(0.3))
    metrics = metrics_of(world(users, workers=2), "none", backend=backend)
    assert metrics["goodput"] == pytest.approx(2 / 0.1, rel=0.05)
    assert metrics["mean"] == pytest.approx(20 / 20 - 0.3, rel=0.1)


def test_while_the_server_stands_still_nobody_asks():
    users = Users(count=20, think=Exponential(0.3))
    outcome = measure(world(users, Stop(at=40, seconds=20), timeout=60.0, attempt_timeout=60.0), "none")
    assert outcome.series["offered"][45:60] == [0] * 15
    assert outcome.series["queue"][45:60] == [outcome.series["queue"][45]] * 15
    assert outcome.metrics["max"] > 18.0


def test_a_failed_call_is_recorded_and_its_user_goes_on():
    metrics = metrics_of(world(Users(count=5, think=Constant(0.5)), Fail(ratio=0.5)), "none")
    assert metrics["success"] == pytest.approx(0.5, abs=0.1)
    assert metrics["calls"] == pytest.approx(5 * 100 / 0.55, rel=0.05)


def test_no_call_begins_after_the_end_and_what_hangs_is_a_failure(backend):
    scenario = world(Users(count=7, think=Constant(0.5)), Stop(at=50), duration=52.0, drain=3.0)
    outcome = measure(scenario, "none", backend=backend)
    assert sum(outcome.series["failures"]) == 0  # they are given up in second 55, beyond the series
    assert outcome.metrics["success"] == pytest.approx(1 - 7 / outcome.metrics["calls"])
    assert sum(outcome.series["offered"]) == outcome.metrics["calls"]


def test_each_user_belongs_to_one_client():
    scenario = world(Users(count=5, think=Exponential(0.3)), clients=3, client_zones=("a", "b", "c"), group=_zone)
    metrics = metrics_of(scenario, "none")
    assert {"success.a", "success.b", "success.c"} <= {*metrics}


def _zone(errand: Errand) -> str:
    return str(errand.zone)


def test_what_users_think_is_the_same_under_every_policy():
    scenario = world(Users(count=20, think=Exponential(0.3)))
    none, default = (metrics_of(scenario, policy, seed=3) for policy in ("none", "default"))
    assert {name: none[name] for name in ("calls", "p50", "mean", "goodput")} == {
        name: default[name] for name in ("calls", "p50", "mean", "goodput")
    }


@pytest.mark.parametrize("count", [0, -1])
def test_at_least_one_user(count):
    with pytest.raises(ValueError, match=f"^count={count}"):
        Users(count=count, think=Constant(1.0))


# Computations


def test_computations_that_nothing_disturbs_are_right(backend):
    outcome = measure(world(Computations(count=5, steps=40)), "none", backend=backend)
    assert (outcome.metrics["calls"], outcome.metrics["right"], outcome.metrics["duplicates"]) == (200, 1.0, 0)
    assert max(outcome.series["offered"]) <= 5 * 30  # one call after the other
    assert len(outcome.series["queue"]) == 100


def test_a_step_that_fails_ends_its_computation(backend):
    scenario = world(Computations(count=30, steps=20), Fail(ratio=0.05))
    metrics = metrics_of(scenario, "none", backend=backend)
    failed = round(metrics["calls"] * (1 - metrics["success"]))
    assert failed > 10
    assert metrics["right"] == (30 - failed) / 30


def test_an_effect_too_many_makes_a_computation_wrong_though_no_call_fails(backend):
    scenario = world(Computations(count=30, steps=20), Corruption(repeat=0.02))
    metrics = metrics_of(scenario, "none", backend=backend)
    assert metrics["success"] == 1.0
    assert metrics["duplicates"] > 0
    assert 1 - metrics["duplicates"] / 30 <= metrics["right"] < 1.0


def test_under_a_key_it_is_none_too_many(backend):
    unreliable = Corruption(lose_reply=0.01, repeat=0.02, corrupt=0.01)
    scenario = world(Computations(count=30, steps=20), unreliable, seconds=0.01, attempt_timeout=0.5)
    metrics = metrics_of(scenario, "default", backend=backend)
    assert (metrics["success"], metrics["duplicates"], metrics["right"]) == (1.0, 0, 1.0)


def test_a_computation_that_does_not_end_in_time_is_wrong():
    metrics = metrics_of(world(Computations(count=5, steps=40), duration=1.0), "none")
    assert (metrics["success"], metrics["right"]) == (1.0, 0.0)


@pytest.mark.parametrize(("count", "steps", "named"), [(0, 1, "count"), (1, 0, "steps")])
def test_computations_have_steps(count, steps, named):
    with pytest.raises(ValueError, match=f"^{named}=0"):
        Computations(count=count, steps=steps)


def test_a_computation_brings_its_own_key():
    with pytest.raises(ValueError, match=r"^keys="):
        Computations(count=1, steps=1, keys=Zipf(10))
