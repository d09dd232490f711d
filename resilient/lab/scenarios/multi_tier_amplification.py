"""A database fails under three layers, each of which tries again what the layer below has tried again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from resilient.lab.arrivals import poisson
from resilient.lab.faults import Fail, Fault, Resize
from resilient.lab.scenario import Band, OpenLoop, Scenario, Tier
from resilient.lab.world.service_times import Exponential

if TYPE_CHECKING:
    from resilient.lab.simulation.world import World

__all__ = ["scenario"]

_AT, _FOR = 15, 10


def scenario(*, trouble: str = "failing", load: float = 120.0, duration: float = 45.0) -> Scenario:
    """Let the database be in `trouble` for ten seconds.

    It is `failing`, each call at once, or `saturated`: two thirds of its workers are gone, and with them a third of
    what is needed for the `load`, in calls a second.
    """
    troubles: dict[str, Fault] = {
        "failing": Fail(tier="db", at=_AT, seconds=_FOR, takes=0.005),
        "saturated": Resize(tier="db", at=_AT, seconds=_FOR, workers=4),
    }
    if trouble not in troubles:
        raise ValueError(f"trouble={trouble!r}: one of {', '.join(troubles)}")
    return Scenario(
        name="multi-tier-amplification",
        title="Amplification through tiers",
        source="Google: Site Reliability Engineering, chapter 22, on retries at several levels of a stack",
        naive=(
            "Retries multiply: with three attempts in each of three layers, the database that fails gets 27 times its "
            "load. One that is saturated never gets rid of it."
        ),
        good=(
            "Budgets multiply too, but 1.1 ** 3 is 1.33, and deadlines that travel along end what nobody waits for. "
            "Best would be to try again next to the failure alone, and to tell the layers above not to."
        ),
        tiers=[
            Tier(name="orders", workers=1000, service_time=Exponential(0.005), calls=["prices"]),
            Tier(name="prices", workers=1000, service_time=Exponential(0.005), calls=["db"]),
            Tier(name="db", workers=12, service_time=Exponential(0.05), log=True),
        ],
        load=OpenLoop(arrivals=lambda random: poisson(load, random, duration=duration)),
        duration=duration,
        warmup=5.0,
        timeout=10.0,
        attempt_timeout=2.5,
        faults=[troubles[trouble]],
        trigger=(_AT, _AT + _FOR),
        policies=("none", "retry1", "retry2", "default"),
        primary=("amplification.during", "recovery", "success"),
        measure=_during,
        bands=[
            Band(policy="none", metric="amplification.during", low=0.95, high=1.05, why="one attempt a call"),
            Band(policy="retry1", metric="amplification.during", low=7.0, high=8.2, why="theory: 2 ** 3"),
            Band(policy="retry2", metric="amplification.during", low=22, high=27.5, why="theory: 3 ** 3"),
            Band(
                policy="default",
                metric="amplification.during",
                low=1.3,
                high=1.45,
                why="theory: 1.1 ** 3 = 1.33 and a little more, as 10 s of failures are paid from the 11 s up to then",
            ),
            Band(policy="default", metric="recovery", high=1, why="there is nothing to recover from"),
        ],
    )


def _during(world: World) -> Mapping[str, float | None]:
    """Attempts at the database for each call of the users, while it is in trouble."""
    attempts = sum(_AT <= sent - world.began < _AT + _FOR for sent in world.fleet("db").log)
    offered = math.fsum(value or 0.0 for value in world.recording.series()["offered"][_AT : _AT + _FOR])
    return {"amplification.during": attempts / offered if offered else None}
