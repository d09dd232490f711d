"""The same world, called by functions and by real httpx clients."""

from __future__ import annotations

import pytest

from resilient.balancing import WeightedRoundRobin
from resilient.lab.arrivals import constant
from resilient.lab.contenders import single
from resilient.lab.faults import Crash, Fail, SilentReplies, Slow
from resilient.lab.scenario import OpenLoop, Scenario, Tier
from resilient.lab.world.service_times import Lognormal
from tests.lab.measured import metrics_of


def world(*faults, writes=0.0, honours_keys=True) -> Scenario:
    return Scenario(
        name="test",
        title="",
        source="",
        naive="",
        good="",
        tiers=[
            Tier(name="orders", instances=3, workers=4, service_time=Lognormal(0.01), honours_keys=honours_keys),
        ],
        load=OpenLoop(arrivals=lambda _random: constant(50), writes=writes),
        duration=20,
        timeout=10,
        attempt_timeout=1.0,
        faults=faults,
    )


@pytest.mark.parametrize("mode", ["functions", "http"])
def test_a_healthy_world_answers_everything(backend, mode):
    metrics = metrics_of(world(), "default", backend=backend, mode=mode)
    assert (metrics["calls"], metrics["success"], metrics["amplification"]) == (1000, 1.0, 1.0)
    assert metrics["p50"] == pytest.approx(0.009, rel=0.1)


@pytest.mark.parametrize("mode", ["functions", "http"])
def test_a_server_that_is_down_is_avoided_without_loss(backend, mode):
    down = Crash(at=5, seconds=5, places=[0])
    assert metrics_of(world(down), "none", backend=backend, mode=mode)["success"] == pytest.approx(0.917, abs=0.01)
    default = metrics_of(world(down), "default", backend=backend, mode=mode)
    assert default["success"] == 1.0
    assert default["amplification"] < 1.02


@pytest.mark.parametrize("mode", ["functions", "http"])
def test_a_lost_reply_is_asked_for_again_under_its_key(backend, mode):
    lost = SilentReplies(ratio=0.05)
    default = metrics_of(world(lost, writes=1.0), "default", backend=backend, mode=mode)
    assert (default["success"], default["duplicates"]) == (1.0, 0)
    reckless = metrics_of(world(lost, writes=1.0), "retry3", backend=backend, mode=mode)
    assert reckless["duplicates"] > 20


@pytest.mark.parametrize("mode", ["functions", "http"])
def test_a_write_is_not_repeated_where_no_key_is_honoured(backend, mode):
    failing = Fail(ratio=0.1)
    metrics = metrics_of(world(failing, writes=1.0, honours_keys=False), "default", backend=backend, mode=mode)
    assert metrics["amplification"] == 1.0
    assert metrics["success"] == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize("mode", ["functions", "http"])
def test_what_servers_report_reaches_the_picker(backend, mode):
    slow = Slow(factor=20.0, places=[0])
    weighted = single("weighted", picker=WeightedRoundRobin(blackout=1.0))
    found = metrics_of(world(slow), weighted, backend=backend, mode=mode)
    assert found["share.orders-0"] < 0.2 < metrics_of(world(slow), "none", mode=mode)["share.orders-0"]
