"""What is believed of a source."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.discovery import LastGood, OnEmpty
from resilient.instance import Instance
from resilient.snapshot import Snapshot

A, B, C = (Instance(id=name, host=name, port=80) for name in "abc")


def test_an_answer_becomes_a_snapshot() -> None:
    assert LastGood().learn([B, A], 1.0) == Snapshot(version=1, instances=(A, B))


def test_the_same_answer_in_another_order_is_nothing_new() -> None:
    known = LastGood()
    known.learn([A, B], 1.0)
    assert known.learn([B, A], 2.0) is None


def test_another_answer_is_a_higher_version() -> None:
    known = LastGood()
    known.learn([A], 1.0)
    assert known.learn([A, B], 2.0) == Snapshot(version=2, instances=(A, B))
    moved = Instance(id="a", host="elsewhere", port=80)
    assert known.learn([moved, B], 3.0) == Snapshot(version=3, instances=(moved, B))


def test_a_failure_before_any_success_is_not_an_empty_set() -> None:
    known = LastGood()
    assert known.fail("no such file") is None
    assert known.trouble == "no such file"
    assert known.learn([A], 2.0) == Snapshot(version=1, instances=(A,))
    assert known.trouble is None


def test_a_failure_keeps_the_last_good_and_marks_it_stale_once() -> None:
    known = LastGood()
    known.learn([A], 1.0)
    known.learn([A], 2.0)
    assert known.fail("gone") == Snapshot(version=2, instances=(A,), stale_since=2.0)
    assert known.fail("still gone") is None
    assert known.trouble == "still gone"


def test_a_confirmation_makes_it_fresh_again() -> None:
    known = LastGood()
    known.learn([A], 1.0)
    known.fail("gone")
    assert known.learn([A], 3.0) == Snapshot(version=3, instances=(A,))


@pytest.mark.parametrize("on_empty", ["keep", "fail", "grace"])
def test_an_empty_first_answer_is_believed(on_empty: OnEmpty) -> None:
    known = LastGood(on_empty)
    assert known.learn([], 1.0) == Snapshot(version=1, instances=())
    assert known.learn([], 2.0) is None


def test_keep_never_believes_that_all_are_gone() -> None:
    known = LastGood("keep")
    known.learn([A], 1.0)
    assert known.learn([], 2.0) == Snapshot(version=2, instances=(A,), stale_since=1.0)
    assert known.trouble == "it says that there are no instances any more"
    assert known.learn([], 1e9) is None


def test_fail_believes_it_at_once() -> None:
    known = LastGood("fail")
    known.learn([A], 1.0)
    assert known.learn([], 2.0) == Snapshot(version=2, instances=())


def test_grace_believes_it_after_a_while() -> None:
    known = LastGood("grace", 10.0)
    known.learn([A], 1.0)
    assert known.learn([], 2.0) == Snapshot(version=2, instances=(A,), stale_since=1.0)
    assert known.learn([], 11.9) is None
    assert known.learn([], 12.0) == Snapshot(version=3, instances=())
    assert known.trouble is None


def test_the_grace_begins_anew_after_instances_were_seen() -> None:
    known = LastGood("grace", 10.0)
    known.learn([A], 0.0)
    known.learn([], 1.0)
    known.learn([A], 9.0)
    assert known.learn([], 12.0) == Snapshot(version=4, instances=(A,), stale_since=9.0)


def test_a_failure_meanwhile_does_not_prolong_it() -> None:
    known = LastGood("grace", 10.0)
    known.learn([A], 0.0)
    known.learn([], 1.0)
    known.fail("gone")
    assert known.learn([], 11.0) == Snapshot(version=3, instances=())


def test_a_sign_of_life_moves_the_second_since_when_it_would_be_stale() -> None:
    known = LastGood()
    known.learn([A], 1.0)
    known.confirm(50.0)
    known.confirm(40.0)
    assert known.fail("gone") == Snapshot(version=2, instances=(A,), stale_since=50.0)
    known.confirm(60.0)  # it is in trouble, and nothing was confirmed
    assert known.learn([A, B], 70.0) == Snapshot(version=3, instances=(A, B))


def test_it_tells_when_an_empty_answer_will_be_believed() -> None:
    known = LastGood("grace", 10.1)
    known.learn([A], 0.0)
    assert known.settles_at == math.inf
    known.learn([], 1.3)
    assert known.settles_at == 1.3 + 10.1
    assert known.learn([], math.nextafter(known.settles_at, 0.0)) is None
    assert known.learn([], known.settles_at) == Snapshot(version=3, instances=())
    assert known.settles_at == math.inf


def test_several_share_their_versions() -> None:
    versions = itertools.count(5)
    one, other = LastGood(versions=versions), LastGood(versions=versions)
    found = [one.learn([A], 0.0), other.learn([A], 0.0), one.learn([B], 0.0)]
    assert [snapshot.version for snapshot in found if snapshot] == [5, 6, 7]


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="on_empty='panic': one of keep, fail, grace"):
        LastGood("panic")  # type: ignore[arg-type]  # the mistake is the test
    with pytest.raises(ValueError, match=r"grace=0\.0"):
        LastGood("grace", 0.0)


answers = st.one_of(st.none(), st.sets(st.sampled_from([A, B, C])))


@given(st.sampled_from(["keep", "fail", "grace"]), st.lists(st.tuples(answers, st.floats(0.0, 20.0))))
def test_whatever_happens_only_a_believed_answer_empties_the_set(on_empty: OnEmpty, steps) -> None:
    known = LastGood(on_empty, 10.0)
    now, empty_since, last = 0.0, None, None
    for answer, seconds in steps:
        now += seconds
        snapshot = known.fail("broken") if answer is None else known.learn(answer, now)
        if answer is not None:
            empty_since = None if answer else (now if empty_since is None else empty_since)
        if snapshot is not None:
            if last is not None:
                assert snapshot.version == last.version + 1
                assert (snapshot.instances, snapshot.stale_since) != (last.instances, last.stale_since)
            if last and last.instances and not snapshot.instances:
                assert answer == set()
                assert empty_since is not None
                assert on_empty != "keep"
                assert on_empty == "fail" or now - empty_since >= 10.0
            last = snapshot
        if answer:
            assert last is not None
            assert set(last.instances) == answer
            assert last.stale_since is None
        elif answer is None and last is not None:
            assert last.stale_since is not None
