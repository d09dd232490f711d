"""The queue, estimated from the shortest latency that was ever seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

from resilient.machines.concurrency.sample import Sample, step

__all__ = ["VegasRule"]

_LEAST_JITTER = 0.5


@final
class VegasRule:
    """Keep a few calls waiting at the far side, and no more: TCP Vegas, as Netflix's concurrency-limits has it.

    Of `limit` calls in flight, `limit * (1 - shortest / latency)` wait there. With none to speak of the limit grows by
    6 steps, with less than 3 steps by one; with more than 6 it shrinks by one. A step is the limit's decimal
    logarithm. A limit that is not half used stays.

    The shortest latency was seen when nothing waited. So that it does not stay for ever with what has become slower,
    it is seen anew after `probe` times the limit windows, give or take: at a bad moment, that one is too high.
    """

    quantile = None

    def __init__(self, *, probe: int) -> None:
        self._probe = probe
        self._shortest = math.inf
        self._seen = 0
        self._jitter: float | None = None

    def next(self, limit: float, sample: Sample, random: Callable[[], float]) -> float:
        """Return the limit after this sample."""
        if sample.dropped:
            return limit - step(limit)
        if self._looks_anew(limit, sample, random) or sample.in_flight * 2 < limit:
            return limit
        queue = math.ceil(limit * (1 - self._shortest / sample.latency))
        unit = step(limit)
        if queue <= unit:
            return limit + 6 * unit
        if queue < 3 * unit:
            return limit + unit
        return limit - unit if queue > 6 * unit else limit

    def _looks_anew(self, limit: float, sample: Sample, random: Callable[[], float]) -> bool:
        """Whether this sample's latency is what the following ones are compared with."""
        if self._jitter is None:
            self._jitter = _LEAST_JITTER + random() * (1 - _LEAST_JITTER)
        self._seen += 1
        due = self._seen >= self._jitter * self._probe * limit
        if due:
            self._seen, self._jitter = 0, None
        if due or sample.latency < self._shortest:
            self._shortest = sample.latency
            return True
        return False
