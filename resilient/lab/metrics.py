"""What a run's records say: percentiles, goodput, series over time, and the time to recover.

Latency counts from the instant at which a call was due (see `resilient.lab.load`), and only that of calls which
succeeded counts: failing fast must not look like being fast. What failed shows in the success ratio and the goodput.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import final

from resilient.lab.load import Record

__all__ = [
    "Histogram",
    "Summary",
    "Window",
    "first_recovered",
    "most_within",
    "percentile",
    "recovery_time",
    "series",
    "summarise",
]


def _rank(q: float, values: int) -> int:
    """The nearest rank of a quantile, from 1: the first one that the fraction `q` of all does not exceed."""
    if not 0 < q <= 1:
        raise ValueError(f"q={q!r}: a quantile is a fraction, more than 0 and at most 1")
    if values < 1:
        raise ValueError(f"q={q!r}: no quantile of no values")
    return max(1, math.ceil(q * values - 1e-9))  # 0.07 * 100 is a little more than 7


def percentile(ordered: Sequence[float], q: float) -> float:
    """Return the smallest of the ascending values that the fraction `q` of them does not exceed.

    It is a value that occurred (the "nearest rank"), never the mean of two. Raises ValueError where there are no
    values or `q` is not in (0, 1].
    """
    return ordered[_rank(q, len(ordered)) - 1]


@final
class Histogram:
    """Counts values in buckets whose width grows with the value: quantiles within 1 %, in bounded memory.

    Each power of two is divided into 64 equal buckets, so a bucket's middle is off by at most 1/128. Values from a
    nanosecond to 30 years (in seconds) have buckets of their own, 3840 at most; beyond, they share the last one.
    """

    __slots__ = ("_buckets", "count", "maximum", "minimum", "total")

    _PARTS = 64
    _LOWEST = 1e-9
    _HIGHEST = 1e9

    def __init__(self, values: Iterable[float] = ()) -> None:
        self._buckets: Counter[int] = Counter()
        self.count = 0
        self.total = 0.0
        self.minimum = math.inf
        self.maximum = -math.inf
        for value in values:
            self.record(value)

    def record(self, value: float) -> None:
        """Count one value."""
        fraction, exponent = math.frexp(min(max(value, self._LOWEST), self._HIGHEST))
        self._buckets[exponent * self._PARTS + int((fraction - 0.5) * 2 * self._PARTS)] += 1
        self.count += 1
        self.total += value
        self.minimum = min(self.minimum, value)
        self.maximum = max(self.maximum, value)

    def merge(self, other: Histogram) -> None:
        """Count everything that `other` counted."""
        self._buckets.update(other._buckets)
        self.count += other.count
        self.total += other.total
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)

    def quantile(self, q: float) -> float:
        """Return the value that the fraction `q` of all does not exceed, within 1 %; ValueError where there is none."""
        left = _rank(q, self.count)
        bucket = next(key for key in sorted(self._buckets) if (left := left - self._buckets[key]) <= 0)
        exponent, part = divmod(bucket, self._PARTS)
        middle = math.ldexp(0.5 + (part + 0.5) / (2 * self._PARTS), exponent)
        return min(max(middle, self.minimum), self.maximum)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A run, or a phase of it, in one line. Latencies are seconds, None where no call succeeded."""

    calls: int
    success_ratio: float
    """Of the calls that were due."""
    goodput: float
    """Successes a second, within the deadline if one was given."""
    p50: float | None
    p99: float | None
    p999: float | None
    maximum: float | None
    attempts_per_call: float
    """How much the policies multiply the load."""


