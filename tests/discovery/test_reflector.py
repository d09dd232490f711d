"""Listing, watching, resuming, listing again: a scripted source, in virtual time."""

from __future__ import annotations

import gc
import logging
import math
import time
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.backends.listwatch import Expired, ListWatch, SourceFailed
from resilient.context import current_runtime
from resilient.discovery import LastGood, OnEmpty
from resilient.discovery.reflector import Candidate, Merged, Reflector
from resilient.errors import DiscoveryError
from resilient.events import Event, SnapshotStale
from resilient.snapshot import Snapshot
from resilient.testing import virtual_time
from resilient.testing.cancellation import for_each_cancellation
from tests.discovery.scripted import Scripted, changes, instance, listing, objects
from tests.tables import read_table


def reflect(source: Any, on_empty: OnEmpty = "grace", **arguments: Any) -> Reflector:
    return Reflector("orders", source, known=LastGood(on_empty), runtime=current_runtime(), **arguments)


def ids(snapshot: Snapshot) -> str:
    return " ".join(one.id for one in snapshot.instances)


async def nothing(watch: Reflector, seconds: float = 60.0) -> None:
    """Nothing comes for so long."""
    with anyio.move_on_after(seconds):
        snapshot = await anext(watch)
        raise AssertionError(snapshot)


async def all_within(watch: Reflector, seconds: float) -> list[Snapshot]:
    found: list[Snapshot] = []
    with anyio.move_on_after(seconds):
        while True:
            found.append(await anext(watch))
    return found


def test_the_present_comes_at_once_and_then_every_change(backend: str) -> None:
    async def main() -> None:
        watch = reflect(Scripted([listing(1, x="a b")], [[10.0, changes(2, y="c"), 10.0, changes(3, "x")]]))
        first = await anext(watch)
        assert (ids(first), first.version, first.stale_since) == ("a b", 1, None)
        assert anyio.current_time() == 0.0
        second = await anext(watch)
        assert (ids(second), second.version) == ("a b c", 2)
        assert anyio.current_time() == pytest.approx(10.1)
        assert ids(await anext(watch)) == "c"
        assert anyio.current_time() == pytest.approx(20.1)
        await nothing(watch, 500.0)

    virtual_time.run(main, backend=backend)


def test_a_source_without_instances_is_an_answer(backend: str) -> None:
    async def main() -> None:
        assert ids(await anext(reflect(Scripted([listing(1)])))) == ""

    virtual_time.run(main, backend=backend)


def test_a_burst_of_a_thousand_events_gives_few_snapshots(backend: str) -> None:
    async def main() -> None:
        burst: list[Any] = []
        for number in range(1000):
            burst += [changes(number + 2, **{f"k{number}": f"i{number}"}), 0.001]
        found = await all_within(reflect(Scripted([listing(1, x="a")], [burst])), 60.0)
        assert len(found) == 11  # the present, and one in each tenth of a second
        assert len(found[-1].instances) == 1001

    virtual_time.run(main, backend=backend)


def test_events_that_never_pause_do_not_put_off_a_change(backend: str) -> None:
    async def main() -> None:
        endless: list[Any] = [0.25]
        for number in range(10_000):
            endless += [changes(number + 2, y=f"b{number}"), 0.01]
        watch = reflect(Scripted([listing(1, x="a")], [endless]), debounce=0.5)
        await anext(watch)
        assert ids(await anext(watch)).startswith("a b")
        assert anyio.current_time() == pytest.approx(0.75)

    virtual_time.run(main, backend=backend)


def test_what_is_undone_within_the_debounce_was_never_there(backend: str) -> None:
    async def main() -> None:
        watch = reflect(Scripted([listing(1, x="a")], [[1.0, changes(2, "x"), 0.05, changes(3, x="a")]]))
        await anext(watch)
        await nothing(watch, 500.0)

    virtual_time.run(main, backend=backend)


def test_a_slow_consumer_skips_to_the_newest(backend: str) -> None:
    async def main() -> None:
        steps: list[Any] = []
        for number in range(100):
            steps += [1.0, changes(number + 2, **{f"k{number}": f"i{number}"})]
        watch = reflect(Scripted([listing(1, x="a")], [steps]))
        await anext(watch)
        await anyio.sleep(200.0)
        assert len((await anext(watch)).instances) == 101
        await nothing(watch)

    virtual_time.run(main, backend=backend)


