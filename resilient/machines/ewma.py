"""A latency estimate that believes bad news at once and good news slowly."""

from __future__ import annotations

from math import exp
from typing import final

__all__ = ["FLOOR", "LatencyEwma"]

FLOOR = 0.001
"""Seconds."""


@final
class LatencyEwma:
    """What a call to one instance is expected to take, in seconds: Finagle's peak EWMA.

    A latency above the estimate replaces it (the peak); one below is averaged in with the weight `1 - exp(-age / tau)`,
    `age` being the seconds since the last observation. Between observations the estimate decays towards nothing, so
    that an instance which was slow, or failed, is tried again. Reading it changes nothing: the decay is projected.

    It never reads as less than a millisecond. Below that latencies are noise, and without a floor the instance that was
    idle a moment longer than the others would look many times faster than they do.

    For the hot path, which reads two of them for each choice without a call: it is `cost` at `stamp`, and after it
    `cost * exp(-age / tau)`, but at least `FLOOR`.
    """

    __slots__ = ("_tau", "cost", "stamp")

    def __init__(self, seed: float, tau: float, now: float) -> None:
        self.cost = seed
        self._tau = tau
        self.stamp = now

    def read(self, now: float) -> float:
        """The estimate at `now`."""
        age = now - self.stamp
        cost = self.cost * exp(-age / self._tau) if age > 0 else self.cost
        return cost if cost > FLOOR else FLOOR  # noqa: FURB136 - twice a pick, and max() costs as much as the rest

    def observe(self, latency: float, now: float) -> None:
        """A call took `latency` seconds to its first byte."""
        if latency >= self.cost:
            self.cost = latency
        else:
            age = now - self.stamp
            weight = exp(-age / self._tau) if age > 0 else 1.0
            self.cost = self.cost * weight + latency * (1.0 - weight)
        if now > self.stamp:  # noqa: PLR1730 - once a call, as above
            self.stamp = now

    def at_least(self, elapsed: float, now: float) -> None:
        """A call was given up after `elapsed` seconds: it would have taken longer, nobody knows how much.

        So it can only make the estimate worse: a call that was given up at once says nothing.
        """
        if elapsed > self.read(now):
            self.cost = elapsed
            self.stamp = max(now, self.stamp)
