"""What sockets and machine cost, as the latency of a simulated network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

from resilient.lab.calibration.playing import Conditions, Idle
from resilient.lab.scenario import Scenario
from resilient.lab.world.service_times import Empirical, ServiceTime

__all__ = ["with_machine", "with_sockets"]


@final
@dataclass(frozen=True, slots=True)
class _Cost:
    """One way of a call: half of what an idle call cost, and what `late` says that the event loop was late.

    A `turn` in [0, 1) deals what was measured to other calls.
    """

    network: ServiceTime | None
    idle: Empirical
    late: Empirical | None
    turn: float

    @property
    def mean(self) -> float:
        """Of all three."""
        parts = (self.network, self.late)
        return self.idle.mean / 2 + sum(part.mean for part in parts if part is not None)

    def quantile(self, u: float) -> float:
        """Of the network as ever; of the others, turned."""
        turned = (u + self.turn) % 1.0
        seconds = self.idle.quantile(turned) / 2
        if self.network is not None:
            seconds += self.network.quantile(u)
        if self.late is not None:
            seconds += self.late.quantile((turned * _APART) % 1.0)
        return seconds


_APART = 7.0
"""So that whoever has the worst of one does not have the worst of the other."""


def with_sockets(scenario: Scenario, idle: Idle, turn: float) -> Scenario:
    """The scenario, where each call takes longer by what an idle one cost over the sockets."""
    return replace(scenario, latency=_Cost(scenario.latency, Empirical(idle.samples), None, turn))


def with_machine(scenario: Scenario, idle: Idle, conditions: Conditions, turn: float) -> Scenario:
    """The scenario, where a call moreover waits for the event loop as it begins, and as it is answered.

    An idle call had to wait, too: only what was more counts.
    """
    late = Empirical([max(0.0, seconds - idle.late) for seconds in conditions.late_percentiles])
    return replace(scenario, latency=_Cost(scenario.latency, Empirical(idle.samples), late, turn))
