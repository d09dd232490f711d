"""The circuit breaker's decisions."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from resilient.machines.window import CallWindow, TimeWindow, Window

__all__ = ["Circuit", "CircuitState", "Judgement", "Permit", "Transition"]

_GOOD, _GOOD_SLOW, _BAD, _BAD_SLOW = range(4)
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

    =========  =========================================  =========  =======================================
    state      event                                      next       effect
    =========  =========================================  =========  =======================================
    closed     the failure or slow ratio is reached       open       the cool-down begins
    closed     consecutive failures are reached           open       the cool-down begins
    open       a call after the cool-down                 half_open  the call is a probe
    half_open  a call while a probe's place is free       half_open  the call is a probe
    half_open  enough probes succeeded                    closed     the window is empty
    half_open  a probe failed, was slow or turned away    open       a longer cool-down begins
    half_open  a probe was cancelled or its lease ended   half_open  its place is free, nothing is decided
    any        isolate                                    isolated   every call is refused
    any        reset                                      closed     the window is empty
    =========  =========================================  =========  =======================================

    Each state begins a new *era*. A result counts only in the era that its permit was given in: a late success
    from before the circuit opened cannot close it, a late failure cannot open it again.

    `minimum_calls` calls must be in the window before a ratio says anything. The cool-down doubles, with up to 20 %
    of jitter, each time the circuit opens again within a window of closing, up to a minute. A probe's lease is as
    long as the first cool-down: a probe that hangs is then replaced.
    """

    __slots__ = (
        "_changes",
        "_closed_at",
        "_consecutive",
        "_cooldown",
        "_failure_ratio",
        "_lasting",
        "_minimum_calls",
        "_openings",
        "_passed",
        "_probes",
        "_row",
        "_slow_call",
        "_slow_ratio",
        "_times",
        "_underway",
        "_window",
        "closed",
        "era",
        "state",
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
    ) -> None:
        self._failure_ratio = failure_ratio
        self._minimum_calls = minimum_calls
        self._window: Window
        self._times: TimeWindow | None = None
        if window_calls is None:
            self._window = self._times = TimeWindow(window, 4)
        else:
            self._window = CallWindow(window_calls, 4)
        self._lasting = window
        self._consecutive = math.inf if consecutive_failures is None else consecutive_failures
        self._slow_call = math.inf if slow_call is None else slow_call
        self._slow_ratio = slow_ratio
        self._cooldown = cooldown
        self._probes = probes
        self._changes: list[Transition] = []
        self._openings = 0
        self._closed_at = -math.inf
        self._row = 0
        self._passed = 0
        self._underway: list[Permit] = []
        self.era = 0
        self.state = CircuitState.CLOSED
        self.until = -math.inf
        self.closed: Permit | None = Permit(0)
        """The permit of the closed era, None in any other state: the hot path is one comparison with it."""

    def admit(self, now: float) -> Permit | None:
        """Return leave to call, or None. Each permit is settled exactly once."""
        if self.closed is not None:
            return self.closed
        if self.state is CircuitState.OPEN and now >= self.until:
            self._enter(CircuitState.HALF_OPEN)
        if self.state is not CircuitState.HALF_OPEN:
            return None
        self._underway = [probe for probe in self._underway if not probe.settled and probe.expires > now]
        if len(self._underway) + self._passed >= self._probes:
            return None
        probe = Permit(self.era, now + self._cooldown)
        self._underway.append(probe)
        return probe

    def settle(
        self, permit: Permit, judgement: Judgement, latency: float, now: float, random: Callable[[], float]
    ) -> None:
        """Report what a permit's call came to, after `latency` seconds."""
        slow = latency > self._slow_call
        if permit is self.closed:
            if judgement is Judgement.GOOD:
                self._row = 0
                self._window.add(_GOOD_SLOW if slow else _GOOD, now)
                if slow:
                    self._judge(now, random)
            elif judgement is Judgement.BAD:
                self._row += 1
                self._window.add(_BAD_SLOW if slow else _BAD, now)
                self._judge(now, random)
        elif not permit.settled:
            permit.settled = True
            if permit.era == self.era and self.state is CircuitState.HALF_OPEN:
                self._settle_probe(judgement, slow=slow, now=now, random=random)

    def succeed(self, permit: Permit, now: float) -> None:
        """Settle a good call whose latency does not matter: the hot path."""
        if permit is not self.closed:
            return
        self._row = 0
        times = self._times
        if times is None or now >= times.edge:
            self._window.add(_GOOD, now)
        else:
            times.current[_GOOD] += 1

    def isolate(self) -> None:
        """Refuse every call until `reset`."""
        self._enter(CircuitState.ISOLATED)

    def reset(self, now: float) -> None:
        """Close, as if new."""
        self._close(now)
        self._openings = 0

    def retry_after(self, now: float) -> float | None:
        """Seconds until a call may have a chance; None when nobody can know."""
        if self.state is CircuitState.OPEN:
            return max(0.0, self.until - now)
        if self.state is CircuitState.HALF_OPEN:
            return min((max(0.0, probe.expires - now) for probe in self._underway), default=0.0)
        return None

    def failures(self) -> int:
        """Bad calls in a row."""
        return self._row

    def take_changes(self) -> list[Transition]:
        """Return the transitions since the last time, oldest first, for whoever announces them."""
        changes, self._changes = self._changes, []
        return changes

    @property
    def changed(self) -> bool:
        """Whether there are transitions to announce."""
        return bool(self._changes)

    def _judge(self, now: float, random: Callable[[], float]) -> None:
        good, good_slow, bad, bad_slow = self._window.totals(now)
        failed, slow, calls = bad + bad_slow, good_slow + bad_slow, good + good_slow + bad + bad_slow
        if self._row >= self._consecutive or (
            calls >= self._minimum_calls
            and (
                (failed > 0 and failed >= self._failure_ratio * calls)
                or (slow > 0 and slow >= self._slow_ratio * calls)
            )
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
        self._row = self._passed = 0
        self._underway = []
        self._window.clear()
