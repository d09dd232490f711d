"""What an instance says of its own load, and how it knows."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median_low
from typing import Protocol, final, runtime_checkable

from resilient.machines.picking import Candidate

__all__ = ["Load", "LoadMeter", "Reporting"]

_NOTHING: Mapping[str, float] = {}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How busy an instance is, by its own account. None where it does not say.

    The names, and what they mean, are those of ORCA (Open Request Cost Aggregation), as gRPC and Envoy have it.
    """

    application_utilization: float | None = None
    """How much of what it can do the application does now, by its own measure: 1.0 is all of it, more is too much."""
    cpu_utilization: float | None = None
    """The share of its processors that is busy."""
    rps: float | None = None
    """Requests a second, of everybody."""
    eps: float | None = None
    """Errors a second, of everybody."""
    in_flight: int | None = None
    """Requests that are with it now, of everybody."""
    latency: float | None = None
    """Seconds that a request takes which finds about as many there: the median of the recent ones."""
    named: Mapping[str, float] = field(default_factory=lambda: _NOTHING, hash=False)
    """Whatever else it measures."""

    @property
    def utilization(self) -> float | None:
        """The application's own measure, or that of its processors."""
        return self.cpu_utilization if self.application_utilization is None else self.application_utilization


@runtime_checkable
class Reporting(Protocol):
    """A picking that goes by what instances say of themselves."""

    def report(self, candidate: Candidate, load: Load, now: float) -> None:
        """A member said how busy it is."""
        ...


_WINDOW = 10.0
_SAMPLES = 32


@final
class LoadMeter:
    """Measures a server's own load: requests in flight, their rate, and how long they take when so many are there.

    Each latency is filed under the number of requests that it found there when it came, and the answer is the median of
    the last ones at the present number, or the nearest at which there were any of late. So it tells what a request that
    comes now has to expect, at once when the load changes; an average of the last seconds would tell what those had to
    expect that came before.
    """

    __slots__ = ("_errors", "_latencies", "_requests", "in_flight")

    def __init__(self) -> None:
        self.in_flight = 0
        self._latencies: dict[int, deque[tuple[float, float]]] = {}
        self._requests = _Rate()
        self._errors = _Rate()

    def begin(self) -> int:
        """A request came: returns how many it found, for `end`."""
        found = self.in_flight
        self.in_flight += 1
        return found

    def end(self, found: int, latency: float | None, now: float, *, failed: bool = False) -> None:
        """It is over. It was answered after `latency` seconds, or not at all; `found` is what `begin` returned."""
        self.in_flight -= 1
        self._requests.count(now)
        if failed:
            self._errors.count(now)
        if failed or latency is None:  # that is no measure of how long an answer takes
            return
        level = _level(found)
        samples = self._latencies.get(level)
        if samples is None:
            samples = self._latencies[level] = deque(maxlen=_SAMPLES)
        samples.append((now, latency))

    def latency(self, now: float) -> float | None:
        """The median at the present number of requests; None before the first one was answered."""
        present = _level(self.in_flight)
        exact = self._latencies.get(present)
        if exact is not None and exact[0][0] >= now - _WINDOW:  # as almost always
            return median_low([latency for _, latency in exact])
        nearest: deque[tuple[float, float]] | None = None
        for level in sorted(self._latencies, key=lambda level: (abs(level - present), level)):
            samples = self._latencies[level]
            if samples[-1][0] >= now - _WINDOW:
                return median_low([latency for at, latency in samples if at >= now - _WINDOW])
            nearest = nearest or samples
        return None if nearest is None else median_low([latency for _, latency in nearest])

    def load(self, now: float, *, utilization: float | None = None, cpu: float | None = None) -> Load:
        """All of it, for whoever asks."""
        return Load(
            application_utilization=utilization,
            cpu_utilization=cpu,
            rps=self._requests.read(now),
            eps=self._errors.read(now),
            in_flight=self.in_flight,
            latency=self.latency(now),
        )


def _level(in_flight: int) -> int:
    """One for numbers that are much alike: each of them up to 15, then eight levels for each doubling."""
    doublings = max(0, in_flight.bit_length() - 4)
    return 8 * doublings + (in_flight >> doublings)


@final
class _Rate:
    """Events a second, averaged over about the last ten: exact where they come evenly."""

    __slots__ = ("_at", "_began", "_events")

    def __init__(self) -> None:
        self._began = math.inf
        self._at = math.inf
        self._events = 0.0

    def count(self, now: float) -> None:
        if self._began > now:
            self._began = self._at = now
        self._fade(now)
        self._events += 1.0

    def read(self, now: float) -> float:
        if self._began > now:
            return 0.0
        self._fade(now)
        # Before the first window is over, there is less to divide by.
        seen = _WINDOW * -math.expm1(-max(now - self._began, 1.0) / _WINDOW)
        return self._events / seen

    def _fade(self, now: float) -> None:
        if now > self._at:
            self._events *= math.exp((self._at - now) / _WINDOW)
            self._at = now
