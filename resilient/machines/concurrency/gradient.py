"""The latency of now beside the latency of long."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from resilient.machines.concurrency.baseline import Baseline
from resilient.machines.concurrency.sample import Sample

__all__ = ["Gradient2Rule"]

_LONG = 600
_RECOVERING = 2.0
_FORGETS = 0.95
_STEEPEST = 0.5


@final
class Gradient2Rule:
    """Shrink as latency rises above its long average: Gradient2 of Netflix's concurrency-limits.

    `limit * gradient + queue`, a fifth of the way a window, where the gradient is `tolerance * long / now`, between 0.5
    and 1. The average is over 600 windows, and falls faster when latency has come down to less than half of it. A limit
    that is not half used stays.

    Under an overload that lasts, the average rises, and the limit with it: see `CorrelatedRule`. The original looks
    at latency alone; here a window of drops takes a tenth of the limit.
    """

    quantile = None

    def __init__(self, *, tolerance: float, queue: float, smoothing: float) -> None:
        self._tolerance = tolerance
        self._queue = queue
        self._smoothing = smoothing
        self._long = Baseline(_LONG)

    def next(self, limit: float, sample: Sample, random: Callable[[], float]) -> float:
        """Return the limit after this sample."""
        del random
        if sample.dropped:
            return limit * 0.9
        now = sample.latency
        long = self._long.add(now)
        if long > _RECOVERING * now:
            self._long.scale(_FORGETS)
        if sample.in_flight * 2 < limit:
            return limit
        gradient = min(max(self._tolerance * long / now, _STEEPEST), 1.0)
        return limit + self._smoothing * (limit * gradient + self._queue - limit)
