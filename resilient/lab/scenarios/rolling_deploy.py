"""One instance after the other is replaced, and callers learn of it two seconds later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from resilient.lab.balancing import balancing_scenario
from resilient.lab.membership import Rolling
from resilient.lab.scenario import Band, Scenario

if TYPE_CHECKING:
    from resilient.lab.simulation.world import World

__all__ = ["scenario"]

_AT = 4.0
_TURNS = 5


def scenario(
    *,
    load: float = 0.6,
    every: float = 6.0,
    lag: float = 2.0,
    drain: float = 0.0,
    duration: float = 40.0,
    scale: float = 4.0,
) -> Scenario:
    """Every `every` seconds one of ten instances dies and another one joins; discovery tells of it `lag` seconds later.

    All calls are writes that must not run twice. With `drain` the old instance goes on serving for so long. Real
    deployments have 30 seconds from turn to turn, and an error rate that is lower in proportion.
    """
    return balancing_scenario(
        name="rolling-deploy",
        title="Rolling deployment",
        source="grpc/grpc issue 12295: clients that learn late of new instances; Kubernetes, termination of pods",
        naive=(
            "Until discovery has told, every tenth call meets an instance that is gone: lag / every of the time. A "
            "picker that only counts calls in flight sends it even more, since nothing is ever in flight there."
        ),
        good=(
            "A refused connection was certainly not served, so even a write is sent elsewhere at once. Only what the "
            "instance was working on when it died is lost; to drain it for longer than the lag saves that too."
        ),
        load=load,
        scale=scale,
        lag=lag,
        writes=1.0,
        duration=duration,
        warmup=2.0,
        faults=[Rolling(at=_AT, seconds=_TURNS * every, every=every, drain=drain)],
        trigger=(_AT, _AT + _TURNS * every),
        measure=_measure,
        policies=("none", "retry3", "least-request", "peak-ewma", "default"),
        calibration={"scale": 20.0, "load": 0.4, "every": 3.0, "lag": 1.0, "duration": 22.0},
        primary=("success.during", "refused", "failures.peak", "duplicates", "amplification"),
        bands=[
            Band(
                policy="none", metric="success.during", low=0.96, high=0.97, why="theory: 1 - 1/10 * 2 s / 6 s = 0.967"
            ),
            Band(policy="none", metric="failures.peak", low=50, high=80, why="a tenth of 600 a second"),
            Band(
                policy="least-request",
                metric="success.during",
                high=0.998,
                of="none",
                why="who fails at once is never busy",
            ),
            Band(policy="peak-ewma", metric="success.during", low=0.995),
            Band(policy="retry3", metric="success.during", low=0.9995),
            Band(
                policy="default",
                metric="success.during",
                low=0.998,
                high=0.9999,
                why="writes in progress are not repeated",
            ),
            Band(policy="default", metric="refused", high=0.1, of="none"),
            Band(policy="default", metric="failures.peak", high=12),
            Band(policy="default", metric="duplicates", high=0),
        ],
    )


def _measure(world: World) -> Mapping[str, float | None]:
    """The share of attempts that met an instance that was gone, and the failures of the worst second."""
    fleet = world.fleet()
    return {
        "refused": fleet.counts()["refused"] / fleet.sent,
        "failures.peak": max(failures or 0 for failures in world.recording.series()["failures"]),
    }
