"""Holds the simulator against what is known exactly: queues, the power of two choices, hedging.

    python -m resilient.lab.theory                       # all of it: about five minutes on two cores
    python -m resilient.lab.theory --calls 20000 --seeds 2 --within 0.2
    python -m resilient.lab.theory --markdown             # the table of the documentation

A simulator that is wrong is wrong in a believable way. So the same worlds, servers, callers and policies that play the
scenarios play textbook cases, whose results are known in closed form.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, final

from resilient.balancing import Balance, LeastRequest
from resilient.discovery import Discovery
from resilient.lab.arrivals import poisson
from resilient.lab.faults import Fault
from resilient.lab.scenario import OpenLoop, Scenario, Tier
from resilient.lab.simulation.run import run
from resilient.lab.stacks import Setting, Stack
from resilient.lab.world.service_times import Exponential
from resilient.policies.hedge import Hedge
from resilient.policies.retry import Retry, RetryBudget
from resilient.policies.timeout import Timeout
from resilient.service import Service

if TYPE_CHECKING:
    from resilient.lab.simulation.world import World

__all__ = ["LAWS", "Finding", "Law", "check", "erlang_c", "hedged_mean", "hedged_quantile", "main", "supermarket"]

_WITHIN = 0.02
_PATIENCE = 1e6  # seconds: no timeout ends a call


# -- what is known --------------------------------------------------------------------------------------------------


def erlang_c(servers: int, load: float) -> float:
    """The fraction of calls that have to wait where `load` of so many servers are busy on average (Erlang, 1917)."""
    blocked = 1.0  # Erlang's B, by its recursion
    for number in range(1, servers + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked / (1.0 - load / servers * (1.0 - blocked))


def mean_wait(servers: int, utilisation: float, mean: float) -> float:
    """Seconds that a call waits on average for one of the servers (M/M/c)."""
    return erlang_c(servers, servers * utilisation) * mean / (servers * (1.0 - utilisation))


def supermarket(utilisation: float, length: int) -> float:
    """The fraction of many queues that hold at least `length` calls, where each call joins the shorter of two.

    Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001): one choice would give
    `utilisation ** length`.
    """
    return float(utilisation ** (2**length - 1))


def hedged_mean(mean: float, delay: float) -> float:
    """The mean of the sooner of two exponential times, of which the second begins `delay` seconds later."""
    late = math.exp(-delay / mean)
    return mean * (1.0 - late) + mean / 2 * late


def hedged_quantile(mean: float, delay: float, q: float) -> float:
    """A quantile of the same, beyond the delay: both must take longer, and their rates add up."""
    return (delay - mean * math.log(1.0 - q)) / 2


# -- what is played -------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """A textbook case: what is played, and what must come of it. `expected` has a value for each metric it is about."""

    name: str
    scenario: Callable[[int], Scenario]
    """Makes the scenario, of about so many calls."""
    stack: Stack
    expected: Mapping[str, float]


def _scenario(
    name: str, tier: Tier, rate: float, calls: int, measure: Callable[[World], Mapping[str, float]]
) -> Scenario:
    duration = calls / rate
    return Scenario(
        name=name,
        title=name,
        source="",
        naive="",
        good="",
        tiers=[tier],
        load=OpenLoop(arrivals=lambda random: poisson(rate, random)),
        duration=duration,
        timeout=_PATIENCE,
        attempt_timeout=_PATIENCE,
        drain=_PATIENCE,
        faults=[_Look(at=duration / 10)],
        measure=measure,
    )


def _stack(name: str, *policies: Retry | Hedge) -> Stack:
    """Power of two choices by calls in flight; nothing is ejected, and nothing times out."""

    def make(setting: Setting, discovery: Discovery) -> Service:
        stack = [*policies, Balance(), Timeout(setting.attempt_timeout)]
        return Service(setting.name, discovery, balancer=LeastRequest(), ejection=None, policies=stack)

    return Stack(name=name, make=make)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Look(Fault):
    """No fault at all: looks once a second how many calls are with each server."""

    def begin(self, world: World) -> None:
        """Look, and arrange for the next time."""
        servers = world.fleet().servers
        world.extra["looks"] = (world.extra.get("looks") or 0) + len(servers)
        for server in servers:
            for length in range(1, server.load + 1):
                name = f"at least {length}"
                world.extra[name] = (world.extra.get(name) or 0) + 1
        if world.engine.now() + 1.0 < world.began + world.scenario.duration:
            world.engine.at(world.engine.now() + 1.0, self.begin, world)

    def end(self, world: World) -> None:
        """It lasts."""


def _wait(world: World) -> Mapping[str, float]:
    """What calls take beyond their work, which is known: it is drawn by their numbers."""
    tier = world.scenario.tiers[0]
    found = world.recording.metrics()
    calls, mean = int(found["calls"] or 0), found["mean"] or 0.0
    draw = world.chance.of_call(f"service times of {tier.name}")
    work = math.fsum(tier.service_time.quantile(draw(number, 0)) for number in range(calls)) / calls
    return {"wait": mean - work}


def _queue(servers: int, utilisation: float) -> Law:
    mean = 0.01  # a world is sampled once a second: seconds are to be few, and calls many

    def scenario(calls: int) -> Scenario:
        tier = Tier(name="it", workers=servers, service_time=Exponential(mean))
        return _scenario(f"M/M/{servers} at {utilisation:g}", tier, servers * utilisation / mean, calls, _wait)

    return Law(
        name=f"M/M/{servers} at {utilisation:g}",
        scenario=scenario,
        stack=_stack("patient"),
        expected={"wait": mean_wait(servers, utilisation, mean)},
    )


def _tail(world: World) -> Mapping[str, float]:
    looks = world.extra["looks"] or 0.0
    return {name: (count or 0.0) / looks for name, count in world.extra.items() if name.startswith("at least")}


def _two_choices(servers: int, utilisation: float) -> Law:
    def scenario(calls: int) -> Scenario:
        tier = Tier(name="it", instances=servers, service_time=Exponential(1.0))
        return _scenario("power of two choices", tier, servers * utilisation, calls, _tail)

    return Law(
        name=f"power of two choices at {utilisation:g}",
        scenario=scenario,
        stack=_stack("two choices"),
        expected={f"at least {length}": supermarket(utilisation, length) for length in range(1, 5)},
    )


def _hedging(mean: float, delay: float) -> Law:
    def scenario(calls: int) -> Scenario:
        tier = Tier(name="it", instances=4, workers=10_000, service_time=Exponential(mean))
        return _scenario("hedging", tier, 20 / mean, calls, lambda _world: {})

    return Law(
        name=f"hedging after {delay / mean:g} means",
        scenario=scenario,
        # The budget of the hedges is the call's: one for each call is enough for all of them.
        stack=_stack("hedged", Retry(attempts=1, budget=RetryBudget(ratio=1.0)), Hedge(delay)),
        expected={
            "mean": hedged_mean(mean, delay),
            "p99": hedged_quantile(mean, delay, 0.99),
            "amplification": 1.0 + math.exp(-delay / mean),
        },
    )


LAWS: Mapping[str, Law] = {
    law.name: law
    for law in (
        _queue(1, 0.5),
        _queue(1, 0.7),
        _queue(4, 0.5),
        _queue(4, 0.7),
        _two_choices(200, 0.9),
        _hedging(0.1, 0.1),
    )
}
"""All of them, by name."""


# -- whether it is so -----------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One metric of a law: what it must be, what it is on average over the seeds, and whether that is near enough."""

    law: str
    metric: str
    expected: float
    measured: float
    within: float

    @property
    def off(self) -> float:
        """By which fraction the two differ."""
        return self.measured / self.expected - 1.0

    @property
    def holds(self) -> bool:
        """Whether they differ by no more than `within`."""
        return abs(self.off) <= self.within

    def __str__(self) -> str:
        told = "" if self.holds else f"  NOT within {self.within:.1%}"
        return f"{self.law:28} {self.metric:14} {self.expected:9.5f} {self.measured:9.5f} {self.off:+8.2%}{told}"


