"""Assertions for tests of one's own: does this client survive that failure?

```python
from resilient import Pipeline, Retry, RetryBudget, Timeout
from resilient.lab.assertions import assert_amplification, assert_recovers


def production() -> Pipeline:  # the very function that production uses
    return Pipeline(Timeout(5.0), Retry(attempts=3, budget=RetryBudget(ratio=0.05)), Timeout(1.0))


brief = {"duration": 90.0, "load": 100.0, "outage": 2.0}
assert_recovers("metastable-retry-storm", production, within=10.0, knobs=brief, seeds=1)
assert_amplification("metastable-retry-storm", production, at_most=1.2, knobs=brief, seeds=1)
```

Each plays the scenario in virtual time with a few seeds and raises `AssertionError` with what was measured in each, so
that a failure can be played again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from resilient.lab.bench.references import find_policy, make_scenario
from resilient.lab.results import Run
from resilient.lab.scenario import Scenario
from resilient.lab.simulation.run import Mode, run
from resilient.lab.stacks import Factory, Stack, made_by

__all__ = ["assert_amplification", "assert_metric", "assert_recovers"]


def assert_recovers(
    scenario: str | Scenario,
    policy: str | Stack | Factory,
    *,
    within: float,
    knobs: Mapping[str, Any] | None = None,
    seeds: int = 3,
    backend: str = "asyncio",
    mode: Mode = "functions",
) -> None:
    """Assert that with every seed goodput is back within so many seconds after the trigger ended.

    `scenario` and `policy` are as on the command line, or a `Scenario` and a factory of policies; see
    `resilient.lab.bench.references`. `knobs` are the scenario's arguments. Seeds are 0, 1, ...: three by default.

    Raises `ValueError` for a scenario without a trigger, or anything that cannot be found.
    """
    assert_metric(scenario, policy, "recovery", at_most=within, knobs=knobs, seeds=seeds, backend=backend, mode=mode)


def assert_amplification(
    scenario: str | Scenario,
    policy: str | Stack | Factory,
    *,
    at_most: float,
    knobs: Mapping[str, Any] | None = None,
    seeds: int = 3,
    backend: str = "asyncio",
    mode: Mode = "functions",
) -> None:
    """Assert that with every seed the policies make at most so many attempts a call; otherwise as `assert_recovers`."""
    assert_metric(
        scenario, policy, "amplification", at_most=at_most, knobs=knobs, seeds=seeds, backend=backend, mode=mode
    )


def assert_metric(
    scenario: str | Scenario,
    policy: str | Stack | Factory,
    metric: str,
    *,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    knobs: Mapping[str, Any] | None = None,
    seeds: int = 3,
    backend: str = "asyncio",
    mode: Mode = "functions",
) -> None:
    """Assert that with every seed a metric lies between two values; otherwise as `assert_recovers`.

    A metric without a value (a latency where nothing succeeded, a recovery that never came) lies between none.
    """
    if seeds < 1:
        raise ValueError(f"seeds={seeds!r}: how many runs, at least 1")
    played = make_scenario(scenario, knobs) if isinstance(scenario, str) else scenario
    stack = _stack(policy, played)
    runs = [run(played, stack, seed, backend=backend, mode=mode) for seed in range(seeds)]
    values = [_value(one, metric) for one in runs]
    if all(value is not None and at_least <= value <= at_most for value in values):
        return
    bounds = [f"at least {at_least:g}"] * (at_least > -math.inf) + [f"at most {at_most:g}"] * (at_most < math.inf)
    found = ", ".join(f"{_in_words(metric, value)} (seed {seed})" for seed, value in enumerate(values))
    raise AssertionError(f"{played.name}: {metric} of {stack.name}: expected {' and '.join(bounds)}, got {found}")


def _stack(policy: str | Stack | Factory, scenario: Scenario) -> Stack:
    if isinstance(policy, str):
        return find_policy(policy, scenario)
    if isinstance(policy, Stack):
        return policy
    return Stack(name=getattr(policy, "__qualname__", repr(policy)), make=made_by(policy))


def _value(played: Run, metric: str) -> float | None:
    if metric not in played.metrics:
        raise ValueError(f"{played.scenario} has no metric {metric!r}; there are {', '.join(played.metrics)}")
    return played.metrics[metric]


def _in_words(metric: str, value: float | None) -> str:
    return f"{value:.4g}" if value is not None else "never" if metric == "recovery" else "none"
