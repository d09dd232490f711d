"""What is summed up while a run goes on is what its records come to afterwards."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient.lab.load import OK, UNFINISHED, Record
from resilient.lab.metrics import percentile
from resilient.lab.simulation.recording import _OPEN, Recording

DEADLINE = 2.0
GROUPS = [(), ("a",), ("a", "b")]


@st.composite
def calls(draw, duration):
    """Records and their groups, in the order in which the calls ended."""
    found = []
    for number, due in enumerate(sorted(draw(st.lists(st.floats(0, duration, exclude_max=True), max_size=80)))):
        lasts = draw(st.one_of(st.just(0.0), st.floats(0, 5), st.floats(0, 60)))
        ok = draw(st.booleans())
        record = Record(due, due, due + lasts, ok, OK if ok else UNFINISHED, 1, number)
        found.append((record, draw(st.sampled_from(GROUPS))))
    return sorted(found, key=lambda pair: pair[0].finished)


def is_good(record):
    return record.ok and record.finished - record.intended <= DEADLINE


def good_between(records, low, high):
    return sum(is_good(record) and low <= int(record.finished) < high for record in records)


def about(value):
    """As exact as a histogram is."""
    return None if value is None else pytest.approx(value, rel=0.01, abs=1e-9)


@settings(max_examples=150)
@given(data=st.data())
def test_a_recording_is_what_its_records_come_to(data):
    duration = data.draw(st.integers(1, 40), label="duration")
    warmup = data.draw(st.integers(0, duration - 1), label="warm-up")
    begins = data.draw(st.integers(0, duration), label="trigger")
    ends = data.draw(st.integers(begins + 1, duration + 1), label="its end")
    found = data.draw(calls(duration), label="calls")

    recording = Recording(start=warmup, end=duration, deadline=DEADLINE, trigger=(begins, ends))
    for record, groups in found:
        recording.record(record, groups)
    records = [record for record, _ in found]
    counted = [record for record in records if record.intended >= warmup]
    latencies = sorted(record.finished - record.intended for record in counted if record.ok)
    metrics = recording.metrics()

    assert recording.offered == len(records)
    assert metrics["calls"] == len(counted)
    good = sum(map(is_good, counted))
    assert metrics["success"] == (good / len(counted) if counted else None)
    assert metrics["goodput"] == good / (duration - warmup)
    for name, q in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)]:
        assert metrics[name] == about(percentile(latencies, q) if latencies else None)
    assert metrics["max"] == (latencies[-1] if latencies else None)
    assert metrics["mean"] == about(math.fsum(latencies) / len(latencies) if latencies else None)
    for group in ("a", "b"):
        those = [record for record, groups in found if group in groups and record.intended >= warmup]
        assert metrics.get(f"success.{group}") == (sum(map(is_good, those)) / len(those) if those else None)

    def rate(low, high):
        return good_between(records, low, high) / (high - low) if low < high else None

    before = rate(warmup, begins)
    assert metrics["goodput.before"] == before
    assert metrics["goodput.during"] == rate(begins, ends)
    assert metrics["goodput.after"] == rate(ends, duration)
    recovered = [
        float(second - ends)
        for second in range(ends, duration - 2)
        if before and good_between(records, second, second + 3) >= 0.95 * before * 3 - 1e-9
    ]
    assert metrics["recovery"] == (recovered[0] if recovered else None)

    series = recording.series()
    assert {len(values) for values in series.values()} == {duration}
    for second in range(duration):
        ended = [record for record in records if int(record.finished) == second]
        due = sorted(r.finished - r.intended for r in records if r.ok and int(r.intended) == second)
        assert series["offered"][second] == sum(int(record.intended) == second for record in records)
        assert series["goodput"][second] == sum(map(is_good, ended))
        assert series["failures"][second] == len(ended) - sum(map(is_good, ended))
        assert series["p50"][second] == about(percentile(due, 0.5) if due else None)
        assert series["p99"][second] == about(percentile(due, 0.99) if due else None)


def ok(due, lasts=0.5):
    return Record(due, due, due + lasts, True, OK, 1)


def test_what_is_not_finished_has_failed():
    recording = Recording(start=0, end=10, deadline=math.inf, trigger=None)
    recording.record(ok(1.0))
    recording.record(Record(2.0, 2.0, 20.0, False, UNFINISHED, 1))
    metrics = recording.metrics()
    assert (metrics["calls"], metrics["success"], metrics["max"]) == (2, 0.5, 0.5)


def test_an_answer_after_the_deadline_is_none_but_has_its_latency():
    recording = Recording(start=0, end=10, deadline=1.0, trigger=None)
    recording.record(ok(1.0, lasts=1.0))
    recording.record(ok(2.0, lasts=1.5))
    metrics = recording.metrics()
    assert (metrics["success"], metrics["goodput"], metrics["max"]) == (0.5, 0.1, 1.5)


def test_a_part_of_a_second_counts_as_a_part():
    recording = Recording(start=0.5, end=2.5, deadline=1.0, trigger=None)
    for due in (0.6, 1.0, 2.4):
        recording.record(ok(due))
    metrics = recording.metrics()
    assert (metrics["calls"], metrics["goodput"]) == (2, 2 / 1.5)  # from the first whole second on
    assert recording.series()["offered"] == [1, 1, 1]


def test_memory_does_not_grow_with_the_run():
    recording = Recording(start=0, end=10_000, deadline=1.0, trigger=None)
    for number in range(10_000):
        recording.record(ok(float(number), lasts=0.1 + number % 7))
        assert len(recording._latencies) <= _OPEN
    assert recording.metrics()["p50"] == about(3.1)


def test_what_ends_very_late_still_counts_for_the_whole_run():
    recording = Recording(start=0, end=1000, deadline=math.inf, trigger=None)
    recording.record(ok(0.0, lasts=1.0))
    for second in range(1, 300):
        recording.record(ok(float(second), lasts=1.0))
    recording.record(ok(0.5, lasts=300.0))
    assert recording.metrics()["max"] == 300.0
    assert recording.metrics()["calls"] == 301
    assert recording.series()["p99"][0] == about(1.0)  # its second is closed


def test_nothing_is_nothing():
    recording = Recording(start=0, end=10, deadline=1.0, trigger=(3, 6))
    metrics = recording.metrics()
    assert metrics["calls"] == 0
    assert metrics["goodput"] == 0.0
    assert metrics["goodput.after"] == 0.0
    assert [metrics[name] for name in ("success", "p50", "p99", "p999", "max", "mean", "recovery")] == [None] * 7
    assert recording.series()["p50"] == [None] * 10