def check(
    names: Sequence[str] = (),
    *,
    seeds: int = 10,
    calls: int = 200_000,
    within: float = _WITHIN,
    processes: int | None = None,
    backend: str = "asyncio",
) -> list[Finding]:
    """Play the laws of these names (left out: all) with seeds 0, 1, ..., and hold what comes of it against theory.

    `calls` is how many each run makes, `within` the fraction by which the average over the seeds may be off. The
    defaults are for the whole suite: with them chance is off by half a percent or so. `processes`: one a core.
    """
    chosen = [LAWS[name] for name in names or LAWS]
    jobs = [(law.name, seed) for law in chosen for seed in range(seeds)]
    workers = max(1, min(processes or os.cpu_count() or 1, len(jobs)))
    play = partial(_play, calls=calls, backend=backend)
    if workers == 1:
        played = [*map(play, jobs)]
    else:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            played = [*pool.map(play, jobs)]
    found: list[Finding] = []
    for law in chosen:
        runs = [metrics for (name, _), metrics in zip(jobs, played, strict=True) if name == law.name]
        for metric, expected in law.expected.items():
            measured = math.fsum(metrics.get(metric, 0.0) for metrics in runs) / seeds
            found.append(Finding(law=law.name, metric=metric, expected=expected, measured=measured, within=within))
    return found


def _play(job: tuple[str, int], *, calls: int, backend: str) -> dict[str, float]:
    name, seed = job
    law = LAWS[name]
    metrics = run(law.scenario(calls), law.stack, seed, backend=backend).metrics
    return {metric: metrics.get(metric) or 0.0 for metric in law.expected}


def _table(found: Sequence[Finding], *, seeds: int, calls: int) -> str:
    head = f"CPython {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}: {seeds} seeds of {calls:,} calls."
    rows = [
        f"| {one.law} | {one.metric} | {one.expected:.5f} | {one.measured:.5f} | {one.off:+.2%} |".replace("%", " %")
        for one in found
    ]
    return "\n".join([head, "", "| law | metric | theory | measured | off |", "|---|---|---:|---:|---:|", *rows])


def main(arguments: Sequence[str] | None = None) -> int:
    """Check and print; return 1 where a law does not hold."""
    parser = argparse.ArgumentParser(description="Hold the simulator against what is known exactly.")
    parser.add_argument("names", nargs="*", metavar="LAW", help=f"of {', '.join(LAWS)} (default: all)")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--calls", type=int, default=200_000, help="of each run (default: %(default)s)")
    parser.add_argument("--within", type=float, default=_WITHIN, help="the fraction that is near enough")
    parser.add_argument("--processes", type=int, help="that run at once (default: one a core)")
    parser.add_argument("--markdown", action="store_true", help="print a table for a page")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.names if name not in LAWS]
    if unknown:
        parser.error(f"no law {unknown[0]!r}: there are {', '.join(LAWS)}")
    found = check(given.names, seeds=given.seeds, calls=given.calls, within=given.within, processes=given.processes)
    if given.markdown:
        print(_table(found, seeds=given.seeds, calls=given.calls))
    else:
        print(f"{'law':28} {'metric':14} {'theory':>9} {'measured':>9} {'off':>8}")
        print(*found, sep="\n")
    return 0 if all(finding.holds for finding in found) else 1


if __name__ == "__main__":
    sys.exit(main())
