"""Short runs of the scenarios, for the tests of what is in them."""

from __future__ import annotations

from functools import cache
from typing import Any

from resilient.lab.bench.references import make_scenario
from resilient.lab.simulation.run import run

__all__ = ["metrics"]


@cache
def _metrics(name: str, policy: str, seed: int, backend: str, knobs: tuple[tuple[str, Any], ...]) -> Any:
    return run(make_scenario(name, dict(knobs)), policy, seed, backend=backend).metrics


def metrics(name: str, policy: str, *, seed: int = 0, backend: str = "asyncio", **knobs: Any) -> Any:
    """What one run came to; asked for again, it is not run again."""
    return _metrics(name, policy, seed, backend, tuple(sorted(knobs.items())))
