"""An instance is replaced every second: nobody that has gone is called once the callers know."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, final

import anyio

from resilient.discovery import Discovery
from resilient.lab.balancing import PICKERS, balancing_scenario
from resilient.lab.membership import Rolling
from resilient.lab.scenario import Band, Scenario
from resilient.lab.stacks import Setting, Stack
from resilient.service import Service
from resilient.snapshot import Snapshot

if TYPE_CHECKING:
    from resilient.lab.simulation.world import World

__all__ = ["scenario"]

_AT = 3.0


def scenario(
    *, load: float = 0.6, every: float = 1.0, lag: float = 0.5, duration: float = 20.0, scale: float = 2.0
) -> Scenario:
    """Every `every` seconds the oldest of ten instances dies and a new one joins; callers learn of it `lag` s later."""
    return balancing_scenario(
        name="churn",
        title="Churn",
        source="grpc/grpc issue 12295 and its kin: names that are resolved once and never again",
        naive=(
            "A client that resolves the name once knows nobody any more after ten seconds. One that follows discovery "
            "loses what it sends in the time that discovery takes."
        ),
        good=(
            "What has gone is never picked once discovery has told. Until then refused connections are tried "
            "elsewhere, and what is known of the others survives each change of the list."
        ),
        load=load,
        scale=scale,
        lag=lag,
        writes=1.0,
        duration=duration,
        warmup=2.0,
        faults=[Rolling(at=_AT, every=every)],
        measure=_measure,
        contenders={"resolve-once": Stack(name="resolve-once", make=_resolve_once, reckless=True, tells=False)},
        policies=("none", "retry3", "resolve-once", "least-request", "peak-ewma", "prequal", "default"),
        primary=("success", "astray", "refused", "p99", "amplification"),
        bands=[
            Band(policy="none", metric="success", low=0.94, high=0.96, why="theory: 1 - 1/10 * 0.5 s / 1 s = 0.95"),
            Band(policy="none", metric="astray", high=0),
            Band(policy="retry3", metric="success", low=0.999),
            Band(
                policy="resolve-once",
                metric="success",
                low=0.28,
                high=0.33,
                why="theory: (1 + 0.9 + ... + 0.1) s / 18 s",
            ),
            Band(policy="resolve-once", metric="astray", low=1000, why="so the count does count"),
            Band(
                policy="least-request", metric="success", high=0.998, of="none", why="who fails at once is never busy"
            ),
            Band(policy="peak-ewma", metric="success", low=0.985),
            Band(policy="peak-ewma", metric="astray", high=0),
            Band(policy="prequal", metric="astray", high=0),
            Band(policy="prequal", metric="success", low=0.995, why="who has just died answers no probe"),
            Band(policy="default", metric="success", low=0.995),
            Band(policy="default", metric="astray", high=0),
        ],
    )


def _measure(world: World) -> Mapping[str, float | None]:
    """Attempts at instances of which the callers had been told that they are gone, and all that met nobody."""
    fleet = world.fleet()
    return {"astray": fleet.astray, "refused": fleet.counts()["refused"] / fleet.sent}


def _resolve_once(setting: Setting, discovery: Discovery) -> Service:
    return PICKERS["round-robin"].make(setting, _Once(discovery))


@final
class _Once:
    """A discovery that is asked once."""

    def __init__(self, discovery: Discovery) -> None:
        self._discovery = discovery

    async def watch(self) -> AsyncIterator[Snapshot]:
        """Yield the first snapshot, and no other."""
        async for snapshot in self._discovery.watch():
            yield snapshot
            await anyio.sleep_forever()
