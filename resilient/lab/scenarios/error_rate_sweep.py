"""A fraction of all calls fails, whatever is done: which policies still get answers, and at what load?"""

from __future__ import annotations

from resilient.budget import RetryBudget
from resilient.lab.arrivals import poisson
from resilient.lab.contenders import by_name, single
from resilient.lab.faults import Fail
from resilient.lab.scenario import Band, OpenLoop, Scenario, Tier
from resilient.lab.world.service_times import Exponential
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.retry import Retry

__all__ = ["scenario"]

_WORK = 0.02


def scenario(
    *, failing: float = 0.5, clients: int = 10, instances: int = 10, load: float = 200.0, duration: float = 60.0
) -> Scenario:
    """Let the fraction `failing` of the attempts fail at random, at each of the `instances` alike.

    `clients` share the `load`, in calls a second: the more there are, the less each of them knows.
    """
    return Scenario(
        name="error-rate-sweep",
        title="Error rate sweep",
        source="Brooker: Fixing retries with token buckets and circuit breakers (2022)",
        naive=(
            "Retries turn half of the failures, or all but a sixteenth, into answers, for up to four times the load. A "
            "breaker that opens at one half of failures refuses the calls that would have gone well, too."
        ),
        good=(
            "As many retries as repair a service that fails now and then, and few where they do not help. A budget "
            "gives up success at high rates of failure for a load that stays near 1.1. Its floor of one retry a second "
            "is a client's own: a hundred clients of two calls a second each retry half of their calls."
        ),
        tiers=[Tier(name="api", instances=instances, workers=20, service_time=Exponential(_WORK))],
        load=OpenLoop(arrivals=lambda random: poisson(load, random, duration=duration)),
        duration=duration,
        warmup=5.0,
        timeout=10.0,
        attempt_timeout=1.0,
        clients=clients,
        faults=[Fail(ratio=failing, takes=_WORK)],
        policies=("none", "retry1", "retry3", "retry3-breaker", "default"),
        contenders=by_name(
            single("retry3-budget", lambda: [Retry(attempts=4, budget=RetryBudget())]),
            single("retry3-breaker", lambda: [Retry(attempts=4, budget=None), CircuitBreaker()]),
            single(
                "retry3-consecutive",
                lambda: [Retry(attempts=4, budget=None), CircuitBreaker(failure_ratio=1.0, consecutive_failures=5)],
            ),
        ),
        calibration={"load": 40.0, "clients": 2, "duration": 15.0},
        primary=("success", "amplification"),
        bands=[
            Band(policy="none", metric="success", low=0.48, high=0.52, why="theory: 0.5"),
            Band(policy="retry1", metric="success", low=0.73, high=0.77, why="theory: 1 - 0.5 ** 2"),
            Band(policy="retry1", metric="amplification", low=1.48, high=1.52, why="theory: 1.5"),
            Band(policy="retry3", metric="success", low=0.925, high=0.95, why="theory: 1 - 0.5 ** 4"),
            Band(policy="retry3", metric="amplification", low=1.85, high=1.9, why="theory: 1.875"),
            Band(policy="retry3-breaker", metric="success", high=0.2, why="it is open most of the time"),
            Band(
                policy="default",
                metric="success",
                low=0.55,
                high=0.6,
                why="theory: 0.5 + (0.1 + 1 / 20) / 2, a tenth of the calls and one a second are tried again",
            ),
            Band(policy="default", metric="amplification", high=1.17, why="theory: 1.15"),
        ],
    )
