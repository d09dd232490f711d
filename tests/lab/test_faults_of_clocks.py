"""Clocks that jump, and machines that stand still."""

from __future__ import annotations

import math

import pytest

from resilient.lab.arrivals import constant
from resilient.lab.faults import Fault, Suspension, WallClockShift
from resilient.lab.scenario import OpenLoop, Scenario, Tier
from resilient.lab.simulation.run import run
from resilient.lab.stacks import Stack, made_by
from resilient.lab.world.service_times import Constant
from resilient.testing.virtual_time import EPOCH


class Clocks:
    """A policy that notes what the clocks show at each call."""

    def __init__(self) -> None:
        self.shown: list[tuple[float, float]] = []

    async def __call__(self, call, nxt):
        self.shown.append((call.runtime.now(), call.runtime.wall() - EPOCH))
        return await nxt(call)


def clocks_of(fault: Fault, backend: str) -> list[tuple[float, float]]:
    """What the clocks show at one call a second, from half past on."""
    clocks = Clocks()
    scenario = Scenario(
        name="test",
        title="",
        source="",
        naive="",
        good="",
        tiers=[Tier(name="a", service_time=Constant(0.01))],
        load=OpenLoop(arrivals=lambda _random: constant(1, start=0.5)),
        duration=10,
        timeout=1.0,
        attempt_timeout=1.0,
        faults=[fault],
    )
    run(scenario, Stack(name="clocks", make=made_by(lambda: [clocks])), 0, backend=backend)
    return clocks.shown


def test_a_wall_clock_jumps_there_and_back_and_no_other_notices(backend):
    shown = clocks_of(WallClockShift(at=2, seconds=3, by=-3600.0), backend)
    assert [now for now, _ in shown] == [second + 0.5 for second in range(10)]
    assert [wall - now for now, wall in shown] == [0.0] * 2 + [-3600.0] * 3 + [0.0] * 5


def test_after_a_suspension_what_was_due_comes_at_once(backend):
    shown = clocks_of(Suspension(at=2, seconds=5.25), backend)
    assert [now for now, _ in shown] == [0.5, 1.5, *[7.25] * 5, 7.5, 8.5, 9.5]
    assert all(wall == now for now, wall in shown)


def test_a_suspension_ends():
    with pytest.raises(ValueError, match=r"^seconds=inf"):
        Suspension(seconds=math.inf)
