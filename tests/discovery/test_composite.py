"""Several sources as one, in virtual time."""

from __future__ import annotations

import gc
import math
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.discovery import Discovery, Failover, LastGood, Static, Union, connect, register
from resilient.discovery.composite import _Member, _Preference
from resilient.events import Event, SnapshotStale
from resilient.instance import Instance
from resilient.service import Service
from resilient.snapshot import Snapshot
from resilient.testing import virtual_time
from resilient.testing.cancellation import for_each_cancellation


def instance(name: str, **facts: Any) -> Instance:
    return Instance(id=name, host=name, port=80, **facts)


def ids(snapshot: Snapshot) -> str:
    return "".join(one.id for one in snapshot.instances)


class Source:
    """A source as a generator, which has to be closed: a test says what it knows, and when it fails."""

    def __init__(self, names: str | None = None) -> None:
        self.known = LastGood("fail")
        self.snapshot: Snapshot | None = None
        self.changed = anyio.Event()
        self.open = self.opened = 0
        self.broken: Exception | None = None
        if names is not None:
            self.say(names, now=0.0)

    def say(self, names: str, now: float | None = None) -> None:
        self.put(self.known.learn([instance(name) for name in names], anyio.current_time() if now is None else now))

    def fail(self) -> None:
        self.put(self.known.fail("silence"))

    def put(self, snapshot: Snapshot | None) -> None:
        self.snapshot = snapshot or self.snapshot
        self.changed.set()

    async def watch(self) -> AsyncIterator[Snapshot]:
        self.open += 1
        self.opened += 1
        seen = 0
        try:
            while True:
                self.changed = anyio.Event()
                if self.broken is not None:
                    raise self.broken
                if self.snapshot is not None and self.snapshot.version != seen:
                    seen = self.snapshot.version
                    yield self.snapshot
                else:
                    await self.changed.wait()
        finally:
            self.open -= 1


