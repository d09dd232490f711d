"""What goes wrong in a world, when, and where."""

from __future__ import annotations

import math

import pytest

from resilient.lab.arrivals import constant
from resilient.lab.episodes import Pauses
from resilient.lab.faults import (
    BlackHole,
    Corruption,
    Crash,
    Fail,
    Partition,
    Resize,
    SilentReplies,
    Slow,
    Stop,
)
from resilient.lab.membership import Rolling
from resilient.lab.scenario import OpenLoop, Tier, Zipf
from resilient.lab.world.service_times import Constant
from tests.lab.worlds import metrics_of, series_of, world


def failures(*faults, backend, policy="none", **options):
    """How many of ten calls a second fail, second by second."""
    return series_of(world(*faults, **options), policy, backend=backend)["failures"]


def test_without_a_fault_nothing_fails(backend):
    assert failures(backend=backend) == [0] * 20


def test_a_crash_refuses_from_its_beginning_to_its_end(backend):
    found = failures(Crash(at=5, seconds=3), backend=backend)
    # One call was being worked on; at its end the servers are back before the call that is due then.
    assert found == [0] * 5 + [10 + 1, 10, 10] + [0] * 12


def test_a_fault_without_an_end_lasts_to_the_end(backend):
    assert failures(Crash(at=15), backend=backend)[16:] == [10] * 4


def test_a_crash_at_one_place_refuses_its_share(backend):
    found = failures(Crash(at=5, seconds=4, places=[2]), backend=backend)
    assert found[:5] + found[9:] == [0] * 16
    assert sum(found) in {10, 11}


def test_a_fault_of_a_zone_is_one_of_its_servers(backend):
    zones = {"zones": ("a", "b")}
    both = failures(Crash(at=5, seconds=4), backend=backend, tier=zones)
    half = failures(Crash(at=5, seconds=4, zone="a"), backend=backend, tier=zones)
    assert sum(half) == pytest.approx(sum(both) / 2, abs=1)
    assert sum(failures(Crash(at=5, seconds=4, zone="c"), backend=backend, tier=zones)) == 0


def test_a_black_hole_costs_the_callers_timeout(backend):
    found = failures(BlackHole(at=5, seconds=3, places=[0]), backend=backend)
    assert sum(found) in {7, 8}
    assert found[:6] == [0] * 6  # each fails a second later
    assert found[9:] == [0] * 11


def test_stopped_servers_go_on_with_what_they_were_given(backend):
    found = series_of(world(Stop(at=5, seconds=0.5)), backend=backend)
    assert found["failures"] == [0] * 20
    assert found["p99"][5] == pytest.approx(0.6, rel=0.1)


def test_whoever_waits_for_a_stopped_server_too_long_leaves_it_its_work(backend):
    found = metrics_of(world(Stop(at=5, seconds=3)), backend=backend)
    assert found["success"] < 0.92
    assert found["wasted"] == pytest.approx(1 - found["success"], abs=0.01)


def test_slow_servers_are_slow_while_it_lasts(backend):
    found = series_of(world(Slow(at=5, seconds=3, factor=3.0)), backend=backend)["p50"]
    assert found[2] == pytest.approx(0.1, rel=0.01)
    assert found[6] == pytest.approx(0.3, rel=0.01)
    assert found[12] == pytest.approx(0.1, rel=0.01)


@pytest.mark.parametrize(("status", "ratio"), [(500, 1.0), (503, 0.3)])
def test_failing_servers_fail_a_fraction_and_do_nothing(backend, status, ratio):
    scenario = world(Fail(at=5, seconds=10, ratio=ratio, status=status), rate=100, tier={"workers": 4})
    found = metrics_of(scenario, backend=backend)
    assert found["success"] == pytest.approx(1 - ratio * 0.5, abs=0.03)
    assert found["success"] == metrics_of(scenario, "none", backend=backend)["success"]


def test_a_failure_may_concern_one_key(backend):
    scenario = world(
        Fail(at=0, ratio=1.0, key=0),
        load=OpenLoop(arrivals=lambda _random: constant(20), keys=Zipf(2, exponent=0.0)),
    )
    assert metrics_of(scenario, backend=backend)["success"] == pytest.approx(0.5, abs=0.1)


def test_silent_servers_do_what_they_are_asked(backend):
    scenario = world(SilentReplies(at=5, seconds=5), load=OpenLoop(arrivals=lambda _random: constant(10), writes=1.0))
    found = metrics_of(scenario, "retry1", backend=backend)
    assert found["duplicates"] >= 40  # each is asked for twice while it lasts, and done twice
    assert found["success"] == pytest.approx(0.8, abs=0.05)


