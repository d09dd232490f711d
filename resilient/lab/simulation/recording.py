"""Sums up a run while it goes on, in memory that the number of calls does not grow."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import final

from resilient import errors
from resilient.lab.load import Record
from resilient.lab.metrics import Histogram, first_recovered
from resilient.lab.results import Number

__all__ = ["Recording"]

_REJECTIONS = frozenset(
    kind.__name__ for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.Rejected)
)
_OPEN = 120
"""Seconds for which the latencies are kept apart; a call that ends later still counts for the whole run."""


@final
class Recording:
    """What became of all calls, second by second and in all.

    A call is *good* if it succeeded within `deadline` of when it was due. Calls count in the second in which they were
    due, for latencies too; over time (in the series, and around the trigger) goodput and failures count in the second
    in which the call ended. *Rejected* are those that a policy refused: a limiter, a breaker, the throttle.
    """

    def __init__(self, *, start: float, end: float, deadline: float, trigger: tuple[float, float] | None) -> None:
        self._start = math.ceil(start)
        self._end = math.ceil(end)
        self._span = end - self._start
        self._deadline = deadline
        self._trigger = None if trigger is None else (int(trigger[0]), int(trigger[1]))
        self._offered: defaultdict[int, int] = defaultdict(int)
        self._fulfilled: defaultdict[int, int] = defaultdict(int)
        self._good: defaultdict[int, int] = defaultdict(int)
        self._failed: defaultdict[int, int] = defaultdict(int)
        self._rejected: defaultdict[int, int] = defaultdict(int)
        self._latencies: dict[int, Histogram] = {}
        self._quantiles: dict[int, tuple[float, float]] = {}
        self._all = Histogram()
        self._phases = {"before": Histogram(), "during": Histogram(), "after": Histogram()}
        self._calls = self._successes = 0
        self._groups: dict[str, list[int]] = {}
        self._during: dict[str, list[int]] = {}

    def record(self, record: Record, groups: tuple[str, ...] = ()) -> None:
        """Count one call, also for the `groups` that it belongs to."""
        due = int(record.intended)
        latency = record.finished - record.intended
        good = record.ok and latency <= self._deadline
        counts = self._start <= due < self._end
        self._offered[due] += 1
        self._fulfilled[due] += good
        (self._good if good else self._failed)[int(record.finished)] += 1
        if record.outcome in _REJECTIONS:
            self._rejected[int(record.finished)] += 1
        if counts:
            self._calls += 1
            self._successes += good
            for group in groups:
                _tally(self._groups, group, good=good)
                if self._trigger is not None and self._trigger[0] <= due < self._trigger[1]:
                    _tally(self._during, group, good=good)
        if record.ok:
            self._note(due, latency, counts=counts)

    def _note(self, due: int, latency: float, *, counts: bool) -> None:
        latencies = self._latencies.get(due)
        if latencies is None:
            if due in self._quantiles:
                if counts:
                    self._all.record(latency)
                    self._phase(due).record(latency)
                return
            latencies = self._latencies[due] = Histogram()
            if len(self._latencies) > _OPEN:
                self._close(min(self._latencies))
        latencies.record(latency)

    def _close(self, second: int) -> None:
        latencies = self._latencies.pop(second)
        self._quantiles[second] = (latencies.quantile(0.5), latencies.quantile(0.99))
        if self._start <= second < self._end:
            self._all.merge(latencies)
            self._phase(second).merge(latencies)

    def _phase(self, second: int) -> Histogram:
        begins, ends = (math.inf, math.inf) if self._trigger is None else self._trigger
        return self._phases["before" if second < begins else "during" if second < ends else "after"]

    @property
    def offered(self) -> int:
        """All calls that were due, those of the warm-up too."""
        return sum(self._offered.values())

    def metrics(self) -> dict[str, Number]:
        """What the run comes to."""
        self._close_all()
        some = self._all.count > 0
        found: dict[str, Number] = {
            "calls": self._calls,
            "success": self._successes / self._calls if self._calls else None,
            "goodput": self._successes / self._span,
            "p50": self._all.quantile(0.5) if some else None,
            "p99": self._all.quantile(0.99) if some else None,
            "p999": self._all.quantile(0.999) if some else None,
            "max": self._all.maximum if some else None,
            "mean": self._all.total / self._all.count if some else None,
        }
        for group, (calls, good) in sorted(self._groups.items()):
            found[f"success.{group}"] = good / calls
        if self._trigger is not None:
            found.update(self._phase_by_phase(*self._trigger))
        return found

    def _phase_by_phase(self, begins: int, ends: int) -> dict[str, Number]:
        before = self._rate(self._start, begins)
        found: dict[str, Number] = {
            "goodput.before": before,
            "goodput.during": self._rate(begins, ends),
            "goodput.after": self._rate(ends, self._end),
            # Where there was nothing before, there is nothing to come back to.
            "recovery": first_recovered(self._good_between, rate=before, since=ends, until=self._end)
            if before
            else None,
            "success.during": self.success(begins, ends),
            "success.after": self.success(ends, self._end),
        }
        for phase, latencies in self._phases.items():
            found[f"p99.{phase}"] = latencies.quantile(0.99) if latencies.count else None
        for group, (calls, good) in sorted(self._during.items()):
            found[f"success.during.{group}"] = good / calls
        return found

    def _close_all(self) -> None:
        for second in sorted(self._latencies):
            self._close(second)

    def _rate(self, low: int, high: int) -> Number:
        return self._good_between(low, high) / (high - low) if low < high else None

    def _good_between(self, low: float, high: float) -> int:
        return sum(self._good[second] for second in range(int(low), int(high)))

    def success(self, since: int, until: int) -> Number:
        """The share of the calls due between two seconds that were good; None where there were none."""
        offered = sum(self._offered[second] for second in range(since, until))
        return sum(self._fulfilled[second] for second in range(since, until)) / offered if offered else None

    def p99(self, second: int) -> Number:
        """The 99th percentile of the latencies of the calls that were due in that second and succeeded."""
        latencies = self._latencies.get(second)
        if latencies is not None:
            return latencies.quantile(0.99)
        return self._quantiles[second][1] if second in self._quantiles else None

    def series(self) -> dict[str, list[Number]]:
        """The same over time, one value a second."""
        self._close_all()
        seconds = range(self._end)
        quantiles = [self._quantiles.get(second, (None, None)) for second in seconds]
        counted: Mapping[str, Mapping[int, int]] = {
            "offered": self._offered,
            "goodput": self._good,
            "failures": self._failed,
            "rejected": self._rejected,
        }
        found: dict[str, list[Number]] = {
            name: [counts.get(second, 0) for second in seconds] for name, counts in counted.items()
        }
        found["p50"] = [low for low, _ in quantiles]
        found["p99"] = [high for _, high in quantiles]
        return found


def _tally(tallies: dict[str, list[int]], group: str, *, good: bool) -> None:
    tally = tallies.setdefault(group, [0, 0])
    tally[0] += 1
    tally[1] += good
