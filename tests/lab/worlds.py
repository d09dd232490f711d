"""Small worlds to try things in."""

from __future__ import annotations

from typing import Any

from resilient.lab.arrivals import constant
from resilient.lab.scenario import OpenLoop, Scenario, Tier
from resilient.lab.simulation.run import run
from resilient.lab.world.service_times import Constant, Exponential

__all__ = ["metrics_of", "series_of", "world"]


def world(*faults: Any, rate: float = 10.0, duration: float = 20.0, tier: Any = None, **options: Any) -> Scenario:
    """Four servers with a worker each, whose work takes a tenth of a second, and evenly spaced calls."""
    settings: dict[str, Any] = {"instances": 4, "service_time": Constant(0.1)}
    fields: dict[str, Any] = {
        "tiers": [Tier(name="it", **settings | (tier or {}))],
        "load": OpenLoop(arrivals=lambda _random: constant(rate)),
        "timeout": 2.0,
        "attempt_timeout": 1.0,
    }
    return Scenario(
        name="test",
        title="",
        source="",
        naive="",
        good="",
        duration=duration,
        faults=faults,
        **fields | options,
    )


def exponential(mean: float = 0.1) -> Exponential:
    return Exponential(mean)


def metrics_of(scenario: Scenario, policy: Any = "none", seed: int = 0, **options: Any) -> dict[str, Any]:
    return dict(run(scenario, policy, seed, **options).metrics)


def series_of(scenario: Scenario, policy: Any = "none", seed: int = 0, **options: Any) -> dict[str, Any]:
    return {name: list(values) for name, values in run(scenario, policy, seed, **options).series.items()}
