"""A limit of a hundred a minute, and a caller who knows when the minute begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING

from resilient.call import Policy
from resilient.lab.arrivals import constant
from resilient.lab.limiters import FixedWindow, MovingWindow, SlidingWindowCounter
from resilient.lab.metrics import most_within
from resilient.lab.scenario import Band, OpenLoop, Scenario, Tier
from resilient.lab.stacks import Stack, made_by
from resilient.lab.world.service_times import Exponential
from resilient.policies.rate_limit import RateLimit

if TYPE_CHECKING:
    from resilient.lab.simulation.world import World

__all__ = ["scenario"]

_MINUTE = 60.0


def scenario(*, limit: int = 100) -> Scenario:
    """A caller of a service that admits `limit` calls a minute: silent for a minute, then faster than the limit.

    Twice the limit comes around the edge of the first minute, and twelve times the limit a minute from then on, for
    three minutes.
    """
    return Scenario(
        name="window-boundary",
        title="Window boundary",
        source=(
            "ITU-T I.371, annex A (the generic cell rate algorithm); fixed window, moving window and sliding window "
            "counter as the documentation of the Python package limits defines them"
        ),
        naive=(
            "A window with fixed edges admits the whole limit just before an edge, and all of it again just after. A "
            "sliding counter takes the calls of the last window for evenly spread, and admits nearly as many."
        ),
        good=(
            "GCRA bounds what is admitted in any span of W seconds by burst + rate * W, whatever the arrivals. The "
            "burst is the price of calls that are not spread: a tenth of the limit makes 1.1 times the limit, all of "
            "it twice."
        ),
        tiers=[Tier(name="service", workers=100, service_time=Exponential(0.01), log=True)],
        load=OpenLoop(arrivals=lambda _random: _trace(limit)),
        duration=4 * _MINUTE,
        timeout=1.0,
        attempt_timeout=1.0,
        policies=("fixed-window", "sliding-counter", "moving-window", "gcra-full-burst", "gcra"),
        contenders={
            "fixed-window": _by("fixed-window", lambda: FixedWindow(limit, _MINUTE)),
            "sliding-counter": _by("sliding-counter", lambda: SlidingWindowCounter(limit, _MINUTE)),
            "moving-window": _by("moving-window", lambda: MovingWindow(limit, _MINUTE)),
            "gcra-full-burst": _by("gcra-full-burst", lambda: RateLimit(f"{limit}/minute", burst=limit)),
            "gcra": _by("gcra", lambda: RateLimit(f"{limit}/minute")),
        },
        primary=("admitted.60s", "success"),
        measure=_measure,
        bands=[
            Band(policy="fixed-window", metric="admitted.60s", low=200, high=200, why="the limit on each side"),
            Band(policy="sliding-counter", metric="admitted.60s", low=197, high=199, why="an estimate, not a count"),
            Band(policy="moving-window", metric="admitted.60s", low=100, high=100, why="exact"),
            Band(policy="gcra-full-burst", metric="admitted.60s", low=198, high=200, why="burst + rate: 100 + 100"),
            Band(policy="gcra", metric="admitted.60s", low=109, high=110, why="burst + rate: 10 + 100"),
        ],
    )


def _by(name: str, limiter: Callable[[], Policy]) -> Stack:
    return Stack(name=name, make=made_by(lambda: [limiter()]))


def _trace(limit: int) -> Iterator[float]:
    edge = constant(20.0 * limit, start=_MINUTE - 0.05, duration=0.1)
    return chain(edge, constant(limit / 5, start=_MINUTE + 0.05, duration=3 * _MINUTE))


def _measure(world: World) -> Mapping[str, float | None]:
    """`admitted.60s`: the most calls that reached the service in any sixty seconds."""
    return {"admitted.60s": float(most_within(world.fleet().log, _MINUTE))}
