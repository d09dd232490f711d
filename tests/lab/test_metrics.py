"""Percentiles, summaries, series and recovery."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.lab.load import DROPPED, OK, Record
from resilient.lab.metrics import Histogram, most_within, percentile, recovery_time, series, summarise


def call(intended, latency=0.1, *, ok=True, attempts=1) -> Record:
    return Record(intended, intended, intended + latency, ok, OK if ok else "TimeoutError", attempts)


def test_a_percentile_is_a_value_that_occurred():
    values = [float(n) for n in range(1, 101)]
    assert percentile(values, 0.5) == 50
    assert percentile(values, 0.07) == 7  # 0.07 * 100 is 7.000000000000001
    assert percentile(values, 0.99) == 99
    assert percentile(values, 0.991) == 100
    assert percentile(values, 1.0) == 100
    assert percentile(values, 1e-12) == 1
    assert percentile([3.0], 0.999) == 3


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0, 1, exclude_min=True))
def test_a_percentile_is_the_least_value_that_covers_its_fraction(values, q):
    values.sort()
    found = percentile(values, q)
    assert sum(value <= found for value in values) >= q * len(values) - 1e-6
    assert sum(value < found for value in values) < q * len(values) + 1e-6


@pytest.mark.parametrize("q", [0, -0.1, 1.1, math.nan])
def test_a_quantile_outside_of_its_range_is_refused(q):
    with pytest.raises(ValueError, match="q="):
        percentile([1.0], q)


def test_nothing_has_no_percentile():
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)
    with pytest.raises(ValueError, match="no values"):
        Histogram().quantile(0.5)


@given(st.lists(st.floats(1e-8, 1e8), min_size=1, max_size=300), st.floats(0.001, 1))
def test_a_histograms_quantiles_are_within_one_percent(values, q):
    assert Histogram(values).quantile(q) == pytest.approx(percentile(sorted(values), q), rel=0.01)


@given(st.lists(st.floats(0, 1e12)), st.lists(st.floats(0, 1e12), min_size=1))
def test_merged_histograms_are_the_histogram_of_all(left, right):
    merged = Histogram(left)
    merged.merge(Histogram(right))
    together = Histogram(left + right)
    assert (merged.count, merged.minimum, merged.maximum) == (together.count, together.minimum, together.maximum)
    assert merged.total == pytest.approx(together.total)
    assert [merged.quantile(q / 10) for q in range(1, 11)] == [together.quantile(q / 10) for q in range(1, 11)]


def test_a_histogram_stays_small():
    generator = random.Random(1)
    histogram = Histogram(10 ** generator.uniform(-20, 20) for _ in range(50_000))
    assert len(histogram._buckets) <= 3840
    assert histogram.quantile(1.0) <= histogram.maximum


def test_a_summary_counts_latency_of_successes_and_the_attempts_of_all():
    records = [call(n / 10, latency=0.01 * (n + 1)) for n in range(90)]
    records += [call(9 + n / 10, latency=0.0, ok=False, attempts=3) for n in range(10)]
    summary = summarise(records, end=10.0)
    assert summary.calls == 100
    assert summary.success_ratio == 0.9
    assert summary.goodput == pytest.approx(9.0)
    assert summary.p50 == pytest.approx(0.45)
    assert summary.p99 == pytest.approx(0.90)
    assert summary.p999 == summary.maximum == pytest.approx(0.90)
    assert summary.attempts_per_call == pytest.approx(1.2)


def test_a_success_after_the_deadline_is_no_goodput():
    records = [call(0, latency=0.5), call(1, latency=2.0)]
    assert summarise(records, end=10, deadline=1.0).goodput == pytest.approx(0.1)
    assert summarise(records, end=10, deadline=1.0).success_ratio == 1.0


def test_a_phase_is_made_of_the_calls_that_were_due_in_it():
    records = [call(n) for n in range(10)]
    assert summarise(records, start=2, end=5).calls == 3
    assert summarise(records, start=2).goodput == pytest.approx(8 / 7.1)  # until the last call ended, at 9.1


def test_nothing_sums_up_to_nothing():
    summary = summarise([])
    assert (summary.calls, summary.success_ratio, summary.goodput, summary.p50, summary.attempts_per_call) == (
        0, 0.0, 0.0, None, 0.0,
    )  # fmt: skip
    assert summarise([call(0, ok=False)]).p99 is None


def test_series_count_offers_where_due_and_calls_where_they_ended():
    records = [call(0.5, latency=1.0), call(0.6, latency=0.1, ok=False, attempts=2), call(2.0, latency=0.2)]
    windows = series(records)
    assert [w.start for w in windows] == [0, 1, 2]
    assert [w.offered for w in windows] == [2, 0, 1]
    assert [w.goodput for w in windows] == [0, 1, 1]
    assert [w.failures for w in windows] == [1, 0, 0]
    assert [w.attempts for w in windows] == [2, 1, 1]
    assert [w.p50 for w in windows] == [None, pytest.approx(1.0), pytest.approx(0.2)]


def test_series_give_rates_a_second_whatever_the_width():
    records = [call(n / 100, latency=0) for n in range(1000)]
    windows = series(records, width=2.5, end=10)
    assert [w.goodput for w in windows] == pytest.approx([100] * 4)
    assert [w.offered for w in windows] == pytest.approx([100] * 4)


def test_what_ends_with_the_run_belongs_to_its_last_window():
    assert [w.goodput for w in series([call(0, latency=1.0), call(1, latency=1.0)])] == [0, 2]


def test_series_end_where_they_are_told_to():
    records = [call(0), call(1), call(7), Record(7, 7, 7, ok=False, outcome=DROPPED, attempts=0)]
    assert [w.goodput for w in series(records, end=3)] == [1, 1, 0]
    assert len(series([])) == 1
    with pytest.raises(ValueError, match="width=0"):
        series(records, width=0)


def test_a_success_after_the_deadline_is_a_failure_of_its_window():
    (window,) = series([call(0, latency=0.9)], deadline=0.5)
    assert (window.goodput, window.failures) == (0, 1)


def outage(until: float) -> list[Record]:
    """100 calls a second for a minute; from second 20 on they fail, from `until` on they succeed."""
    return [call(n / 100, latency=0.0, ok=not 20 <= n / 100 < until) for n in range(6000)]


def test_recovery_is_the_first_good_window_after_the_trigger():
    assert recovery_time(outage(30), trigger=(20, 30)) == 0.0
    assert recovery_time(outage(37), trigger=(20, 30)) == 7.0


def test_recovery_needs_the_whole_window():
    # One good second among bad ones is luck.
    records = [r for r in outage(45) if not 33 <= r.intended < 34] + [call(33 + n / 100, latency=0) for n in range(100)]
    assert recovery_time(records, trigger=(20, 30)) == 15.0


def test_no_recovery_within_the_load_is_none():
    assert recovery_time(outage(60), trigger=(20, 30)) is None
    assert recovery_time(outage(37), trigger=(20, 30), end=39.5) is None
    assert recovery_time(outage(58.5), trigger=(20, 30)) is None  # a window that reaches beyond the load proves nothing


def test_slow_successes_are_no_recovery():
    records = outage(30)
    slow = [call(r.intended, latency=2.0) if r.intended >= 30 else r for r in records]
    assert recovery_time(slow, trigger=(20, 30), deadline=1.0) is None
    assert recovery_time(slow, trigger=(20, 30)) == 2.0


def test_the_fraction_of_the_goodput_before_is_what_counts():
    records = [r for n, r in enumerate(outage(20)) if r.intended < 20 or n % 10 != 0]  # 90 % of it afterwards
    assert recovery_time(records, trigger=(20, 30)) is None
    assert recovery_time(records, trigger=(20, 30), fraction=0.9) == 0.0


def test_there_must_be_something_to_come_back_to():
    with pytest.raises(ValueError, match=r"trigger=\(0, 5\)"):
        recovery_time(outage(30), trigger=(0, 5))


# The most in any span of time


@pytest.mark.parametrize(
    ("instants", "width", "most"),
    [
        ([], 1.0, 0),
        ([5.0], 1.0, 1),
        ([0.0, 1.0, 2.0], 1.0, 1),  # the end does not belong to it
        ([0.0, 0.5, 0.9, 1.0, 1.1, 3.0], 1.0, 4),
        ([2.0, 2.0, 2.0], 0.1, 3),
        (range(100), 60.0, 60),
    ],
)
def test_most_within(instants, width, most):
    assert most_within(instants, width) == most
