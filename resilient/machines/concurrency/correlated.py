"""The queue, and whether more calls at once still get more done."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from statistics import median
from typing import final

from resilient.machines.concurrency.baseline import Baseline
from resilient.machines.concurrency.sample import Sample, step

__all__ = ["CorrelatedRule", "Correlation"]

_SMOOTHED = 5
_BASELINE = 10
_REMEMBERED = 20
_ENOUGH = 10
"""Pairs below which there is no telling whether two things go together."""
_STEADY = 0.01
"""A spread, relative to the mean, below which a quantity does not vary."""
_NOT_MORE_DONE = 0.3
_SLOWER = 0.5
_SATURATED = 0.2
_NEEDED = 1.5
_AMPLE = 3.0
_MORE_DONE = 0.7
_CAUTIOUS = 10
_FORGETS = 1.0002


@final
class Correlation:
    """How two quantities went together over the last 20 pairs, from -1 to 1; 0.0 where it cannot be told."""

    __slots__ = ("_pairs",)

    def __init__(self) -> None:
        self._pairs: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)

    def add(self, x: float, y: float) -> float:
        """Take a pair into account, and return the correlation."""
        self._pairs.append((x, y))
        count = len(self._pairs)
        if count < _ENOUGH:
            return 0.0
        mean_x = math.fsum(x for x, _ in self._pairs) / count
        mean_y = math.fsum(y for _, y in self._pairs) / count
        spread_x = math.sqrt(math.fsum((x - mean_x) ** 2 for x, _ in self._pairs) / count)
        spread_y = math.sqrt(math.fsum((y - mean_y) ** 2 for _, y in self._pairs) / count)
        if spread_x <= _STEADY * abs(mean_x) or spread_y <= _STEADY * abs(mean_y):
            return 0.0
        together = math.fsum((x - mean_x) * (y - mean_y) for x, y in self._pairs) / count
        return together / (spread_x * spread_y)

    @property
    def spread(self) -> float:
        """How much the second quantity varies, relative to its mean; 1.0 where it cannot be told."""
        count = len(self._pairs)
        mean = math.fsum(y for _, y in self._pairs) / count if count else 0.0
        if count < _ENOUGH or mean == 0.0:
            return 1.0
        return math.sqrt(math.fsum((y - mean) ** 2 for _, y in self._pairs) / count) / mean


@final
class CorrelatedRule:
    """Vegas with a latency that is compared with its recent past, and a guard against getting used to overload.

    The latency is the 90th percentile of a window, of which the median of five is averaged, so that single bad windows
    pass. Compared with the average of the last ten it tells how many calls wait: more than 6 steps, and the limit
    shrinks by a step; less than 3, and it grows by one. A step is the limit's decimal logarithm.

    But an average gets used to a latency that is high for long, and then the limit would grow for ever. By Little's
    law throughput times the shortest latency is what is needed in flight; the rest waits. So while the limit is used
    up it shrinks above 3 times that, and above 1.5 times where more calls at once do not get more done: where
    throughput falls as they rise; or hardly follows, or does not change, while latency rises with them. Where
    throughput does rise with them nobody waits, and the shortest latency is that of now; otherwise it is the
    shortest that was seen, forgotten at a rate of a fifth of a permille a window.

    After failsafe-go's adaptive limiter, which goes by correlations alone, and by a throughput that it computes from
    the two others; here it is counted. Correlations look back, over 20 windows here, and what was true then goes on
    shrinking a limit that is small enough.

    A window of drops takes a tenth of the limit, and for ten windows it does not grow again.

    A limit that is not half used does not grow, and shrinks where it exceeds `most` times what was in flight: one that
    nobody needed says nothing about what the far side can take.
    """

    quantile = 0.9

    def __init__(self, *, most: float) -> None:
        self._most = most
        self._shortest = math.inf
        self._cautious = 0
        self._last: deque[float] = deque(maxlen=_SMOOTHED)
        self._recent = Baseline(_SMOOTHED)
        self._baseline = Baseline(_BASELINE)
        self._done = Correlation()
        self._slower = Correlation()

    def next(self, limit: float, sample: Sample, random: Callable[[], float]) -> float:
        """Return the limit after this sample."""
        del random
        if sample.dropped:
            self._cautious = _CAUTIOUS
            return limit * 0.9
        self._cautious -= 1
        self._last.append(sample.latency)
        recent = self._recent.add(median(self._last))
        baseline = self._baseline.add(recent)
        done = self._done.add(sample.in_flight, sample.throughput)
        slower = self._slower.add(sample.in_flight, recent)
        self._shortest = min(self._shortest * _FORGETS, sample.mean)
        unit = step(limit)
        if sample.in_flight * 2 < limit:
            return limit - unit if limit > self._most * sample.in_flight else limit
        queue = math.ceil(limit * (1 - baseline / recent))
        full = sample.in_flight >= int(limit)
        saturated = done < 0 or (slower > _SLOWER and (done < _NOT_MORE_DONE or self._done.spread < _SATURATED))
        if full and done > _MORE_DONE and slower < _SLOWER:
            self._shortest = sample.mean  # nobody waits: that is what a call takes now
        times = limit / (sample.throughput * self._shortest)
        if queue > 6 * unit or (full and (times > _AMPLE or (saturated and times > _NEEDED))):
            return limit - unit
        return limit + unit if queue < 3 * unit and self._cautious <= 0 else limit
