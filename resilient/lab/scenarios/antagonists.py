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
            "it for some seconds longer than need be. A server that is asked tells both, as they are now."
        ),
        load=load,
        duration=duration,
        warmup=3.0,
        faults=[Bursts(factor=factor, length=length, every=every)],
        policies=("none", "retry3", "least-request", "peak-ewma", "prequal", "default"),
        primary=("success", "p99", "p50", "amplification"),
        bands=[
            Band(policy="none", metric="success", low=0.88, high=0.96),
            Band(policy="retry3", metric="p99", low=1.2, why="a second attempt begins after a timeout of 1 s"),
            Band(policy="retry3", metric="amplification", low=1.05, high=1.25),
            Band(policy="least-request", metric="success", low=0.999),
            Band(policy="least-request", metric="p99", low=0.15, high=0.4),
            Band(policy="peak-ewma", metric="p99", high=0.95, of="least-request", why="it has seen who is slow"),
            Band(
                policy="peak-ewma",
                metric="p50",
                low=1.05,
                high=1.4,
                of="least-request",
                why="it shuns whom it need not",
            ),
            Band(policy="prequal", metric="success", low=0.9999),
            Band(
                policy="prequal",
                metric="p99",
                low=0.3,
                high=0.6,
                of="least-request",
                why="servers tell it of everybody's calls, and of what a call takes now",
            ),
            Band(policy="prequal", metric="p50", high=1.05, of="least-request", why="it forgets within a second"),
            Band(policy="default", metric="success", low=0.9995),
            Band(policy="default", metric="p99", high=0.3),
            Band(policy="default", metric="amplification", high=1.005),
        ],
    )