def test_a_clean_end_goes_on_from_the_last_revision(backend: str) -> None:
    async def main() -> None:
        source = Scripted(
            [listing(5, x="a")],
            [[1.0, changes(6, y="b"), 299.0], [200.0, changes(9), 100.0], [1.0, changes(10, z="c"), 299.0], [math.inf]],
        )
        found = await all_within(reflect(source), 2000.0)
        assert [ids(snapshot) for snapshot in found] == ["a", "a b", "a b c"]
        assert len(source.listed_at) == 1
        assert source.revisions == ["5", "6", "9", "10"]
        assert source.watched_at == [0.0, 300.0, 600.0, 900.0]  # at once, each time

    virtual_time.run(main, backend=backend)


def test_a_watch_without_a_sign_of_life_is_not_believed_again(backend: str) -> None:
    """Nothing tells it from a watch that waits for a revision the source will not have for years."""

    async def main() -> None:
        source = Scripted([listing(99_999_999, x="a"), listing(7, x="b")], [[300.0], [math.inf]])
        found = await all_within(reflect(source), 1000.0)
        assert [ids(snapshot) for snapshot in found] == ["a", "b"]
        assert source.revisions == ["99999999", "7"]

    virtual_time.run(main, backend=backend)


def test_an_expired_revision_is_listed_again_and_what_has_gone_is_gone(backend: str) -> None:
    events: list[Event] = []

    async def main() -> None:
        source = Scripted([listing(5, x="a b", y="c"), listing(90, x="b", z="d")], [[10.0, Expired("too old")]])
        found = await all_within(reflect(source), 500.0)
        assert [ids(snapshot) for snapshot in found] == ["a b c", "b d"]
        assert all(snapshot.stale_since is None for snapshot in found)
        assert source.revisions == ["5", "90"]

    virtual_time.run(main, backend=backend, emit=events.append)
    assert events == []


@pytest.mark.parametrize("end", [[], [Expired("too old")], [ConnectionResetError("gone")], [SourceFailed("no", 0.0)]])
def test_no_way_to_end_a_watch_makes_a_loop_of_it(backend: str, end: list[Any]) -> None:
    """A known client asked 342 times in three seconds."""

    async def main() -> None:
        source = Scripted([listing(5, x="a")] * 10_000, [end] * 10_000)
        await all_within(reflect(source), 3600.0)
        assert 50 < len(source.watched_at) < 400  # 15 seconds apart on average, in the end

    virtual_time.run(main, backend=backend)


def test_a_failure_is_a_blip_and_the_second_in_a_row_is_trouble(backend: str) -> None:
    events: list[Event] = []

    async def main() -> None:
        reset = ConnectionResetError("reset by peer")
        source = Scripted(
            [listing(5, x="a"), listing(6, x="a b"), OSError("refused"), OSError("refused"), listing(7, x="b")],
            [[10.0, reset], [100.0, changes(6), 50.0, reset], [math.inf]],
        )
        found = await all_within(reflect(source), 1000.0)
        assert [(ids(one), one.stale_since is None) for one in found] == [
            ("a", True),
            ("a b", True),
            ("a b", False),
            ("b", True),
        ]
        assert 100.0 < (found[2].stale_since or 0.0) < 120.0  # the last sign of life, and not the last change

    virtual_time.run(main, backend=backend, emit=events.append)
    (event,) = events
    assert isinstance(event, SnapshotStale)
    assert (event.name, event.error) == ("orders", "refused")


