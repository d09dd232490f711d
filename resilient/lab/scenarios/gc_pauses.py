"""Every instance stands still now and then, for longer than callers wait."""

from __future__ import annotations

import math

from resilient.balancing import Ejection
from resilient.lab.balancing import balancing_scenario
from resilient.lab.contenders import by_name, changed
from resilient.lab.episodes import Pauses
from resilient.lab.scenario import Band, Scenario

__all__ = ["scenario"]

_AT = 4.0
_SECONDS = 10.0


def scenario(
    *,
    load: float = 0.75,
    shortest: float = 0.2,
    longest: float = 2.0,
    every: float = 4.0,
    duration: float = 20.0,
    scale: float = 3.0,
) -> Scenario:
    """Each instance stops for `shortest` to `longest` seconds, about `every` seconds after the last time, for a while.

    The last pause begins at second 12 and ends by second 14.
    """
    return balancing_scenario(
        name="gc-pauses",
        title="Pauses of the garbage collector",
        source="Brooker: Garbage Collection and Metastability (2024)",
        naive=(
            "Calls that met a pause time out at the same moment and are sent again, while the server still works on "
            "the first ones: together more than all can do, so that later calls time out though nobody pauses."
        ),
        good=(
            "Few retries, and instances that are left alone no longer than they pause. Five calls that fail in one "
            "pause are one piece of news, not five; an ejection of 5 s for them (`long-ejection`) takes half of the "
            "fleet away when all are well again, and what is left cannot carry the load. The default's begins with 1 s."
        ),
        load=load,
        scale=scale,
        duration=duration,
        warmup=2.0,
        faults=[Pauses(at=_AT, seconds=_SECONDS - longest, length=shortest, longest=longest, every=every)],
        trigger=(_AT, _AT + _SECONDS),
        contenders=by_name(
            changed("long-ejection", ejection=Ejection(duration=5.0)),
            changed("no-ejection", ejection=None),
        ),
        policies=("none", "retry1", "retry3", "least-request", "peak-ewma", "prequal", "default", "long-ejection"),
        calibration={"scale": 20.0, "load": 0.4},
        primary=("success.after", "success.during", "recovery", "p99.during", "amplification", "wasted"),
        bands=[
            Band(policy="none", metric="success.during", low=0.7, high=0.88),
            Band(policy="none", metric="recovery", high=1, why="it adds nothing to the load"),
            Band(
                policy="retry1", metric="recovery", low=math.inf, why="two attempts a call are 1.5 times the capacity"
            ),
            Band(policy="retry3", metric="recovery", low=math.inf, why="four attempts a call are 3 times"),
            Band(policy="retry3", metric="amplification", low=1.7),
            Band(policy="least-request", metric="success.after", low=0.99),
            Band(policy="peak-ewma", metric="success.after", low=0.98),
            Band(
                policy="prequal",
                metric="p99.during",
                low=0.2,
                high=0.6,
                of="least-request",
                why="who stands still answers no probe, and is out of the pool in a second at most",
            ),
            Band(policy="prequal", metric="success.after", low=0.99),
            Band(policy="default", metric="success.after", low=0.85),
            Band(
                policy="long-ejection",
                metric="success.after",
                high=0.8,
                of="default",
                why="half of the fleet is left out",
            ),
        ],
    )
