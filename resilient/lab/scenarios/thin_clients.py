"""A hundred clients that send little each, and two slow instances of twenty."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from resilient.lab.balancing import balancing_scenario
from resilient.lab.faults import Slow
from resilient.lab.scenario import Band, Scenario

if TYPE_CHECKING:
    from resilient.lab.simulation.world import World

__all__ = ["scenario"]

_SLOW = (0, 1)


def scenario(*, load: float = 0.7, factor: float = 6.0, clients: int = 100, duration: float = 6.0) -> Scenario:
    """Two of twenty instances are `factor` times as slow; each of the `clients` sends 56 of 5,600 calls a second."""

    def measure(world: World) -> Mapping[str, float | None]:
        sent = world.fleet().sent_to
        return {"share.slow": math.fsum(sent.get(f"app-{place}", 0) for place in _SLOW) / world.fleet().sent}

    return balancing_scenario(
        name="thin-clients",
        title="Thin clients",
        source=(
            "Wydrowski, Kleinberg, Rumble, Archer: Load is not what you should balance: Introducing Prequal (NSDI 2024)"
        ),
        naive="Each slow instance gets a twentieth of the calls, more than it can do, and all of these time out.",
        good=(
            "Latencies tell each client who is slow. Its own calls in flight do not: it has one or none at any "
            "instance, however many all clients together have there."
        ),
        load=load,
        instances=20,
        clients=clients,
        duration=duration,
        warmup=1.0,
        faults=[Slow(factor=factor, places=_SLOW)],
        measure=measure,
        policies=("none", "retry3", "least-request", "peak-ewma", "default"),
        primary=("success", "p99", "p50", "share.slow", "amplification"),
        bands=[
            Band(policy="none", metric="success", low=0.89, high=0.91, why="a tenth goes to the slow ones"),
            Band(policy="retry3", metric="p99", low=1.0, high=1.3, why="a timeout, and then elsewhere"),
            Band(policy="least-request", metric="success", low=0.95, high=0.985),
            Band(policy="least-request", metric="share.slow", low=0.02, high=0.045),
            Band(policy="peak-ewma", metric="success", low=0.998),
            Band(policy="default", metric="success", low=0.999),
            Band(policy="default", metric="p99", high=0.08),
            Band(policy="default", metric="share.slow", high=0.015),
        ],
    )
