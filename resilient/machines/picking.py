"""How one of several instances is chosen."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import exp, floor
from operator import attrgetter
from statistics import median_low
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, final, runtime_checkable

from resilient.machines.drawing import Chance, Drawing, even
from resilient.machines.ewma import FLOOR, LatencyEwma

__all__ = [
    "Bounding",
    "Candidate",
    "Chance",
    "Change",
    "Explaining",
    "LeastRequestPicking",
    "Observer",
    "PeakEwmaPicking",
    "Picking",
    "RandomPicking",
    "RoundRobinPicking",
    "Why",
]

_MANY = 256
_MEMORY = attrgetter("memory")

Why: TypeAlias = Literal["bounded", "cold", "fallback", "hot"]
"""What there is to say of a choice beyond that it was the rule's."""


class Candidate(Protocol):
    """One instance, as a picker sees it."""

    @property
    def id(self) -> str:
        """Its identity: what a picker remembers, it remembers under this."""
        ...

    @property
    def weight(self) -> float:
        """Its share relative to the others: more than 0 for a candidate, 0 for a member that gets no calls now."""
        ...

    @property
    def active(self) -> int:
        """How many calls of ours are with it now."""
        ...

    memory: Any
    """What the picker remembers of it, and nobody else's business: it is there as long as the instance is, and found
    without a look into a table of thousands."""


@final
@dataclass(frozen=True, slots=True)
class Change:
    """What is new about the instances; one of thousands that leaves should not cost a look at all the others."""

    members: Sequence[Candidate]
    """All that there are now, in an order that was shuffled when they came."""
    added: Sequence[Candidate] = ()
    """Those that came, in the same order: of these nothing is remembered."""
    removed: Sequence[Candidate] = ()
    """Those that left."""

    @property
    def even(self) -> bool:
        """Whether those that have a weight at all have the same."""
        return even(self.members)


C = TypeVar("C", bound=Candidate)


class Picking(Protocol):
    """The memory and the choice of one picker, for one service. Calls to it are serialised by its owner."""

    def update(self, change: Change, now: float, random: Chance) -> None:
        """Learn of the instances, each time they or their weights change; at first all of them are `added`.

        What is remembered of those that stay must survive, what is remembered of the others must go.
        """
        ...

    def pick(self, candidates: Sequence[C], now: float, random: Chance, key: Hashable) -> C:
        """Choose one of `candidates`: members, at least one, in an order that was shuffled when they came.

        It is the same object as before if they are the same with the same weights: what takes long to work out of them
        may be kept. `key` is what calls that belong together have in common, or None: for pickers with affinity.
        """
        ...

    def score(self, candidate: Candidate, now: float) -> float:
        """What the choice compares, for explanations: lower is better."""
        ...


@runtime_checkable
class Observer(Protocol):
    """A picking that looks at latencies.

    It has to look at failures as well, hence one protocol for both: an instance that fails at once is the fastest
    of all, and whoever sees only its latency sends it everything.
    """

    def observe(self, candidate: Candidate, latency: float, now: float) -> None:
        """The instance answered, after `latency` seconds."""
        ...

    def observe_unfinished(self, candidate: Candidate, elapsed: float, now: float) -> None:
        """The caller gave up after `elapsed` seconds."""
        ...

    def observe_failure(self, candidate: Candidate, elapsed: float, hint: float | None, now: float) -> None:
        """The instance failed, or refused; `hint` are the seconds that it asked to be left alone for."""
        ...


@runtime_checkable
class Explaining(Protocol):
    """A picking that has more than one way to choose."""

    @property
    def why(self) -> Why | None:
        """How the last choice was made; None: by the rule itself."""
        ...


@runtime_checkable
class Bounding(Protocol):
    """A picking that looks at how busy all instances are together."""

    in_flight: int
    """How many calls of ours are with members; counted by the owner, from 0 on."""


@final
class RandomPicking:
    """Any of them, each as often as its weight says."""

    __slots__ = ("_drawing", "_even")

    def __init__(self) -> None:
        self._even = True
        self._drawing = Drawing()

    def update(self, change: Change, now: float, random: Chance) -> None:
        """Learn whether the weights differ."""
        self._even = change.even

    def pick(self, candidates: Sequence[C], now: float, random: Chance, key: Hashable) -> C:
        """Draw one."""
        if self._even:
            return candidates[floor(random() * len(candidates))]
        return self._drawing.one(candidates, random)

    def score(self, candidate: Candidate, now: float) -> float:
        """Nothing is compared."""
        return 0.0


@final
class RoundRobinPicking:
    """One after the other; with unequal weights smoothly interleaved, each exactly as often as its weight says.

    The unequal case is nginx's smooth weighted round robin: in each turn everybody's credit rises by their weight, the
    richest is chosen and pays the sum of all weights.
    """

    __slots__ = ("_even", "_turn")

    def __init__(self) -> None:
        self._even = True
        self._turn = 0

    def update(self, change: Change, now: float, random: Chance) -> None:
        """Learn who there is; those that stay keep their credit, which is what is remembered of them."""
        self._even = change.even
        for member in change.added:
            member.memory = 0.0

    def pick(self, candidates: Sequence[C], now: float, random: Chance, key: Hashable) -> C:
        """Choose the next one."""
        if self._even:
            self._turn += 1
            return candidates[self._turn % len(candidates)]
        total = 0.0
        for candidate in candidates:
            candidate.memory += candidate.weight
            total += candidate.weight
        richest = max(candidates, key=_MEMORY)
        richest.memory -= total
        return richest

    def score(self, candidate: Candidate, now: float) -> float:
        """Who has most credit comes next."""
        credit: float = candidate.memory
        return -credit


