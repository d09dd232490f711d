"""Half of the fleet is down, and the other half can do the work."""

from __future__ import annotations

from typing import Literal

from resilient.lab.balancing import balancing_scenario
from resilient.lab.faults import BlackHole, Crash, Fail, Fault
from resilient.lab.scenario import Band, Scenario

__all__ = ["scenario"]

_AT = 4.0


def scenario(
    *,
    load: float = 0.35,
    down: int = 5,
    kind: Literal["refuse", "fail", "hang"] = "refuse",
    outage: float = 8.0,
    duration: float = 20.0,
) -> Scenario:
    """`down` of ten instances refuse connections for `outage` seconds from second 4 on, or fail, or hang."""
    places = range(down)
    faults: dict[str, Fault] = {
        "refuse": Crash(at=_AT, seconds=outage, places=places),
        "fail": Fail(at=_AT, seconds=outage, places=places),
        "hang": BlackHole(at=_AT, seconds=outage, places=places),
    }
    return balancing_scenario(
        name="half-down",
        title="Half of the fleet is down",
        source="Envoy, panic threshold; Finagle, how often a pick is tried again",
        naive="Half of the calls fails; with retries still one in 2 ** attempts.",
        good=(
            "All that is down is ejected, which the cap just allows, and the rest serves everything. Where more than "
            "the cap is down, the picker's memory of failures and retries elsewhere have to do."
        ),
        load=load,
        duration=duration,
        warmup=2.0,
        faults=[faults[kind]],
        trigger=(_AT, _AT + outage),
        policies=("none", "retry3", "least-request", "peak-ewma", "default"),
        primary=("success.during", "p99.during", "success.after", "recovery", "amplification"),
        bands=[],
    )
