"""What a run comes to before, during and after its trigger, and at single seconds."""

from __future__ import annotations

import pytest

from resilient.lab.faults import Fail, Slow
from resilient.lab.load import Record
from resilient.lab.simulation.recording import Recording
from tests.lab.measured import measure
from tests.lab.samples_of_worlds import Look, small_world


def recording_of(*calls: tuple[float, float, bool], **options) -> Recording:
    """Record calls: when each was due, how long it took, and whether it succeeded."""
    recording = Recording(start=1.0, end=10.0, deadline=2.0, trigger=options.get("trigger", (4.0, 6.0)))
    for due, seconds, ok in calls:
        recording.record(Record(due, due, due + seconds, ok, "ok" if ok else "500", 1), options.get("groups", ()))
    return recording


def test_a_call_belongs_to_the_phase_in_which_it_was_due():
    metrics = recording_of(
        (2.0, 0.1, True),
        (3.9, 1.0, True),  # answered during the trigger
        (4.0, 0.2, False),
        (5.9, 0.4, True),
        (6.0, 0.3, True),
        (7.0, 3.0, True),  # too late
    ).metrics()
    assert (metrics["success.during"], metrics["success.after"]) == (0.5, 0.5)
    assert metrics["success"] == pytest.approx(4 / 6)
    expected = {"p99.before": 1.0, "p99.during": 0.4, "p99.after": 3.0}
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=0.01)


def test_what_did_not_happen_has_no_value():
    metrics = recording_of((2.0, 0.1, True), (4.0, 0.2, False)).metrics()
    assert (metrics["success.during"], metrics["success.after"]) == (0.0, None)
    assert (metrics["p99.during"], metrics["p99.after"]) == (None, None)


def test_each_group_has_a_success_of_its_own_during_the_trigger():
    recording = recording_of((2.0, 0.1, True), (5.0, 0.1, False), groups=("a",))
    for due in (4.5, 5.5):
        recording.record(Record(due, due, due + 0.1, due < 5, "ok", 1), ("a", "b"))
    metrics = recording.metrics()
    assert metrics["success.a"] == 0.5
    assert metrics["success.during.a"] == pytest.approx(1 / 3)
    assert metrics["success.during.b"] == 0.5


def test_without_a_trigger_there_are_no_phases():
    metrics = recording_of((2.0, 0.1, True), trigger=None).metrics()
    assert not [name for name in metrics if name.partition(".")[2] in {"before", "during", "after"}]


def test_latencies_that_come_after_their_second_was_closed_count_for_its_phase():
    recording = recording_of(*((second + 0.5, 0.1, True) for second in range(130)))
    recording.record(Record(5.6, 5.6, 135.6, True, "ok", 1))  # second 5 was closed long ago
    assert recording.metrics()["p99.during"] == pytest.approx(130.0, rel=0.01)


def test_single_seconds_can_be_looked_at():
    recording = recording_of((4.0, 0.1, True), (4.5, 0.9, True), (5.0, 0.2, False))
    seen = [recording.p99(second) for second in (4, 5, 9)]
    assert seen == [pytest.approx(0.9, rel=0.01), None, None]
    assert (recording.success(4, 5), recording.success(5, 6), recording.success(6, 9)) == (1.0, 0.0, None)
    recording.metrics()  # closes all
    assert [recording.p99(second) for second in (4, 5, 9)] == seen


def test_in_a_run_the_trigger_s_failures_and_latencies_are_its_own():
    faults = Fail(at=3, seconds=2, ratio=0.5), Slow(at=3, seconds=2, factor=100)
    metrics = measure(small_world(*faults, trigger=(3.0, 5.0)), "none").metrics
    assert metrics["success.during"] == pytest.approx(0.5, abs=0.1)
    assert metrics["success.after"] == 1.0
    assert metrics["p99.during"] == pytest.approx(0.1, rel=0.02)
    assert [metrics["p99.before"], metrics["p99.after"]] == pytest.approx([0.001, 0.001], rel=0.02)


def test_the_share_of_an_instance_can_be_looked_at_between_two_seconds():
    shares: dict[str, float | None] = {}

    def note(world):
        shares["before"] = world.share("app-0", 0, 3)
        shares["during"] = world.share("app-0", 4, 7)
        shares["nobody"] = world.share("app-9", 4, 7)
        return {}

    leave = Look(at=3.0, look=lambda world: world.fleet().delist(world.fleet().servers[:1]))
    measure(small_world(leave, measure=note), "none")
    assert shares == {"before": pytest.approx(1 / 3, abs=0.01), "during": 0.0, "nobody": 0.0}
