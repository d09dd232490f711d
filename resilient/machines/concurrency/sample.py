"""What a rule learns of the calls of a window, and what it makes of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol, final

from resilient.machines.sketch import Sketch

__all__ = ["LimitRule", "Sample", "Sampler", "step"]

_TURNED_AWAY = 0.05
"""The share of calls that were turned away, or got no answer in time, from which on a window says: too many."""


class Sample(NamedTuple):
    """The calls of one window."""

    latency: float
    """Seconds: the mean, or the quantile that the rule asks for."""
    mean: float
    """Seconds."""
    in_flight: int
    """The most at once."""
    throughput: float
    """Answers a second."""
    dropped: bool
    """Whether more than one in twenty were turned away, or got no answer in time."""


class LimitRule(Protocol):
    """A rule by which a limit follows what the samples say."""

    @property
    def quantile(self) -> float | None:
        """Which latency it looks at; None: their mean."""
        ...

    def next(self, limit: float, sample: Sample, random: Callable[[], float]) -> float:
        """Return the limit after this sample; whoever asks keeps it within its bounds."""
        ...


def step(limit: float) -> int:
    """By how much a limit moves: its decimal logarithm, at least 1. Small limits move by one, large ones by a few."""
    return max(1, int(math.log10(limit)))


@final
class Sampler:
    """Gathers calls into samples.

    A window lasts `shortest` seconds, or two of its quickest calls if that is longer, and until it has `least` calls,
    so that a sample of few calls never moves the limit; after `longest` seconds it ends with whatever it has, and one
    with less than a fifth of `least` is thrown away. A call that took less than 0.1 ms was answered by something nearer
    than the far side, and is not counted.
    """

    __slots__ = (
        "_began",
        "_dropped",
        "_in_flight",
        "_latencies",
        "_least",
        "_longest",
        "_quantile",
        "_quickest",
        "_shortest",
        "_total",
    )

    _NEGLIGIBLE = 1e-4

    def __init__(self, *, quantile: float | None, shortest: float, longest: float, least: int, now: float) -> None:
        self._quantile = quantile
        self._shortest = shortest
        self._longest = longest
        self._least = least
        self._latencies = Sketch()
        self._begin(now)

    def _begin(self, now: float) -> None:
        self._began = now
        self._quickest = math.inf
        self._total = 0.0
        self._in_flight = 0
        self._dropped = 0
        self._latencies.clear()

    def answered(self, latency: float, in_flight: int, now: float) -> Sample | None:
        """Count a call that was answered after `latency` seconds, sent as one of `in_flight`."""
        if latency >= self._NEGLIGIBLE:
            self._latencies.add(latency)
            self._total += latency
            self._quickest = min(self._quickest, latency)
            self._in_flight = max(self._in_flight, in_flight)
        return self._sample(now)

    def dropped(self, in_flight: int, now: float) -> Sample | None:
        """Count a call that was turned away, or got no answer in time."""
        self._dropped += 1
        self._in_flight = max(self._in_flight, in_flight)
        return self._sample(now)

    def _sample(self, now: float) -> Sample | None:
        age = now - self._began
        answered = self._latencies.count
        count = answered + self._dropped
        if age < self._shortest or (count < self._least and age < self._longest):
            return None
        if age < 2 * self._quickest < self._longest:
            return None
        sample = None
        if count >= self._least / 5:
            mean = latency = self._total / answered if answered else 0.0
            if answered and self._quantile is not None:
                latency = self._latencies.quantile(self._quantile)
            sample = Sample(latency, mean, self._in_flight, answered / age, self._dropped > _TURNED_AWAY * count)
        self._begin(now)
        return sample
