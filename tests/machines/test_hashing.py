"""Calls with one key go to one instance, and hardly any of them moves."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from random import Random
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient.machines.hashing import (
    Identify,
    MaglevPicking,
    RendezvousPicking,
    RingHashPicking,
    _in_order,
    _mix,
    hash_of,
    is_prime,
)
from resilient.machines.picking import Bounding, Explaining, Picking
from tests.machines.stubs import Stub, change

KEYS = [f"user-{number}" for number in range(6000)]


def by_id(one: object) -> str:
    assert isinstance(one, Stub)
    return one.id


def rendezvous(bound: float | None = None, identify: Identify = by_id) -> RendezvousPicking:
    return RendezvousPicking(bound=bound, identify=identify)


def ring(bound: float | None = None, identify: Identify = by_id) -> RingHashPicking:
    return RingHashPicking(least=1024, most=32_768, bound=bound, identify=identify)


def maglev(bound: float | None = None, identify: Identify = by_id) -> MaglevPicking:
    return MaglevPicking(size=131_071, bound=bound, identify=identify)


def small_maglev(bound: float | None = None) -> MaglevPicking:
    return MaglevPicking(size=251, bound=bound, identify=by_id)


EVERY = pytest.mark.parametrize("make", [rendezvous, ring, maglev])
EVERY_FAST = pytest.mark.parametrize("make", [rendezvous, ring, small_maglev])


def stubs(count: int) -> tuple[Stub, ...]:
    return tuple(Stub(f"10.0.{number // 256}.{number % 256}:8080") for number in range(count))


def places(picking: Picking, members: Sequence[Stub], keys: Sequence[Hashable] = KEYS, now: float = 0.0) -> list[str]:
    return [picking.pick(members, now, Random(0).random, key).id for key in keys]


def mapped(make: Callable[[], Picking], members: Sequence[Stub], keys: Sequence[Hashable] = KEYS) -> list[str]:
    picking = make()
    picking.update(change(members), 0.0, Random(0).random)
    return places(picking, members, keys)


def moved(before: Sequence[str], after: Sequence[str]) -> float:
    return sum(one != other for one, other in zip(before, after, strict=True)) / len(before)


@EVERY
def test_a_key_has_one_instance_whatever_the_order_they_came_in(make) -> None:
    members = stubs(17)
    shuffled = list(members)
    Random(3).shuffle(shuffled)
    assert mapped(make, members) == mapped(make, shuffled)


@pytest.mark.parametrize("count", [2, 5, 12, 50])
def test_a_removal_moves_the_keys_of_the_removed_and_no_others(count: int) -> None:
    members = stubs(count)
    before = mapped(rendezvous, members)
    after = mapped(rendezvous, members[1:])
    gone = sum(one == members[0].id for one in before) / len(before)
    assert moved(before, after) == gone <= 1.2 / count


ENTRIES = 131_071


def owners(make: Callable[[], MaglevPicking | RingHashPicking], members: Sequence[Stub]) -> list[str]:
    """Whose all keys are, and not a sample of them: one hash for each entry of Maglev's table, as many for a ring."""
    picking = make()
    picking.update(change(members), 0.0, Random(0).random)
    picking._follow(0.0)
    return [picking._ids[picking._at(number * (2**64 // ENTRIES))] for number in range(ENTRIES)]


@pytest.mark.parametrize("count", [2, 5, 12, 50])
@pytest.mark.parametrize("seed", range(3))
def test_the_removal_of_whoever_has_most_on_a_ring_moves_its_own_keys_and_no_others(count: int, seed: int) -> None:
    members = [Stub(f"{seed}-{number}") for number in range(count)]
    before = owners(ring, members)
    name, most = Counter(before).most_common(1)[0]
    after = owners(ring, [member for member in members if member.id != name])
    assert moved(before, after) == most / ENTRIES <= 1.2 / count


@pytest.mark.parametrize("count", [2, 5, 12, 50])
@pytest.mark.parametrize("seed", range(3))
def test_a_removal_from_a_table_moves_few_keys_besides_those_of_the_removed(count: int, seed: int) -> None:
    members = [Stub(f"{seed}-{number}") for number in range(count)]
    before = owners(maglev, members)
    assert 1 / count <= moved(before, owners(maglev, members[1:])) + 1 / ENTRIES <= 1.2 / count
    assert max(Counter(before).values()) <= 1.01 * ENTRIES / count


def plain(size: int, identities: Sequence[str], weights: Sequence[float]) -> list[int]:
    """Maglev's table, as the paper fills it."""
    table, left = [-1] * size, size
    places = [hash_of(identity) % size for identity in identities]
    skips = [_mix(hash_of(identity)) % (size - 1) + 1 for identity in identities]
    due = [0.0] * len(weights)
    while True:
        for owner, weight in enumerate(weights):
            due[owner] += weight / max(weights)
            if due[owner] < 1.0:
                continue
            due[owner] -= 1.0
            while table[places[owner]] >= 0:
                places[owner] = (places[owner] + skips[owner]) % size
            table[places[owner]] = owner
            left -= 1
            if not left:
                return table


@given(
    st.sampled_from([2, 3, 251, 1009]),
    st.lists(st.sampled_from([1.0, 1.0, 0.5, 0.25, 3.0]), min_size=1, max_size=20),
    st.integers(0, 999),
)
def test_a_table_is_what_the_plain_algorithm_makes(size: int, weights: list[float], seed: int) -> None:
    members = [Stub(f"{seed}-{number:02}", weight) for number, weight in enumerate(weights)]
    picking = MaglevPicking(size=size, bound=None, identify=by_id)
    picking.update(change(members), 0.0, Random(0).random)
    picking._follow(0.0)
    assert list(picking._table) == plain(size, [member.id for member in members], weights)


@EVERY
@pytest.mark.parametrize("count", [5, 12, 50])
def test_a_replacement_moves_at_most_two_and_a_half_shares(make, count: int) -> None:
    members = stubs(count)
    before = mapped(make, members)
    after = mapped(make, (*members[1:], Stub("10.9.9.9:8080")))
    assert 0 < moved(before, after) <= 2.5 / count


@EVERY
def test_a_replacement_with_the_same_identity_moves_nothing(make) -> None:
    def ordinal(one: object) -> str:
        return by_id(one).partition("/")[0]

    old = [Stub(f"orders-{number}/pod-a") for number in range(6)]
    new = [*old[:5], Stub("orders-5/pod-b")]
    before = mapped(lambda: make(None, ordinal), old)
    after = mapped(lambda: make(None, ordinal), new)
    assert [one.partition("/")[0] for one in before] == [one.partition("/")[0] for one in after]


@EVERY
def test_two_with_the_same_identity_share_the_keys(make) -> None:
    members = (Stub("a"), Stub("b"))
    counts = Counter(mapped(lambda: make(None, lambda one: "same"), members))
    assert all(count / len(KEYS) == pytest.approx(0.5, abs=0.1) for count in (counts["a"], counts["b"]))


@EVERY
@pytest.mark.parametrize("count", [2, 5, 20])
def test_equal_instances_get_equal_shares_of_the_keys(make, count: int) -> None:
    counts = Counter(mapped(make, stubs(count)))
    assert len(counts) == count
    for share in counts.values():
        assert share / len(KEYS) == pytest.approx(1 / count, rel=0.2)


@EVERY_FAST
@given(weights=st.lists(st.integers(1, 8), min_size=2, max_size=6))
@settings(max_examples=15, deadline=None)
def test_weights_are_shares_of_the_keys(make, weights: list[int]) -> None:
    members = tuple(replace(one, weight=float(weight)) for one, weight in zip(stubs(6), weights, strict=False))
    counts = Counter(mapped(make, members, KEYS[:3000]))
    for member in members:
        assert counts[member.id] / 3000 == pytest.approx(member.weight / sum(weights), abs=0.08)


@EVERY_FAST
@given(
    weights=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=8),
    active=st.lists(st.integers(0, 9), min_size=8, max_size=8),
    out=st.sets(st.integers(0, 7)),
    key=st.one_of(st.none(), st.text(), st.binary(), st.integers()),
    bound=st.sampled_from([None, 1.0, 1.25, 2.0]),
)
@settings(deadline=None)
def test_a_candidate_within_its_bound_is_chosen(make, weights, active, out, key, bound) -> None:
    members = [Stub(f"i{number}", weight, active[number]) for number, weight in enumerate(weights)]
    candidates = tuple(one for number, one in enumerate(members) if number not in out) or tuple(members)
    picking = make(bound)
    picking.update(change(members), 0.0, Random(0).random)
    total = picking.in_flight = sum(one.active for one in members)
    chosen = picking.pick(candidates, 0.0, Random(0).random, key)
    assert chosen in candidates
    if bound is not None and key is not None and len(candidates) > 1:
        share = chosen.weight / math.fsum(one.weight for one in candidates)
        assert chosen.active < math.ceil(bound * (total + 1) * share) or chosen.active == 0


@EVERY
def test_one_key_for_all_spreads_over_as_many_as_it_takes(make) -> None:
    members = stubs(10)
    picking = make(1.25)
    picking.update(change(members), 0.0, Random(0).random)
    reasons = []
    for total in range(200):
        picking.in_flight = total
        chosen = picking.pick(members, 0.0, Random(0).random, "everybody's")
        reasons.append(picking.why)
        chosen.active += 1
        assert chosen.active <= math.ceil(1.25 * (total + 1) / 10)
    assert reasons[0] is None
    assert "bounded" in reasons
    assert sum(one.active > 0 for one in members) >= 8


@EVERY
def test_without_a_bound_one_key_stays_at_home(make) -> None:
    members = tuple(replace(one, active=100) for one in stubs(10))
    picking = make(None)
    picking.update(change(members), 0.0, Random(0).random)
    picking.in_flight = 1000
    assert set(places(picking, members, ["everybody's"] * 50)) == set(mapped(make, stubs(10), ["everybody's"]))


@EVERY
def test_keys_of_what_is_out_of_use_spread_over_the_others_and_come_back(make) -> None:
    members = stubs(8)
    picking = make(None)
    picking.update(change(members), 0.0, Random(0).random)
    before = places(picking, members)
    without = places(picking, members[1:])
    heirs = Counter(new for old, new in zip(before, without, strict=True) if old == members[0].id)
    assert len(heirs) == 7
    assert max(heirs.values()) <= 0.3 * heirs.total()
    assert all(old == new for old, new in zip(before, without, strict=True) if old != members[0].id)
    assert places(picking, members) == before


@EVERY
def test_few_usable_of_many_are_found_and_the_key_stays_there(make) -> None:
    members = stubs(500)
    picking = make(1.25)
    picking.update(change(members), 0.0, Random(0).random)
    few = members[7:9]
    first = places(picking, few, KEYS[:200])
    assert set(first) == {one.id for one in few}
    assert places(picking, tuple(reversed(few)), KEYS[:200]) == first


@EVERY
def test_without_a_key_it_is_chance_by_weight(make) -> None:
    members = (Stub("a", 3.0), Stub("b"))
    picking = make()
    picking.update(change(members), 0.0, Random(0).random)
    random = Random(0).random
    counts = Counter(picking.pick(members, 0.0, random, None).id for _ in range(4000))
    assert picking.why == "fallback"
    assert counts["a"] / 4000 == pytest.approx(0.75, abs=0.03)


@EVERY
def test_it_explains_itself(make) -> None:
    picking = make()
    assert picking.score(Stub("a", 2.0, 3), 0.0) == 1.5
    assert picking.score(Stub("a", 0.0, 3), 0.0) == 0.0
    assert isinstance(picking, Explaining)
    assert isinstance(picking, Bounding)


@pytest.mark.parametrize("make", [ring, maglev])
def test_weights_that_change_by_themselves_make_a_new_table_once_a_second(make) -> None:
    members = (Stub("a", 0.1), Stub("b"))
    picking = make()
    picking.update(change(members), 0.0, Random(0).random)
    assert Counter(places(picking, members, now=0.0))["a"] < 0.15 * len(KEYS)
    members[0].weight = 1.0
    picking.update(change(members, members), 0.5, Random(0).random)
    assert Counter(places(picking, members, now=0.9))["a"] < 0.15 * len(KEYS)
    assert Counter(places(picking, members, now=1.0))["a"] > 0.4 * len(KEYS)


def test_a_weight_that_is_back_before_anybody_asked_makes_no_new_table() -> None:
    members = (Stub("a", 0.1), Stub("b"))
    picking = small_maglev()
    picking.update(change(members), 0.0, Random(0).random)
    places(picking, members)
    table = picking._table
    members[0].weight = 1.0
    picking.update(change(members, members), 5.0, Random(0).random)
    members[0].weight = 0.1
    picking.update(change(members, members), 6.0, Random(0).random)
    places(picking, members, now=9.0)
    assert picking._table is table


@pytest.mark.parametrize("make", [ring, maglev])
def test_who_comes_is_in_the_table_at_once(make) -> None:
    members = stubs(3)
    picking = make()
    picking.update(change(members[:2]), 0.0, Random(0).random)
    places(picking, members[:2])
    picking.update(change(members, members[:2]), 0.0, Random(0).random)
    assert members[2].id in places(picking, members, now=0.0)


def test_the_points_of_the_others_stay_while_their_number_fits() -> None:
    sizes = []
    for count in (1, 2, 8, 9, 16, 17, 10_000):
        picking = ring()
        members = stubs(count)
        picking.update(change(members), 0.0, Random(0).random)
        picking.pick(members, 0.0, Random(0).random, "a")
        places(picking, (*members, Stub("another")), ["a"])
        sizes.append(len(picking._points))
    assert sizes == [4096, 8192, 32_768, 9 * 2048, 32_768, 17 * 1024, 20_000]


@pytest.mark.parametrize(
    ("one", "other"),
    [("7", 7), (b"7", 7), ("7", b"7"), (UUID(int=1), str(UUID(int=1))), (("a", 1), ("a", "1"))],
)
def test_a_key_is_its_text(one: Hashable, other: Hashable) -> None:
    assert hash_of(one) == hash_of(other)


@given(st.lists(st.text(), max_size=4).map(tuple), st.lists(st.text(), max_size=4).map(tuple))
def test_different_tuples_have_different_hashes(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert (hash_of(one) == hash_of(other)) == (one == other)


@pytest.mark.parametrize("key", [1.5, frozenset({"a"}), object(), ("a", 1.5)])
def test_what_has_no_stable_hash_is_refused(key: Hashable) -> None:
    with pytest.raises(TypeError, match="a str, bytes, int, UUID, or a tuple of them"):
        hash_of(key)


PROGRAM = """
from tests.machines.test_hashing import KEYS, hash_of, maglev, mapped, rendezvous, ring, stubs
print(hash_of(repr([mapped(make, stubs(9), KEYS[:300]) for make in (rendezvous, ring, maglev)])))
"""


def test_every_process_chooses_the_same() -> None:
    told = set()
    for seed in ("0", "1", "random"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
        )
        told.add(done.stdout)
    assert len(told) == 1


def test_primes_are_told_apart() -> None:
    assert [number for number in range(30) if is_prime(number)] == [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]
    assert is_prime(65537)


def test_a_ring_of_few_and_uneven_members_has_as_many_points_as_it_needs() -> None:
    rule = RingHashPicking(least=8192, most=32_768, bound=None, identify=by_id)
    members = (Stub("heavy"), Stub("light", weight=0.01))
    rule.update(change(members), 0.0, Random(0).random)
    rule.pick(members, 0.0, Random(0).random, "somebody")
    assert 8192 <= len(rule._points) <= 32_768
    assert Counter(rule._owners)[1] == pytest.approx(0.01 * Counter(rule._owners)[0], rel=0.1)


def test_an_order_of_places_names_each_once() -> None:
    assert sorted(_in_order(range(0, 250, 7), 251, 17, 30)) == list(range(0, 250, 7))
    assert list(_in_order([0, 1, 2, 3, 4], 5, 1, 2)) == [1, 3, 0, 2, 4]
