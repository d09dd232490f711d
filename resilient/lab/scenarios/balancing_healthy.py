"""All instances are well: what balancing must not cost."""

from __future__ import annotations

from resilient.lab.balancing import balancing_scenario
from resilient.lab.scenario import Band, Scenario

__all__ = ["scenario"]


def scenario(*, load: float = 0.6, duration: float = 10.0) -> Scenario:
    """Nothing fails; `load` is the share of the servers' capacity that is asked for."""
    return balancing_scenario(
        name="balancing-healthy",
        title="Everybody is well",
        source="the control of all comparisons of pickers; Mitzenmacher: The Power of Two Choices (2001)",
        naive="Round robin is as good as anything where all instances are alike: there is nothing to choose.",
        good="A picker that looks for differences must not invent them: it does not herd, and wastes nothing.",
        load=load,
        duration=duration,
        warmup=2.0,
        policies=("none", "least-request", "peak-ewma", "default"),
        primary=("success", "p50", "p99", "amplification"),
        bands=[],
    )
