"""An instance joins that is cold: ten times as slow until its caches are full."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from resilient.balancing import LeastRequest, SlowStart
from resilient.lab.balancing import balancing_scenario
from resilient.lab.contenders import by_name, changed, single
from resilient.lab.faults import Slow
from resilient.lab.membership import Join
from resilient.lab.scenario import Band, Scenario

if TYPE_CHECKING:
    from resilient.lab.simulation.world import World

__all__ = ["scenario"]

_AT = 3
_OTHERS = 9
_SLOW_START = SlowStart(window=float(_AT))  # the others are old enough, just


def scenario(*, load: float = 0.6, factor: float = 10.0, cold: int = 3, scale: float = 1.0) -> Scenario:
    """The tenth instance joins at second 3 and is `factor` times as slow as the others for `cold` seconds.

    `load` is the share of what ten of them can do.
    """
    warm = _AT + cold

    def measure(world: World) -> Mapping[str, float | None]:
        newcomer = world.fleet().servers[-1].instance.id
        return {
            "p99.joining": world.recording.p99(_AT),
            "share.cold": world.share(newcomer, _AT, warm),
            "share.warm": world.share(newcomer, warm + 2, warm + 7),
        }

    return balancing_scenario(
        name="cold-start",
        title="Cold start",
        source="Finagle's balancersim (its cold start); Envoy, slow start mode",
        naive="The newcomer gets an equal share at once, and its queue grows past the timeout.",
        good=(
            "Its first answers say that it is slow: it gets little until it is quick, and its share within seconds of "
            "that. Weights that grow with age (slow start) do so without its having to hurt anybody first."
        ),
        load=load * (_OTHERS + 1) / _OTHERS,
        scale=scale,
        instances=_OTHERS,
        duration=float(warm + 8),
        warmup=2.0,
        faults=[Join(at=_AT, joining=[Slow(factor=factor, seconds=cold)])],
        trigger=(_AT, warm),
        measure=measure,
        contenders=by_name(
            single("slow-start-in-turn", filters=[_SLOW_START]),
            single("slow-start-least-request", picker=LeastRequest(), filters=[_SLOW_START]),
            changed("slow-start", filters=lambda _: [_SLOW_START]),
        ),
        policies=(
            "none",
            "retry3",
            "least-request",
            "peak-ewma",
            "slow-start-in-turn",
            "slow-start-least-request",
            "slow-start",
            "default",
        ),
        primary=("success.during", "p99.joining", "p99.during", "share.cold", "share.warm"),
        bands=[
            Band(
                policy="none",
                metric="success.during",
                low=0.89,
                high=0.92,
                why="a tenth of the calls, less the first ones",
            ),
            Band(policy="retry3", metric="p99.during", low=1.0, high=1.2, why="a timeout, and then elsewhere"),
            Band(policy="least-request", metric="p99.joining", low=0.2, high=0.45),
            Band(policy="least-request", metric="share.cold", low=0.01, high=0.03),
            Band(policy="least-request", metric="share.warm", low=0.095, high=0.105),
            Band(policy="peak-ewma", metric="p99.joining", high=0.09),
            Band(policy="slow-start-in-turn", metric="success.during", low=0.955, high=0.98),
            Band(
                policy="slow-start-in-turn",
                metric="share.cold",
                low=0.053,
                high=0.059,
                why="theory: a third of a tenth for a second, then up to a tenth: 0.0556 on average",
            ),
            Band(policy="slow-start-in-turn", metric="share.warm", low=0.099, high=0.101),
            Band(policy="slow-start-least-request", metric="p99.joining", high=0.6, of="least-request"),
            Band(policy="slow-start", metric="p99.joining", high=0.9, of="default"),
            Band(policy="slow-start", metric="p99.during", high=0.06),
            Band(policy="default", metric="success.during", low=0.9999),
            Band(policy="default", metric="p99.during", high=0.065, why="0.05 s where nobody is cold"),
            Band(policy="default", metric="share.cold", high=0.01),
            Band(
                policy="default",
                metric="share.warm",
                low=0.05,
                high=0.09,
                why="short of a tenth: it remembers a slow start",
            ),
        ],
    )
