"""Scenarios over real sockets, and the whole calibration. Counts and orderings only: the machine may be slow."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resilient.lab.arrivals import constant
from resilient.lab.bench.references import make_scenario
from resilient.lab.calibration.calibrating import calibrate
from resilient.lab.calibration.limits import check_load, check_scenario
from resilient.lab.calibration.playing import Conditions, play
from resilient.lab.faults import Corruption, Crash, SilentReplies, Suspension, WallClockShift
from resilient.lab.membership import Rolling
from resilient.lab.scenario import OpenLoop, Scenario, Tier
from resilient.lab.scenarios import names
from resilient.lab.simulation.run import run
from resilient.lab.stacks import Stack, stack
from resilient.lab.world.service_times import Constant

NONE, RETRY3, DEFAULT = stack("none"), stack("retry3"), stack("default")


def small(*faults: Any, rate: float = 60.0, duration: float = 1.0, tier: Any = None, **options: Any) -> Scenario:
    """Three servers, and a call now and then."""
    settings: dict[str, Any] = {"instances": 3, "workers": 10, "service_time": Constant(0.002)}
    fields: dict[str, Any] = {
        "tiers": [Tier(name="it", **settings | (tier or {}))],
        "load": OpenLoop(arrivals=lambda _random: constant(rate)),
        "timeout": 20.0,
        "attempt_timeout": 10.0,
    }
    return Scenario(
        name="small", title="", source="", naive="", good="", duration=duration, faults=faults, **fields | options
    )


def played(scenario: Scenario, stack: Stack) -> tuple[dict[str, Any], Conditions]:
    run, conditions = play(scenario, stack, 0)
    return {**run.metrics}, conditions


def simulated_metrics(scenario: Scenario) -> dict[str, Any]:
    return {**run(scenario, NONE, 0, mode="http").metrics}


def test_a_healthy_world_comes_out_as_simulated():
    scenario = small(duration=0.6)
    real, conditions = played(scenario, NONE)
    simulated = simulated_metrics(scenario)
    for name in ("calls", "success", "amplification", "share.it-0", "share.it-1", "wasted", "little"):
        assert real[name] == pytest.approx(simulated[name]), name
    assert real["p50"] > simulated["p50"]
    assert conditions.seconds > 0.5  # the last call was due a little before the end
    assert conditions.refused == 0
    assert 3 <= conditions.opened < real["calls"]  # they are kept
    assert 0 < conditions.cpu < 2
    assert len(conditions.late_percentiles) == 101


def test_attempts_at_servers_that_are_down_are_counted_as_they_are_simulated():
    down = small(Crash(places=[0]), duration=0.4)
    real, conditions = played(down, NONE)
    simulated = simulated_metrics(down)
    for name in ("success", "amplification", "share.it-0"):
        assert real[name] == simulated[name], name
    assert conditions.refused == real["calls"] / 3
    again, _ = played(small(Crash(places=[0]), duration=0.2), RETRY3)
    assert again["success"] == 1.0
    assert again["amplification"] > 1.2


def test_what_a_key_protects_is_done_once():
    lost = small(
        SilentReplies(ratio=0.2),
        rate=40.0,
        duration=0.3,
        attempt_timeout=0.5,  # an attempt has to end in time on a busy machine, too
        load=OpenLoop(arrivals=lambda _random: constant(40.0), writes=1.0),
        tier={"honours_keys": True},
    )
    reckless, _ = played(lost, RETRY3)
    keyed, _ = played(lost, DEFAULT)
    assert reckless["duplicates"] > 0
    assert keyed["duplicates"] == 0


def test_a_reply_that_is_changed_on_its_way_is_a_failure():
    changed, _ = played(small(Corruption(corrupt=1.0), duration=0.2), NONE)
    assert changed["success"] == 0


def test_servers_join_leave_and_call_each_other():
    tiers = [
        Tier(name="front", instances=2, workers=10, service_time=Constant(0.002), calls=["back"]),
        Tier(name="back", instances=2, workers=10, service_time=Constant(0.002)),
    ]
    # Who leaves is drained to the end: how many would be cut off depends on how quick the machine is.
    front = Rolling(at=0.05, every=0.3, seconds=0.2, drain=60.0, tier="front")
    back = Rolling(at=0.1, every=0.3, seconds=0.2, drain=60.0, tier="back")
    rolling = small(front, back, tiers=tiers, rate=30.0)
    real, conditions = played(rolling, RETRY3)
    assert real["success"] == 1.0
    assert len([name for name in real if name.startswith("share.back-")]) > 2
    assert conditions.opened >= 6


@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        (
            small(WallClockShift(by=5.0)),
            "small cannot be played over sockets: WallClockShift: the clock of this machine",
        ),
        (small(Suspension(seconds=5.0)), "small cannot be played over sockets: Suspension: what measures would stand"),
        (small(duration=61.0, knobs={"load": 3}), r"small takes 61 s of real time, and at most 60 s .*--set load=3"),
    ],
)
def test_what_cannot_be_played_is_refused_and_why(scenario, words):
    with pytest.raises(ValueError, match=words):
        calibrate(scenario, [NONE])


def test_the_smaller_versions_of_scenarios_are_small_enough():
    smaller = {name: make_scenario(name).calibration for name in names()}
    found = [make_scenario(name, knobs) for name, knobs in smaller.items() if knobs]
    assert len(found) >= 9
    for scenario in found:
        check_scenario(scenario, longest=25.0)


def test_more_may_be_asked_for():
    check_scenario(small(duration=61.0), longest=100.0)
    busy = small(rate=300.0, duration=2.0)
    simulated = run(busy, NONE, 0, mode="http")
    with pytest.raises(
        ValueError, match=r"small makes 300 attempts in a second under none, and at most 250 .*it has no"
    ):
        check_load(busy, simulated)
    check_load(busy, simulated, most=300.0)


def test_a_calibration_says_of_each_figure_what_its_difference_is_due_to(tmp_path):
    steps: list[str] = []
    found = calibrate(small(duration=0.5), [DEFAULT], on_step=steps.append)
    assert [one.policy for one in found.policies] == ["default"]
    assert "default, seed 0: 0.5 s over sockets" in steps
    for one in found.policies:
        figures = {figure.metric: (figure, explanation) for figure, explanation in one.figures}
        assert list(figures)[:3] == ["success", "p99", "amplification"]
        figure, explanation = figures["success"]
        assert (figure.simulated, figure.real, explanation.cause) == (1.0, 1.0, "same")
        figure, explanation = figures["p50"]
        assert figure.delta is not None
        assert figure.delta > 0
        assert explanation.cause != "same"
        assert explanation.text
    found.write(tmp_path / "calibration.json", {"made": "now"})
    document = json.loads((tmp_path / "calibration.json").read_text())
    assert (document["schema"], document["kind"], document["header"]) == (1, "calibration", {"made": "now"})
    assert document["policies"][0]["figures"]["success"]["cause"] == "same"
    assert document["policies"][0]["runs"][0]["real"]["success"] == 1.0
