"""Additive increase, multiplicative decrease."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from resilient.machines.concurrency.sample import Sample

__all__ = ["AimdRule"]


@final
class AimdRule:
    """One more after each window in which the limit was used, `backoff` of it after one with drops or slow calls.

    The congestion control of early TCP: it looks for the edge by going over it, again and again.
    """

    quantile = None

    def __init__(self, *, backoff: float, slow: float) -> None:
        self._backoff = backoff
        self._slow = slow

    def next(self, limit: float, sample: Sample, random: Callable[[], float]) -> float:
        """Return the limit after this sample."""
        del random
        if sample.dropped or sample.latency > self._slow:
            return limit * self._backoff
        return limit + 1 if sample.in_flight * 2 >= limit else limit
