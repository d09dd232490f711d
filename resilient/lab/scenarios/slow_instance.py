"""One instance of ten takes ten times as long, and fails nothing."""

from __future__ import annotations

from resilient.balancing import LeastRequest, RoundRobin, WeightedRoundRobin
from resilient.lab.arrivals import poisson
from resilient.lab.contenders import by_name, changed, prequal
from resilient.lab.faults import Slow
from resilient.lab.scenario import Band, OpenLoop, Scenario, Tier
from resilient.lab.world.service_times import Exponential
from resilient.policies.hedge import Hedge

__all__ = ["scenario"]

_WORK = 0.05
_P95 = 0.15
"""Of an instance that is well: by when a hedge is sent."""


def scenario(
    *, factor: float = 10.0, workers: int = 64, clients: int = 10, load: float = 480.0, duration: float = 45.0
) -> Scenario:
    """Let one of ten instances be `factor` times as slow, always.

    With 64 `workers` an instance can be as slow as that without a queue; with 4 it cannot do its tenth of the `load`,
    in calls a second.
    """
    return Scenario(
        name="slow-instance",
        title="One slow instance",
        source="Dean, Barroso: The Tail at Scale (CACM 2013)",
        naive=(
            "In turn, every tenth call goes to the slow instance, and its time is the 90th percentile of all. Slow is "
            "not failed: nothing is retried, and no breaker opens."
        ),
        good=(
            "A picker that looks at latencies sends it hardly anything, one that looks at calls in flight half as much "
            "as before; where servers report how busy they are, it gets by turns what it can do. What still goes "
            "there, a hedge repairs, for a twentieth more load."
        ),
        tiers=[Tier(name="app", instances=10, workers=workers, service_time=Exponential(_WORK))],
        load=OpenLoop(arrivals=lambda random: poisson(load, random, duration=duration)),
        duration=duration,
        warmup=5.0,
        timeout=10.0,
        attempt_timeout=5.0,
        clients=clients,
        faults=[Slow(factor=factor, places=[0])],
        policies=(
            "none",
            "retry3",
            "default-least-request",
            "default",
            "default-prequal",
            "default-weighted",
            "default-hedge",
        ),
        contenders=by_name(
            changed("default-round-robin", picker=RoundRobin()),
            changed("default-least-request", picker=LeastRequest()),
            changed("default-prequal", picker=prequal),
            changed("default-weighted", picker=WeightedRoundRobin(blackout=1.0)),
            changed("default-hedge", lambda: {"hedge": Hedge(_P95)}),
            changed("default-round-robin-hedge", lambda: {"hedge": Hedge(_P95)}, picker=RoundRobin()),
        ),
        calibration={"load": 80.0, "clients": 2, "duration": 15.0},
        primary=("p99", "p999", "share.app-0", "amplification"),
        bands=[
            Band(policy="none", metric="p99", low=1.0, high=1.3, why="theory: 0.5 * ln(0.1 / 0.01) = 1.15 s"),
            Band(policy="none", metric="share.app-0", low=0.09, high=0.11),
            Band(policy="retry3", metric="p99", low=0.95, high=1.05, of="none", why="nothing fails"),
            Band(policy="default", metric="p99", high=0.276, why="1.2 times the 0.23 s that it is where all are well"),
            Band(policy="default", metric="share.app-0", high=0.03),
            Band(policy="default-least-request", metric="share.app-0", low=0.03, high=0.07),
            Band(policy="default-least-request", metric="p99", low=1.5, of="default"),
            Band(policy="default-prequal", metric="p99", high=0.33),
            Band(policy="default-prequal", metric="share.app-0", high=0.02),
            Band(
                policy="default-weighted",
                metric="share.app-0",
                low=0.01,
                high=0.03,
                why="theory: 1 / 91, if reports were of no moment but of all of them",
            ),
            Band(policy="default-weighted", metric="p99", high=0.4),
            Band(policy="default-hedge", metric="p999", high=0.6, of="default"),
            Band(policy="default-hedge", metric="amplification", high=1.09),
        ],
    )
