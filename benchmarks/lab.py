"""How fast the lab simulates: ours beside a loop written by hand, simpy, and happysim, in one run.

    make bench                                # with the others
    python -m benchmarks.lab --check          # and fail where a goal is missed

The reference workload: 1,400 calls a second come by chance; each waits for one of 20 slots and works there for an
exponential 10 ms; an attempt may take 50 ms, and is repeated up to twice after a wait with full jitter. Ours plays it
with the real policies: an attempt timeout, retries and a balancer; in another row with the whole default stack. By hand
it is asyncio with tasks, a semaphore and `asyncio.timeout`, on the same virtual clock. simpy and happysim cannot run
production code: there the model is written in their terms. By hand and in simpy the work that a caller has abandoned
stops, which is less to do; ours and happysim's servers go on with it.

Subjects are measured in turn, in another order each round, by the processor's time. Then a process each runs a tenth of
the largest number of calls, and all of them: what a call costs and how much memory is held must not depend on it.
happysim runs on Python 3.13 or later, and is left out before.

A result file holds the header, `seconds`, and

`subjects`
    `name`, `calls_a_second` (of the fastest tenth of the rounds), `median`, and the `mean_ms` of a call, which shows
    that all play the same.
`scaling`
    `calls`, `call_us`, `peak_mb` of the process.
`goals`
    `goal`, `at_most`, `figure`, `met`.
"""

from __future__ import annotations

import asyncio
import gc
import math
import multiprocessing
import random
import resource
import statistics
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from time import perf_counter, process_time
from typing import Any, TypeAlias

from benchmarks.measuring import percentile
from benchmarks.reporting import Verdict, begin, finish, options, table
from resilient.lab.arrivals import poisson
from resilient.lab.scenario import OpenLoop, Scenario, Tier
from resilient.lab.simulation.run import run
from resilient.lab.world.service_times import Exponential
from resilient.testing._asyncio import VirtualLoop
from resilient.testing.clock import ManualClock

__all__ = ["SUBJECTS", "main"]

RATE, SLOTS, WORK = 1400.0, 20, 0.01
TRY, ATTEMPTS, WAIT = 0.05, 3, 0.05
ROUND = 20_000  # calls

OURS, DEFAULT, BARE, SIMPY, HAPPYSIM = (
    "resilient, timeout and retries",
    "resilient, default stack",
    "asyncio by hand",
    "simpy",
    "happysim",
)
HAS_HAPPYSIM = sys.version_info >= (3, 13)
DISTRIBUTIONS = ["anyio", "simpy", *(["happysim"] if HAS_HAPPYSIM else [])]

Play: TypeAlias = Callable[[int], float]
"""Plays so many calls and returns the seconds that one takes on average in the simulation."""


def ours(calls: int, policy: str = "retry2") -> float:
    """The lab itself."""
    duration = calls / RATE
    scenario = Scenario(
        name="reference",
        title="",
        source="",
        naive="",
        good="",
        tiers=[Tier(name="server", workers=SLOTS, service_time=Exponential(WORK))],
        load=OpenLoop(arrivals=lambda chance: poisson(RATE, chance, duration=duration)),
        duration=duration,
        timeout=10.0,
        attempt_timeout=TRY,
    )
    return run(scenario, policy, 0).metrics["mean"] or math.nan


