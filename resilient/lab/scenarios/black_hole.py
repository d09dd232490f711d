"""One instance of ten accepts every call and answers none."""

from __future__ import annotations

from resilient.balancing import RoundRobin
from resilient.lab.arrivals import poisson
from resilient.lab.contenders import by_name, changed
from resilient.lab.faults import BlackHole
from resilient.lab.scenario import Band, OpenLoop, Scenario, Tier
from resilient.lab.world.service_times import Exponential

__all__ = ["scenario"]

_WORK = 0.05
_AT = 10.0


def scenario(*, clients: int = 10, load: float = 480.0, duration: float = 45.0, outage: float = 25.0) -> Scenario:
    """Let one of ten instances be a black hole for `outage` seconds from second 10 on.

    `clients` share the `load`, in calls a second.
    """
    return Scenario(
        name="black-hole",
        title="A black hole",
        source="the scenario of that name in the simulations of Palantir's dialogue, a client library",
        naive=(
            "A tenth of all calls wait for their whole timeout, and fail, or succeed elsewhere a second later. "
            "Meanwhile each holds a connection, until nothing is left for the others."
        ),
        good=(
            "What waits for an answer counts against the instance at once, and a row of timeouts ejects it: each "
            "client loses the first attempt of a few calls, and retries them elsewhere. Now and then one finds out "
            "whether it answers again."
        ),
        tiers=[Tier(name="app", instances=10, workers=8, service_time=Exponential(_WORK))],
        load=OpenLoop(arrivals=lambda random: poisson(load, random, duration=duration)),
        duration=duration,
        warmup=5.0,
        timeout=5.0,
        attempt_timeout=1.0,
        clients=clients,
        faults=[BlackHole(at=_AT, seconds=outage, places=[0])],
        trigger=(_AT, _AT + outage),
        policies=("none", "retry3", "default-round-robin", "default"),
        contenders=by_name(
            changed("default-round-robin", picker=RoundRobin()),
            changed("default-no-ejection", ejection=None),
        ),
        calibration={"load": 80.0, "clients": 2, "outage": 5.0, "duration": 20.0},
        primary=("success", "p99", "p999", "amplification"),
        bands=[
            Band(policy="none", metric="success", low=0.93, high=0.945, why="theory: 1 - 0.1 * 25 / 40 = 0.9375"),
            Band(policy="retry3", metric="success", low=0.999),
            Band(policy="retry3", metric="p99", low=1.0, high=1.3, why="one timeout and one more attempt"),
            Band(policy="default", metric="success", low=0.9995),
            Band(policy="default", metric="p99", high=0.3, why="0.23 s where all are well"),
            Band(policy="default", metric="amplification", high=1.01, why="a few calls of each client"),
            Band(policy="default-round-robin", metric="p99", high=0.35, why="ejected after a row of five timeouts"),
        ],
    )
