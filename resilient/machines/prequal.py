"""The choice by what a few instances have just said of their load (Prequal)."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Hashable, Sequence
from operator import attrgetter
from statistics import median_low
from typing import Protocol, TypeVar, final, runtime_checkable

from resilient.machines.drawing import Chance, Drawing
from resilient.machines.load import Load
from resilient.machines.picking import Candidate, Change, Why

__all__ = ["PrequalPicking", "Prober", "reuse_budget"]

C = TypeVar("C", bound=Candidate)

_WEIGHT = attrgetter("weight")
_RECENT = 64
_SMALL_QUANTILE = 0.6
_HOT = 1e6
_TOO_MANY_FAILURES = 5
_LONGEST = 30.0
_TRIES = 4


@runtime_checkable
class Prober(Protocol):
    """A picking that asks instances how busy they are. Somebody else sends the questions."""

    def probes(self, candidates: Sequence[C], random: Chance) -> Sequence[C]:
        """Who is to be asked, after a choice; no two of them are the same."""
        ...

    def answered(self, candidate: Candidate, load: Load, now: float, random: Chance) -> None:
        """A member has answered."""
        ...


def reuse_budget(members: int, *, pool: int, probes: float, removals: float, delta: float = 1.0) -> float | None:
    """How many choices an answer serves, so that the pool stays full: `(1 + delta) / ((1 - m/n) probes - removals)`.

    None where probes bring in no more than is taken out, so that no budget would keep it full.
    """
    gain = (1 - pool / members) * probes - removals
    return max(1.0, (1 + delta) / gain) if gain > 0 else None


@final
class _Answer:
    __slots__ = ("at", "id", "latency", "rif", "uses")

    def __init__(self, name: str, rif: float, latency: float, at: float, uses: int) -> None:
        self.id = name
        self.rif = rif
        self.latency = latency
        self.at = at
        self.uses = uses


@final
class PrequalPicking:
    """Among the instances of a pool of answers: the quickest of those that are not loaded, or else the least loaded.

    ==================  ===================================  ==========================================================
    when                what                                 how
    ==================  ===================================  ==========================================================
    a choice is made    answers older than `age` go
                        loaded (hot)                         more requests in flight than the `quantile` of those told
                                                             of late, and more than one
                        some are not (cold)                  the one with the least latency
                        all are                              the one with the fewest requests in flight
                        fewer than two answers               any instance (fallback)
                        its answer                           counts one request more, and goes after its last use
                        `removals` answers go                in turn the oldest, and the worst: the most loaded, or if
                                                             none is, the slowest
                        `probes` instances are asked         at random; what they say is for later choices
    an answer comes     the pool is full                     the oldest one goes
    an instance fails   its answers go; so do later ones     for a second from its fifth failure in a row on, twice as
                                                             long with each more, up to 30; never of more than half
    ==================  ===================================  ==========================================================

    An answer serves as many choices as `reuse_budget` says, rounded up or down at random. Where that has none (with the
    usual rates: up to 24 instances), the set is small: one answer of each instance, for one choice; the pool holds half
    of them, at least two; the quantile is 0.6, as a higher one sends everything to the best; and nothing is removed but
    by use, replacement and age.

    Rates may be fractions. A weight divides what an instance says: it is a handicap, not a share.
    """

    __slots__ = (
        "_age",
        "_budget",
        "_capacity",
        "_distrusted",
        "_drawing",
        "_due",
        "_failures",
        "_latest",
        "_members",
        "_of",
        "_oldest_next",
        "_order",
        "_pool",
        "_pool_size",
        "_positions",
        "_probes",
        "_quantile",
        "_recent",
        "_removals",
        "_removing",
        "_small",
        "_usual_quantile",
        "why",
    )

    def __init__(self, *, pool: int, probes: float, removals: float, age: float, quantile: float) -> None:
        self._pool_size = self._capacity = pool
        self._probes = probes
        self._removals = removals
        self._age = age
        self._usual_quantile = self._quantile = quantile
        self._budget = 1.0
        self._small = True
        self._members = 0
        self._pool: list[_Answer] = []
        """The oldest first."""
        self._recent: deque[float] = deque()
        self._order: list[float] = []
        """The recent ones, sorted."""
        self._latest: dict[str, tuple[float, float]] = {}
        self._due = 0.0
        self._removing = 0.0
        self._oldest_next = False
        self._failures: dict[str, int] = {}
        self._distrusted: dict[str, float] = {}
        self._drawing = Drawing()
        self._of: Sequence[Candidate] = ()
        self._positions: dict[str, int] = {}
        self.why: Why | None = None
        """`cold`, `hot` or `fallback`."""

    def update(self, change: Change, now: float, random: Chance) -> None:
        """Learn who there is; what was said by those that stay is kept."""
        weights = list(map(_WEIGHT, change.members))
        gone = {member.id for member in change.removed}
        without = weights.count(0.0)
        if without:
            gone.update(member.id for member in change.members if member.weight == 0)
        self._members = count = len(weights) - without
        if gone:
            self._pool = [answer for answer in self._pool if answer.id not in gone]
            for name in gone:
                for table in (self._latest, self._failures, self._distrusted):
                    table.pop(name, None)
        budget = None
        if count > self._pool_size:
            budget = reuse_budget(count, pool=self._pool_size, probes=self._probes, removals=self._removals)
        self._small = budget is None
        self._budget = 1.0 if budget is None else budget
        self._capacity = max(2, math.ceil(count / 2)) if self._small else self._pool_size
        self._quantile = min(_SMALL_QUANTILE, self._usual_quantile) if self._small else self._usual_quantile

    def pick(self, candidates: Sequence[C], now: float, random: Chance, key: Hashable) -> C:
        """Choose one, and forget what is used up."""
        self._due += self._probes
        if candidates is not self._of:
            self._of = candidates
            self._positions = {candidate.id: position for position, candidate in enumerate(candidates)}
        pool, positions = self._pool, self._positions
        while pool and pool[0].at < now - self._age:
            del pool[0]
        best: _Answer | None = None
        coolest: _Answer | None = None
        usable, limit = 0, self._limit()
        for answer in pool:
            if answer.id in positions:
                usable += 1
                if answer.rif <= limit:
                    if best is None or (answer.latency, answer.rif) < (best.latency, best.rif):
                        best = answer
                elif coolest is None or answer.rif < coolest.rif:
                    coolest = answer
        chosen = best or coolest
        if chosen is None or usable < 2 <= len(candidates):  # noqa: PLR2004 - a choice takes two
            self.why = "fallback"
            self._remove(limit)
            return self._any(candidates, now, random)
        self.why = "hot" if best is None else "cold"
        found = candidates[positions[chosen.id]]
        self._use(chosen, found)
        self._remove(limit)
        return found

    def _limit(self) -> float:
        """More requests in flight than that are many. A single one never is: it may be the call that sent the probe."""
        order = self._order
        return max(1.0, order[int(self._quantile * (len(order) - 1))]) if order else math.inf

    def _any(self, candidates: Sequence[C], now: float, random: Chance) -> C:
        """Any of them, but rather not one that fails."""
        drawn = self._drawing.one(candidates, random)
        for _ in range(_TRIES - 1):
            if not self._distrusts(drawn.id, now):
                break
            drawn = self._drawing.one(candidates, random)
        return drawn

    def _use(self, chosen: _Answer, candidate: Candidate) -> None:
        chosen.uses -= 1
        if chosen.uses <= 0:
            self._pool.remove(chosen)
        for answer in self._pool:
            if answer.id == chosen.id:
                answer.rif += 1 / candidate.weight

    def _remove(self, limit: float) -> None:
        """Take out what would otherwise stay for being bad, and be all that is left."""
        if self._small:
            return
        self._removing += self._removals
        while self._removing >= 1:
            self._removing -= 1
            self._oldest_next = not self._oldest_next
            if not self._pool:
                continue
            if self._oldest_next:
                del self._pool[0]
            else:
                self._pool.remove(max(self._pool, key=lambda answer: _badness(answer.rif, answer.latency, limit)))

    def probes(self, candidates: Sequence[C], random: Chance) -> Sequence[C]:
        """Some at random, in random order: of answers that are alike the first one is chosen."""
        number = int(self._due)
        self._due -= number
        count = len(candidates)
        if count < 2:  # noqa: PLR2004 - there is nothing to choose
            return ()
        if number > count / 4:
            order = list(candidates)
            for place in range(min(number, count)):
                other = place + int(random() * (count - place))
                order[place], order[other] = order[other], order[place]
            return order[:number]
        chosen: dict[int, None] = {}
        while len(chosen) < number:
            chosen[int(random() * count)] = None
        return [candidates[position] for position in chosen]

    def answered(self, candidate: Candidate, load: Load, now: float, random: Chance) -> None:
        """Take an answer into the pool. One without a number of requests says nothing."""
        if load.in_flight is None or candidate.weight <= 0 or self._distrusts(candidate.id, now):
            return
        name, pool = candidate.id, self._pool
        rif = load.in_flight / candidate.weight
        if load.latency is not None:
            latency = load.latency / candidate.weight
        else:  # it has served nothing yet: neither a favourite nor left aside
            latency = median_low([answer.latency for answer in pool]) if pool else 0.0
        self._latest[name] = (rif, latency)
        if len(self._recent) >= _RECENT:
            del self._order[bisect_left(self._order, self._recent.popleft())]
        self._recent.append(rif)
        insort(self._order, rif)
        if self._small:
            pool[:] = [answer for answer in pool if answer.id != name]
        if len(pool) >= self._capacity:
            del pool[0]
        uses = int(self._budget)
        uses += random() < self._budget - uses
        pool.append(_Answer(name, rif, latency, now, uses))

    def score(self, candidate: Candidate, now: float) -> float:
        """The latency that it told last; if loaded, a million and the requests in flight; infinite if nothing."""
        rif, latency = self._latest.get(candidate.id, (math.inf, 0.0))
        return _badness(rif, latency, self._limit()) if math.isfinite(rif) else math.inf

    def observe(self, candidate: Candidate, latency: float, now: float) -> None:
        """It works. How long it took says less than it will say itself."""
        self._failures.pop(candidate.id, None)
        self._distrusted.pop(candidate.id, None)

    def observe_unfinished(self, candidate: Candidate, elapsed: float, now: float) -> None:
        """A call that was given up says nothing."""

    def observe_failure(self, candidate: Candidate, elapsed: float, hint: float | None, now: float) -> None:
        """Forget what it said: who fails at once has nothing in flight, and would look best of all."""
        name = candidate.id
        self._pool[:] = [answer for answer in self._pool if answer.id != name]
        row = self._failures[name] = self._failures.get(name, 0) + 1
        if row < _TOO_MANY_FAILURES:
            return
        others = sum(until > now for one, until in self._distrusted.items() if one != name)
        if others + 1 <= self._members / 2:
            self._distrusted[name] = now + min(2.0 ** min(row - _TOO_MANY_FAILURES, 10), _LONGEST)

    def _distrusts(self, name: str, now: float) -> bool:
        return bool(self._distrusted) and self._distrusted.get(name, -math.inf) > now


def _badness(rif: float, latency: float, limit: float) -> float:
    """The slowest is worst, unless some are loaded: then the most loaded."""
    return _HOT + rif if rif > limit else latency
