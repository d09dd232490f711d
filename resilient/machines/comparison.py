"""Who fails much more often than the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import final

__all__ = ["Comparison"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two tests of who is an outlier among equals: for `Ejection(comparison=Comparison())`.

    They find an instance that fails a fifth of its calls where the others fail none, which five failures in a row and
    half of the calls do not. They are blind where many are bad: of `n` instances, `k` equally bad ones deviate from the
    mean by `sqrt((n - k) / k)` standard deviations, so that at the usual 1.9 nobody is found where more than 21.7 % are
    bad. Hence they come beside the tests of `Ejection`, never instead of them.

    `deviations`, `success_calls`
        Out is whose share of successes lies more than so many standard deviations (1.9) below the mean of those that
        had at least `success_calls` (100) calls. None: this test is off.
    `failure_share`, `failure_calls`
        Out is who failed at least this share (0.85) of at least `failure_calls` (50) calls. None: this test is off.
        `Ejection` finds those too, by itself, unless its own `failure_ratio` is None or higher.
    `instances`
        Each test needs so many instances (5) with that many calls, or there is no mean to speak of.

    Counted are the calls in the `window` of the ejection. Raises `ValueError` for an argument out of its range. gRPC
    (its proposal A50) and Envoy have the same tests and numbers.
    """

    deviations: float | None = 1.9
    success_calls: int = 100
    failure_share: float | None = 0.85
    failure_calls: int = 50
    instances: int = 5

    def __post_init__(self) -> None:
        deviations, share = self.deviations, self.failure_share
        if deviations is not None and not (math.isfinite(deviations) and deviations > 0):
            raise ValueError(f"deviations={deviations!r}: a number of standard deviations, more than 0, or None")
        if share is not None and not 0 < share <= 1:
            raise ValueError(f"failure_share={share!r}: a share, above 0 and at most 1, or None")
        if deviations is None and share is None:
            raise ValueError("deviations=None, failure_share=None: nothing is left to compare by; give no comparison")
        for name, count, least in (
            ("success_calls", self.success_calls, 1),
            ("failure_calls", self.failure_calls, 1),
            ("instances", self.instances, 2),
        ):
            if count < least:
                raise ValueError(f"{name}={count!r}: a whole number, at least {least}")

    def outliers(self, tallies: Sequence[tuple[int, int]]) -> list[tuple[int, str]]:
        """Return who is an outlier and why, the worst first: places in `tallies`, the good and bad calls of each."""
        found: dict[int, str] = {}
        for place, reason in (*self._by_failures(tallies), *self._by_successes(tallies)):
            found.setdefault(place, reason)
        return sorted(found.items(), key=lambda outlier: _successes(tallies[outlier[0]]))

    def _by_successes(self, tallies: Sequence[tuple[int, int]]) -> list[tuple[int, str]]:
        judged = {place: _successes(tally) for place, tally in enumerate(tallies) if sum(tally) >= self.success_calls}
        if self.deviations is None or len(judged) < self.instances:
            return []
        mean = fmean(judged.values())
        limit = mean - self.deviations * pstdev(judged.values(), mean)
        return [
            (place, f"{share:.1%} of its calls succeeded, {mean:.1%} on average of {len(judged)} instances")
            for place, share in judged.items()
            if share < limit
        ]

    def _by_failures(self, tallies: Sequence[tuple[int, int]]) -> list[tuple[int, str]]:
        judged = {place: _successes(tally) for place, tally in enumerate(tallies) if sum(tally) >= self.failure_calls}
        if self.failure_share is None or len(judged) < self.instances:
            return []
        return [
            (place, f"{bad / (good + bad):.1%} of its calls failed, where the limit is {self.failure_share:.0%}")
            for place in judged
            for good, bad in [tallies[place]]
            if bad / (good + bad) >= self.failure_share
        ]


def _successes(tally: tuple[int, int]) -> float:
    good, bad = tally
    return good / (good + bad)
