"""The service stands still for three seconds, and a benchmark that waits for its answers hardly notices."""

from __future__ import annotations

from resilient.lab.arrivals import poisson
from resilient.lab.faults import Stop
from resilient.lab.scenario import Band, OpenLoop, Scenario, Tier, Users
from resilient.lab.world.service_times import Exponential

__all__ = ["scenario"]

_USERS, _THINK, _WORK = 10, 0.1, 0.01


def scenario(*, closed: bool = True, stop: float = 3.0, duration: float = 100.0) -> Scenario:
    """A service under 90 calls a second that stands still for `stop` seconds, from second 50 on.

    The calls come from ten users who wait for their answers (`closed`), or as often from people who do not.
    """
    return Scenario(
        name="closed-loop-blindness",
        title="Closed-loop blindness",
        source="Schroeder, Wierman, Harchol-Balter: Open Versus Closed: A Cautionary Tale (NSDI 2006)",
        naive=(
            "While the service stands still, ten users wait, and nobody else asks: of nine thousand calls ten were "
            "slow, and the 99th percentile looks as if nothing had happened."
        ),
        good=(
            "With calls that come when they come (closed=False) three hundred wait, and the 99th percentile says so. "
            "That is why every other scenario has open arrivals, and counts latency from when a call was due."
        ),
        tiers=[Tier(name="service", workers=10, service_time=Exponential(_WORK))],
        load=Users(count=_USERS, think=Exponential(_THINK))
        if closed
        else OpenLoop(
            arrivals=lambda random: poisson(_USERS / (_THINK + _WORK), random, duration=duration),
        ),
        duration=duration,
        timeout=10.0,
        attempt_timeout=10.0,
        faults=[Stop(at=50.0, seconds=stop)],
        policies=("none",),
        primary=("p99", "p999", "max", "goodput"),
        bands=[
            Band(
                policy="none",
                metric="p99",
                low=0.04,
                high=0.055,
                why="theory: 0.01 * ln 100 = 0.046, as if nothing was",
            ),
            Band(policy="none", metric="max", low=2.9, high=3.1, why="ten calls knew better"),
            Band(policy="none", metric="goodput", low=84, high=92, why="theory: 10 / (0.1 + 0.01) in 97 of 100 s"),
        ],
    )
