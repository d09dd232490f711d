"""The world in which balancing is tried: ten equal servers, ten callers, and three fifths of what the servers can do.

Four workers a server and exponential service times of 10 ms make 4,000 calls a second; ten callers share 2,400, so that
each sees a tenth of what is in flight. A second without an answer is a failure. The policy `none` is round robin; the
pickers beside it are as bare, one attempt and no ejection, and differ from it in the choice alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from resilient.balancing import LeastRequest, Maglev, PeakEwma, Random, Rendezvous, RingHash, WeightedRoundRobin
from resilient.call import Call
from resilient.lab.arrivals import poisson
from resilient.lab.contenders import by_name, prequal, single
from resilient.lab.scenario import OpenLoop, Scenario, Tier
from resilient.lab.stacks import Stack
from resilient.lab.world.service_times import Exponential

__all__ = ["PICKERS", "balancing_scenario"]

_WORKERS = 4
_MEAN = 0.010


def _number(call: Call) -> int | None:
    """Each call has a key of its own, so that hashes share out all calls; an `httpx` request has none."""
    number: int | None = getattr(call.request, "number", None)
    return number


PICKERS: Mapping[str, Stack] = by_name(
    single("random", picker=Random()),
    single("round-robin"),
    single("least-request", picker=LeastRequest()),
    single("peak-ewma", picker=PeakEwma()),
    single("prequal", picker=prequal),
    single("weighted", picker=WeightedRoundRobin(blackout=1.0)),  # the usual 10 s are as long as some scenarios
    single("rendezvous", picker=Rendezvous(_number)),
    single("ring-hash", picker=RingHash(_number)),
    single("maglev", picker=Maglev(_number)),
)
"""Contenders by name: the pickers that there are."""


def balancing_scenario(
    *,
    duration: float,
    load: float = 0.6,
    instances: int = 10,
    clients: int = 10,
    scale: float = 1.0,
    writes: float = 0.0,
    zones: Sequence[str | None] = (None,),
    lag: float = 0.0,
    contenders: Mapping[str, Stack] | None = None,
    **described: Any,
) -> Scenario:
    """Make a scenario in this world; `described` is the rest of it.

    `load` is the share of the servers' capacity that is asked for. With `scale` every call takes so many times as long,
    and there are as many times fewer: for what takes its time. `contenders` are those besides the pickers.
    """
    mean = _MEAN * scale
    rate = load * instances * _WORKERS / mean
    return Scenario(
        tiers=[
            Tier(
                name="app",
                instances=instances,
                workers=_WORKERS,
                service_time=Exponential(mean),
                zones=zones,
                lag=lag,
            ),
        ],
        load=OpenLoop(writes=writes, arrivals=lambda random: poisson(rate, random, duration=duration)),
        duration=duration,
        clients=clients,
        contenders={**PICKERS, **(contenders or {})},
        timeout=3.0,
        attempt_timeout=1.0,
        **described,
    )
