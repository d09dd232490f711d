"""Small worlds for tests, and a way to look into them while they run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

from resilient.lab.arrivals import constant
from resilient.lab.faults import Fault
from resilient.lab.scenario import OpenLoop, Scenario, Tier
from resilient.lab.simulation.world import World
from resilient.lab.world.service_times import Constant

__all__ = ["Look", "small_world"]


def small_world(*faults: Fault, tiers: Sequence[Tier] = (), rate: float = 99.0, **changes: Any) -> Scenario:
    """Make a scenario of `rate` calls a second, evenly, on three servers that take a millisecond each."""
    fields: dict[str, Any] = {"duration": 10.0, "timeout": 3.0, "attempt_timeout": 1.0} | changes
    return Scenario(
        name="test",
        title="",
        source="",
        naive="",
        good="",
        tiers=tiers or [Tier(name="app", instances=3, workers=100, service_time=Constant(0.001))],
        load=OpenLoop(arrivals=lambda _random: constant(rate, duration=fields["duration"])),
        faults=faults,
        **fields,
    )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Look(Fault):
    """No fault: a look at the world every `every` seconds, beginning at `at`."""

    every: float = 1000.0
    look: Callable[[World], object]

    def begin(self, world: World) -> None:
        """Look, and again later."""
        self.look(world)
        world.engine.at(world.engine.now() + self.every, self.begin, world)

    def end(self, world: World) -> None:
        """Go on looking."""
