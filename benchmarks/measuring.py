"""Measures what an await costs, on a machine that also has other things to do.

Every subject gets short slices, in turn with all the others and in another order each round, and the loop runs in
between. A slice is shorter than the time the scheduler gives a process, so that most slices of a busy machine are
undisturbed; a low percentile of them is what the subject costs, and what disturbs the machine for a while disturbs all
subjects alike. Two things would flatter us: long slices, since timers that were cancelled stay in the loop's heap until
it runs; and cold ones, since the largest peers run the most code, so a slice begins with some calls that do not count.
"""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import sys
import tracemalloc
from array import array
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, repeat
from time import perf_counter, perf_counter_ns
from typing import Any, TypeAlias

__all__ = ["Footprint", "Make", "Slice", "Subject", "Work", "each", "footprint", "interleave", "noop", "percentile"]

Work: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
"""What is protected: an async function."""
Slice: TypeAlias = Callable[[int], Awaitable[None]]
"""Awaits the protected work so many times."""
Make: TypeAlias = Callable[[Work], Slice]
"""Protects the work. Called where a loop runs."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Something to measure."""

    name: str
    group: str
    make: Make
    requires: Sequence[str] = ()
    """The distributions that it uses."""
    baseline: str | None = None
    """The subject whose cost is taken off, instead of the bare call's."""
    times: int = 1
    """How often a call does what is measured."""


SLICE = 500e-6  # seconds
_FEWEST_ROUNDS = 5
_COLLECTION = 1.0  # seconds


async def noop() -> None:
    """The work: whatever is measured beyond it is the price of protecting it."""


def each(step: Callable[[], Awaitable[object]]) -> Slice:
    """Await `step` again and again."""

    async def run(calls: int) -> None:
        for _ in repeat(None, calls):
            await step()

    return run


async def interleave(
    slices: Mapping[str, Slice], *, seconds: float, slice_seconds: float = SLICE
) -> dict[str, Sequence[float]]:
    """Run the slices in turn for `seconds` in all; return the nanoseconds a call, one figure a slice.

    Garbage is collected between slices, once a second or so.
    """
    calls = {name: await _calls_a_slice(run, slice_seconds) for name, run in slices.items()}
    samples: dict[str, array[float]] = {name: array("d") for name in slices}
    order = list(slices)
    with _no_garbage_collection():
        collected = perf_counter()
        end = collected + seconds
        for turn in count(1):
            random.shuffle(order)
            for name in order:
                run, number = slices[name], calls[name]
                await run(1 + number // 2)  # what ran before has filled the processor's caches with other things
                await asyncio.sleep(0)
                started = perf_counter_ns()
                await run(number)
                samples[name].append((perf_counter_ns() - started) / number)
            now = perf_counter()
            if turn >= _FEWEST_ROUNDS and now >= end:
                break
            if now >= collected + _COLLECTION:
                gc.collect()
                collected = now
    return dict(samples)


async def _calls_a_slice(run: Slice, slice_seconds: float) -> int:
    """How many calls fill a slice."""
    await run(1)  # the first call imports and builds what is needed
    calls, elapsed = 0, 0.0
    while elapsed < slice_seconds:
        calls = 2 * calls or 1
        await asyncio.sleep(0)
        started = perf_counter()
        await run(calls)
        elapsed = perf_counter() - started
    return max(1, round(calls * slice_seconds / elapsed))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def percentile(samples: Sequence[float], percent: int) -> float:
    """The value that `percent` of the samples lie below."""
    return statistics.quantiles(samples, n=100, method="inclusive")[percent - 1]


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one call asks of the allocator."""

    objects: int
    """Blocks that are alive because of the call while its work runs. What comes from a free list is not counted."""
    peak: int
    """The most bytes that were alive because of the call at any moment."""


async def footprint(make: Make, *, repetitions: int = 21) -> Footprint:
    """Count what a call allocates: the median of some calls, since now and then one of them grows a table.

    CPython has no count of all allocations ever made; what is alive at a moment is exact.
    """
    inside = 0

    async def look() -> None:
        nonlocal inside
        inside = sys.getallocatedblocks()

    async def one_after_another(figure: Callable[[], Awaitable[int]]) -> int:
        figures = []
        for _ in repeat(None, repetitions):
            await asyncio.sleep(0)
            figures.append(await figure())
        return int(statistics.median(figures))

    run = make(look)

    async def objects() -> int:
        before = sys.getallocatedblocks()
        await run(1)
        return inside - before

    async def peak() -> int:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        await run(1)
        _, most = tracemalloc.get_traced_memory()
        return most - before

    await run(repetitions)
    with _no_garbage_collection():
        blocks = await one_after_another(objects)
        tracemalloc.start()
        try:
            await one_after_another(peak)  # free lists, filled before anybody counted, empty into the count
            return Footprint(blocks, await one_after_another(peak))
        finally:
            tracemalloc.stop()
