"""What a run comes to, for tests that know that their metrics have values."""

from __future__ import annotations

from typing import Any, NamedTuple

from resilient.lab.scenario import Scenario
from resilient.lab.simulation.run import Mode, run
from resilient.lab.stacks import Stack

__all__ = ["Measured", "measure", "metrics_of"]


class Measured(NamedTuple):
    """A run's metrics, and its series of one value a second."""

    metrics: dict[str, Any]
    series: dict[str, list[Any]]


def measure(
    scenario: Scenario, policy: str | Stack, *, seed: int = 0, backend: str = "asyncio", mode: Mode = "functions"
) -> Measured:
    """Run the scenario once."""
    outcome = run(scenario, policy, seed, backend=backend, mode=mode)
    return Measured({**outcome.metrics}, {name: [*values] for name, values in outcome.series.items()})


def metrics_of(
    scenario: Scenario, policy: str | Stack, *, seed: int = 0, backend: str = "asyncio", mode: Mode = "functions"
) -> dict[str, Any]:
    """Run the scenario once, and return its metrics."""
    return measure(scenario, policy, seed=seed, backend=backend, mode=mode).metrics
