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
        policies=("none", "least-request", "peak-ewma", "prequal", "default"),
        primary=("success", "p50", "p99", "amplification"),
        bands=[
            Band(policy="none", metric="p99", low=0.045, high=0.053, why="the work alone has 46 ms"),
            Band(policy="none", metric="success", low=0.9999),
            Band(policy="least-request", metric="p50", low=0.96, high=1.02, of="none"),
            Band(policy="least-request", metric="p99", low=0.95, high=1.03, of="none"),
            Band(policy="peak-ewma", metric="p50", low=0.96, high=1.04, of="none", why="noise is no difference"),
            Band(policy="peak-ewma", metric="p99", low=0.95, high=1.03, of="none"),
            Band(policy="prequal", metric="p50", low=0.96, high=1.06, of="none"),
            Band(policy="prequal", metric="p99", low=0.95, high=1.06, of="none"),
            Band(policy="default", metric="p99", low=0.95, high=1.03, of="none"),
            Band(policy="default", metric="success", low=0.9999),
            Band(policy="default", metric="amplification", high=1.0005, why="there is nothing to repeat"),
        ],
    )
