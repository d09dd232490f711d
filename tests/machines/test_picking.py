"""The choice among candidates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient.machines.drawing import two
from resilient.machines.ewma import LatencyEwma
from resilient.machines.picking import (
    Change,
    LeastRequestPicking,
    Observer,
    PeakEwmaPicking,
    Picking,
    RandomPicking,
    RoundRobinPicking,
)
from tests.machines.stubs import Stub, change


def stubs(count: int) -> list[Stub]:
    return [Stub(f"i{number}") for number in range(count)]


def ewma() -> PeakEwmaPicking:
    return PeakEwmaPicking(tau=3.0, penalty=5.0, longest=300.0, initial=0.03)


EVERY: list[Callable[[], Picking]] = [RandomPicking, RoundRobinPicking, LeastRequestPicking, ewma]


def shares(picking: Picking, candidates: Sequence[Stub], picks: int = 4000, seed: int = 0) -> dict[str, float]:
    random = Random(seed).random
    counts = Counter(picking.pick(candidates, 0.0, random, None).id for _ in range(picks))
    return {candidate.id: counts[candidate.id] / picks for candidate in candidates}


def started(make: Callable[[], Picking], members: Sequence[Stub]) -> Picking:
    picking = make()
    picking.update(change(members), 0.0, Random(0).random)
    return picking


@pytest.mark.parametrize("make", EVERY)
def test_a_single_candidate_is_chosen(make) -> None:
    (only,) = members = stubs(1)
    assert started(make, members).pick(members, 0.0, Random(0).random, None) is only


@pytest.mark.parametrize("make", EVERY)
@pytest.mark.parametrize("count", [2, 3, 5, 20])
def test_equal_candidates_get_equal_shares(make, count: int) -> None:
    members = stubs(count)
    for share in shares(started(make, members), members).values():
        assert share == pytest.approx(1 / count, rel=0.2)


@pytest.mark.parametrize("make", EVERY)
@given(
    weights=st.lists(st.floats(0.001, 1000.0), min_size=1, max_size=8),
    active=st.lists(st.integers(0, 50), min_size=8, max_size=8),
    chances=st.lists(st.floats(0.0, 1.0, exclude_max=True), min_size=2, max_size=2),
)
def test_a_member_is_chosen_whatever_the_weights_the_load_and_the_chance(make, weights, active, chances) -> None:
    members = [Stub(f"i{number}", weight, active[number]) for number, weight in enumerate(weights)]
    draws = iter(chances)
    assert started(make, members).pick(members, 0.0, lambda: next(draws), None) in members


@pytest.mark.parametrize("make", EVERY)
def test_a_part_of_the_members_can_be_chosen_from(make) -> None:
    members = stubs(4)
    assert set(shares(started(make, members), members[1:3])) == {"i1", "i2"}


@pytest.mark.parametrize("make", EVERY)
def test_scores_exist_for_every_member(make) -> None:
    members = [Stub("a", 2.0, 3), Stub("b")]
    picking = started(make, members)
    assert all(isinstance(picking.score(member, 1.0), float) for member in members)


@pytest.mark.parametrize("make", [RandomPicking, RoundRobinPicking, LeastRequestPicking])
@given(weights=st.lists(st.integers(1, 9), min_size=2, max_size=6))
@settings(max_examples=10)
def test_idle_candidates_get_shares_by_their_weights(make, weights: list[int]) -> None:
    members = [Stub(f"i{number}", float(weight)) for number, weight in enumerate(weights)]
    for member, share in zip(members, shares(started(make, members), members).values(), strict=True):
        assert share == pytest.approx(member.weight / sum(weights), abs=0.04)


def test_a_random_pick_knows_no_turns() -> None:
    members = stubs(3)
    picking = started(RandomPicking, members)
    picked = [picking.pick(members, 0.0, Random(1).random, None).id for _ in range(5)]
    assert len(set(picked)) == 1  # the same chance each time
    assert picking.score(members[0], 0.0) == 0.0


def test_round_robin_takes_turns() -> None:
    members = stubs(3)
    picking = started(RoundRobinPicking, members)
    order = [picking.pick(members, 0.0, Random(0).random, None).id for _ in range(7)]
    assert order == ["i1", "i2", "i0", "i1", "i2", "i0", "i1"]


def test_weighted_round_robin_is_exact_and_smooth() -> None:
    members = [Stub("a", 5.0), Stub("b", 1.0), Stub("c", 1.0)]
    picking = started(RoundRobinPicking, members)
    order = "".join(picking.pick(members, 0.0, Random(0).random, None).id for _ in range(14))
    assert order == "aabacaa" * 2


def test_weighted_round_robin_goes_on_where_it_was_when_somebody_leaves() -> None:
    a, b, c = Stub("a", 5.0), Stub("b", 1.0), Stub("c", 1.0)
    picking = started(RoundRobinPicking, [a, b, c])
    assert [picking.pick([a, b, c], 0.0, Random(0).random, None).id for _ in range(2)] == ["a", "a"]
    picking.update(change([a, b], [a, b, c]), 0.0, Random(0).random)
    assert picking.pick([a, b], 0.0, Random(0).random, None) is b
    assert picking.score(a, 0.0) < picking.score(b, 0.0)  # a comes next


def test_least_request_chooses_the_less_busy_of_two() -> None:
    a, b = Stub("a", active=3), Stub("b", active=2)
    assert shares(started(LeastRequestPicking, [a, b]), [a, b]) == {"a": 0.0, "b": 1.0}


def test_least_request_never_chooses_the_busiest() -> None:
    """Both draws are different: with replacement it would still get one call in n * n."""
    members = [*stubs(4), Stub("busy", active=1)]
    assert shares(started(LeastRequestPicking, members), members)["busy"] == 0.0


def test_least_request_counts_for_each_unit_of_weight() -> None:
    a, b = Stub("a", 3.0, active=5), Stub("b", 1.0, active=2)
    assert shares(started(LeastRequestPicking, [a, b]), [a, b])["a"] == 1.0
    assert started(LeastRequestPicking, [a, b]).score(a, 0.0) == pytest.approx(5 / 3)


@pytest.mark.parametrize("weights", [(3.0, 1.0), (1.0, 3.0), (5.0, 3.0, 2.0)])
def test_idle_least_request_follows_the_weights(weights: tuple[float, ...]) -> None:
    members = [Stub(f"i{number}", weight) for number, weight in enumerate(weights)]
    for member, share in zip(members, shares(started(LeastRequestPicking, members), members).values(), strict=True):
        assert share == pytest.approx(member.weight / sum(weights), abs=0.03)


def test_the_ewma_picker_looks_at_failures_too() -> None:
    assert isinstance(ewma(), Observer)


def test_the_ewma_picker_chooses_what_answers_sooner() -> None:
    a, b = members = stubs(2)
    picking = ewma()
    picking.update(change(members), 0.0, Random(0).random)
    picking.observe(a, 0.2, 1.0)
    picking.observe(b, 0.1, 1.0)
    assert picking.pick(members, 1.0, Random(0).random, None) is b


def test_the_ewma_picker_weighs_calls_in_flight_and_weights() -> None:
    a, b = members = [Stub("a", 2.0, active=3), Stub("b", 1.0, active=1)]
    picking = started(ewma, members)
    assert isinstance(picking, PeakEwmaPicking)
    picking.observe(a, 0.1, 1.0)
    picking.observe(b, 0.1, 1.0)
    assert picking.score(a, 1.0) == pytest.approx(0.1 * 4 / 2)
    assert picking.score(b, 1.0) == pytest.approx(0.1 * 2)


def test_a_fast_failure_is_a_slow_call() -> None:
    (a,) = members = stubs(1)
    picking = ewma()
    picking.update(change(members), 0.0, Random(0).random)
    picking.observe_failure(a, 0.001, None, 1.0)
    assert picking.score(a, 1.0) == 5.0


@pytest.mark.parametrize(("hint", "cost"), [(2.0, 5.0), (60.0, 60.0), (7200.0, 300.0)])
def test_a_hint_counts_up_to_its_limit(hint: float, cost: float) -> None:
    (a,) = members = stubs(1)
    picking = ewma()
    picking.update(change(members), 0.0, Random(0).random)
    picking.observe_failure(a, 0.001, hint, 1.0)
    assert picking.score(a, 1.0) == cost


def test_a_failure_that_took_longer_than_the_penalty_counts_as_long_as_it_took() -> None:
    (a,) = members = stubs(1)
    picking = ewma()
    picking.update(change(members), 0.0, Random(0).random)
    picking.observe_failure(a, 12.0, None, 1.0)
    assert picking.score(a, 1.0) == 12.0


def test_a_cancelled_call_counts_with_the_time_it_was_waited_for() -> None:
    (a,) = members = stubs(1)
    picking = ewma()
    picking.update(change(members), 0.0, Random(0).random)
    picking.observe_unfinished(a, 0.8, 1.0)
    assert picking.score(a, 1.0) == 0.8


def test_a_newcomer_begins_at_the_median_of_the_others() -> None:
    members = stubs(3)
    picking = ewma()
    picking.update(change(members), 0.0, Random(0).random)
    for member, latency in zip(members, (0.2, 0.4, 30.0), strict=True):
        picking.observe(member, latency, 1.0)
    new = Stub("new")
    picking.update(change([*members, new], members), 1.0, Random(0).random)
    assert picking.score(new, 1.0) == 0.4
    assert picking.score(members[0], 1.0) == 0.2


def test_who_left_is_forgotten() -> None:
    a, b = members = stubs(2)
    picking = ewma()
    picking.update(change(members), 0.0, Random(0).random)
    picking.observe(a, 9.0, 1.0)
    picking.update(change([b], [a, b]), 1.0, Random(0).random)
    picking.update(change([a, b], [b]), 1.0, Random(0).random)
    assert picking.score(a, 1.0) < 1.0


@given(
    st.lists(
        st.tuples(st.floats(1e-5, 9.0), st.floats(0.0, 20.0), st.integers(0, 3), st.floats(0.1, 9.0)),
        min_size=2,
        max_size=5,
    ),
    st.floats(0.0, 40.0),
    st.integers(0, 100),
)
def test_the_choice_is_by_the_score_and_the_score_is_that_of_the_estimate(
    given_: list[tuple[float, float, int, float]], now: float, seed: int
) -> None:
    members = stubs(len(given_))
    estimates = [LatencyEwma(0.03, 3.0, 0.0) for _ in members]
    picking = ewma()
    picking.update(change(members), 0.0, Random(0).random)
    for (latency, at, active, weight), member, estimate in zip(given_, members, estimates, strict=True):
        member.active, member.weight = active, weight
        for moment in (at, at + 0.5):
            picking.observe(member, latency, moment)
            estimate.observe(latency, moment)
    expected = [one.read(now) * (each.active + 1) / each.weight for one, each in zip(estimates, members, strict=True)]
    assert [picking.score(member, now) for member in members] == expected
    one, other = two(members, Random(seed).random)
    better = other if picking.score(other, now) < picking.score(one, now) else one
    assert picking.pick(members, now, Random(seed).random, None) is better


@given(st.integers(2, 9), st.integers(0, 100))
def test_two_equally_busy_ones_are_chosen_from_in_the_order_drawn(count: int, seed: int) -> None:
    members = stubs(count)
    picking = started(LeastRequestPicking, members)
    one, other = two(members, Random(seed).random)
    assert picking.pick(members, 0.0, Random(seed).random, None) is one
    one.active = 1
    assert picking.pick(members, 0.0, Random(seed).random, None) is other


def test_after_a_long_silence_the_calls_in_flight_decide() -> None:
    a, b = members = stubs(2)
    picking = ewma()
    picking.update(change(members), 0.0, Random(0).random)
    picking.observe(a, 0.1, 0.0)
    picking.observe(b, 0.1, 15.0)
    a.active = 1
    assert picking.pick(members, 60.0, Random(0).random, None) is b


@dataclass
class Read:
    """An estimate that counts how often somebody reads any."""

    latency: float
    times: ClassVar[int] = 0

    def read(self, now: float) -> float:
        Read.times += 1
        return self.latency


def test_a_newcomer_among_thousands_begins_near_the_median_without_a_look_at_all_of_them() -> None:
    members = stubs(10_000)
    for member, latency in zip(members, Random(0).sample(range(1, 10_001), 10_000), strict=True):
        member.memory = Read(float(latency))
    new = Stub("new")
    picking = ewma()
    picking.update(Change([*members, new], [new]), 1.0, Random(0).random)
    assert picking.score(new, 1.0) == pytest.approx(5_000, rel=0.2)
    assert Read.times < 600
