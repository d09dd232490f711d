"""One run: a scenario under a set of policies with a seed, in virtual time."""

from __future__ import annotations

from contextlib import AsyncExitStack

from resilient.lab.engine import open_engine
from resilient.lab.results import Run
from resilient.lab.scenario import Scenario
from resilient.lab.simulation.garbage import collected_rarely
from resilient.lab.simulation.wiring import WIRINGS, Mode
from resilient.lab.simulation.world import World
from resilient.lab.stacks import Stack, stack
from resilient.testing import virtual_time

__all__ = ["Mode", "run"]


def run(
    scenario: Scenario,
    policy: str | Stack,
    seed: int,
    *,
    backend: str = "asyncio",
    mode: Mode = "functions",
    dice: int | None = None,
) -> Run:
    """Run the scenario once. The same arguments give the same bytes, on every machine and Python.

    `policy` is a name (see `resilient.lab.stacks`), one of the scenario's own contenders, or a `Stack`.
    `backend` is asyncio or trio. In `mode` "http" the callers are `httpx` clients with `resilient.http.Transport`, on a
    network in memory; in "functions" they are decorated functions. `dice` is the seed of what policies draw, where that
    is another one than that of the world: the same calls, the same work, another luck with jitter and choices.

    Raises `ValueError` for a name or a mode that is none.
    """
    if mode not in WIRINGS:
        raise ValueError(f"mode={mode!r}: 'functions' or 'http'")
    tried = scenario.contenders.get(policy) or stack(policy) if isinstance(policy, str) else policy

    async def main() -> Run:
        async with open_engine() as engine, AsyncExitStack() as opened:
            world = World(scenario, tried, seed, engine, WIRINGS[mode])
            await world.open(opened)
            await world.run()
            return Run(
                scenario=scenario.name,
                policy=tried.name,
                seed=seed,
                metrics=world.metrics(),
                series=world.all_series(),
            )

    with collected_rarely():
        return virtual_time.run(main, backend=backend, seed=seed if dice is None else dice)
