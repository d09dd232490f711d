"""A limit of calls in flight that moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from resilient.machines.concurrency.sample import LimitRule, Sample, Sampler

__all__ = ["ConcurrencyLimit"]


@final
class ConcurrencyLimit:
    """Follows a rule from sample to sample, between `lowest` and `highest`.

    The limit is a real number, so that rules can move it by fractions; `limit` is what may be in flight.
    """

    __slots__ = ("_exact", "_highest", "_lowest", "_rule", "_sampler", "limit")

    def __init__(
        self,
        rule: LimitRule,
        *,
        initial: int,
        lowest: int,
        highest: int,
        window: float,
        least: int,
        longest: float,
        now: float,
    ) -> None:
        self._rule = rule
        self._lowest = lowest
        self._highest = highest
        self._exact = float(initial)
        self.limit = initial
        self._sampler = Sampler(quantile=rule.quantile, shortest=window, longest=longest, least=least, now=now)

    def answered(self, latency: float, in_flight: int, now: float, random: Callable[[], float]) -> bool:
        """Count a call that was answered; tell whether the limit moved."""
        return self._follow(self._sampler.answered(latency, in_flight, now), random)

    def dropped(self, in_flight: int, now: float, random: Callable[[], float]) -> bool:
        """Count a call that was turned away, or got no answer in time; tell whether the limit moved."""
        return self._follow(self._sampler.dropped(in_flight, now), random)

    def _follow(self, sample: Sample | None, random: Callable[[], float]) -> bool:
        if sample is None:
            return False
        exact = self._rule.next(self._exact, sample, random)
        self._exact = min(max(exact, self._lowest), self._highest)
        before, self.limit = self.limit, int(self._exact)
        return self.limit != before
