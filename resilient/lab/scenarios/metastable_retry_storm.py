"""A database stands still for ten seconds, and retries never let it recover."""

from __future__ import annotations

import math

from resilient.lab.arrivals import poisson
from resilient.lab.faults import Stop
from resilient.lab.scenario import Band, OpenLoop, Scenario, Tier
from resilient.lab.world.service_times import Exponential

__all__ = ["scenario"]


def scenario(*, load: float = 280.0, outage: float = 10.0, duration: float = 300.0) -> Scenario:
    """`load` calls a second on a database that can do 300; it stands still for `outage` seconds from second 60 on."""
    return Scenario(
        name="metastable-retry-storm",
        title="Metastable retry storm",
        source="Bronson, Aghayev, Charapko, Zhu: Metastable Failures in Distributed Systems (HotOS 2021)",
        naive=(
            "While the database stands still, a queue of abandoned calls grows. Afterwards each call waits longer than "
            "its caller does, is repeated, and finds the queue as long as before: the outage outlives its cause."
        ),
        good=(
            "A retry budget takes away what sustains the storm, and the backlog drains with the spare capacity. Only a "
            "server that does not work on what nobody waits for removes the backlog itself."
        ),
        tiers=[Tier(name="db", workers=30, service_time=Exponential(0.1))],
        load=OpenLoop(arrivals=lambda random: poisson(load, random, duration=duration)),
        duration=duration,
        warmup=10.0,
        timeout=10.0,
        attempt_timeout=1.0,
        deadline=10.0,
        faults=[Stop(at=60.0, seconds=outage)],
        trigger=(60.0, 60.0 + outage),
        policies=("none", "retry1", "retry3", "default"),
        primary=("recovery", "goodput.after", "amplification", "wasted"),
        bands=[
            Band(policy="none", metric="recovery", low=95, high=155, why="theory: backlog / spare capacity = 125 s"),
            Band(policy="retry1", metric="recovery", low=math.inf, why="two attempts a call are 560 on 300 a second"),
            Band(policy="retry3", metric="recovery", low=math.inf, why="four attempts a call are 1,120"),
        ],
    )