def summarise(
    records: Iterable[Record], *, start: float = 0.0, end: float | None = None, deadline: float | None = None
) -> Summary:
    """Sum up the calls that were due from second `start` until `end` (left out: until the last call ended).

    `deadline` is the latency beyond which a success is too late for the goodput.
    """
    chosen = [record for record in records if start <= record.intended < (math.inf if end is None else end)]
    if end is None:
        end = max((record.finished for record in chosen), default=start)
    latencies = sorted(record.latency for record in chosen if record.ok)
    good = len(latencies) if deadline is None else sum(latency <= deadline for latency in latencies)
    p50, p99, p999, maximum = (percentile(latencies, q) if latencies else None for q in (0.5, 0.99, 0.999, 1.0))
    return Summary(
        calls=len(chosen),
        success_ratio=len(latencies) / len(chosen) if chosen else 0.0,
        goodput=good / (end - start) if end > start else 0.0,
        p50=p50,
        p99=p99,
        p999=p999,
        maximum=maximum,
        attempts_per_call=sum(record.attempts for record in chosen) / len(chosen) if chosen else 0.0,
    )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A stretch of a run. Rates are per second; calls count where they ended, `offered` where they were due."""

    start: float
    offered: float
    goodput: float
    failures: float
    attempts: float
    p50: float | None
    p99: float | None


def series(
    records: Iterable[Record], *, width: float = 1.0, end: float | None = None, deadline: float | None = None
) -> list[Window]:
    """Cut a run into windows of `width` seconds from second 0 until `end` (left out: until the last call ended).

    A success later than `deadline` after it was due counts as a failure. What happens after `end` is left out.
    """
    if not width > 0:
        raise ValueError(f"width={width!r}: a window is longer than 0 seconds")
    records = list(records)
    if end is None:
        end = max((record.finished for record in records), default=0.0)
    windows = max(1, math.ceil(end / width - 1e-9))
    due = Counter(int(record.intended / width) for record in records)
    ended: list[list[Record]] = [[] for _ in range(windows)]
    for record in records:
        # What ends with the last window belongs to it.
        index = windows - 1 if record.finished == end else int(record.finished / width)
        if index < windows:
            ended[index].append(record)
    return [_window(index * width, due[index] / width, group, width, deadline) for index, group in enumerate(ended)]


def _window(start: float, offered: float, ended: list[Record], width: float, deadline: float | None) -> Window:
    latencies = sorted(record.latency for record in ended if record.ok)
    good = len(latencies) if deadline is None else sum(latency <= deadline for latency in latencies)
    return Window(
        start=start,
        offered=offered,
        goodput=good / width,
        failures=(len(ended) - good) / width,
        attempts=sum(record.attempts for record in ended) / width,
        p50=percentile(latencies, 0.5) if latencies else None,
        p99=percentile(latencies, 0.99) if latencies else None,
    )


def recovery_time(
    records: Iterable[Record],
    *,
    trigger: tuple[float, float],
    start: float = 0.0,
    end: float | None = None,
    window: float = 3.0,
    fraction: float = 0.95,
    deadline: float | None = None,
) -> float | None:
    """Return the seconds from the trigger's end until goodput is back, or None if it does not come back.

    It is back at the beginning of the first window of `window` seconds, tried second by second, whose goodput is
    at least `fraction` of that between `start` (after the warm-up) and the trigger's beginning. Three seconds ride
    out a lucky second, and 95 % is what chance leaves of the same load. `end` is where the load ends (left out: the
    last call that was due); a window that reaches beyond it proves nothing. `deadline` is as in `summarise`.

    Raises ValueError when nothing succeeded before the trigger: there is nothing to come back to.
    """
    records = list(records)
    began, ended = trigger
    good = sorted(r.finished for r in records if r.ok and (deadline is None or r.latency <= deadline))
    before = _between(good, start, began)
    if before == 0:
        raise ValueError(f"trigger={trigger!r}: no call succeeded between second {start!r} and its beginning")
    if end is None:
        end = max(record.intended for record in records)
    return first_recovered(
        lambda low, high: _between(good, low, high),
        rate=before / (began - start),
        since=ended,
        until=end,
        window=window,
        fraction=fraction,
    )


def first_recovered(
    successes: Callable[[float, float], float],
    *,
    rate: float,
    since: float,
    until: float,
    window: float = 3.0,
    fraction: float = 0.95,
) -> float | None:
    """Return how many seconds after `since` the `successes` between two seconds are back at `rate` a second, or None.

    See `recovery_time`.
    """
    enough = fraction * rate * window - 1e-9
    for second in range(max(0, math.floor(until - window - since + 1e-9) + 1)):
        if successes(since + second, since + second + window) >= enough:
            return float(second)
    return None


def most_within(instants: Sequence[float], width: float) -> int:
    """Return the most of the ascending instants that lie within any `width` seconds, the first included, the end not.

    It is what a rate limit is judged by: whatever its windows, an adversary chooses the worst.
    """
    most = first = 0
    for last, instant in enumerate(instants):
        while instant - instants[first] >= width:
            first += 1
        most = max(most, last + 1 - first)
    return most


def _between(ordered: Sequence[float], start: float, end: float) -> int:
    return bisect_left(ordered, end) - bisect_left(ordered, start)
