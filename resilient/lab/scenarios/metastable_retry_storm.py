"""A database stands still for ten seconds, and retries never let it recover."""

from __future__ import annotations

import math

from resilient.budget import RetryBudget
from resilient.lab.arrivals import poisson
from resilient.lab.contenders import by_name, single
from resilient.lab.faults import Stop
from resilient.lab.scenario import Band, OpenLoop, Scenario, Tier
from resilient.lab.world.queues import discipline
from resilient.lab.world.service_times import Exponential
from resilient.policies.adaptive_throttle import AdaptiveThrottle
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.retry import Retry

__all__ = ["scenario"]

_WORK = 0.1
_WARMUP = 10.0
_BOUND = 2 / 3
"""Seconds of work that a bounded queue holds: less than a caller waits."""


def scenario(
    *,
    load: float = 280.0,
    workers: int = 30,
    outage: float = 10.0,
    queue: str = "unbounded",
    clients: int = 1,
    duration: float = 210.0,
    at: float = 30.0,
) -> Scenario:
    """Let a database stand still for `outage` seconds from second `at` on.

    It does 10 calls a second with each of its `workers`, and is asked `load` times a second by `clients`. `queue` is
    what it does with a line: `unbounded`; `bounded` to 2/3 of a second's work; it discards those whose deadline is
    `expired`, or will be when the work is done (`hopeless`), if it was told; or it takes the last first (`lifo`).
    """
    return Scenario(
        name="metastable-retry-storm",
        title="Metastable retry storm",
        source="Bronson, Aghayev, Charapko, Zhu: Metastable Failures in Distributed Systems (HotOS 2021)",
        naive=(
            "While the database stands still, a queue of abandoned calls grows. Afterwards each call waits longer than "
            "its caller does, is repeated, and finds the queue as long as before: the outage outlives its cause."
        ),
        good=(
            "Spare capacity works off the backlog, so nothing may use it up. A budget bounds the loop of retries, but "
            "a tenth more calls is too much where a service is more than nine tenths busy; a breaker takes away the "
            "load itself. A server that does not work on what nobody waits for, as it was told deadlines or has a "
            "short queue, has no backlog and recovers within seconds."
        ),
        tiers=[
            Tier(
                name="db",
                workers=workers,
                service_time=Exponential(_WORK),
                queue=discipline(queue, limit=round(workers / _WORK * _BOUND), expected=_WORK),
            )
        ],
        load=OpenLoop(arrivals=lambda random: poisson(load, random, duration=duration)),
        duration=duration,
        warmup=min(_WARMUP, at / 3),
        timeout=10.0,
        attempt_timeout=1.0,
        clients=clients,
        faults=[Stop(at=at, seconds=outage)],
        trigger=(at, at + outage),
        policies=("none", "retry1", "retry3", "retry3-breaker", "default"),
        contenders=by_name(
            single("retry3-budget", lambda: [Retry(attempts=4, budget=RetryBudget())]),
            single("retry3-breaker", lambda: [Retry(attempts=4, budget=None), CircuitBreaker()]),
            single("retry3-throttle", lambda: [Retry(attempts=4, budget=None), AdaptiveThrottle()]),
            single("retry3-deadline", lambda: [Retry(attempts=4, budget=None)], tells=True),
        ),
        calibration={"load": 21.0, "workers": 3, "at": 6.0, "outage": 2.0, "duration": 22.0},
        primary=("recovery", "goodput.after", "amplification", "wasted"),
        bands=[
            Band(policy="none", metric="recovery", low=90, high=155, why="theory: backlog / spare capacity = 125 s"),
            Band(policy="retry1", metric="recovery", low=math.inf, why="two attempts a call are 560 on 300 a second"),
            Band(policy="retry3", metric="recovery", low=math.inf, why="four attempts a call are 1,120"),
            Band(policy="retry3-breaker", metric="recovery", high=25, why="open, it lets the queue run empty"),
            Band(policy="default", metric="amplification", high=1.11, why="a tenth and one a second"),
            Band(
                policy="default",
                metric="recovery",
                low=math.inf,
                why="a tenth and one more are 309 a second: it recovers where less than nine tenths are busy",
            ),
        ],
    )