def by_hand(calls: int) -> float:
    """What one writes who has only the loop."""
    chance = random.Random(0)
    latencies: list[float] = []

    async def call(slots: asyncio.Semaphore, due: float) -> None:
        for attempt in range(ATTEMPTS):
            try:
                async with asyncio.timeout(TRY), slots:
                    await asyncio.sleep(chance.expovariate(1 / WORK))
            except TimeoutError:
                if attempt + 1 < ATTEMPTS:
                    await asyncio.sleep(chance.random() * WAIT * 2**attempt)
            else:
                latencies.append(asyncio.get_running_loop().time() - due)
                return

    async def main() -> None:
        loop, slots, tasks, due = asyncio.get_running_loop(), asyncio.Semaphore(SLOTS), set(), 0.0
        for _ in range(calls):
            due += chance.expovariate(RATE)
            await asyncio.sleep(due - loop.time())
            task = loop.create_task(call(slots, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        while tasks:
            await asyncio.wait(tasks)

    loop = VirtualLoop(ManualClock())
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    return statistics.fmean(latencies)


def with_simpy(calls: int) -> float:
    """Processes, a resource, and the race of a request with a timeout."""
    import simpy

    chance = random.Random(0)
    env = simpy.Environment()
    slots = simpy.Resource(env, SLOTS)
    latencies: list[float] = []

    def work() -> Generator[Any, Any, None]:
        with slots.request() as request:
            try:
                yield request
                yield env.timeout(chance.expovariate(1 / WORK))
            except simpy.Interrupt:
                pass

    def call() -> Generator[Any, Any, None]:
        began = env.now
        for attempt in range(ATTEMPTS):
            working = env.process(work())
            yield working | env.timeout(TRY)
            if working.processed:
                latencies.append(env.now - began)
                return
            working.interrupt()
            if attempt + 1 < ATTEMPTS:
                yield env.timeout(chance.random() * WAIT * 2**attempt)

    def arrive() -> Generator[Any, Any, None]:
        for _ in range(calls):
            yield env.timeout(chance.expovariate(RATE))
            env.process(call())

    env.process(arrive())
    env.run()
    return statistics.fmean(latencies)


def with_happysim(calls: int) -> float:
    """Entities, a resource and futures; its own client takes what is queued for answered, and never retries."""
    from happysimulator import Entity, Event, Instant, Resource, SimFuture, Simulation, Source

    chance = random.Random(0)
    slots = Resource("slots", SLOTS)
    latencies: list[float] = []

    class Timer(Entity):  # type: ignore[misc] # Any, where it is not installed
        def handle_event(self, event: Any) -> None:
            if not event.context["ended"].is_resolved:
                event.context["ended"].resolve(False)

    class Server(Entity):  # type: ignore[misc]
        def handle_event(self, event: Any) -> Generator[Any, Any, None]:
            ended = event.context["ended"]
            grant = yield slots.acquire()
            if not ended.is_resolved:
                yield chance.expovariate(1 / WORK)
                if not ended.is_resolved:
                    ended.resolve(True)
            grant.release()

    class Client(Entity):  # type: ignore[misc]
        def handle_event(self, event: Any) -> Generator[Any, Any, None]:
            began = self.now.to_seconds()
            for attempt in range(ATTEMPTS):
                context = {"ended": SimFuture()}
                expires = Instant.from_seconds(self.now.to_seconds() + TRY)
                yield (
                    0.0,
                    [
                        Event(time=self.now, event_type="work", target=server, context=context),
                        Event(time=expires, event_type="expire", target=timer, context=context),
                    ],
                )
                if (yield context["ended"]):
                    latencies.append(self.now.to_seconds() - began)
                    return
                if attempt + 1 < ATTEMPTS:
                    yield chance.random() * WAIT * 2**attempt

    timer, server, client = Timer("timer"), Server("server"), Client("client")
    source = Source.poisson(RATE, target=client, stop_after=calls / RATE)
    end = Instant.from_seconds(calls / RATE + 10.0)
    Simulation(sources=[source], entities=[timer, server, client, slots], end_time=end).run()
    return statistics.fmean(latencies)


SUBJECTS: Mapping[str, Play] = {
    OURS: ours,
    DEFAULT: partial(ours, policy="default"),
    BARE: by_hand,
    SIMPY: with_simpy,
    **({HAPPYSIM: with_happysim} if HAS_HAPPYSIM else {}),
}


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one subject."""

    name: str
    calls_a_second: int
    median: int
    mean_ms: float


@dataclass(frozen=True, slots=True)
class Size:
    """What so many calls cost."""

    calls: int
    call_us: float
    peak_mb: float


def measure(seconds: float, calls: int) -> list[Row]:
    """Let each have a round in turn."""
    means = {name: play(calls) * 1000 for name, play in SUBJECTS.items()}  # not counted: it imports what is needed
    samples: dict[str, list[float]] = {name: [] for name in SUBJECTS}
    order = [*SUBJECTS]
    end = perf_counter() + seconds
    for turn in count(1):
        random.shuffle(order)
        for name in order:
            gc.collect()
            began = process_time()
            SUBJECTS[name](calls)
            samples[name].append((process_time() - began) / calls)
        if turn >= 2 and perf_counter() >= end:
            break
    return [
        Row(name, round(1 / percentile(taken, 10)), round(1 / statistics.median(taken)), round(means[name], 2))
        for name, taken in samples.items()
    ]


def _size(calls: int) -> Size:
    began = process_time()
    ours(calls)
    cost = (process_time() - began) / calls
    return Size(calls, round(cost * 1e6, 1), round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1))


def scale(largest: int) -> list[Size]:
    """Run few calls and many, each in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        return [*pool.map(_size, (largest // 10, largest))]


def judge(rows: Sequence[Row], sizes: Sequence[Size]) -> list[Verdict]:
    """Compare with the goals."""
    speed = {row.name: row.calls_a_second for row in rows}
    few, many = sizes
    figures = [
        ("microseconds a call", 40.0, 1e6 / speed[OURS]),
        ("time of a call: ours / by hand", 1 / 0.65, speed[BARE] / speed[OURS]),
        ("time of a call: ten times as many calls / few", 1.15, many.call_us / few.call_us),
        ("memory: ten times as many calls / few", 1.25, many.peak_mb / few.peak_mb),
    ]
    return [Verdict(goal, round(limit, 3), round(figure, 3), figure <= limit) for goal, limit, figure in figures]


def _in_words(rows: Sequence[Row], sizes: Sequence[Size], *, markdown: bool) -> str:
    speeds = [(row.name, f"{row.calls_a_second:,}", f"{row.median:,}", f"{row.mean_ms:.2f}") for row in rows]
    costs = [(f"{size.calls:,} calls", f"{size.call_us:.1f}", f"{size.peak_mb:.0f}") for size in sizes]
    return "\n\n".join(
        [
            table(("simulator", "calls a second", "median", "mean ms"), speeds, markdown=markdown),
            table(("ours at length", "us a call", "peak MB"), costs, markdown=markdown),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit code."""
    parser = options("Measure how fast the lab simulates.", seconds=30.0)
    parser.add_argument("--calls", type=int, default=ROUND, help="a round (default: %(default)s)")
    parser.add_argument("--largest", type=int, default=1_000_000, help="calls in one run (default: %(default)s)")
    given = parser.parse_args(arguments)
    head = begin(parser, DISTRIBUTIONS)
    rows = measure(given.seconds, given.calls)
    sizes = scale(given.largest)
    result = {
        **head,
        "seconds": given.seconds,
        "subjects": [asdict(row) for row in rows],
        "scaling": [asdict(size) for size in sizes],
    }
    return finish(given, result, _in_words(rows, sizes, markdown=given.markdown), judge(rows, sizes))


if __name__ == "__main__":
    sys.exit(main())
