"""The circuit breaker's decisions."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from resilient.machines.window import CallWindow, TimeWindow, Window

__all__ = ["GOOD", "Circuit", "CircuitState", "Judgement", "Permit", "Transition"]

GOOD, _GOOD_SLOW, _BAD, _BAD_SLOW = range(4)
_LONGEST_COOLDOWN = 60.0


class CircuitState(enum.Enum):
    """Where a circuit breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    ISOLATED = "isolated"


class Judgement(enum.Enum):
    """What a result says about the far side."""

    GOOD = "good"
    BAD = "bad"
    TURNED_AWAY = "turned away"
    """It refused the work: no failure of a closed circuit, but a probe did not succeed either."""
    NOTHING = "nothing"


@final
@dataclass(slots=True, eq=False)
class Permit:
    """Leave to make one call. All calls of a closed era share one; a probe has its own, with a lease."""

    era: int
    expires: float = math.inf
    settled: bool = False
    """Only probes are."""


_FIRST = Permit(0)
"""The first closed era of any circuit: who counts calls elsewhere may do so with one circuit for many, and give those
circuits of their own, in which something happens, while calls are under way."""


@final
@dataclass(frozen=True, slots=True)
class Transition:
    """The circuit changed its state; `cooldown` is how long an opened one stays open."""

    old: CircuitState
    new: CircuitState
    cooldown: float = 0.0


