"""A server does what it is asked, and one reply in a hundred is lost: was it done or not?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from resilient.lab.arrivals import poisson
from resilient.lab.faults import SilentReplies
from resilient.lab.scenario import Band, OpenLoop, Scenario, Tier
from resilient.lab.world.service_times import Exponential

if TYPE_CHECKING:
    from resilient.lab.simulation.world import World

__all__ = ["scenario"]


def scenario(
    *, load: float = 200.0, duration: float = 100.0, lost: float = 0.01, honours_keys: bool = True
) -> Scenario:
    """`load` payments a second; of the fraction `lost` the reply never comes, although they were made.

    `honours_keys`: whether the far side honours idempotency keys.
    """
    return Scenario(
        name="ambiguous-timeouts",
        title="Ambiguous timeouts",
        source="Birrell, Nelson: Implementing Remote Procedure Calls (TOCS 1984); the IETF draft on Idempotency-Key",
        naive=(
            "Without retries one payment in a hundred was made and is reported as failed. With them it is made again, "
            "and a few a third time, and every call succeeds: nobody notices until the customers do."
        ),
        good=(
            "One idempotency key for all attempts of a payment: the second attempt gets the first one's answer. Where "
            "the far side honours no keys, a payment is not repeated, and its caller learns that it may have been made."
        ),
        tiers=[Tier(name="payments", workers=40, service_time=Exponential(0.05), honours_keys=honours_keys)],
        load=OpenLoop(arrivals=lambda random: poisson(load, random, duration=duration), writes=1.0),
        duration=duration,
        timeout=5.0,
        attempt_timeout=1.0,
        faults=[SilentReplies(ratio=lost)],
        policies=("none", "retry1", "retry3", "default"),
        calibration={"load": 80.0, "lost": 0.05, "duration": 15.0},
        primary=("duplicated", "unknown", "success"),
        measure=_measure,
        bands=[
            Band(policy="none", metric="success", low=0.985, high=0.995, why="one reply in a hundred is lost"),
            Band(policy="none", metric="unknown", low=0.005, high=0.015, why="and these payments were made"),
            Band(policy="none", metric="duplicated", high=0.0, why="what is never repeated is never doubled"),
            Band(policy="retry1", metric="duplicated", low=0.006, high=0.014, why="theory: lost once"),
            Band(policy="retry3", metric="success", low=0.9999, why="nobody sees that anything is wrong"),
            Band(policy="retry3", metric="duplicated", low=0.006, high=0.015, why="theory: 0.01 + 0.01^2 + 0.01^3"),
            Band(policy="default", metric="success", low=0.9999, why="a lost reply is asked for again, under its key"),
            Band(policy="default", metric="duplicated", high=0.0, why="the far side makes one payment for a key"),
            Band(policy="default", metric="unknown", high=0.0001, why="three attempts in a row lose theirs: 0.01^3"),
        ],
    )


def _measure(world: World) -> Mapping[str, float | None]:
    """`duplicated`: effects too many, a call; `unknown`: calls that had their effect and are reported as failed."""
    found = world.recording.metrics()
    calls, success = found["calls"], found["success"]
    if not calls or success is None:
        return {"duplicated": None, "unknown": None}
    return {
        "duplicated": (world.effects.total() - len(world.effects)) / calls,
        "unknown": len(world.effects) / calls - success,
    }
