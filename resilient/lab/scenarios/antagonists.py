"""Every instance is slow now and then: somebody else on its machine is busy."""

from __future__ import annotations

from resilient.lab.balancing import balancing_scenario
from resilient.lab.episodes import Bursts
from resilient.lab.scenario import Band, Scenario

__all__ = ["scenario"]


def scenario(
    *, load: float = 0.6, factor: float = 4.0, length: float = 2.0, every: float = 8.0, duration: float = 14.0
) -> Scenario:
    """Each instance is `factor` times as slow for `length` seconds, about `every` seconds after the last time."""
    return balancing_scenario(
        name="antagonists",
        title="Antagonists",
        source=(
            "Wydrowski, Kleinberg, Rumble, Archer: Load is not what you should balance: Introducing Prequal (NSDI 2024)"
        ),
        naive=(
            "A slow instance can do less than its equal share, so its queue grows past the timeout; retries add to the "
            "queues of the others."
        ),
        good=(
            "Calls in flight betray a slow instance as soon as its queue grows; its latency does so too, and remembers "
            "it for some seconds longer than need be."
        ),
        load=load,
        duration=duration,
        warmup=3.0,
        faults=[Bursts(factor=factor, length=length, every=every)],
        policies=("none", "retry3", "least-request", "peak-ewma", "default"),
        primary=("success", "p99", "p50", "amplification"),
        bands=[],
    )
