"""One run in real time, over real sockets, and what was measured of the machine meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import fmean, median
from typing import final

from resilient.context import use_runtime
from resilient.lab.calibration.sockets import Sockets
from resilient.lab.engine import Engine, open_engine
from resilient.lab.metrics import percentile
from resilient.lab.results import Run
from resilient.lab.scenario import OpenLoop, Scenario, Tier
from resilient.lab.simulation.world import World
from resilient.lab.stacks import Stack
from resilient.lab.world.job import Errand
from resilient.lab.world.service_times import Constant
from resilient.runtime import Runtime

__all__ = ["Conditions", "Idle", "measure_idle", "play"]

_LOOKS = 0.01
_WORK = 0.005
_WARM_UP, _CALLS = 10, 40


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """What a call costs where nothing else goes on: from the caller's policies to a server, and back."""

    samples: Sequence[float]
    """Seconds that it took longer than the server worked, call by call, from when it was due."""
    cpu: float
    """Seconds of processor time of caller, listener and simulated server together."""
    late: float
    """Seconds that a timer of the event loop is late; the mean."""

    @property
    def latency(self) -> float:
        """The median of the samples."""
        return median(self.samples)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What the machine was like during a run."""

    seconds: float
    """That it took."""
    cpu: float
    """The share of them in which this process had a processor."""
    waited: float | None
    """The share of them in which it waited for one, since other programs had them; None where nobody counts it."""
    late: float
    """Seconds that a timer of the event loop was late; the mean."""
    late_percentiles: Sequence[float]
    """The same: the least, one for each per cent, and the worst."""
    opened: int
    """Connections that were made."""
    refused: int
    """Connections that were refused."""
    unanswered: int
    """Connections that were given up before anybody accepted or refused them."""


@final
class _Punctuality:
    """Looks every 10 ms how late the event loop is: whatever else is due waits as long."""

    def __init__(self, engine: Engine) -> None:
        self.late: list[float] = []
        self._engine = engine
        self._due = engine.now()
        self._cpu, self._wall, self._waited = time.process_time(), time.perf_counter(), _waited()
        self._next()

    def _next(self) -> None:
        self._due = self._engine.now() + _LOOKS
        self._engine.at(self._due, self._look)

    def _look(self) -> None:
        self.late.append(max(0.0, self._engine.now() - self._due))
        self._next()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._wall

    @property
    def cpu(self) -> float:
        return time.process_time() - self._cpu

    @property
    def waited(self) -> float | None:
        now = _waited()
        return None if now is None or self._waited is None else now - self._waited


def _waited() -> float | None:
    """Seconds that this thread was ready and had to wait for a processor; Linux alone counts them."""
    try:
        _, waited, _ = Path("/proc/thread-self/schedstat").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return int(waited) / 1e9


@asynccontextmanager
async def _opened(scenario: Scenario, stack: Stack, seed: int) -> AsyncGenerator[tuple[World, Sockets, _Punctuality]]:
    async with open_engine() as engine, Sockets(engine, tells=stack.tells) as wiring, AsyncExitStack() as opened:
        world = World(scenario, stack, seed, engine, wiring)
        await world.open(opened)
        world.began = engine.now()
        yield world, wiring, _Punctuality(engine)


def play(scenario: Scenario, stack: Stack, seed: int) -> tuple[Run, Conditions]:
    """Play the scenario once, in as many seconds as it says; arrivals and service times are those of the simulation.

    Ctrl-C ends it, and leaves nothing behind.
    """

    async def main() -> tuple[Run, Conditions]:
        async with _opened(scenario, stack, seed) as (world, wiring, punctuality):
            await world.run()
            late = sorted(punctuality.late)
            conditions = Conditions(
                seconds=punctuality.seconds,
                cpu=punctuality.cpu / punctuality.seconds,
                waited=None if (waited := punctuality.waited) is None else waited / punctuality.seconds,
                late=fmean(late),
                late_percentiles=[late[0], *(percentile(late, per_cent / 100) for per_cent in range(1, 101))],
                opened=wiring.tally.opened,
                refused=wiring.tally.refused,
                unanswered=wiring.tally.unanswered,
            )
            metrics, series = world.metrics(), world.all_series()
        run = Run(scenario=scenario.name, policy=stack.name, seed=seed, metrics=metrics, series=series)
        return run, conditions

    with use_runtime(Runtime(random=Random(seed).random)):
        return asyncio.run(main())


def measure_idle(scenario: Scenario, stack: Stack) -> Idle:
    """Make a few calls, one after the other, to a server that works 5 ms on each.

    Each is due at a certain moment, as in a scenario, so that a timer which is late counts.
    """
    server = Tier(name=scenario.tiers[0].name, service_time=Constant(_WORK), workers=100)
    quiet = replace(
        scenario,
        tiers=[server],
        load=OpenLoop(arrivals=lambda _random: iter(())),
        faults=(),
        latency=None,
        clients=1,
        client_zones=(None,),
    )

    async def call(world: World, numbers: Sequence[int]) -> list[float]:
        engine, caller = world.engine, world.callers[0]
        taken: list[float] = []
        for number in numbers:
            due, begin = engine.now() + _WORK, engine.signal()
            engine.at(due, begin.set_result, None)
            await begin
            await caller.call(Errand(number))
            taken.append(engine.now() - due)
        return taken

    async def main() -> Idle:
        async with _opened(quiet, stack, 0) as (world, _, punctuality):
            await call(world, range(_WARM_UP))
            punctuality.late.clear()
            before = punctuality.cpu
            taken = await call(world, range(_WARM_UP, _WARM_UP + _CALLS))
            return Idle(
                samples=[max(0.0, seconds - _WORK) for seconds in taken],
                cpu=(punctuality.cpu - before) / _CALLS,
                late=fmean(punctuality.late),
            )

    with use_runtime(Runtime(random=Random(0).random)):
        return asyncio.run(main())
