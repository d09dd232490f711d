"""Counts for many at once, against a window for each."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from resilient.machines.tallies import Share, Tallies
from resilient.machines.window import TimeWindow

steps = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0, 1, "clear"]), st.floats(0.0, 4.0)), max_size=80)


@given(steps, st.sampled_from([0.7, 1.0, 10.0]))
def test_a_share_says_what_a_window_of_its_own_would(steps, length: float) -> None:
    tallies = [Tallies[str](length) for _ in range(2)]
    shares = {name: Share(tallies, name) for name in "abc"}
    windows = {name: TimeWindow(length, 2) for name in "abc"}
    now = 0.0
    for name, what, passed in steps:
        now += passed
        for one in (shares[name], windows[name]):
            if what == "clear":
                one.clear()
            else:
                one.add(what, now)
        assert [shares[name].totals(now) for name in "abc"] == [windows[name].totals(now) for name in "abc"]
    expected = [any(windows[name].totals(now)[kind] for name in "abc") for kind in range(2)]
    assert [tally.any(now) for tally in tallies] == expected


def test_what_is_counted_at_once_is_what_is_added() -> None:
    tallies = Tallies[str](10.0)
    tallies.roll(3.2)
    assert tallies.edge == 4.0
    tallies.present["a"] = tallies.present.get("a", 0) + 1
    tallies.add("a", 3.9)
    assert tallies.total("a", 13.9) == 2
    assert tallies.total("a", 14.0) == 0


def test_who_had_nothing_of_late_takes_no_place() -> None:
    tallies = Tallies[int](10.0)
    for second in range(1000):
        tallies.add(second, float(second))
    assert sum(len(counts) for _, counts in tallies._buckets) == 11


def test_a_clock_that_goes_back_counts_as_standing_still() -> None:
    tallies = Tallies[str](10.0)
    tallies.add("a", 100.0)
    tallies.add("a", 42.0)
    assert tallies.total("a", 109.0) == 2


def test_it_keeps_no_more_than_its_buckets_where_an_edge_is_rounded_down() -> None:
    """0.7 is a little less than seven tenths: its multiples, rounded, may be in the bucket that they seem to end."""
    tallies = Tallies[str](7.0)
    now, already_over = 0.0, 0
    for bucket in range(1, 200):
        now = bucket * 0.7
        for _ in range(20):
            tallies.add("a", now)
            already_over += now >= tallies.edge
        assert len(tallies._buckets) <= 11
    assert already_over > 0
    assert 200 <= tallies.total("a", now) <= 240
