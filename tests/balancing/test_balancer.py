"""One decision at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from threading import Thread

import pytest

from resilient.balancing import Balancer, Ejection, Filtering, LeastRequest, Member, PeakEwma, Pick, RoundRobin
from resilient.errors import NoInstance, Rejected
from resilient.events import Event, InstanceEjected, InstanceRestored, SnapshotApplied
from resilient.verdict import Verdict
from tests.balancing.fleet import instance, snapshot

RANDOM = Random(0).random


def balancing(*names: str, picker=None, name: str = "orders", filters=(), duration=5.0, **ejection) -> Balancer:
    rules = Ejection(duration=duration, **ejection)
    balancer = Balancer(picker or RoundRobin(), ejection=rules, filters=filters, name=name)
    balancer.apply(snapshot(*names), 0.0, RANDOM)
    return balancer


def pick(balancer: Balancer, now: float = 0.0, tried: Sequence[str] = ()) -> Pick:
    return balancer.pick(now, RANDOM, [instance(name) for name in tried])


def pick_of(balancer: Balancer, name: str, now: float = 0.0) -> Pick:
    """A pick of one instance; what else was picked on the way is given back."""
    for _ in range(1000):
        if (found := pick(balancer, now)).instance.id == name:
            return found
        settle(balancer, found, Verdict.LOCAL, now)
    raise AssertionError(f"{name} is never picked")


def settle(balancer: Balancer, one: Pick, verdict: Verdict = Verdict.OK, now: float = 0.0) -> tuple[Event, ...]:
    return balancer.settle(one, verdict, 0.01, now, RANDOM)


def eject(balancer: Balancer, name: str, now: float = 0.0) -> tuple[Event, ...]:
    events: tuple[Event, ...] = ()
    for _ in range(5):
        events += settle(balancer, pick_of(balancer, name, now), Verdict.FAILED, now)
    return events


def picked(balancer: Balancer, now: float, times: int = 30, tried: Sequence[str] = ()) -> set[str]:
    """Who gets calls that say nothing about the instance."""
    found = set()
    for _ in range(times):
        one = pick(balancer, now, tried)
        found.add(one.instance.id)
        settle(balancer, one, Verdict.LOCAL, now)
    return found


def states(balancer: Balancer, now: float = 0.0) -> dict[str, str]:
    return {standing.instance.id: standing.state for standing in balancer.instances(now)}


def active(balancer: Balancer) -> dict[str, int]:
    return {standing.instance.id: standing.active for standing in balancer.instances(0.0)}


# What there is to choose from


def test_before_the_first_snapshot_there_is_no_instance() -> None:
    with pytest.raises(NoInstance, match="orders: discovery has not answered yet") as caught:
        pick(Balancer(name="orders"))
    assert isinstance(caught.value, Rejected)
    assert caught.value.retry_after is None


def test_an_empty_snapshot_is_told_from_none() -> None:
    with pytest.raises(NoInstance, match=r"^discovery knows no instance$"):
        pick(balancing(name=""))


def test_a_single_instance_is_always_picked_however_it_fails() -> None:
    balancer = balancing("a")
    for _ in range(50):
        one = pick(balancer)
        assert repr(one) == "Pick('a', 'only')"
        assert settle(balancer, one, Verdict.FAILED) == ()


def test_of_two_that_fail_one_stays() -> None:
    balancer = balancing("a", "b")
    assert len(eject(balancer, "a")) == 1
    for _ in range(50):
        one = pick(balancer, 1.0)
        assert (one.instance.id, one.reason) == ("b", "only")
        settle(balancer, one, Verdict.FAILED, 1.0)
    assert states(balancer) == {"a": "ejected", "b": "healthy"}


def test_an_instance_of_weight_zero_gets_no_new_calls_and_ends_its_own() -> None:
    balancer = balancing("a", "b", picker=PeakEwma())
    one = pick_of(balancer, "a")
    balancer.apply(snapshot(instance("a", weight=0.0), "b", version=2), 1.0, RANDOM)
    assert picked(balancer, 1.0) == {"b"}
    assert active(balancer)["a"] == 1
    settle(balancer, one, now=1.0)
    assert active(balancer)["a"] == 0
    assert states(balancer) == {"a": "draining", "b": "healthy"}


def test_when_all_drain_there_is_no_instance() -> None:
    balancer = balancing()
    balancer.apply(snapshot(instance("a", weight=0.0), version=2), 0.0, RANDOM)
    with pytest.raises(NoInstance, match="orders: 0 of 1 instances are used: 1 draining"):
        pick(balancer)


def test_an_attempt_goes_where_the_call_was_not_yet() -> None:
    balancer = balancing("a", "b", "c")
    assert picked(balancer, 0.0, tried=["a", "b"]) == {"c"}
    assert pick(balancer, tried=["a"]).reason == "elsewhere"


def test_when_the_call_was_everywhere_it_goes_anywhere() -> None:
    balancer = balancing("a", "b")
    assert picked(balancer, 0.0, tried=["a", "b", "a"]) == {"a", "b"}
    assert pick(balancer, tried=["b", "a"]).reason == "again"


def test_clients_do_not_begin_with_the_same_instance() -> None:
    first = set()
    for seed in range(50):
        balancer = Balancer(RoundRobin())
        balancer.apply(snapshot(*"abcde"), 0.0, Random(seed).random)
        first.add(balancer.pick(0.0, Random(seed).random).instance.id)
    assert first == set("abcde")


# Snapshots


def test_a_snapshot_says_what_came_and_what_left() -> None:
    balancer = balancing("a", "b")
    (event,) = balancer.apply(snapshot("b", "c", version=7), 3.0, RANDOM)
    assert event == SnapshotApplied(at=3.0, name="orders", version=7, added=("c",), removed=("a",))
    assert picked(balancer, 3.0) == {"b", "c"}


def test_a_snapshot_that_only_turned_stale_changes_no_choice() -> None:
    balancer = balancing("a", "b")
    stale = snapshot("a", "b", version=2, stale_since=4.0)
    assert balancer.apply(stale, 5.0, RANDOM) == ()
    assert balancer.snapshot is stale
    explanation = balancer.explain(6.0)
    assert (explanation.version, explanation.stale_for) == (2, 2.0)


def test_what_is_known_of_an_instance_survives_everything_but_its_id() -> None:
    balancer = balancing("a", "b", "c")
    eject(balancer, "a")
    held = pick_of(balancer, "b")
    moved = [instance("a", zone="x"), instance("b", weight=3.0), instance("d")]
    balancer.apply(snapshot(*moved, version=2), 1.0, RANDOM)
    assert states(balancer) == {"a": "ejected", "b": "healthy", "d": "healthy"}
    assert active(balancer) == {"a": 0, "b": 1, "d": 0}
    assert balancer.instances(1.0)[0].instance.zone == "x"
    settle(balancer, held, now=1.0)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_the_end_of_a_call_to_one_that_left_changes_nothing(verdict: Verdict) -> None:
    balancer = balancing("a", picker=PeakEwma())
    held = [pick(balancer) for _ in range(6)]
    balancer.apply(snapshot("b", version=2), 1.0, RANDOM)
    balancer.apply(snapshot("a", "b", version=3), 2.0, RANDOM)
    assert active(balancer) == {"a": 0, "b": 0}
    before = balancer.explain(2.0)
    for one in held:
        assert balancer.first_byte(one, 9.0, 2.0, RANDOM) == ()
        assert settle(balancer, one, verdict, 2.0) == ()
    assert balancer.explain(2.0) == before


# The end of an attempt


def test_an_attempt_ends_once() -> None:
    balancer = balancing("a")
    one = pick(balancer)
    settle(balancer, one)
    with pytest.raises(RuntimeError, match=r"Pick\('a', 'only'\) was settled before"):
        settle(balancer, one)
    assert active(balancer) == {"a": 0}


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_end_gives_the_place_back(verdict: Verdict) -> None:
    balancer = balancing("a", "b", picker=LeastRequest())
    one = pick(balancer)
    assert active(balancer)[one.instance.id] == 1
    settle(balancer, one, verdict)
    assert active(balancer) == {"a": 0, "b": 0}


@pytest.mark.parametrize("verdict", list(Verdict))
def test_what_counts_as_a_failure_is_what_the_verdict_blames_on_the_instance(verdict: Verdict) -> None:
    balancer = balancing("a", "b")
    for _ in range(5):
        settle(balancer, pick_of(balancer, "a"), verdict)
    assert (states(balancer)["a"] == "ejected") == verdict.bad


@pytest.mark.parametrize("between", [Verdict.REFUSED, Verdict.LOCAL, Verdict.PENDING, Verdict.CANCELLED])
def test_what_blames_nobody_does_not_interrupt_a_row_of_failures(between: Verdict) -> None:
    balancer = balancing("a", "b")
    for _ in range(5):
        settle(balancer, pick_of(balancer, "a"), between)
        settle(balancer, pick_of(balancer, "a"), Verdict.FAILED)
    assert states(balancer)["a"] == "ejected"


@pytest.mark.parametrize("verdict", [Verdict.OK, Verdict.ANSWERED])
def test_a_success_ends_a_row_of_failures(verdict: Verdict) -> None:
    balancer = balancing("a", "b")
    for _ in range(4):
        for _ in range(4):
            settle(balancer, pick_of(balancer, "a"), Verdict.FAILED)
        settle(balancer, pick_of(balancer, "a"), verdict)
    assert states(balancer)["a"] == "healthy"


def cost_after(verdict: Verdict, latency: float, retry_after: float | None = None) -> float:
    """What a latency-aware picker expects of an instance right after one call that came to this."""
    balancer = balancing("a", picker=PeakEwma(initial=0.1))
    balancer.settle(pick(balancer), verdict, latency, 0.0, RANDOM, retry_after)
    return balancer.instances(0.0)[0].score


@pytest.mark.parametrize(
    ("verdict", "latency", "retry_after", "cost"),
    [
        (Verdict.OK, 0.4, None, 0.4),
        (Verdict.ANSWERED, 0.4, None, 0.4),
        (Verdict.FAILED, 0.001, None, 5.0),
        (Verdict.FAILED, 0.001, 60.0, 5.0),  # nobody knows how long a failure lasts, whatever it says
        (Verdict.UNREACHABLE, 0.001, None, 5.0),
        (Verdict.OVERLOADED, 0.001, 60.0, 60.0),
        (Verdict.REFUSED, 0.001, None, 5.0),
        (Verdict.REFUSED, 0.001, 60.0, 60.0),
        (Verdict.REFUSED, 0.001, 1e9, 300.0),
        (Verdict.CANCELLED, 0.4, None, 0.4),
        (Verdict.CANCELLED, 0.001, None, 0.1),
        (Verdict.LOCAL, 0.4, None, 0.1),
        (Verdict.PENDING, 0.4, None, 0.1),
    ],
)
def test_what_each_end_says_about_latency(verdict, latency, retry_after, cost) -> None:
    assert cost_after(verdict, latency, retry_after) == cost


# Streams


def test_the_latency_of_a_stream_is_that_of_its_first_byte() -> None:
    balancer = balancing("a", picker=PeakEwma(initial=0.1))
    one = pick(balancer)
    assert balancer.first_byte(one, 0.2, 0.2, RANDOM) == ()
    assert active(balancer) == {"a": 1}
    assert balancer.instances(0.2)[0].score == pytest.approx(0.2 * 2)
    balancer.settle(one, Verdict.OK, 90.0, 0.2, RANDOM)
    assert balancer.instances(0.2)[0].score == pytest.approx(0.2)


def test_a_stream_that_its_caller_leaves_early_is_not_slow() -> None:
    balancer = balancing("a", picker=PeakEwma(initial=0.1))
    one = pick(balancer)
    balancer.first_byte(one, 0.2, 0.2, RANDOM)
    balancer.settle(one, Verdict.CANCELLED, 90.0, 0.2, RANDOM)
    assert balancer.instances(0.2)[0].score == pytest.approx(0.2)


def test_a_stream_that_breaks_is_a_failure() -> None:
    balancer = balancing("a", "b")
    for _ in range(5):
        one = pick_of(balancer, "a")
        balancer.first_byte(one, 0.001, 0.0, RANDOM)
        settle(balancer, one, Verdict.FAILED, 1.0)
    assert states(balancer)["a"] == "ejected"


def test_a_stream_that_begins_well_is_a_probe_that_succeeded() -> None:
    balancer = balancing("a", "b")
    eject(balancer, "a")
    probe = pick(balancer, 5.0)
    (event,) = balancer.first_byte(probe, 0.1, 5.1, RANDOM)
    assert event == InstanceRestored(at=5.1, name="orders", instance="a")
    assert settle(balancer, probe, Verdict.FAILED, 60.0) == ()  # from before it was restored
    assert states(balancer) == {"a": "healthy", "b": "healthy"}


def test_a_second_first_byte_says_nothing() -> None:
    balancer = balancing("a", picker=PeakEwma(initial=0.1))
    one = pick(balancer)
    balancer.first_byte(one, 0.2, 0.0, RANDOM)
    balancer.first_byte(one, 7.0, 0.0, RANDOM)
    settle(balancer, one)
    balancer.first_byte(one, 7.0, 0.0, RANDOM)
    assert balancer.instances(0.0)[0].score == pytest.approx(0.2)


# Ejection


def test_an_ejected_instance_gets_no_calls_until_its_time_is_over() -> None:
    balancer = balancing("a", "b", "c")
    events = eject(balancer, "a", 1.0)
    reason = "5 failures in a row"
    assert events == (InstanceEjected(at=1.0, name="orders", instance="a", seconds=5.0, reason=reason),)
    assert picked(balancer, 5.9) == {"b", "c"}
    assert balancer.instances(2.0)[0].ejected_for == 4.0


def test_the_reason_of_an_ejection_may_be_a_share() -> None:
    balancer = balancing("a", "b", consecutive_failures=None, minimum_calls=4)
    events: tuple[Event, ...] = ()
    for verdict in (Verdict.OK, Verdict.FAILED, Verdict.OK, Verdict.FAILED):
        events += settle(balancer, pick_of(balancer, "a"), verdict)
    (event,) = events
    assert isinstance(event, InstanceEjected)
    assert event.reason == "50% of its calls in 10 s failed"


def test_successes_count_whether_there_was_a_failure_before_or_not() -> None:
    balancer = balancing("a", "b", consecutive_failures=None, failure_ratio=0.5)
    ends = [Verdict.OK] * 15 + [Verdict.FAILED] * 14
    assert all(not settle(balancer, pick_of(balancer, "a", now), end, now) for now in (3.0,) for end in ends)
    (ejected,) = settle(balancer, pick_of(balancer, "a", 12.9), Verdict.FAILED, 12.9)
    assert isinstance(ejected, InstanceEjected)


def test_successes_of_long_ago_and_of_others_do_not_count() -> None:
    balancer = balancing("a", "b", consecutive_failures=None, failure_ratio=0.5)
    for name, now in (("a", 0.0), ("b", 12.0)):
        for _ in range(50):
            settle(balancer, pick_of(balancer, name, now), Verdict.OK, now)
    events = [settle(balancer, pick_of(balancer, "a", 12.0), Verdict.FAILED, 12.0) for _ in range(20)]
    assert [len(event) for event in events] == [0] * 19 + [1]


def test_a_service_is_busy_while_calls_are_under_way_and_until_their_window_is_over() -> None:
    balancer = balancing("a", "b")
    assert not balancer.busy(0.0)
    one = pick(balancer)
    assert balancer.busy(100.0)
    settle(balancer, one, Verdict.LOCAL, 100.0)
    assert not balancer.busy(100.0)
    for end, now in ((Verdict.OK, 100.0), (Verdict.FAILED, 200.0)):
        settle(balancer, pick(balancer, now), end, now)
        assert balancer.busy(now + 10.0)
        assert not balancer.busy(now + 12.0)


def test_when_its_time_is_over_one_call_tries_it() -> None:
    balancer = balancing("a", "b", "c")
    eject(balancer, "a")
    probe = pick(balancer, 5.0)
    assert (probe.instance.id, probe.reason) == ("a", "trial")
    assert picked(balancer, 5.0) == {"b", "c"}  # while it runs
    assert states(balancer, 5.0)["a"] == "trial"
    assert settle(balancer, probe, now=5.5) == (InstanceRestored(at=5.5, name="orders", instance="a"),)
    assert picked(balancer, 5.5) == {"a", "b", "c"}


@pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.UNREACHABLE, Verdict.OVERLOADED, Verdict.REFUSED])
def test_a_trial_that_fails_or_is_refused_ejects_for_longer(verdict: Verdict) -> None:
    balancer = balancing("a", "b")
    eject(balancer, "a")
    (event,) = settle(balancer, pick(balancer, 5.0), verdict, 5.0)
    assert isinstance(event, InstanceEjected)
    assert event.reason == "its trial failed"
    assert 10.0 <= event.seconds <= 12.0
    assert picked(balancer, 14.9) == {"b"}


@pytest.mark.parametrize("verdict", [Verdict.CANCELLED, Verdict.LOCAL, Verdict.PENDING])
def test_a_trial_that_says_nothing_gives_its_place_back(verdict: Verdict) -> None:
    balancer = balancing("a", "b")
    eject(balancer, "a")
    probe = pick(balancer, 5.0)
    assert settle(balancer, probe, verdict, 5.0) == ()
    assert states(balancer, 5.0)["a"] == "trial"
    assert pick(balancer, 5.0).reason == "trial"


def test_a_trial_that_hangs_is_replaced_when_its_lease_is_over() -> None:
    balancer = balancing("a", "b")
    eject(balancer, "a")
    hanging = pick(balancer, 5.0)
    assert pick(balancer, 9.9).instance.id == "b"
    probe = pick(balancer, 10.0)
    assert probe.reason == "trial"
    settle(balancer, probe, Verdict.OK, 11.0)
    assert settle(balancer, hanging, Verdict.FAILED, 60.0) == ()
    assert states(balancer)["a"] == "healthy"


def test_a_success_from_before_the_ejection_restores_nothing() -> None:
    balancer = balancing("a", "b")
    early = pick_of(balancer, "a")
    eject(balancer, "a")
    assert settle(balancer, early, Verdict.OK, 1.0) == ()
    probe = pick(balancer, 5.0)
    assert states(balancer, 5.0)["a"] == "trial"
    settle(balancer, probe, Verdict.FAILED, 5.0)


def test_a_failure_from_before_the_ejection_does_not_count_against_the_restored() -> None:
    balancer = balancing("a", "b")
    early = [pick_of(balancer, "a") for _ in range(20)]
    eject(balancer, "a")
    settle(balancer, pick(balancer, 5.0), Verdict.OK, 5.0)
    for one in early:
        assert settle(balancer, one, Verdict.FAILED, 6.0) == ()
    assert states(balancer)["a"] == "healthy"


def test_a_retry_is_no_probe_while_there_is_another_candidate() -> None:
    balancer = balancing("a", "b", "c")
    eject(balancer, "a")
    assert pick(balancer, 5.0, tried=["b"]).instance.id == "c"


def test_a_retry_is_a_probe_before_it_goes_where_it_failed() -> None:
    balancer = balancing("a", "b")
    eject(balancer, "a")
    assert pick(balancer, 5.0, tried=["b"]).reason == "trial"
    assert pick(balancer, 5.0, tried=["b"]).reason == "again"


def test_a_probe_does_not_go_where_the_call_was_before() -> None:
    balancer = balancing("a", "b")
    eject(balancer, "a")
    assert pick(balancer, 5.0, tried=["a"]).instance.id == "b"
    assert pick(balancer, 5.0, tried=["a", "b"]).reason == "again"


def test_no_more_are_ejected_than_the_cap_allows() -> None:
    balancer = balancing("a", "b", "c", "d", "e", max_ejected=0.4)
    for name in "abcde":
        for _ in range(20):
            if name in picked(balancer, 0.0):
                settle(balancer, pick_of(balancer, name), Verdict.FAILED)
    assert sorted(states(balancer).values()) == ["ejected", "ejected", "healthy", "healthy", "healthy"]


def test_when_there_is_room_again_the_next_failures_count() -> None:
    balancer = balancing("a", "b", "c")
    eject(balancer, "a")
    assert eject(balancer, "b") == ()
    settle(balancer, pick(balancer, 5.0), Verdict.OK, 5.0)
    (event,) = eject(balancer, "b", 5.0)
    assert isinstance(event, InstanceEjected)


def test_without_ejection_nobody_is_ever_ejected() -> None:
    balancer = Balancer(RoundRobin(), ejection=None)
    balancer.apply(snapshot("a", "b"), 0.0, RANDOM)
    for _ in range(200):
        assert settle(balancer, pick(balancer), Verdict.FAILED) == ()
    assert states(balancer) == {"a": "healthy", "b": "healthy"}


# Panic


def test_when_too_few_are_healthy_all_are_used() -> None:
    balancer = balancing(*"abcdef")
    for name in "abc":
        eject(balancer, name)
    assert picked(balancer, 1.0) == set("def")
    balancer.apply(snapshot(*"abcd", version=2), 1.0, RANDOM)  # healthy ones leave
    assert picked(balancer, 1.0) == set("abcd")
    assert pick(balancer, 1.0).reason == "panic"
    explanation = balancer.explain(1.0)
    assert explanation.panic
    assert explanation.reason == "panic, too few are healthy, so all are used: 3 ejected, 1 healthy"
    assert all(standing.candidate for standing in explanation.standings)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_calls_sent_in_a_panic_neither_restore_nor_eject(verdict: Verdict) -> None:
    balancer = balancing("a", "b", max_ejected=1.0)
    eject(balancer, "a")
    eject(balancer, "b")
    for _ in range(10):
        assert settle(balancer, pick(balancer, 1.0), verdict, 1.0) == ()
    assert states(balancer, 1.0) == {"a": "ejected", "b": "ejected"}


def test_without_panic_calls_fail_at_once_and_say_when_to_come_back() -> None:
    balancer = balancing("a", max_ejected=1.0, panic=0.0)
    eject(balancer, "a")
    with pytest.raises(NoInstance, match="orders: 0 of 1 instances are used: 1 ejected") as caught:
        pick(balancer, 2.0)
    assert caught.value.retry_after == pytest.approx(3.0)
    assert caught.value.policy is balancer


def test_while_the_only_one_is_on_trial_others_wait_for_its_lease() -> None:
    balancer = balancing("a", max_ejected=1.0, panic=0.0)
    eject(balancer, "a")
    pick(balancer, 6.0)
    with pytest.raises(NoInstance, match="1 trial") as caught:
        pick(balancer, 7.0)
    assert caught.value.retry_after == pytest.approx(4.0)


# Filters


class Zone:
    """The nearest healthy ones, or all."""

    def __init__(self, zone: str) -> None:
        self.zone = zone

    def filtering(self) -> Filtering:
        return self

    def weigh(self, members: Sequence[Member], now: float, random) -> tuple[Sequence[float], float]:
        near = [member.weight if member.instance.zone == self.zone else 0.0 for member in members]
        healthy = any(member.healthy and weight for member, weight in zip(members, near, strict=True))
        return (near if healthy else [member.weight for member in members]), math.inf


class Warming:
    """A tenth of its weight for the first ten seconds of an instance."""

    def filtering(self) -> Filtering:
        return self

    def weigh(self, members: Sequence[Member], now: float, random) -> tuple[Sequence[float], float]:
        ends = [member.healthy_since + 10.0 for member in members]
        weights = [
            member.weight if now >= end else member.weight / 10 for member, end in zip(members, ends, strict=True)
        ]
        return weights, min((end for end in ends if end > now), default=math.inf)


def zoned(*filters) -> Balancer:
    balancer = Balancer(RoundRobin(), filters=filters, ejection=Ejection(max_ejected=0.9))
    members = [instance("a", zone="x"), instance("b", zone="x"), instance("c", zone="y")]
    balancer.apply(snapshot(*members), 0.0, RANDOM)
    return balancer


def test_a_filter_leaves_instances_out() -> None:
    balancer = zoned(Zone("x"))
    assert picked(balancer, 0.0) == {"a", "b"}
    assert states(balancer) == {"a": "healthy", "b": "healthy", "c": "filtered"}


def test_a_filter_is_asked_again_when_somebody_is_ejected_or_restored() -> None:
    balancer = zoned(Zone("y"))
    assert picked(balancer, 0.0) == {"c"}
    eject(balancer, "c")
    assert picked(balancer, 0.0) == {"a", "b"}
    settle(balancer, pick(balancer, 5.0), Verdict.OK, 5.0)
    assert picked(balancer, 5.0) == {"c"}


def test_a_filter_is_asked_again_when_it_said_so() -> None:
    balancer = zoned(Warming())
    balancer.apply(snapshot(*[instance(name) for name in "abcd"], version=2), 20.0, RANDOM)
    assert [one.weight for one in balancer.instances(20.0)] == [1.0, 1.0, 1.0, 0.1]
    pick(balancer, 29.9)
    assert [one.weight for one in balancer.instances(29.9)] == [1.0, 1.0, 1.0, 0.1]
    pick(balancer, 30.0)
    assert [one.weight for one in balancer.instances(30.0)] == [1.0, 1.0, 1.0, 1.0]


def test_filters_know_since_when_an_instance_is_healthy() -> None:
    balancer = zoned(Warming())
    balancer.apply(snapshot(*"abc", version=2), 20.0, RANDOM)
    eject(balancer, "a", 20.0)
    settle(balancer, pick(balancer, 25.0), Verdict.OK, 26.0)
    assert [one.weight for one in balancer.instances(26.0)] == [0.1, 1.0, 1.0]


def test_filters_see_the_weights_of_those_before_them() -> None:
    balancer = zoned(Zone("x"), Warming())
    assert [one.weight for one in balancer.instances(0.0)] == [0.1, 0.1, 0.0]


def test_a_filter_that_leaves_nobody_is_told_of() -> None:
    class Nobody:
        def filtering(self) -> Filtering:
            return self

        def weigh(self, members: Sequence[Member], now: float, random) -> tuple[Sequence[float], float]:
            return [0.0] * len(members), math.inf

    with pytest.raises(NoInstance, match="0 of 3 instances are used: 3 filtered"):
        pick(zoned(Nobody()))


def test_what_is_no_filter_is_refused() -> None:
    with pytest.raises(TypeError, match=r"filters: .* is no Filter: it has no filtering\(\)"):
        Balancer(filters=[lambda members: members])  # type: ignore[list-item]  # the test


# Explanations


def test_an_explanation_shows_candidates_scores_and_the_reason() -> None:
    balancer = balancing("a", "b", "c", picker=LeastRequest())
    pick_of(balancer, "c")
    eject(balancer, "b")
    explanation = balancer.explain(1.0)
    assert explanation.reason == "2 of 3 instances are used: 2 healthy, 1 ejected"
    shown = [(one.instance.id, one.candidate, one.score) for one in explanation.standings]
    assert shown == [("a", True, 0.0), ("b", False, 0.0), ("c", True, 1.0)]


def test_an_explanation_is_a_table() -> None:
    balancer = balancing("a", "b", "c")
    eject(balancer, "b")
    pick_of(balancer, "a")
    lines = str(balancer.explain(1.0)).splitlines()
    assert lines[0] == "2 of 3 instances are used: 2 healthy, 1 ejected"
    assert lines[1].split() == [
        "instance",
        "address",
        "state",
        "weight",
        "active",
        "score",
        "failures",
        "ejected",
        "for",
    ]
    assert lines[2].split()[:6] == ["*", "a", "127.0.0.1:8000", "healthy", "1", "1"]
    assert lines[3].split()[:4] == ["b", "127.0.0.1:8000", "ejected", "1"]
    assert lines[3].endswith("4.0 s")


# Threads


def test_threads_share_one_balancer() -> None:
    balancer = balancing(*"abcde", picker=PeakEwma())
    random = Random(0)

    def work() -> None:
        for number in range(2000):
            one = balancer.pick(number * 0.001, random.random)
            verdict = Verdict.FAILED if number % 7 == 0 else Verdict.OK
            balancer.settle(one, verdict, 0.01, number * 0.001, random.random)
            if number % 500 == 0:
                balancer.apply(
                    snapshot(*("abcde" if number % 1000 else "abcd"), version=number), number * 0.001, RANDOM
                )
                balancer.explain(number * 0.001)

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(active(balancer).values()) == {0}