@final
class Circuit:
    """Admits calls while the far side works, none while it does not, and a few to find out whether it does again.

    =========  ==============================================  =========  ====================================
    state      event                                           next       effect
    =========  ==============================================  =========  ====================================
    closed     a call                                          closed     admitted
    closed     a failed or slow call brings a ratio to its     open       the cool-down begins
               limit
    closed     as many failures in a row as allowed            open       the cool-down begins
    open       a call before the cool-down is over             open       refused
    open       a call after the cool-down                      half_open  admitted as a probe
    half_open  a call while a place for a probe is free        half_open  admitted as a probe
    half_open  a call while none is free                       half_open  refused
    half_open  a probe succeeded, others have yet to           half_open  its place stays taken
    half_open  the last probe that was needed succeeded        closed     the window is empty
    half_open  a probe failed, was slow or was turned away     open       a longer cool-down begins
    half_open  a probe was cancelled                           half_open  its place is free
    half_open  the lease of a probe is over                    half_open  its place is free
    isolated   a call                                          isolated   refused
    any        a result from an earlier era                    the same   nothing
    closed     trip                                            open       the cool-down begins
    any        isolate                                         isolated   no call is admitted until `reset`
    any        reset                                           closed     the window is empty
    =========  ==============================================  =========  ====================================

    Each state begins a new *era*. A result counts only in the era that its permit was given in: a late success
    from before the circuit opened cannot close it, a late failure cannot open it again.

    A ratio says nothing before `minimum_calls` calls are in the window, and is looked at when a call failed or was
    slow: a quick success never opens it. A call that was cancelled, or that the far side turned away, counts for
    nothing in a closed circuit.

    The first cool-down is `cooldown` long. When the circuit opens again before it was closed for a whole `window`,
    the cool-down doubles, up to a minute (or `cooldown`, if that is longer), and is then lengthened by up to 20 % by
    chance: many circuits that opened together do not all try again together.

    A probe holds its place for `lease` seconds at most, so that a call which hangs cannot hold the circuit half-open.
    What such a probe says in the end still counts while the circuit is half-open: where every answer takes longer
    than the lease, nothing would ever be decided otherwise.

    Calls are counted in `counts` if it is given; otherwise in a window of `window` seconds, or of `window_calls`.
    """

    __slots__ = (
        "_changes",
        "_closed_at",
        "_consecutive",
        "_cooldown",
        "_failure_ratio",
        "_lasting",
        "_lease",
        "_minimum_calls",
        "_openings",
        "_passed",
        "_probes",
        "_slow_call",
        "_slow_ratio",
        "_underway",
        "_window",
        "closed",
        "era",
        "row",
        "state",
        "times",
        "until",
    )

    def __init__(
        self,
        *,
        failure_ratio: float,
        minimum_calls: int,
        window: float,
        window_calls: int | None,
        consecutive_failures: int | None,
        slow_call: float | None,
        slow_ratio: float,
        cooldown: float,
        probes: int,
        lease: float,
        counts: Window | None = None,
    ) -> None:
        self._failure_ratio = failure_ratio
        self._minimum_calls = minimum_calls
        self._window: Window
        self.times: TimeWindow | None = None
        if counts is not None:
            self._window = counts
        elif window_calls is None:
            self._window = self.times = TimeWindow(window, 4)
        else:
            self._window = CallWindow(window_calls, 4)
        self._lasting = window
        self._consecutive = math.inf if consecutive_failures is None else consecutive_failures
        self._slow_call = math.inf if slow_call is None else slow_call
        self._slow_ratio = slow_ratio
        self._cooldown = cooldown
        self._probes = probes
        self._lease = lease
        self._changes: list[Transition] = []
        self._openings = 0
        self._closed_at = -math.inf
        self.row = 0
        self._passed = 0
        self._underway: list[Permit] = []
        self.era = 0
        self.state: CircuitState = CircuitState.CLOSED
        self.until = -math.inf
        self.closed: Permit | None = _FIRST
        """The permit of the closed era, None in any other state: the hot path is one comparison with it."""

    def admit(self, now: float) -> Permit | None:
        """Return leave to call, or None. Each permit is settled exactly once."""
        if self.closed is not None:
            return self.closed
        if self.state is CircuitState.OPEN and now >= self.until:
            self._enter(CircuitState.HALF_OPEN)
        if self.state is not CircuitState.HALF_OPEN:
            return None
        self._underway = self._places(now)
        if len(self._underway) + self._passed >= self._probes:
            return None
        probe = Permit(self.era, now + self._lease)
        self._underway.append(probe)
        return probe

    def settle(
        self, permit: Permit, judgement: Judgement, latency: float, now: float, random: Callable[[], float]
    ) -> None:
        """Report what a permit's call came to, after `latency` seconds."""
        slow = latency > self._slow_call
        if permit is self.closed:
            if judgement is Judgement.GOOD:
                self.row = 0
                self._window.add(_GOOD_SLOW if slow else GOOD, now)
                if slow:
                    self._judge(now, random)
            elif judgement is Judgement.BAD:
                self.row += 1
                self._window.add(_BAD_SLOW if slow else _BAD, now)
                self._judge(now, random)
        elif permit.era == self.era and self.state is CircuitState.HALF_OPEN and not permit.settled:
            permit.settled = True
            self._settle_probe(judgement, slow=slow, now=now, random=random)

    def succeed(self, permit: Permit, now: float) -> None:
        """Settle a good call of a closed era, whose latency does not matter: the hot path."""
        if permit is not self.closed:
            return
        self.row = 0
        times = self.times
        if times is None or now >= times.edge:
            self._window.add(GOOD, now)
        else:
            times.counts[GOOD] += 1

    def trip(self, now: float, random: Callable[[], float]) -> None:
        """Open a closed circuit: somebody knows better than its window."""
        if self.closed is not None:
            self._open(now, random)

    def isolate(self) -> None:
        """Refuse every call until `reset`."""
        self._enter(CircuitState.ISOLATED)

    def reset(self, now: float) -> None:
        """Close, as if new."""
        self._close(now)
        self._openings = 0

    def retry_after(self, now: float) -> float | None:
        """Seconds after which a call has a chance, at the latest; None when nobody can know."""
        if self.state is CircuitState.ISOLATED:
            return None
        if self.state is CircuitState.OPEN:
            return max(0.0, self.until - now)
        underway = self._places(now)
        if len(underway) + self._passed < self._probes:
            return 0.0
        return min(probe.expires for probe in underway) - now

    def failures(self) -> int:
        """Bad calls in a row, in the present closed era."""
        return self.row

    def tally(self, now: float) -> tuple[int, int]:
        """Good and bad calls in the window."""
        good, good_slow, bad, bad_slow = self._window.totals(now)
        return good + good_slow, bad + bad_slow

    def take_changes(self) -> list[Transition]:
        """Return the transitions since the last time, oldest first, for whoever announces them."""
        changes, self._changes = self._changes, []
        return changes

    @property
    def changed(self) -> bool:
        """Whether there are transitions to announce."""
        return bool(self._changes)

    def _places(self, now: float) -> list[Permit]:
        """The probes that hold a place: neither settled nor past their lease."""
        return [probe for probe in self._underway if not probe.settled and probe.expires > now]

    def _judge(self, now: float, random: Callable[[], float]) -> None:
        good, good_slow, bad, bad_slow = self._window.totals(now)
        failed, slow, calls = bad + bad_slow, good_slow + bad_slow, good + good_slow + bad + bad_slow
        # Divided, not multiplied: 3 of 30 calls are 0.1 of them, but 0.1 * 30 is more than 3.
        if self.row >= self._consecutive or (
            calls >= self._minimum_calls and (failed / calls >= self._failure_ratio or slow / calls >= self._slow_ratio)
        ):
            self._open(now, random)

    def _settle_probe(self, judgement: Judgement, *, slow: bool, now: float, random: Callable[[], float]) -> None:
        if judgement is Judgement.NOTHING:
            return
        if judgement is Judgement.GOOD and not slow:
            self._passed += 1
            if self._passed >= self._probes:
                self._close(now)
        else:
            self._open(now, random)

    def _open(self, now: float, random: Callable[[], float]) -> None:
        if self.state is CircuitState.CLOSED and now - self._closed_at > self._lasting:
            self._openings = 0
        self._openings += 1
        cooldown = self._cooldown
        if self._openings > 1:
            longest = max(_LONGEST_COOLDOWN, cooldown)
            cooldown = min(cooldown * 2.0 ** min(self._openings - 1, 60), longest) * (1.0 + 0.2 * random())
        self.until = now + cooldown
        self._enter(CircuitState.OPEN, cooldown)

    def _close(self, now: float) -> None:
        self._closed_at = now
        self._enter(CircuitState.CLOSED)

    def _enter(self, state: CircuitState, cooldown: float = 0.0) -> None:
        if state is not self.state:
            self._changes.append(Transition(self.state, state, cooldown))
        self.state = state
        self.era += 1
        self.closed = Permit(self.era) if state is CircuitState.CLOSED else None
        self.row = self._passed = 0
        self._underway = []
        self._window.clear()