class Watched:
    """A watch, and what it says next."""

    def __init__(self, discovery: Discovery) -> None:
        self.watch: Any = discovery.watch()

    async def next(self, within: float = 1000.0) -> Snapshot:
        with anyio.fail_after(within):
            snapshot: Snapshot = await anext(self.watch)
            return snapshot

    async def nothing(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            raise AssertionError(await anext(self.watch))


def play(main: Callable[[], Any], backend: str, **options: Any) -> None:
    virtual_time.run(main, backend=backend, **options)


def test_the_first_source_with_instances_is_used(backend):
    async def main() -> None:
        first, second = Source("a"), Source("b")
        watched = Watched(Failover([first, second]))
        assert ids(await watched.next()) == "a"
        await watched.nothing(100)
        first.say("ac")
        assert ids(await watched.next()) == "ac"
        second.say("bd")
        await watched.nothing(100)
        await watched.watch.aclose()

    play(main, backend)


def test_the_next_one_is_used_at_once_when_the_first_has_none_and_left_after_a_while(backend, caplog):
    async def main() -> None:
        first, second = Source("a"), Source("b")
        watched = Watched(Failover({"eu": first, "us": second}, hold=10.0))
        await watched.next()
        first.say("")
        assert ids(await watched.next(0.001)) == "b"
        first.say("a")
        began = anyio.current_time()
        assert ids(await watched.next()) == "a"
        assert anyio.current_time() - began == pytest.approx(10.0)
        await watched.watch.aclose()

    play(main, backend)
    assert caplog.messages == [
        "failover from eu to us: eu has no instances",
        "failover from us to eu: it is good again",
    ]


def test_one_that_comes_and_goes_does_not_take_the_calls_with_it(backend):
    async def main() -> None:
        first, second = Source("a"), Source("b")
        watched = Watched(Failover([first, second], hold=10.0))
        await watched.next()
        first.say("")
        await watched.next()
        for _ in range(5):
            first.say("a")
            await watched.nothing(9.9)
            first.say("")
            await watched.nothing(0.1)
        first.say("a")
        assert ids(await watched.next(10.1)) == "a"
        await watched.watch.aclose()

    play(main, backend)


def test_one_that_is_stale_for_too_long_is_left(backend):
    async def main() -> None:
        first, second = Source("a"), Source("b")
        watched = Watched(Failover([first, second], max_stale=60.0, hold=0.0))
        await watched.next()
        await anyio.sleep(5)
        first.fail()
        stale = await watched.next()
        assert (ids(stale), stale.stale_since) == ("a", 0.0)
        other = await watched.next()
        assert (ids(other), other.stale_since) == ("b", None)
        assert anyio.current_time() == pytest.approx(60.0)
        first.say("a")
        assert ids(await watched.next(0.001)) == "a"
        await watched.watch.aclose()

    play(main, backend)


def test_a_bound_on_staleness_may_be_none(backend):
    async def main() -> None:
        first, second = Source("a"), Source("b")
        watched = Watched(Failover([first, second], max_stale=math.inf))
        await watched.next()
        first.fail()
        assert (await watched.next()).stale_since == 0.0
        await watched.nothing(100_000)
        await watched.watch.aclose()

    play(main, backend)


def test_if_no_source_is_good_stale_instances_are_better_than_none(backend):
    async def main() -> None:
        first, second = Source("a"), Source("b")
        watched = Watched(Failover([first, second], max_stale=60.0))
        await watched.next()
        first.fail()
        await watched.next()
        second.fail()
        await watched.nothing(1000)  # both are worn out: what is in use stays
        first.say("")
        other = await watched.next()
        assert (ids(other), other.stale_since) == ("b", 0.0)
        second.say("")
        empty = await watched.next()
        assert (ids(empty), empty.stale_since) == ("", None)
        second.say("b")
        assert ids(await watched.next()) == "b"
        await watched.watch.aclose()

    play(main, backend)


def test_at_the_beginning_the_preferred_has_a_moment_to_answer(backend):
    async def main() -> None:
        first, second = Source(), Source("b")
        watched = Watched(Failover([first, second], patience=1.0, hold=10.0))
        await watched.nothing(0.5)
        first.say("a")
        assert ids(await watched.next()) == "a"
        silent = Watched(Failover([Source(), Source("b")], patience=1.0))
        began = anyio.current_time()
        assert ids(await silent.next()) == "b"
        assert anyio.current_time() - began == 1.0
        await watched.watch.aclose()
        await silent.watch.aclose()

    play(main, backend)


def test_as_long_as_nothing_is_known_nothing_is_said(backend):
    async def main() -> None:
        sources = [Source(), Source()]
        for composite in (Failover(sources), Union(sources)):
            watched = Watched(composite)
            await watched.nothing(100)
            assert watched.watch.trouble is None
            await watched.watch.aclose()

    play(main, backend)


def test_a_union_has_the_instances_of_all_and_the_first_description_of_each(backend):
    async def main() -> None:
        second = Static([instance("b", zone="2"), instance("c", zone="2")])
        watched = Watched(Union({"old": Static([instance("a"), instance("b", zone="1")]), "new": second}))
        found = await watched.next()
        assert [(one.id, one.zone) for one in found.instances] == [("a", None), ("b", "1"), ("c", "2")]
        await watched.watch.aclose()

    play(main, backend)


def test_a_source_of_a_union_that_fails_keeps_its_instances(backend):
    async def main() -> None:
        first, second = Source("a"), Source("b")
        watched = Watched(Union([first, second]))
        assert ids(await watched.next()) == "ab"
        await anyio.sleep(7)
        second.fail()
        stale = await watched.next()
        assert (ids(stale), stale.stale_since) == ("ab", 0.0)
        first.say("ac")
        assert ids(await watched.next()) == "abc"
        second.say("")
        fresh = await watched.next()
        assert (ids(fresh), fresh.stale_since) == ("ac", None)
        await watched.watch.aclose()

    play(main, backend)


def test_a_union_waits_a_moment_for_all_and_not_for_ever(backend):
    async def main() -> None:
        late = Source()
        watched = Watched(Union([Source("a"), late], patience=2.0))
        await watched.nothing(1.9)
        assert ids(await watched.next(0.2)) == "a"
        late.say("b")
        assert ids(await watched.next()) == "ab"
        await watched.watch.aclose()

    play(main, backend)


def test_a_source_that_breaks_down_is_begun_again(backend):
    events: list[Event] = []

    async def main() -> None:
        broken = Source()
        broken.broken = RuntimeError("out of order")
        watched = Watched(Union({"one": Source("a"), "two": broken}))
        assert ids(await watched.next()) == "a"
        await watched.nothing(60)
        assert watched.watch.trouble == "two: out of order"
        assert 5 < broken.opened < 60
        broken.broken = None
        broken.say("b")
        assert ids(await watched.next()) == "ab"
        assert watched.watch.trouble is None
        await watched.watch.aclose()
        assert broken.open == 0

    play(main, backend, emit=events.append)
    assert {event.name for event in events if isinstance(event, SnapshotStale)} == {"two"}


def test_closing_closes_every_member_and_ends_the_watch(backend):
    async def main() -> None:
        sources = [Source("a"), Source(), Source("b")]
        inner = Failover(sources[1:])
        watched = Watched(Union([sources[0], inner]))
        await watched.next()
        assert [source.open for source in sources] == [1, 1, 1]
        await watched.watch.aclose()
        assert [source.open for source in sources] == [0, 0, 0]
        with pytest.raises(StopAsyncIteration):
            await anext(watched.watch)
        await watched.watch.aclose()

    play(main, backend)


def test_a_watch_that_is_forgotten_ends_its_tasks(backend):
    async def main() -> None:
        source = Source("a")
        watched = Watched(Failover([source]))
        await watched.next()
        del watched
        gc.collect()
        await anyio.sleep(0.1)
        assert source.open == 0

    play(main, backend)


def test_several_watches_are_independent_and_their_versions_rise_together(backend):
    async def main() -> None:
        composite = Failover([Source("a"), Source("b")])
        one, two = Watched(composite), Watched(composite)
        assert [(await one.next()).version, (await two.next()).version] == [1, 2]
        await one.watch.aclose()
        await two.nothing(1)
        await two.watch.aclose()

    play(main, backend)


def test_every_member_is_closed_whenever_a_watch_is_cancelled(backend):
    class Moving:
        def __init__(self) -> None:
            self.sources = [Source("a"), Source("b")]
            self.failover = Failover(self.sources, hold=1.0)

    async def scenario(moving: Moving) -> None:
        watched = Watched(moving.failover)
        try:
            await watched.next()
            moving.sources[0].say("")
            await watched.next()
            moving.sources[0].say("a")
            await watched.next()
        finally:
            await watched.watch.aclose()

    async def check(moving: Moving) -> None:
        assert [source.open for source in moving.sources] == [0, 0]

    assert for_each_cancellation(Moving, scenario=scenario, check=check, backend=backend) > 3


def test_a_step_that_was_cancelled_can_be_repeated(backend):
    async def main() -> None:
        source = Source()
        watched = Watched(Union([source]))
        for _ in range(5):
            await watched.nothing(0.7)
        source.say("a")
        assert ids(await watched.next()) == "a"
        assert source.opened == 1  # it was not begun again for each step
        await watched.watch.aclose()

    play(main, backend)


def test_a_service_follows_a_composite_and_closes_it(backend):
    first, second = Source("a"), Source("b")
    service = Service("orders", Failover([first, second]))

    @service
    async def where(one: Instance) -> str:
        return one.id

    async def main() -> None:
        async with service:
            await service.ready()
            assert await where() == "a"
            first.say("")
            await anyio.sleep(0.1)
            assert await where() == "b"
        assert (first.open, second.open) == (0, 0)

    play(main, backend)


def test_a_service_follows_it_without_an_event_loop_of_its_own():
    with Service("orders", "failover://?one=static://a:1&two=static://b:1") as service:
        service.sync_ready()
        assert [standing.instance.id for standing in service.instances()] == ["a:1"]


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["good", "empty", "stale"]), st.floats(0, 30)),
        min_size=1,
        max_size=40,
    )
)
def test_decisions_hold_whatever_the_members_do(steps):
    """No source without instances is used beside one with some; nobody goes back before its time; time always moves."""
    rules = Failover([Static([]), Static([]), Static([])], max_stale=20.0, hold=10.0, patience=1.0)
    rule = _Preference(rules, 0.0)
    members = [_Member(str(number)) for number in range(3)]
    now, used = 0.0, None
    for index, state, wait in steps:
        names = () if state == "empty" else (instance(str(index)),)
        stale_since = now - 5.0 if state == "stale" else None
        members[index].snapshot = Snapshot(version=1, instances=names, stale_since=stale_since)
        until = now + wait
        while True:
            decision = rule.decide(members, now)
            assert decision.until > now
            if decision.instances is not None:
                chosen = decision.instances[0].id if decision.instances else None
                has = [member for member in members if member.snapshot is not None and member.snapshot.instances]
                assert (chosen is None) == (not has)
                if (
                    used is not None
                    and chosen is not None
                    and chosen < used
                    and members[int(used)].good_since is not None
                ):
                    since = members[int(chosen)].good_since
                    assert since is not None
                    assert now - since >= 10.0 - 1e-6
                used = chosen
            if decision.until >= until:
                break
            now = decision.until
        now = until


