"""Which instances are out of use because they fail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, final

from resilient.machines.circuit import Circuit, CircuitState
from resilient.machines.comparison import Comparison
from resilient.machines.window import Window

__all__ = ["Division", "Ejection", "Suspect"]

_LEAST_LEASE = 5.0


class Suspect(Protocol):
    """Somebody with a circuit, and perhaps with health checks."""

    @property
    def circuit(self) -> Circuit:
        """Closed: healthy. Open: ejected. Half-open: on trial."""
        ...

    @property
    def passing(self) -> bool:
        """What its health checks say; True where there are none. Who fails them is no more healthy than the ejected."""
        ...


S = TypeVar("S", bound=Suspect)


@final
@dataclass(frozen=True, slots=True)
class Division(Generic[S]):
    """Who may be called, from one moment on."""

    usable: tuple[S, ...]
    """Those that are healthy; in a panic all of them."""
    trial: tuple[S, ...]
    """Those whose ejection is over: whether they work again is found out with one call at a time."""
    panic: bool
    room: bool
    """Whether one more may be ejected."""
    until: float
    """When this changes by itself."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Ejection:
    """Takes instances that fail out of use for a while, never too many of them at once.

    An instance's ejection is its circuit breaker: ejected is open, on trial is half-open, with all that `Circuit`
    promises of late results, cancelled probes and probes that hang.

    ==========  ===========================================  ==========  ==================================
    state       event                                        next        effect
    ==========  ===========================================  ==========  ==================================
    healthy     it failed too often, and there is room       ejected     no calls for `duration`
    healthy     it failed too often, the cap is reached      healthy     the failure is not counted
    healthy     it is an outlier, and there is room          ejected     no calls for `duration`
    ejected     its time is over, and somebody calls         on trial    that call is its probe
    on trial    `probes` probes succeeded                    healthy     it is counted anew
    on trial    a probe failed, or was refused               ejected     for longer
    ==========  ===========================================  ==========  ==================================

    `consecutive_failures`
        So many failures in a row eject (5, as in Envoy and Finagle): what is dead is noticed within five calls,
        however few there are. None: rows do not matter.
    `failure_ratio`, `minimum_calls`, `window`
        So large a share of at least `minimum_calls` (20) calls of the last `window` (10) seconds ejects (0.5): for what
        fails by halves and never five times in a row. It is judged by itself, not against the mean of the others: that
        test (`comparison`) is blind as soon as more than a fifth of them is bad. None: shares do not matter.
    `comparison`
        Ejects who fails more often than the others, too (None: nobody). It is made where one fails, at most once in
        `window` seconds. Off by default: what it finds beyond the above fails less than half of its calls, and a picker
        that counts failures gives it little anyway.
    `duration`
        Seconds of the first ejection (1.0); doubled, with jitter, each time an instance fails its trial or fails again
        soon, up to a minute. What stood still for a moment is back soon, or the others have to do its work for long;
        what stays down is tried ever more seldom. Others begin with 30 because they let the whole traffic back in; here
        one call finds out.
    `probes`
        How many calls have to succeed on trial, and how many may run at once meanwhile (1). One that has no answer
        after 5 seconds (or `duration`, if that is longer) makes room for another: what answers nothing costs a call
        with the usual timeout of 2.5 seconds for each trial, not one a second.
    `max_ejected`
        The share of the instances that may be out at once (0.5), rounded down, but always one, and below 1.0 never the
        last one. If most of them fail, it is not the instances, and sending everything to the rest fells those too.
    `panic`
        If a smaller share than this (0.5) is healthy, all are used: the calls are too many for those that are left.
        Within `max_ejected` that takes healthy instances leaving meanwhile. 0 turns it off: calls fail at once instead.

    Raises `ValueError` for an argument out of its range.
    """

    consecutive_failures: int | None = 5
    failure_ratio: float | None = 0.5
    minimum_calls: int = 20
    window: float = 10.0
    comparison: Comparison | None = None
    duration: float = 1.0
    probes: int = 1
    max_ejected: float = 0.5
    panic: float = 0.5

    def __post_init__(self) -> None:
        for name, count in (
            ("consecutive_failures", self.consecutive_failures),
            ("minimum_calls", self.minimum_calls),
            ("probes", self.probes),
        ):
            if count is not None and count < 1:
                raise ValueError(f"{name}={count!r}: a number of calls, at least 1")
        for name, share in (("failure_ratio", self.failure_ratio), ("max_ejected", self.max_ejected)):
            if share is not None and not 0 < share <= 1:
                raise ValueError(f"{name}={share!r}: a share, above 0 and at most 1")
        for name, seconds in (("window", self.window), ("duration", self.duration)):
            if not (math.isfinite(seconds) and seconds > 0):
                raise ValueError(f"{name}={seconds!r}: a finite number of seconds, more than 0")
        if not 0 <= self.panic <= 1:
            raise ValueError(f"panic={self.panic!r}: a share, from 0 (never) to 1")

    def circuit(self, counts: Window | None = None) -> Circuit:
        """The circuit of one instance, closed. `counts` is what counts its calls (a window of its own)."""
        return Circuit(
            failure_ratio=math.inf if self.failure_ratio is None else self.failure_ratio,
            minimum_calls=self.minimum_calls,
            window=self.window,
            window_calls=None,
            consecutive_failures=self.consecutive_failures,
            slow_call=None,
            slow_ratio=math.inf,
            cooldown=self.duration,
            probes=self.probes,
            lease=max(self.duration, _LEAST_LEASE),
            counts=counts,
        )

    def limit(self, total: int) -> int:
        """How many of `total` instances may be out of use at once."""
        if self.max_ejected >= 1:
            return total
        return min(max(1, int(total * self.max_ejected)), total - 1)

    def why(self, row: int) -> str:
        """Why an instance is ejected after `row` failures in a row."""
        if self.consecutive_failures is not None and row >= self.consecutive_failures:
            return f"{row} failures in a row"
        return f"{self.failure_ratio:.0%} of its calls in {self.window:g} s failed"

    def divide(self, members: Sequence[S], unfit: AbstractSet[S], now: float) -> Division[S]:
        """Tell apart who may be called, where `unfit` are those who are out, or fail their health checks.

        Among thousands that are well the few that are not cost a look at these.
        """
        every = healthy = tuple(members)
        ill = [member for member in members if member in unfit] if unfit else []
        if ill:
            healthy = tuple([member for member in members if member not in unfit])
        out = [member for member in ill if member.circuit.closed is None]
        panic = len(healthy) < self.panic * len(every)
        return Division(
            usable=every if panic else healthy,
            trial=tuple(member for member in out if member.passing and _over(member.circuit, now)),
            panic=panic,
            room=len(ill) < self.limit(len(every)),
            until=min((member.circuit.until for member in out if not _over(member.circuit, now)), default=math.inf),
        )


def _over(circuit: Circuit, now: float) -> bool:
    return circuit.state is CircuitState.HALF_OPEN or (circuit.state is CircuitState.OPEN and now >= circuit.until)
