"""Calls that belong together go to the same instance: three rules of consistent hashing, with bounded loads."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from hashlib import blake2b, shake_128
from itertools import islice, repeat
from struct import unpack
from typing import TypeAlias, TypeVar, cast, final

from resilient.machines.drawing import Chance, Drawing
from resilient.machines.picking import Candidate, Change, Why

__all__ = ["Identify", "MaglevPicking", "RendezvousPicking", "RingHashPicking", "hash_of", "is_prime"]

C = TypeVar("C", bound=Candidate)

Identify: TypeAlias = Callable[[Candidate], str]
"""What an instance is known by to hashes: the same for every client, and for whoever takes its place."""

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_JUMPS = 64
_BITS = 64
_RING = 30
"""The bits of a place on a ring: numbers up to there are compared fastest."""
_SPARE = 2
_FREE = -1
_FEW = 12
"""Found by trial: with 65,537 to 131,071 entries and 3 to 10,000 instances."""
_SETTLING = 1.0
"""Seconds between two tables that differ in weights alone."""


def _bytes_of(key: Hashable) -> bytes:
    if isinstance(key, str):
        return key.encode(errors="surrogatepass")
    if isinstance(key, bytes):
        return key
    # 7 and "7" are the same key: what was a number may come as text from a header. A UUID is known by its `urn`.
    if isinstance(key, int) or hasattr(key, "urn"):
        return str(key).encode()
    if isinstance(key, tuple):
        parts = [_bytes_of(part) for part in cast("tuple[Hashable, ...]", key)]
        return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    raise TypeError(f"key={key!r}: a str, bytes, int, UUID, or a tuple of them; others have no stable hash")


def hash_of(key: Hashable) -> int:
    """64 bits that are the same in every process and on every machine, unlike those of `hash()`.

    Raises `TypeError` for what has no bytes that are always the same.
    """
    return int.from_bytes(blake2b(_bytes_of(key), digest_size=8).digest(), "big")


def _mix(bits: int) -> int:
    """Scatter 64 bits (the finaliser of SplitMix64)."""
    bits = ((bits ^ bits >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    bits = ((bits ^ bits >> 27) * 0x94D049BB133111EB) & _MASK
    return bits ^ bits >> 31


class _HashPicking(ABC):
    """What the rules have in common: keys, bounds, and what to do where a choice is not possible.

    Of `bound * (calls in flight + 1)` an instance has no more than its share by weight, rounded up: a key that is very
    much asked for spreads over as many instances as it takes. Calls beyond that, and those of instances that are out of
    use, go where the rule sends another key, made from theirs: to instances all over the set, not all to one neighbour
    that would be the next to be full (consistent hashing with bounded loads, with random jumps: arXiv 1908.08762).
    """

    __slots__ = ("_bound", "_drawing", "_identify", "_of", "_positions", "_total", "in_flight", "why")

    def __init__(self, *, bound: float | None, identify: Identify) -> None:
        self._bound = bound
        self._identify = identify
        self._drawing = Drawing()
        self._of: Sequence[Candidate] = ()
        self._positions: dict[str, int] = {}
        self._total = 0.0
        self.in_flight = 0
        """Calls of ours that are with all instances; kept by the owner."""
        self.why: Why | None = None
        """`bounded`: its own one has as much as it may have. `fallback`: at random, for want of a key."""

    @abstractmethod
    def update(self, change: Change, now: float, random: Chance) -> None:
        """Learn who there is."""

    @abstractmethod
    def _home(self, hashed: int, now: float) -> int | None:
        """The position of the candidate that a key belongs to; None: to an instance that is none."""

    @abstractmethod
    def _others(self, hashed: int) -> Iterator[int]:
        """The positions of candidates in the order in which the key would have them next; some may come twice."""

    def pick(self, candidates: Sequence[C], now: float, random: Chance, key: Hashable) -> C:
        """Choose the one that the key belongs to."""
        self.why = None
        if len(candidates) == 1:
            return candidates[0]
        if candidates is not self._of:
            self._look_at(candidates)
        if key is None:
            self.why = "fallback"
            return self._drawing.one(candidates, random)
        hashed = hash_of(key)
        home = self._home(hashed, now)
        if home is not None:
            if self._has_room(candidates[home]):
                return candidates[home]
            self.why = "bounded"
        for position in self._others(hashed):
            if self._has_room(candidates[position]):
                return candidates[position]
            self.why = "bounded"
        # The jumps missed the few that are in use and have room; there is always one.
        ranking = sorted(candidates, key=lambda one: _mix(hash_of(one.id) ^ hashed))
        return next(one for one in ranking if self._has_room(one))

    def score(self, candidate: Candidate, now: float) -> float:
        """Calls in flight for each unit of weight, which the bound is about; the rule itself looks at the key alone."""
        return candidate.active / candidate.weight if candidate.weight else 0.0

    def _look_at(self, candidates: Sequence[Candidate]) -> None:
        self._of = candidates
        self._positions = {candidate.id: position for position, candidate in enumerate(candidates)}
        self._total = math.fsum(candidate.weight for candidate in candidates)

    def _has_room(self, candidate: Candidate) -> bool:
        if self._bound is None or candidate.active == 0:
            return True
        share = candidate.weight / self._total
        return candidate.active < math.ceil(self._bound * (self.in_flight + 1) * share)


@final
class RendezvousPicking(_HashPicking):
    """Each instance has a hash for each key, and the highest one wins (highest random weight): O(n), without a table.

    With weights it is the least of `-ln(u) / weight`, `u` the hash as a number between 0 and 1. Whoever comes takes its
    share and nothing else moves; whoever leaves, or is out of use, hands each of its keys to the next in that key's own
    ranking.
    """

    __slots__ = ("_even", "_seeds")

    def __init__(self, *, bound: float | None, identify: Identify) -> None:
        super().__init__(bound=bound, identify=identify)
        self._seeds: list[int] = []
        self._even = True

    def update(self, change: Change, now: float, random: Chance) -> None:
        """There is nothing to keep: all that counts are the candidates."""

    def _look_at(self, candidates: Sequence[Candidate]) -> None:
        super()._look_at(candidates)
        identities = _identities(candidates, self._identify)
        self._seeds = [hash_of(identities[candidate.id]) for candidate in candidates]
        self._even = len({candidate.weight for candidate in candidates}) == 1

    def _home(self, hashed: int, now: float) -> int:
        ranks = self._ranks(hashed)
        return ranks.index(max(ranks))

    def _others(self, hashed: int) -> Iterator[int]:
        ranks = self._ranks(hashed)
        yield from sorted(range(len(ranks)), key=ranks.__getitem__, reverse=True)

    def _ranks(self, hashed: int) -> Sequence[float]:
        mask = _MASK
        ranks: Sequence[float] = [  # `_mix`, but shorter: both sides are hashes, and only the upper bits decide
            (product ^ product >> 32) * 0xD6E8FEB86659FD93 & mask
            for seed in self._seeds
            if (product := (hashed ^ seed) * _GOLDEN & mask) >= 0
        ]
        if not self._even:
            ranks = [math.log((rank + 1) / 2**64) / one.weight for rank, one in zip(ranks, self._of, strict=True)]
        return ranks


class _TablePicking(_HashPicking):
    """A rule that looks keys up in a table, which is made at the first call after the instances changed.

    While only weights change, as they do for an instance that is warming up, it is made no more than once a second.
    """

    __slots__ = ("_due", "_ids", "_looked", "_made", "_made_from", "_members", "_wanted")

    def __init__(self, *, bound: float | None, identify: Identify) -> None:
        super().__init__(bound=bound, identify=identify)
        self._members: Sequence[Candidate] = ()
        self._looked = True
        """Whether `_wanted` is what `_members` want."""
        self._wanted: dict[str, tuple[str, float]] = {}
        self._made_from: dict[str, tuple[str, float]] = {}
        self._made = -math.inf
        self._due = math.inf
        """When the table is to be made anew."""
        self._ids: Sequence[str] = ()

    def update(self, change: Change, now: float, random: Chance) -> None:
        """Learn who there is; what it means for the table is for the first call to find out."""
        self._members, self._looked, self._due = change.members, False, -math.inf

    def _look(self) -> None:
        """Find out when a table is due."""
        self._looked = True
        named = _identities(self._members, self._identify)
        wanted = self._wanted = {one.id: (named[one.id], one.weight) for one in self._members if one.weight > 0}
        old = self._made_from
        if wanted == old:
            self._due = math.inf
        elif wanted.keys() == old.keys() and all(wanted[one][0] == old[one][0] for one in wanted):
            self._due = self._made + _SETTLING
        else:
            self._due = -math.inf

    def _follow(self, now: float) -> None:
        if not self._looked:
            self._look()
        if now < self._due:
            return
        wanted = self._made_from = self._wanted
        self._made, self._due = now, math.inf
        # By identity, so that the table is the same whatever order the instances came in.
        self._ids = sorted(wanted, key=wanted.__getitem__)
        self._make([wanted[one][0] for one in self._ids], [wanted[one][1] for one in self._ids])

    @abstractmethod
    def _make(self, identities: Sequence[str], weights: Sequence[float]) -> None:
        """Make the table."""

    @abstractmethod
    def _at(self, hashed: int) -> int:
        """The owner of a hash, as a position among `_ids`."""

    def _home(self, hashed: int, now: float) -> int | None:
        if now >= self._due:
            self._follow(now)
        return self._positions.get(self._ids[self._at(hashed)])

    def _others(self, hashed: int) -> Iterator[int]:
        for jump in range(1, _JUMPS):
            position = self._positions.get(self._ids[self._at(_mix(hashed + jump * _GOLDEN & _MASK))])
            if position is not None:
                yield position


@final
class RingHashPicking(_TablePicking):
    """Each instance has points on a ring, as many as its weight says, and a key belongs to the next one (Ketama).

    For each unit of weight there are as many points as the largest power of two that keeps the ring within `most`, or
    an eighth of it for the heaviest instance if there are at least `least` then. So whoever comes or leaves adds or
    takes away points of its own and moves no others, but for the moment when the power of two changes: then about half
    of the keys move. Everybody has at least one point, however many there are.
    """

    __slots__ = ("_least", "_most", "_owners", "_points")

    def __init__(self, *, least: int, most: int, bound: float | None, identify: Identify) -> None:
        super().__init__(bound=bound, identify=identify)
        self._least = least
        self._most = most
        self._points = array("I")
        self._owners = array("I")

    def _make(self, identities: Sequence[str], weights: Sequence[float]) -> None:
        total, heaviest = math.fsum(weights), max(weights)
        unit = min(_power_of_two(self._most / total), _power_of_two(self._most / 8 / heaviest))
        while unit * total < self._least and 2 * unit * total <= self._most:
            unit *= 2
        points, owners = array("I"), array("I")
        for owner, (identity, weight) in enumerate(zip(identities, weights, strict=True)):
            number = max(1, round(unit * weight))
            # Half as many are the first half of these.
            points.extend(unpack(f"<{number}I", shake_128(_bytes_of(identity)).digest(4 * number)))
            owners.extend(repeat(owner, number))
        places = [point >> _SPARE for point in points]
        order = sorted(range(len(places)), key=places.__getitem__)
        self._points = array("I", [places[number] for number in order])
        self._owners = array("I", [owners[number] for number in order])

    def _at(self, hashed: int) -> int:
        place = bisect_left(self._points, hashed >> _BITS - _RING)
        return self._owners[place if place < len(self._owners) else 0]


@final
class MaglevPicking(_TablePicking):
    """Each instance fills the entries of a table in an order of its own, in turn, until it is full (Maglev).

    The most even of the three, and a look-up is one index; more keys move than have to when instances come or leave.
    """

    __slots__ = ("_size", "_table")

    def __init__(self, *, size: int, bound: float | None, identify: Identify) -> None:
        super().__init__(bound=bound, identify=identify)
        self._size = size
        self._table = array("l")

    def _make(self, identities: Sequence[str], weights: Sequence[float]) -> None:
        size = self._size
        table = [_FREE] * size  # a list is read faster than an array
        begins = [(hashed % size, _mix(hashed) % (size - 1) + 1) for hashed in map(hash_of, identities)]
        places = [place for place, _ in begins]
        turns = _turns(weights)
        # The last entries are the hardest to find: for these everybody looks at what is free, not for it.
        few = size // (_FEW * len(begins))
        for owner in islice(turns, size - few):
            place = places[owner]
            if table[place] != _FREE:
                skip = begins[owner][1]
                while table[place] != _FREE:
                    place += skip
                    if place >= size:
                        place -= size
                places[owner] = place
            table[place] = owner
        free = [place for place, owner in enumerate(table) if owner == _FREE]
        lines = [_in_order(free, size, place, skip) for place, skip in begins]
        for owner in islice(turns, few):
            place = next(place for place in lines[owner] if table[place] == _FREE)
            table[place] = owner
        self._table = array("l", table)

    def _at(self, hashed: int) -> int:
        return self._table[hashed % self._size]


def _in_order(places: Sequence[int], size: int, begin: int, skip: int) -> Iterator[int]:
    """These places of a table, as somebody meets them who begins at one and skips so many; worked out if asked for."""
    steps = pow(skip, -1, size)
    ranks = [(place - begin) * steps % size for place in places]
    for _, place in sorted(zip(ranks, places, strict=True)):
        yield place


def _turns(weights: Sequence[float]) -> Iterator[int]:
    """Whose turn it is: who has less than the greatest weight passes until its shares make an entry."""
    heaviest = max(weights)
    # A list, since `enumerate` makes new numbers each time, and a table of a hundred thousand objects is slow to read.
    shares = [(owner, weight / heaviest) for owner, weight in enumerate(weights)]
    due = [0.0] * len(shares)
    while True:
        for owner, share in shares:
            if share < 1.0:
                due[owner] += share
                if due[owner] < 1.0:
                    continue
                due[owner] -= 1.0
            yield owner


def _identities(members: Sequence[Candidate], identify: Identify) -> Mapping[str, str]:
    """An identity for each id. Of those that claim the same, all but the first also go by their ids."""
    taken: set[str] = set()
    named: dict[str, str] = {}
    for member in sorted(members, key=lambda one: one.id):
        identity = identify(member)
        named[member.id] = identity = f"{identity}\n{member.id}" if identity in taken else identity
        taken.add(identity)
    return named


def _power_of_two(most: float) -> float:
    """The largest one that is not more than that; below 1 as well."""
    return 2.0 ** math.floor(math.log2(most))


def is_prime(number: int) -> bool:
    """Whether it has no other divisors."""
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))