def test_urls_lead_to_composites_of_any_scheme():
    found = connect("failover://?eu=dns+srv://_http._tcp.eu.test?family=4%26max_ttl=9&us=static://a:1,b:2&max_stale=30")
    assert isinstance(found, Failover)
    assert (found.max_stale, found.hold, [*found.sources]) == (30.0, 10.0, ["eu", "us"])
    assert "family='4'" in repr(found.sources["eu"])
    assert "max_ttl=9.0" in repr(found.sources["eu"])
    union = connect("union://?patience=3&all=failover://?a=static://a:1%26b=static://b:1%26hold=2&c=static://c:1")
    assert isinstance(union, Union)
    assert union.patience == 3.0
    inner = union.sources["all"]
    assert isinstance(inner, Failover)
    assert (inner.hold, [*inner.sources]) == (2.0, ["a", "b"])
    assert repr(Failover(["static://a:1"])).startswith("Failover({'1': Static(")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("failover://", r"it has no source: failover://\?name=URL&name=URL"),
        ("union://?patience=2", "it has no source"),
        ("failover://a:1,b:1", "the sources are options"),
        (
            "failover://?a=static://a:1&max_stael=3",
            "unknown option 'max_stael'; the options of failover:// are max_stale",
        ),
        (
            "union://?a=static://a:1&hold=3",
            "unknown option 'hold'; the options of union:// are patience, and any other",
        ),
        ("failover://?a=static://a:1&hold=soon", "hold=soon: a finite number"),
        ("failover://?a=nosuch://x", "source 'a': .*no scheme 'nosuch'"),
        ("failover://?a=dns://x", "source 'a': .*is no host:port"),
        ("failover://?a=static://a:1&a=static://b:1", "each option is given once"),
    ],
)
def test_a_bad_url_is_refused_with_what_is_allowed(url, reason):
    with pytest.raises(ValueError, match=reason):
        connect(url)


@pytest.mark.parametrize(
    ("make", "error", "reason"),
    [
        (lambda: Failover([]), ValueError, "sources: at least one"),
        (lambda: Failover("static://a:1"), TypeError, "not one URL"),
        (lambda: Failover(["static://a:1"], max_stale=0), ValueError, "max_stale=0"),
        (lambda: Failover(["static://a:1"], hold=-1), ValueError, "hold=-1"),
        (lambda: Union(["static://a:1"], patience=math.inf), ValueError, "patience=inf"),
        (lambda: Union(["nosuch://a"]), ValueError, "no scheme 'nosuch'"),
    ],
)
def test_bad_arguments_are_refused(make, error, reason):
    with pytest.raises(error, match=reason):
        make()


def test_one_does_not_register_at_several_places_at_once():
    with pytest.raises(ValueError, match="one cannot register at failover://"):
        register("failover://?a=static://a:1", instance("a"))