@final
class LeastRequestPicking:
    """The less busy of two drawn at random (power of two choices), by calls in flight for each unit of weight.

    Equally busy ones are chosen in the order drawn, and the draw follows the weights. Comparing `(active + 1) / weight`
    after an even draw, as is common, starves the lighter one whenever there is little to do: idle it never wins.
    """

    __slots__ = ("_drawing", "_even")

    def __init__(self) -> None:
        self._even = True
        self._drawing = Drawing()

    def update(self, change: Change, now: float, random: Chance) -> None:
        """Learn whether the weights differ."""
        self._even = change.even

    def pick(self, candidates: Sequence[C], now: float, random: Chance, key: Hashable) -> C:
        """Choose the less busy one of two."""
        count = len(candidates)
        if count == 1:
            return candidates[0]
        if self._even:  # what `two` does, in this frame
            first, second = floor(random() * count), floor(random() * (count - 1))
            one, other = candidates[first], candidates[second + 1 if second >= first else second]
        else:
            one, other = self._drawing.two(candidates, random)
        return other if other.active * one.weight < one.active * other.weight else one

    def score(self, candidate: Candidate, now: float) -> float:
        """Calls in flight for each unit of weight."""
        return candidate.active / candidate.weight


@final
class PeakEwmaPicking:
    """The one of two drawn at random that is expected to answer sooner: `latency * (active + 1) / weight`.

    `latency` is a `LatencyEwma`. Instances that are there from the start begin at `initial`; a later one begins at the
    median of the others, neither flooded nor left aside. A failure counts as a call that took `penalty` seconds, or as
    many as the instance asked to be left alone for, up to `longest`.

    Of more than some hundred others the median is that of a part of them, taken all over their shuffled order.
    """

    __slots__ = ("_fading", "_initial", "_longest", "_penalty", "_tau")

    def __init__(self, *, tau: float, penalty: float, longest: float, initial: float) -> None:
        self._tau = tau
        self._fading = -tau
        self._penalty = penalty
        self._longest = longest
        self._initial = initial

    def update(self, change: Change, now: float, random: Chance) -> None:
        """Learn who there is; those that stay keep their estimate."""
        if change.added:
            for member in change.added:
                member.memory = None
            seed = self._median(change.members, now) if len(change.added) < len(change.members) else self._initial
            for member in change.added:
                member.memory = LatencyEwma(seed, self._tau, now)

    def _median(self, members: Sequence[Candidate], now: float) -> float:
        """Of those that are known."""
        part = members[:: max(1, len(members) // _MANY)]
        read = [member.memory.read(now) for member in part if member.memory is not None]
        return median_low(read) if read else self._initial

    def pick(self, candidates: Sequence[C], now: float, random: Chance, key: Hashable) -> C:
        """Choose the one of two that is expected to answer sooner."""
        count = len(candidates)
        if count == 1:
            return candidates[0]
        # `two`, and `score` of both, in this frame: five calls would cost as much as everything else in a pick.
        first, second = floor(random() * count), floor(random() * (count - 1))
        one, other = candidates[first], candidates[second + 1 if second >= first else second]
        fading = self._fading
        estimate: LatencyEwma = one.memory
        here = estimate.cost
        age = now - estimate.stamp
        if age > 0:
            here *= exp(age / fading)
        if here < FLOOR:  # noqa: PLR1730 - max() costs as much as all the rest
            here = FLOOR
        if one.active:
            here *= one.active + 1
        estimate = other.memory
        there = estimate.cost
        age = now - estimate.stamp
        if age > 0:
            there *= exp(age / fading)
        if there < FLOOR:  # noqa: PLR1730
            there = FLOOR
        if other.active:
            there *= other.active + 1
        return other if there / other.weight < here / one.weight else one

    def score(self, candidate: Candidate, now: float) -> float:
        """When it is expected to answer, in seconds for each unit of weight."""
        latency: LatencyEwma = candidate.memory
        return latency.read(now) * (candidate.active + 1) / candidate.weight

    def observe(self, candidate: Candidate, latency: float, now: float) -> None:
        """Learn from an answer."""
        # What `LatencyEwma.observe` does, in this frame.
        estimate: LatencyEwma = candidate.memory
        age, cost = now - estimate.stamp, estimate.cost
        if latency >= cost:
            estimate.cost = latency
        else:
            weight = exp(age / self._fading) if age > 0 else 1.0
            estimate.cost = cost * weight + latency * (1.0 - weight)
        if age > 0:
            estimate.stamp = now

    def observe_unfinished(self, candidate: Candidate, elapsed: float, now: float) -> None:
        """Learn from a call that was given up."""
        candidate.memory.at_least(elapsed, now)

    def observe_failure(self, candidate: Candidate, elapsed: float, hint: float | None, now: float) -> None:
        """Count a failure as a very slow call."""
        asked = 0.0 if hint is None else min(hint, self._longest)
        candidate.memory.at_least(max(self._penalty, asked, elapsed), now)
