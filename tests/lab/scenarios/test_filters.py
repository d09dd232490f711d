"""Filters and health checks in small worlds: what they buy, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from resilient.balancing import Ejection, Filter, HealthCheck, LeastRequest, PreferZone, RoundRobin, SlowStart, Subset
from resilient.lab.balancing import balancing_scenario
from resilient.lab.contenders import changed, single
from resilient.lab.faults import BlackHole, Fault
from resilient.lab.membership import Delisting
from resilient.lab.simulation.run import run
from resilient.lab.simulation.world import World
from resilient.lab.stacks import Setting, Stack
from tests.lab.scenarios.playing import metrics

ZONES = ("a", "b", "c")


def shares_by_zone(world: World) -> Mapping[str, float | None]:
    """The share of the attempts that went to zone a before, during and after a fault."""
    servers = [server.instance for server in world.fleet().servers if server.zone == "a"]

    def share(since: int, until: int) -> float:
        return sum(world.share(one.id, since, until) or 0.0 for one in servers)

    return {"before": share(2, 7), "during": share(12, 15), "after": share(24, 29)}


def play(stack: Stack, *faults: Fault, client_zones: Sequence[str | None] = ZONES, **changes: Any) -> Any:
    scenario = balancing_scenario(
        name="filters",
        title="",
        source="",
        naive="",
        good="",
        scale=4.0,
        instances=9,
        clients=9,
        zones=ZONES,
        client_zones=client_zones,
        faults=faults,
        warmup=2.0,
        **{"duration": 30.0, "trigger": (8, 16), **changes},
    )
    return run(scenario, stack, 0).metrics


def own_zone(setting: Setting) -> Sequence[Filter]:
    return [PreferZone(setting.zone or "")]


def test_in_their_own_zone_calls_stay_until_it_fails_and_come_back_when_it_is_well():
    found = play(
        changed("own-zone", filters=own_zone),
        BlackHole(at=8.0, seconds=8.0, zone="a"),
        client_zones=("a",),
        load=0.2,
        measure=shares_by_zone,
    )
    assert found["before"] > 0.999
    assert found["during"] < 0.1
    assert found["after"] > 0.9
    assert found["success.during"] > 0.9  # first attempts all went there, and retries are paid from a budget


def test_who_is_in_another_zone_does_not_notice_an_outage():
    found = play(
        changed("own-zone", filters=own_zone),
        BlackHole(at=8.0, seconds=8.0, zone="a"),
        group=lambda errand: errand.zone or "",
    )
    assert found["success.during.b"] == found["success.during.c"] == 1.0
    assert found["success.during.a"] > 0.97


def test_a_zone_that_is_too_small_for_its_callers_keeps_what_it_can_carry():
    spilling = changed("spill", filters=lambda setting: [PreferZone(setting.zone or "", clients=1.0)])
    found = play(spilling, client_zones=("a",), load=0.6, measure=shares_by_zone)
    staying = play(changed("stay", filters=own_zone), client_zones=("a",), load=0.6, measure=shares_by_zone)
    assert found["before"] == pytest.approx(1 / 3, abs=0.02)
    assert found["success"] == 1.0
    assert staying["success"] < 0.95  # 1.8 times what the zone can do
    assert staying["p99.before"] > 4 * found["p99.before"]


def cold(policy: str) -> Any:
    return metrics("cold-start", policy, scale=2.0)


def test_who_is_cold_gets_little_at_first_where_newcomers_are_spared():
    alike, spared = cold("none"), cold("slow-start-in-turn")
    assert spared["success.during"] > alike["success.during"] + 0.03
    assert spared["share.cold"] == pytest.approx(0.056, abs=0.004)
    assert spared["share.warm"] == pytest.approx(0.1, abs=0.003)


@pytest.mark.parametrize(
    ("with_it", "without"), [("slow-start-least-request", "least-request"), ("slow-start", "default")]
)
def test_pickers_that_look_are_spared_some_of_what_they_learn_from(with_it, without):
    assert cold(with_it)["p99.joining"] < 0.9 * cold(without)["p99.joining"]


def checked(setting: Setting) -> HealthCheck:
    assert setting.check is not None
    return HealthCheck(setting.check, interval=0.5, idle_interval=0.5, timeout=0.2)


def test_checks_alone_find_a_silent_instance():
    """Without ejection, in turn: what a service has that only looks at health checks."""
    places = BlackHole(at=8.0, seconds=8.0, places=[0])
    blind = play(changed("blind", picker=RoundRobin(), ejection=None), places, duration=20.0)
    seeing = play(changed("seeing", picker=RoundRobin(), ejection=None, health=checked), places, duration=20.0)
    assert seeing["p99.during"] > blind["p99.before"]
    assert seeing["amplification"] - 1 < 0.5 * (blind["amplification"] - 1)
    assert seeing["success.after"] == 1.0


@pytest.mark.parametrize("health", [None, checked])
def test_where_the_rest_cannot_do_the_work_a_panic_serves_more_and_recovers(health):
    """Seven of nine are silent, and the other two can do a third of what is asked for."""
    down = BlackHole(at=8.0, seconds=8.0, places=range(7))
    calm, panic = (
        play(changed("x", ejection=Ejection(max_ejected=1.0, panic=share), health=health), down, duration=20.0)
        for share in (0.0, 0.5)
    )
    assert panic["success.during"] > 1.2 * calm["success.during"]
    assert panic["success.after"] > 0.99
    assert calm["success.after"] < 0.9


def test_where_the_rest_can_do_the_work_no_panic_is_better():
    """What the threshold costs: with seven of nine silent and little to do, the two would serve everybody."""
    down = BlackHole(at=8.0, seconds=8.0, places=range(7))
    calm, panic = (
        play(changed("x", ejection=Ejection(max_ejected=1.0, panic=s), health=checked), down, load=0.2, duration=20.0)
        for s in (0.0, 0.5)
    )
    assert calm["success.during"] > 0.95
    assert panic["success.during"] < 0.7


def test_a_subset_of_the_fleet_is_enough_for_each_client_and_all_are_used_by_somebody():
    stack = single("subset", picker=LeastRequest(), filters=[Subset(3)])
    found = play(stack, load=0.3, duration=12.0, trigger=None)
    assert found["success"] == 1.0
    assert sum(name.startswith("share.") for name in found) == 9


def test_a_newcomer_is_spared_after_discovery_knew_it_again():
    slow = single("slow", filters=[SlowStart(window=5.0)])
    found = play(slow, Delisting(at=8.0, seconds=8.0, zone="a"), measure=shares_by_zone)
    assert found["before"] == pytest.approx(1 / 3, abs=0.02)
    assert found["during"] == 0.0
    assert found["after"] == pytest.approx(1 / 3, abs=0.02)