def test_workers_go_and_come_back(backend):
    scenario = world(Resize(at=5, seconds=5, workers=1), rate=30, duration=25, tier={"instances": 1, "workers": 4})
    found = series_of(scenario, backend=backend)
    assert found["queue"][:5] == [0] * 5
    assert found["queue"][9] > 70  # twenty more a second than one worker can do
    assert found["queue"][24] == 0


def test_pauses_come_at_moments_of_their_own_and_end(backend):
    scenario = world(Pauses(at=5, seconds=10, length=0.3, every=1.0), rate=40, tier={"workers": 4})
    found = series_of(scenario, backend=backend)["p99"]
    assert max(found[:5]) == pytest.approx(0.1, rel=0.01)
    assert sum(value > 0.15 for value in found[5:15]) >= 8
    assert max(found[17:]) == pytest.approx(0.1, rel=0.01)


def test_a_partition_cuts_off_whoever_is_on_the_other_side(backend):
    options = {"tier": {"zones": ("a", "b")}, "clients": 2, "client_zones": ("a", "b")}
    found = failures(Partition(at=5, seconds=5, zone="a"), backend=backend, **options)
    assert sum(found) == pytest.approx(25, abs=3)  # half the calls would cross the border
    assert found[:6] == [0] * 6
    assert found[12:] == [0] * 8


def test_an_unreliable_network_is_reliable_afterwards(backend):
    options = {"rate": 50.0}
    for fault, policy in [
        (Corruption(at=5, seconds=5, lose_request=0.5), "none"),
        (Corruption(at=5, seconds=5, lose_reply=0.5), "none"),
        (Corruption(at=5, seconds=5, corrupt=0.5), "none"),
    ]:
        found = failures(fault, backend=backend, policy=policy, tier={"workers": 4}, **options)
        assert found[:5] == [0] * 5
        assert sum(found) == pytest.approx(125, abs=30)
        assert found[11:] == [0] * 9
    assert sum(failures(Corruption(at=5, seconds=5, repeat=1.0), backend=backend, tier={"workers": 4})) == 0


def test_a_deployment_replaces_the_oldest_one_by_one(backend):
    seen: list[str] = []

    def measure(world):
        seen.extend(server.instance.id for server in world.fleet().servers)
        return {"sent to the old": float(sum(world.fleet().sent_to[f"it-{place}"] for place in range(4)))}

    scenario = world(Rolling(at=5, seconds=4, every=2.0), measure=measure)
    found = metrics_of(scenario, backend=backend)
    assert seen == ["it-2", "it-3", "it-4", "it-5"]
    assert found["success"] > 0.98


def test_callers_learn_of_a_deployment_after_the_lag(backend):
    without = sum(failures(Rolling(at=5, seconds=1, every=2.0), backend=backend))
    lagging = sum(failures(Rolling(at=5, seconds=1, every=2.0), backend=backend, tier={"lag": 4.0}))
    assert without <= 1
    assert lagging == pytest.approx(10, abs=2)  # a quarter of the calls of four seconds


def test_servers_that_join_a_middle_tier_can_call_the_next_one(backend):
    scenario = world(
        Rolling(at=5, seconds=8, every=2.0, batch=2),
        tiers=[
            Tier(name="front", instances=4, workers=4, service_time=Constant(0.05), calls=("back",)),
            Tier(name="back", instances=2, workers=4, service_time=Constant(0.05)),
        ],
    )
    found = metrics_of(scenario, "retry1", backend=backend)
    assert found["success"] == 1.0


def test_two_of_a_kind_may_follow_each_other(backend):
    twice = failures(Crash(at=3, seconds=1), Crash(at=6, seconds=1), backend=backend)
    assert [second for second, failed in enumerate(twice) if failed] == [3, 6]


@pytest.mark.parametrize("options", [{"at": -1}, {"at": 0, "seconds": 0}, {"at": math.nan}])
def test_a_fault_begins_and_lasts(options):
    with pytest.raises(ValueError, match="a fault begins at 0 or later, and lasts"):
        Stop(**options)


@pytest.mark.parametrize("place", [4, -1])
def test_a_place_that_is_none_ends_the_run(backend, place):
    with pytest.raises(ValueError, match=r"places=\[.*\] of Crash: the tier has 0 to 3"):
        metrics_of(world(Crash(at=1, places=[place])), backend=backend)
