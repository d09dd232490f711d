"""The choice of an instance: which rules there are, and what they are for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, final

from resilient.machines.picking import LeastRequestPicking, PeakEwmaPicking, Picking, RandomPicking, RoundRobinPicking

__all__ = ["LeastRequest", "PeakEwma", "Picker", "Random", "RoundRobin"]

_LEAST_PENALTY = 1.0


class Picker(Protocol):
    """A rule by which one instance is chosen: the configuration, without any state, so that services may share it."""

    def picking(self) -> Picking:
        """Return the rule's machine, new: one a service. If it looks at latencies it must be an `Observer`."""
        ...


@final
@dataclass(frozen=True, slots=True)
class Random:
    """Draw any instance, each as often as its weight says.

    The base line: it needs no state that clients could share or lose, and no client ever falls into step with another.
    The busiest instance has noticeably more to do than with the other rules.
    """

    def picking(self) -> Picking:
        """Return a new machine."""
        return RandomPicking()


@final
@dataclass(frozen=True, slots=True)
class RoundRobin:
    """Use one instance after the other, each as often as its weight says.

    The order is shuffled, or all clients would begin with the same instance. For instances that are alike and calls
    that cost alike; it goes on sending to a slow one.
    """

    def picking(self) -> Picking:
        """Return a new machine."""
        return RoundRobinPicking()


@final
@dataclass(frozen=True, slots=True)
class LeastRequest:
    """Draw two instances and use the one with fewer of our calls in flight for its weight (power of two choices).

    For calls that differ much in what they cost. It sees only the calls of its own client: with many clients that
    send little each, nothing is ever in flight and the choice is random.

    Mitzenmacher, *The Power of Two Choices in Randomized Load Balancing*.
    """

    def picking(self) -> Picking:
        """Return a new machine."""
        return LeastRequestPicking()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PeakEwma:
    """Draw two instances and use the one that is expected to answer sooner: the default.

    What is expected is a moving average of the latency to the first byte that rises at once and falls slowly, times the
    calls in flight plus one, divided by the weight: a weight is a handicap here, not a share. Instances that fail count
    as slow. A call that was cancelled counts with the time it was waited for.

    `tau`
        After how many seconds an observation has faded to a third (3.0). Shorter follows noise; with the usual 10 an
        instance that was slow gets hardly any calls for many seconds after it has recovered.
    `penalty`
        How many seconds a failure counts as (5.0, at least 1.0). Without it an instance that fails at once would look
        like the fastest and get most of the traffic, so there is no way to turn it off. Set it above the latencies that
        are usual for the service.
    `longest`
        The most that an instance's own `Retry-After` counts for, in seconds (300.0).
    `initial`
        What is expected of the instances that are there from the start, in seconds (0.03).

    Raises `ValueError` for an argument out of its range. Finagle's peak EWMA with Linkerd's bias against failures.
    """

    tau: float = 3.0
    penalty: float = 5.0
    longest: float = 300.0
    initial: float = 0.03

    def __post_init__(self) -> None:
        for name, seconds in (("tau", self.tau), ("longest", self.longest), ("initial", self.initial)):
            if not (math.isfinite(seconds) and seconds > 0):
                raise ValueError(f"{name}={seconds!r}: a finite number of seconds, more than 0")
        if not (math.isfinite(self.penalty) and self.penalty >= _LEAST_PENALTY):
            raise ValueError(
                f"penalty={self.penalty!r}: a finite number of seconds, at least {_LEAST_PENALTY}; "
                "an instance that fails fast must never look fast"
            )

    def picking(self) -> Picking:
        """Return a new machine."""
        return PeakEwmaPicking(tau=self.tau, penalty=self.penalty, longest=self.longest, initial=self.initial)
