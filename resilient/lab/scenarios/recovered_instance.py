"""A slow instance is well again: how soon does it get its share?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from resilient.balancing import PeakEwma
from resilient.lab.balancing import balancing_scenario
from resilient.lab.contenders import by_name, single
from resilient.lab.faults import Slow
from resilient.lab.scenario import Band, Scenario

if TYPE_CHECKING:
    from resilient.lab.simulation.world import World

__all__ = ["scenario"]

_AT = 2
_WATCHED = 10
_INSTANCES = 10
_WINDOW = 2


def scenario(*, load: float = 0.6, factor: float = 10.0, slow: int = 4, scale: float = 1.0) -> Scenario:
    """One of ten instances is `factor` times as slow for `slow` seconds, from second 2 on."""
    well = _AT + slow

    def measure(world: World) -> Mapping[str, float | None]:
        instance = world.fleet().servers[0].instance.id

        def share(second: int) -> float:
            return world.share(instance, well + second, well + second + _WINDOW) or 0.0

        again = (second for second in range(_WATCHED - _WINDOW) if share(second) >= 0.9 / _INSTANCES)
        first = next(again, None)
        return {
            "back": None if first is None else float(first + _WINDOW),
            "share.slow": world.share(instance, _AT + 1, well),
            "share.well": world.share(instance, well + 2, well + 7),
        }

    return balancing_scenario(
        name="recovered-instance",
        title="A slow instance recovers",
        source="Finagle's balancersim (its temporary failure); Finagle's and Linkerd's peak EWMA",
        naive="A picker that remembers who was slow for ten seconds leaves a tenth of the fleet idle for as long.",
        good=(
            "Who is avoided is hardly ever tried, so that only forgetting brings it back: in three seconds its latency "
            "fades to a third. Whoever looks at calls in flight, or asks, sees at once that it is well."
        ),
        load=load,
        scale=scale,
        instances=_INSTANCES,
        duration=float(well + _WATCHED),
        warmup=1.0,
        faults=[Slow(at=_AT, seconds=slow, factor=factor, places=[0])],
        trigger=(_AT, well),
        measure=measure,
        contenders=by_name(single("peak-ewma-10s", picker=PeakEwma(tau=10.0))),
        policies=("none", "least-request", "peak-ewma", "peak-ewma-10s", "prequal", "default"),
        primary=("back", "share.well", "share.slow", "p99.during", "success.during"),
        bands=[
            Band(
                policy="none", metric="success.during", low=0.89, high=0.92, why="a tenth of the calls, and then some"
            ),
            Band(
                policy="least-request", metric="share.slow", low=0.01, high=0.025, why="what it can do, and its queue"
            ),
            Band(policy="least-request", metric="back", high=4, why="a call in flight is over, and forgotten"),
            Band(policy="peak-ewma", metric="share.slow", high=0.005),
            Band(
                policy="peak-ewma", metric="back", high=7, why="theory: 3 s * ln 10 until a peak of ten times has faded"
            ),
            Band(policy="peak-ewma-10s", metric="share.well", high=0.03, why="theory: 10 s * ln 10"),
            Band(policy="prequal", metric="back", high=7, why="it asks three instances for each call"),
            Band(policy="prequal", metric="share.slow", low=0.005, high=0.02),
            Band(policy="default", metric="back", high=7),
            Band(policy="default", metric="success.during", low=0.9999),
        ],
    )
