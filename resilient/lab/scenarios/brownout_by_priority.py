"""Three quarters of a service's capacity are gone: whom does it still serve?"""

from __future__ import annotations

from typing import Literal

from resilient.call import Priority
from resilient.lab.arrivals import poisson
from resilient.lab.faults import Resize
from resilient.lab.scenario import Band, OpenLoop, Scenario, Tier
from resilient.lab.world.queues import Fifo, Priorities
from resilient.lab.world.service_times import Exponential

__all__ = ["scenario"]

_WORKERS, _LEFT = 60, 15
_STRICT = (
    (Priority.CRITICAL_PLUS, 0.995, 1.0, "100 a second, and capacity for 150"),
    (Priority.CRITICAL, 0.44, 0.54, "theory: the other 50 serve half of 100"),
    (Priority.SHEDDABLE_PLUS, 0.0, 0.03, "nothing is left"),
    (Priority.SHEDDABLE, 0.0, 0.005, "nothing is left"),
)
"""Each priority's success where the order is strict."""


def scenario(
    *, queue: Literal["priorities", "fifo"] = "priorities", load: float = 400.0, duration: float = 60.0
) -> Scenario:
    """`load` calls a second, a quarter of each priority, on a service whose capacity falls from 600 a second to 150.

    It falls at second 2, to the end. `queue` is how the service chooses among those who wait; there is room for 20.
    """
    return Scenario(
        name="brownout-by-priority",
        title="Brownout by priority",
        source="Beyer, Jones, Petoff, Murphy (ed.): Site Reliability Engineering, Handling Overload (O'Reilly 2016)",
        naive=(
            "First come, first served gives every priority the same share, three in eight: payments wait behind "
            "previews. Retries send what is refused three times more, and change nothing."
        ),
        good=(
            "The server lets the most important in first: capacity for one and a half of four priorities serves the "
            "first whole, and half of the second. Its callers keep at home what it refuses, each priority by itself: "
            "one throttle for all of them would drop payments for the refused previews."
        ),
        tiers=[
            Tier(
                name="service",
                workers=_WORKERS,
                service_time=Exponential(0.1),
                queue=lambda: Priorities(20) if queue == "priorities" else Fifo(20),
            )
        ],
        load=OpenLoop(
            arrivals=lambda random: poisson(load, random, duration=duration),
            priorities=dict.fromkeys(Priority, 1.0),
        ),
        duration=duration,
        warmup=10.0,
        timeout=3.0,
        attempt_timeout=1.0,
        faults=[Resize(at=2.0, workers=_LEFT)],
        policies=("none", "retry3", "default"),
        primary=(
            "success.critical_plus",
            "success.critical",
            "success.sheddable_plus",
            "success.sheddable",
            "amplification",
        ),
        bands=[
            *(
                Band(policy=policy, metric=f"success.{priority.name.lower()}", low=low, high=high, why=why)
                for policy in ("none", "retry3", "default")
                for priority, low, high, why in _STRICT
            ),
            Band(policy="retry3", metric="amplification", low=2.7, why="whatever is refused is sent four times"),
            Band(policy="default", metric="amplification", high=0.95, why="most of what would be refused is not sent"),
        ],
    )