def test_as_long_as_nothing_is_known_nothing_is_yielded_and_one_failure_is_told(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[Event] = []

    async def main() -> None:
        source = Scripted([OSError("refused")] * 5 + [listing(1, x="a")])
        watch = reflect(source)
        assert ids(await anext(watch)) == "a"
        assert len(source.listed_at) == 6

    virtual_time.run(main, backend=backend, emit=events.append)
    assert len(events) == 1
    assert caplog.messages == ["orders: refused"]


def test_waits_grow_with_jitter_to_half_a_minute(backend: str) -> None:
    def run(seed: int) -> list[float]:
        async def main() -> list[float]:
            source = Scripted([OSError("refused")] * 400)
            await nothing(reflect(source), 3000.0)
            return [later - earlier for earlier, later in zip(source.listed_at, source.listed_at[1:], strict=False)]

        return virtual_time.run(main, backend=backend, seed=seed)

    gaps = run(1)
    assert gaps[0] <= 0.8
    assert gaps[1] <= 1.6
    assert max(gaps) <= 30.0
    assert 10.0 < sum(gaps[20:]) / len(gaps[20:]) < 20.0
    assert run(2) != gaps  # a fleet does not come back in step


def test_waits_begin_anew_after_half_a_minute_of_health(backend: str) -> None:
    async def main() -> None:
        reset = ConnectionResetError("idle")
        source = Scripted([listing(n, x="a") for n in range(100)], [[50.0, reset]] * 100)
        found = await all_within(reflect(source), 3000.0)
        assert len(found) == 1  # a proxy that cuts idle connections is no trouble at all
        gaps = [later - earlier for earlier, later in zip(source.watched_at, source.watched_at[1:], strict=False)]
        assert max(gaps) <= 50.8

    virtual_time.run(main, backend=backend)


def test_a_hint_is_kept(backend: str) -> None:
    async def main() -> None:
        source = Scripted([SourceFailed("busy", 20.0), SourceFailed("busy", 1e9), listing(1, x="a")])
        await anext(reflect(source))
        first, second, third = source.listed_at
        assert 20.0 < second - first <= 20.8  # never early, and not all of a fleet at once
        assert 300.0 < third - second <= 301.6

    virtual_time.run(main, backend=backend)


def test_silence_means_that_the_connection_is_dead(backend: str) -> None:
    async def main() -> None:
        source = Scripted(
            [listing(1, x="a"), listing(2, x="b")], [[30.0, changes(1), 30.0, changes(1), math.inf]], silence=45.0
        )
        watch = reflect(source)
        await anext(watch)
        assert ids(await anext(watch)) == "b"
        assert 105.0 <= anyio.current_time() <= 106.0
        assert source.open == 1

    virtual_time.run(main, backend=backend)


def test_a_list_that_hangs_is_given_up(backend: str) -> None:
    events: list[Event] = []

    async def main() -> None:
        source = Scripted([math.inf, listing(1, x="a")])
        await anext(reflect(source))
        assert 60.0 <= anyio.current_time() <= 60.8

    virtual_time.run(main, backend=backend, emit=events.append)
    (event,) = events
    assert isinstance(event, SnapshotStale)
    assert event.error == "it was not listed within 60 s"


def test_a_bug_in_a_source_is_logged_and_tried_again(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        source = Scripted([listing(1, x="a"), listing(2, x="b")], [[5.0, KeyError("metadata")]])
        found = await all_within(reflect(source), 100.0)
        assert [ids(snapshot) for snapshot in found] == ["a", "b"]

    with caplog.at_level(logging.ERROR):
        virtual_time.run(main, backend=backend)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)


def test_a_listing_in_a_watch_replaces_everything(backend: str) -> None:
    """As Consul's answers do."""

    async def main() -> None:
        source = Scripted([listing(1, x="a", y="b")], [[5.0, listing(2, y="b c"), 5.0, listing(2, y="b c"), math.inf]])
        found = await all_within(reflect(source), 100.0)
        assert [ids(snapshot) for snapshot in found] == ["a b", "b c"]

    virtual_time.run(main, backend=backend)


def test_a_transaction_is_never_half_seen(backend: str) -> None:
    async def main() -> None:
        move = [changes(2, "x", y="a"), changes(3, "y", x="a")] * 500
        source = Scripted([listing(1, x="a", z="b")], [[step for one in move for step in (one, 0.03)]])
        for snapshot in await all_within(reflect(source), 100.0):
            assert ids(snapshot) == "a b"

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize(("on_empty", "seconds"), [("grace", 30.0), ("fail", 0.1), ("keep", math.inf)])
def test_an_authoritative_empty_follows_the_policy(backend: str, on_empty: OnEmpty, seconds: float) -> None:
    async def main() -> None:
        watch = reflect(Scripted([listing(1, x="a")], [[5.0, changes(2, "x"), math.inf]]), on_empty)
        await anext(watch)
        if on_empty != "fail":
            kept = await anext(watch)
            assert (ids(kept), kept.stale_since is None) == ("a", False)
        if on_empty == "keep":
            await nothing(watch, 10_000.0)
        else:
            assert ids(await anext(watch)) == ""
            assert anyio.current_time() == pytest.approx(5.0 + seconds + 0.1, abs=0.11)

    virtual_time.run(main, backend=backend)


def test_an_empty_answer_is_not_believed_while_the_source_is_in_trouble(backend: str) -> None:
    async def main() -> None:
        down: list[Any] = [OSError("refused")] * 100
        watch = reflect(Scripted([listing(1, x="a"), *down], [[5.0, changes(2, "x"), 1.0, OSError("reset")]]))
        await anext(watch)
        assert ids(await anext(watch)) == "a"
        await nothing(watch, 500.0)

    virtual_time.run(main, backend=backend)


def test_a_step_that_was_cancelled_loses_nothing(backend: str) -> None:
    async def main() -> None:
        source = Scripted([listing(1, x="a")], [[10.0, changes(2, y="b"), math.inf]])
        watch = reflect(source)
        await anext(watch)
        found: list[Snapshot] = []
        while not found:
            found = await all_within(watch, 0.03)
        assert ids(found[0]) == "a b"
        assert len(source.listed_at) == len(source.watched_at) == 1

    virtual_time.run(main, backend=backend)


def test_closing_ends_the_task_and_its_connection(backend: str) -> None:
    async def main() -> None:
        source = Scripted([listing(1, x="a")])
        watch = reflect(source)
        await anext(watch)
        await anyio.sleep(1)
        assert source.open == 1
        await watch.aclose()
        assert source.open == 0
        with pytest.raises(StopAsyncIteration):
            await anext(watch)
        await watch.aclose()

    virtual_time.run(main, backend=backend)


def test_one_that_was_never_begun_can_be_closed(backend: str) -> None:
    virtual_time.run(lambda: reflect(Scripted([])).aclose(), backend=backend)


def test_one_that_is_left_ends_by_itself(backend: str) -> None:
    async def main() -> None:
        source = Scripted([listing(1, x="a")])
        async for _ in reflect(source):
            break
        gc.collect()
        await anyio.sleep(1)
        assert source.open == 0

    virtual_time.run(main, backend=backend)


def test_one_that_outlives_its_event_loop_does_no_harm(backend: str) -> None:
    kept: list[Reflector] = []

    async def main() -> None:
        kept.append(reflect(Scripted([listing(1, x="a")])))
        await anext(kept[0])

    virtual_time.run(main, backend=backend)
    kept.clear()
    gc.collect()


def test_cancelled_anywhere_it_leaves_nothing_behind_and_can_go_on(backend: str) -> None:
    class World:
        def __init__(self) -> None:
            script: list[Any] = [0.5, changes(2, y="b"), 0.5, Expired("old")]
            self.source = Scripted([OSError("refused"), listing(1, x="a"), listing(3, y="b")], [script])
            self.watch = reflect(self.source)
            self.closed = False

    async def scenario(world: World) -> None:
        try:
            for _ in range(3):
                await anext(world.watch)
        finally:
            with anyio.CancelScope(shield=True):
                await world.watch.aclose()
            world.closed = True

    async def check(world: World) -> None:
        await world.watch.aclose()
        assert world.source.open == 0

    async def resumed(world: World) -> None:
        try:
            assert ids(await anext(world.watch)) == "a"
            assert ids(await anext(world.watch)) == "a b"
            assert ids(await anext(world.watch)) == "b"
        except BaseException:
            with anyio.CancelScope(shield=True):  # whoever is cancelled may come back
                while ids(await anext(world.watch)) != "b":
                    pass
                await world.watch.aclose()
            raise
        await world.watch.aclose()

    assert for_each_cancellation(World, scenario=scenario, check=check, backend=backend) > 5
    if backend == "trio":  # on asyncio a native cancellation also pierces the shield
        assert for_each_cancellation(World, scenario=resumed, check=check, backend=backend) > 5


@pytest.mark.parametrize("debounce", [-1.0, math.inf, math.nan])
def test_a_bad_debounce_is_refused(debounce: float) -> None:
    with pytest.raises(ValueError, match="debounce="):
        reflect(Scripted([]), debounce=debounce)


def test_a_bad_time_for_a_list_is_refused() -> None:
    with pytest.raises(ValueError, match="list_timeout=0"):
        reflect(Scripted([]), list_timeout=0)


# -- what is known, object by object ----------------------------------------------------------------------------------


def test_two_objects_that_speak_of_one_instance_are_one_instance() -> None:
    merged = Merged()
    merged.replace(objects(x="a b", y="b c"))
    assert [one.id for one in merged.instances()] == ["a", "b", "c"]
    merged.update({}, ["x"])
    assert [one.id for one in merged.instances()] == ["b", "c"]


def test_the_highest_rank_is_believed_and_lower_ranks_are_for_want_of_better() -> None:
    merged = Merged()
    good, poor = Candidate(instance("a", weight=2.0), 1), Candidate(instance("a", weight=1.0), 0)
    merged.replace({"x": [poor], "y": [good], "z": [Candidate(instance("b"), 0)]})
    assert merged.instances() == [good.instance]
    merged.update({}, ["y"])
    assert sorted(merged.instances(), key=repr) == [poor.instance, instance("b")]


def test_instances_that_are_said_again_are_the_same_objects() -> None:
    merged = Merged()
    merged.replace(objects(x="a b", y="c"))
    before = merged.instances()
    merged.replace(objects(x="a b", y="c"))
    assert all(one is other for one, other in zip(before, merged.instances(), strict=True))


def test_there_is_a_bound(backend: str) -> None:
    merged = Merged(most=3)
    merged.replace(objects(x="a b", y="b c"))
    with pytest.raises(DiscoveryError, match="more than 3 instances"):
        merged.update(objects(z="d"), [])
    merged.update(objects(z="a"), [])
    with pytest.raises(DiscoveryError, match="more than 3 instances"):
        merged.replace(objects(z="d e f g"))
    merged.replace(objects(z="d e f"))
    assert [one.id for one in merged.instances()] == ["d", "e", "f"]


said = st.dictionaries(
    st.sampled_from("xyz"),
    st.lists(st.builds(Candidate, st.builds(instance, st.sampled_from("abcd")), st.integers(0, 2))),
)


@given(st.lists(st.one_of(said, st.tuples(said, st.sets(st.sampled_from("xyz"))))))
def test_whatever_happens_the_result_is_that_of_counting_everything(steps) -> None:
    merged, model = Merged(), {}
    for step in steps:
        if isinstance(step, dict):
            merged.replace(step)
            model = dict(step)
        else:
            put, removed = step
            merged.update(put, removed)
            model = {key: value for key, value in model.items() if key not in removed} | put
        found = [candidate for candidates in model.values() for candidate in candidates]
        best = {one.instance.id: max(c.rank for c in found if c.instance.id == one.instance.id) for one in found}
        top = max(best.values(), default=0)
        assert sorted(one.id for one in merged.instances()) == sorted(
            name for name, rank in best.items() if rank == top
        )


def test_one_change_among_ten_thousand_instances_costs_little() -> None:
    """Two milliseconds is what it should take; ten times that is a loop over everything that has crept in."""
    merged, known = Merged(), LastGood()
    slices = {f"s{s:03}": [Candidate(instance(f"i{s:03}-{n:03}")) for n in range(100)] for s in range(100)}
    merged.replace(slices)
    known.learn(merged.instances(), 0.0)
    took = []
    for number in range(20):
        put = {"s050": [*slices["s050"][1:], Candidate(instance(f"new{number}"))]}
        began = time.perf_counter()
        merged.update(put, ())
        assert known.learn(merged.instances(), 1.0) is not None
        took.append(time.perf_counter() - began)
    assert min(took) < 0.02


# -- the table in the documentation ---------------------------------------------------------------------------------

OK, OTHER = listing(1, x="a"), listing(9, x="b")
REFUSED, RESET = OSError("refused"), OSError("reset")
LASTS = [math.inf]

# What happens, as lists and watches; how often it is then listed, and from where it is watched.
ROWS: dict[tuple[str, str], tuple[list[Any], list[list[Any]], int, list[str]]] = {
    ("list", "an answer"): ([OK], [LASTS], 1, ["1"]),
    ("list", "a failure, or `list_timeout` is over"): ([REFUSED, math.inf, OTHER], [LASTS], 3, ["9"]),
    ("watch", "changes"): ([OK], [[5.0, changes(2, x="b"), math.inf]], 1, ["1"]),
    ("watch", "a listing"): ([OK], [[5.0, listing(2, x="b"), math.inf]], 1, ["1"]),
    ("watch", "a clean end, after signs of life"): ([OK], [[5.0, changes(2), 5.0], LASTS], 1, ["1", "2"]),
    ("watch", "a clean end, after none"): ([OK, OTHER], [[5.0], LASTS], 2, ["1", "9"]),
    ("watch", "the revision is expired"): ([OK, OTHER], [[5.0, Expired("old")], LASTS], 2, ["1", "9"]),
    ("watch", "a failure, or nothing for `silence`"): ([OK, OK, OTHER], [[5.0, RESET], LASTS], 3, ["1", "1", "9"]),
}


def test_the_table_in_the_docstring_says_what_happens(backend: str) -> None:
    rows = read_table(ListWatch.__doc__)
    assert [(where, what) for where, what, _ in rows] == list(ROWS)
    for where, what, then in rows:
        lists, watches, listed, revisions = ROWS[where, what]
        source = Scripted(list(lists), watches, silence=90.0 if "silence" in what else math.inf)

        async def main(source: Scripted = source) -> None:
            await all_within(reflect(source), 150.0)

        virtual_time.run(main, backend=backend)
        assert (len(source.listed_at), source.revisions) == (listed, revisions), what
        assert (listed > 1) == then.endswith("list"), what
