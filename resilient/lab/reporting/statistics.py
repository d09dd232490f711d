"""What several seeds say together: means, intervals, and whether two policies differ.

**What is computed.** Of each metric the mean over the seeds that have a value; of `recovery`, where a run that never
recovers counts as infinity, the median, and how many seeds did recover. Two policies are compared seed by seed: both
met the same arrivals and the same service times (common random numbers), so their differences vary far less than either
of them does.

**The intervals** are those of the percentile bootstrap (Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993,
chapter 13): 2000 resamples of the seeds with replacement, and of their means (or medians) the quantiles that bound 95
%. Few values vary less than what they are drawn from, so the quantiles are taken a little further out, by as much as
makes the interval of normally distributed values as long as Student's t would (Hesterberg, *What Teachers Should Know
About the Bootstrap*, 2015). The resamples depend on nothing but the number of seeds: the same results give the same
intervals on every machine and every Python.

**What ten seeds can show.** Differences that stand out from chance: half of such an interval is about 0.7 standard
deviations of the paired differences long, and a difference of 1.2 of them is found in nine of ten cases. In overload
most are far larger: never against one second, three times the load against one. The interval of a mean holds the true
one in 94 of 100 cases where values are distributed normally, and in 90 where they are skewed like an exponential (a
test measures these three).

**What they cannot show.** What happens in one run of a hundred: a policy that recovered with each of ten seeds may
still fail in up to 26 % of all runs (1 - 0.05^(1/10)). With fewer than `LEAST` seeds no difference is called clear,
because even where all of them agree, chance alone does that too often (2 x 0.5^5 = 6 % of all times); with three, an
interval holds the true mean in only 74 of 100 cases. And of twenty comparisons in which nothing differs, one looks
clear.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from statistics import NormalDist
from typing import Any, Final, final

from resilient.lab.reporting.measures import NEVER, Measure, measure_of
from resilient.lab.results import Results, Run

__all__ = [
    "LEAST",
    "Difference",
    "Estimate",
    "bootstrap",
    "difference",
    "estimate",
    "estimate_of",
    "paired_values",
    "values_of",
]

LEAST: Final = 6
"""Seeds that a difference needs to be called clear."""

_RESAMPLES = 2000
_LEVEL = 0.95


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A metric of a policy over its seeds."""

    measure: Measure
    centre: float | None
    """The mean; of recovery the median, infinity where it never recovers. None where no seed has a value."""
    low: float | None
    high: float | None
    """Of the 95 % interval; None where fewer than two seeds have a value."""
    seeds: int
    """That have a value."""
    missing: int
    """Seeds that have none."""
    never: int
    """Of `seeds`, those that never got there."""

    @property
    def text(self) -> str:
        """The value as it is written, without its interval."""
        return self.texts[0]

    @property
    def texts(self) -> tuple[str, str]:
        """The value and its interval as they are written; the interval is "" where it says nothing more."""
        if self.centre is None or self.low is None or self.high is None:
            return self.measure.text(self.centre), ""
        return self.measure.texts(self.centre, self.low, self.high)

    @property
    def remark(self) -> str:
        """What the value leaves out: that some seeds never got there, or have no value."""
        if 0 < self.never < self.seeds:
            # The value says "never" itself where most of them do not get there.
            return f"{self.never} of {self.seeds} seeds{'' if self.centre == NEVER else ' never'}"
        return f"only {self.seeds} of {self.seeds + self.missing} seeds" if self.missing and self.seeds else ""

    def __str__(self) -> str:
        value, interval = self.texts
        return " ".join(part for part in (value, interval, f"({self.remark})" if self.remark else "") if part)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How much more of a metric one has than another, seed by seed."""

    measure: Measure
    centre: float | None
    """The mean of the differences; of recovery their median. None where they have no seed in common."""
    low: float | None
    high: float | None
    seeds: int
    """That both have a value for."""

    @property
    def enough(self) -> bool:
        """Are there seeds enough to call a difference clear?"""
        return self.seeds >= LEAST

    @property
    def clear(self) -> bool:
        """Does the interval exclude 0, and are there seeds enough to say so?"""
        return self.enough and self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def better(self) -> bool:
        """Is the first clearly better than the second?"""
        return self.clear and self.centre is not None and self.measure.prefers(self.centre)

    @property
    def worse(self) -> bool:
        """Is the first clearly worse than the second?"""
        return self.clear and self.centre is not None and self.measure.prefers(-self.centre)

    @property
    def text(self) -> str:
        """The difference with its sign, and its interval."""
        if self.centre is None:
            return self.measure.text(None)
        low, high = (self.centre if end is None else end for end in (self.low, self.high))
        value, interval = self.measure.difference_texts(self.centre, low, high)
        return f"{value} {interval}".rstrip()


def values_of(measure: Measure, runs: Mapping[int, Run]) -> dict[int, float | None]:
    """Return the metric by seed; infinity where it never got there, None where it has no value."""
    nothing = NEVER if measure.never else None
    found: dict[int, float | None] = {}
    for seed, run in runs.items():
        value = run.metrics.get(measure.name)
        found[seed] = nothing if value is None and measure.name in run.metrics else value
    return found


def estimate(results: Results, scenario: str, policy: str, metric: str) -> Estimate:
    """Sum up a metric of a policy over all of its seeds in a scenario."""
    return estimate_of(measure_of(metric), results.of(scenario, policy))


def estimate_of(measure: Measure, runs: Mapping[int, Run]) -> Estimate:
    """Sum up a metric over runs, by seed."""
    values = values_of(measure, runs)
    known = [value for value in values.values() if value is not None]
    centre, low, high = _summary(measure, known)
    return Estimate(
        measure=measure,
        centre=centre,
        low=low,
        high=high,
        seeds=len(known),
        missing=len(values) - len(known),
        never=known.count(NEVER),
    )


def difference(results: Results, scenario: str, metric: str, policy: str, other: str) -> Difference:
    """Compare two policies in a scenario over the seeds that both were run with: how much more has `policy`?"""
    measure = measure_of(metric)
    return paired_values(
        measure,
        values_of(measure, results.of(scenario, policy)),
        values_of(measure, results.of(scenario, other)),
    )


def paired_values(
    measure: Measure, values: Mapping[int, float | None], others: Mapping[int, float | None]
) -> Difference:
    """Compare values by seed: how much larger are `values` than `others`? Two that never got there do not differ."""
    differences: list[float] = []
    for seed in sorted(values.keys() & others.keys()):
        value, other = values[seed], others[seed]
        if value is not None and other is not None:
            differences.append(0.0 if value == other else value - other)
    centre, low, high = _summary(measure, differences)
    return Difference(measure=measure, centre=centre, low=low, high=high, seeds=len(differences))


def _summary(measure: Measure, values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    if not values:
        return None, None, None
    statistic = _median if measure.never else _mean
    if len(values) == 1:
        return values[0], None, None
    return (statistic(values), *bootstrap(values, statistic))


def bootstrap(values: Sequence[float], statistic: Callable[[Sequence[float]], float]) -> tuple[float, float]:
    """Return the 95 % interval of a statistic of at least two values; see the head of this module for how."""
    return _interval(tuple(values), statistic)


@lru_cache(maxsize=4096)  # a page, a table and their findings ask for the same ones
def _interval(values: tuple[float, ...], statistic: Callable[[Sequence[float]], float]) -> tuple[float, float]:
    if all(value == values[0] for value in values):
        return values[0], values[0]
    found = sorted(statistic(pick(values)) for pick in _resamples(len(values)))
    outside = int(_tail(len(values)) * _RESAMPLES)
    return found[outside], found[-1 - outside]


@lru_cache(maxsize=64)
def _resamples(size: int) -> Sequence[Callable[[Sequence[float]], Any]]:
    # Which of them are drawn, for every sample of this size: common random numbers here too.
    # Their seed names no module: it stays what it is, or every interval ever printed would change.
    chance = random.Random(f"resilient.lab.statistics {size}")
    return [itemgetter(*chance.choices(range(size), k=size)) for _ in range(_RESAMPLES)]


def _tail(size: int) -> float:
    """The part of the resamples on either side that the interval leaves out."""
    normal = NormalDist()
    z = normal.inv_cdf((1 + _LEVEL) / 2)
    freedom = size - 1
    # Student's t from the normal quantile (Abramowitz and Stegun, 26.7.5). Where it is off, below three degrees of
    # freedom, the tail holds no resample anyway.
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    return normal.cdf(-t * math.sqrt(size / freedom))


def _mean(values: Sequence[float]) -> float:
    # Not sum: since 3.12 it rounds otherwise than before. And six times 0.2 is 0.2, whatever the division rounds to.
    return min(max(math.fsum(values) / len(values), min(values)), max(values))


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    below, above = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    if below == above:
        return below
    return 0.0 if math.isinf(below) and math.isinf(above) else (below + above) / 2
