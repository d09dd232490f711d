"""For ten seconds users ask for 1.4 times what the service can do."""

from __future__ import annotations

import math

from resilient.budget import RetryBudget
from resilient.lab.arrivals import spike as rising
from resilient.lab.contenders import by_name, single
from resilient.lab.scenario import Band, OpenLoop, Scenario, Tier
from resilient.lab.world.queues import discipline
from resilient.lab.world.service_times import Exponential
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.retry import Retry

__all__ = ["scenario"]

_WORK = 0.1
_WORKERS = 15
_CAPACITY = _WORKERS / _WORK
_AT = 20.0


def scenario(
    *, spike: float = 1.4, seconds: float = 10.0, load: float = 0.8, queue: str = "unbounded", duration: float = 100.0
) -> Scenario:
    """Ask for `spike` times the capacity for `seconds` from second 20 on, and otherwise for the share `load` of it.

    The capacity are 150 calls a second. `queue` is what the service does with a line: see `metastable-retry-storm`.
    """
    rate, factor = load * _CAPACITY, spike / load
    return Scenario(
        name="demand-spike",
        title="Demand spike",
        source=(
            "Cho et al.: Overload Control for us-scale RPCs with Breakwater (OSDI 2020), which spikes demand to 1.4 "
            "times the capacity"
        ),
        naive=(
            "The queue that grew in ten seconds is four seconds long, and callers wait one. Their retries keep up the "
            "spike when it is over."
        ),
        good=(
            "With a budget of a tenth the spare fifth of the capacity works off the backlog. A server that refuses "
            "what it cannot do in time loses only what was too much, and only while it is."
        ),
        tiers=[
            Tier(
                name="api",
                workers=_WORKERS,
                service_time=Exponential(_WORK),
                queue=discipline(queue, limit=100, expected=_WORK),
            )
        ],
        load=OpenLoop(arrivals=lambda random: rising(rate, factor, random, at=_AT, seconds=seconds, duration=duration)),
        duration=duration,
        warmup=5.0,
        timeout=10.0,
        attempt_timeout=1.0,
        trigger=(_AT, _AT + seconds),
        policies=("none", "retry1", "retry3", "retry3-breaker", "default"),
        contenders=by_name(
            single("retry3-budget", lambda: [Retry(attempts=4, budget=RetryBudget())]),
            single("retry3-breaker", lambda: [Retry(attempts=4, budget=None), CircuitBreaker()]),
        ),
        primary=("recovery", "goodput.after", "amplification", "wasted"),
        bands=[
            Band(
                policy="none",
                metric="recovery",
                low=5,
                high=30,
                why="theory: at 30 a second to spare, 600 calls too many are down to a second's work in 15 s",
            ),
            Band(policy="retry1", metric="recovery", low=math.inf, why="two attempts a call are 240 on 150 a second"),
            Band(policy="retry3", metric="recovery", low=math.inf, why="four attempts a call are 480"),
            Band(policy="retry3-breaker", metric="recovery", high=30, why="open, it lets the queue run empty"),
            Band(policy="default", metric="recovery", low=15, high=65, why="of the 30 to spare, retries take 13"),
            Band(policy="default", metric="amplification", high=1.12),
        ],
    )
