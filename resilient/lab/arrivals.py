"""When calls are due: rising seconds from the beginning of a run.

Arrivals are fixed beforehand, so they do not wait for answers (an "open loop"). `random` gives floats in [0, 1), such
as `random.Random(seed).random`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, count, cycle, takewhile

__all__ = ["bursts", "constant", "poisson", "ramp", "replay", "spike", "varying"]

Random = Callable[[], float]


def constant(rate: float, *, duration: float = math.inf, start: float = 0.0) -> Iterator[float]:
    """Yield instants `1 / rate` seconds apart, from `start` on, for `duration` seconds."""
    _check("rate", rate)
    _check_duration(duration)
    return takewhile(lambda instant: instant < start + duration, (start + number / rate for number in count()))


def poisson(rate: float, random: Random, *, duration: float = math.inf, start: float = 0.0) -> Iterator[float]:
    """Yield the instants of a Poisson process: `rate` a second on average, each independent of the others.

    It is what many callers who know nothing of each other add up to; queues and limits are there for its bursts.
    """
    _check("rate", rate)
    _check_duration(duration)
    gaps = (-math.log(1.0 - random()) / rate for _ in count())
    instants = accumulate(gaps, initial=start)
    next(instants)  # the start itself is no arrival
    return takewhile(lambda instant: instant < start + duration, instants)


def varying(
    rate: Callable[[float], float], highest: float, random: Random, *, duration: float = math.inf
) -> Iterator[float]:
    """Yield the instants of a Poisson process whose rate at second t is `rate(t)`, which is never above `highest`.

    By thinning (Lewis and Shedler, 1979): of the arrivals at the highest rate, each is kept with the chance that its
    moment's rate has. A rate that is above `highest` after all is a `ValueError` at its moment.
    """
    return (t for t in poisson(highest, random, duration=duration) if random() * highest < _at(rate, t, highest))


def _at(rate: Callable[[float], float], instant: float, highest: float) -> float:
    now = rate(instant)
    if not 0 <= now <= highest * (1 + 1e-9):
        raise ValueError(
            f"highest={highest!r}: at {instant!r} the rate is {now!r}; it is at least 0 and never above that"
        )
    return now


def ramp(first: float, last: float, random: Random, *, duration: float) -> Iterator[float]:
    """Yield arrivals whose rate goes evenly from `first` to `last` a second: to see where a system gives way."""
    _check("first", first)
    _check("last", last)
    return varying(lambda t: first + (last - first) * t / duration, max(first, last), random, duration=duration)


def spike(
    rate: float, factor: float, random: Random, *, at: float, seconds: float, duration: float = math.inf
) -> Iterator[float]:
    """Yield arrivals at `rate` a second, and at `factor` times that for `seconds` from second `at` on."""
    _check("rate", rate)
    _check("factor", factor)
    return varying(
        lambda t: rate * factor if at <= t < at + seconds else rate, rate * max(1.0, factor), random, duration=duration
    )


def bursts(
    quiet: float, busy: float, random: Random, *, quiet_for: float, busy_for: float, duration: float = math.inf
) -> Iterator[float]:
    """Yield arrivals that change between a `quiet` and a `busy` rate, each for an exponentially distributed time.

    This is the Markov-modulated Poisson process of two states, the simplest arrivals that come in crowds.
    """
    _check("quiet", quiet)
    _check("busy", busy)
    for name, length in (("quiet_for", quiet_for), ("busy_for", busy_for)):
        if not (length > 0 and math.isfinite(length)):
            raise ValueError(f"{name}={length!r}: a finite number of seconds, more than 0")
    _check_duration(duration)
    return _bursts(cycle([(quiet, quiet_for), (busy, busy_for)]), random, duration)


def _bursts(phases: Iterator[tuple[float, float]], random: Random, duration: float) -> Iterator[float]:
    start = 0.0
    for rate, lasts in phases:
        length = -math.log(1.0 - random()) * lasts
        yield from poisson(rate, random, duration=min(length, duration - start), start=start)
        start += length
        if start >= duration:
            return


def replay(instants: Iterable[float]) -> Iterator[float]:
    """Yield what was recorded, checked: finite seconds, none below 0, none before the one that precedes it.

    Raises `ValueError` at the first instant that is not.
    """
    last = 0.0
    for instant in instants:
        if not last <= instant < math.inf:
            raise ValueError(f"instants: {instant!r} follows {last!r}; they rise from 0.0, and are finite")
        last = instant
        yield instant


def _check(name: str, rate: float) -> None:
    if not (rate > 0 and math.isfinite(rate)):
        raise ValueError(f"{name}={rate!r}: a rate is a finite number of calls a second, more than 0")


def _check_duration(duration: float) -> None:
    if not duration >= 0:
        raise ValueError(f"duration={duration!r}: a duration is a number of seconds, at least 0")
