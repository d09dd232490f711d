"""How long a server works on a call.

Each distribution is its own quantile function, so that one number in (0, 1) that belongs to a call gives the call's
service time under every policy. Times never are constant unless one asks for it: many workers that all take exactly as
long fall into step, serve in batches, and distort what is measured.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Protocol, final

__all__ = ["Bimodal", "Constant", "Empirical", "Exponential", "Lognormal", "ServiceTime"]

_normal_quantile = NormalDist().inv_cdf


class ServiceTime(Protocol):
    """A distribution of seconds of work."""

    @property
    def mean(self) -> float:
        """Seconds on average."""
        ...

    def quantile(self, u: float) -> float:
        """The seconds that the fraction `u` of calls, in (0, 1), do not exceed."""
        ...


def _check(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}={value!r}: a finite number of seconds, more than 0")


@final
@dataclass(frozen=True, slots=True)
class Constant:
    """Always the same: for what is compared with theory, and for single workers."""

    mean: float

    def __post_init__(self) -> None:
        _check("mean", self.mean)

    def quantile(self, u: float) -> float:
        """The mean."""
        del u
        return self.mean


@final
@dataclass(frozen=True, slots=True)
class Exponential:
    """Memoryless, with a coefficient of variation of 1: what queueing theory has formulas for."""

    mean: float

    def __post_init__(self) -> None:
        _check("mean", self.mean)

    def quantile(self, u: float) -> float:
        """By inversion."""
        return -self.mean * math.log1p(-u)


@final
@dataclass(frozen=True, slots=True)
class Lognormal:
    """The usual shape of measured latencies: a hump and a long tail.

    `sigma` is that of the logarithm: with 0.5 the 99th percentile is 2.8 times the mean, with 1.0 it is 6.2 times.
    """

    mean: float
    sigma: float = 0.5
    _mu: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check("mean", self.mean)
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            raise ValueError(f"sigma={self.sigma!r}: a finite number, more than 0")
        object.__setattr__(self, "_mu", math.log(self.mean) - self.sigma**2 / 2)

    def quantile(self, u: float) -> float:
        """By inversion of the normal distribution."""
        return math.exp(self._mu + self.sigma * _normal_quantile(u))


@final
@dataclass(frozen=True, slots=True)
class Bimodal:
    """Most calls are quick, the fraction `slow_share` takes far longer: a cache that misses, a scan among look-ups.

    Each mode is a lognormal of small spread around its mean.
    """

    fast: float
    slow: float
    slow_share: float = 0.01
    _modes: tuple[Lognormal, Lognormal] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check("fast", self.fast)
        _check("slow", self.slow)
        if not 0 < self.slow_share < 1:
            raise ValueError(f"slow_share={self.slow_share!r}: a fraction of the calls, between 0 and 1")
        object.__setattr__(self, "_modes", (Lognormal(self.fast, 0.25), Lognormal(self.slow, 0.25)))

    @property
    def mean(self) -> float:
        """Of both modes together."""
        return self.fast * (1 - self.slow_share) + self.slow * self.slow_share

    def quantile(self, u: float) -> float:
        """One of the modes, by which part of (0, 1) the number lies in."""
        fast, slow = self._modes
        edge = 1 - self.slow_share
        if u < edge:
            return fast.quantile(u / edge)
        return slow.quantile(min(max((u - edge) / self.slow_share, 2.0**-53), 1 - 2.0**-53))


@final
@dataclass(frozen=True, slots=True)
class Empirical:
    """What was measured: the quantiles of `samples`, with straight lines between neighbours."""

    samples: Sequence[float]
    _ordered: tuple[float, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.samples))
        if not (ordered and all(0 <= sample < math.inf for sample in ordered)):
            raise ValueError("samples: at least one number of seconds, all finite and at least 0")
        object.__setattr__(self, "_ordered", ordered)

    @property
    def mean(self) -> float:
        """Of what is drawn: the first and the last sample are reached, but not passed, so they count half."""
        ordered = self._ordered
        if len(ordered) == 1:
            return ordered[0]
        return (math.fsum(ordered) - (ordered[0] + ordered[-1]) / 2) / (len(ordered) - 1)

    def quantile(self, u: float) -> float:
        """By interpolation."""
        ordered = self._ordered
        place = u * (len(ordered) - 1)
        below = int(place)
        if below + 1 >= len(ordered):
            return ordered[-1]
        return ordered[below] + (place - below) * (ordered[below + 1] - ordered[below])

    def cdf(self, seconds: float) -> float:
        """The fraction of samples that do not exceed `seconds`."""
        return bisect_right(self._ordered, seconds) / len(self._ordered)
