"""How a limit of concurrency finds its place: which rules there are, and what they are for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, final

from resilient.machines.concurrency import AimdRule, CorrelatedRule, Gradient2Rule, LimitRule, VegasRule

__all__ = ["Aimd", "Correlated", "Gradient2", "Limiter", "Vegas"]


class Limiter(Protocol):
    """A rule by which a limit moves: the configuration, without any state, so that policies may share it."""

    def rule(self) -> LimitRule:
        """Return the rule's machine, new."""
        ...


@final
@dataclass(frozen=True, slots=True)
class Correlated:
    """Let a few calls wait at the far side, and do not get used to an overload that lasts. The default.

    It compares the 90th percentile of latency with its recent average, like `Vegas`, and besides counts what gets
    done: while the limit is used up, and more calls at once are not answered faster in sum, it goes down.

    `most`
        The limit is at most that many times what was in flight (5.0), so that a limit that nobody used does not let a
        flood through.

    Source: failsafe-go's adaptive limiter. Raises `ValueError` for a `most` below 1.
    """

    most: float = 5.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.most) and self.most >= 1):
            raise ValueError(f"most={self.most!r}: how many times what was in flight, at least 1")

    def rule(self) -> LimitRule:
        """Return a new machine."""
        return CorrelatedRule(most=self.most)


@final
@dataclass(frozen=True, slots=True)
class Gradient2:
    """Go down as latency rises above its long average.

    `tolerance`
        How many times the long average a latency may be before the limit goes down (1.5).
    `queue`
        How many calls may wait at the far side (4): by how much the limit grows while latency is low.
    `smoothing`
        The share of the way that a window goes (0.2).

    Under an overload that lasts for minutes the average, and with it the limit, rises. Source: Netflix's
    concurrency-limits. Raises `ValueError` for values that are out of range.
    """

    tolerance: float = 1.5
    queue: float = 4.0
    smoothing: float = 0.2

    def __post_init__(self) -> None:
        if not (math.isfinite(self.tolerance) and self.tolerance >= 1):
            raise ValueError(f"tolerance={self.tolerance!r}: how many times the average, at least 1")
        if not (math.isfinite(self.queue) and self.queue > 0):
            raise ValueError(f"queue={self.queue!r}: how many calls may wait at the far side, more than 0")
        if not 0 < self.smoothing <= 1:
            raise ValueError(f"smoothing={self.smoothing!r}: a share of the way, more than 0 and at most 1")

    def rule(self) -> LimitRule:
        """Return a new machine."""
        return Gradient2Rule(tolerance=self.tolerance, queue=self.queue, smoothing=self.smoothing)


@final
@dataclass(frozen=True, slots=True)
class Vegas:
    """Let a few calls wait at the far side, counted from the shortest latency that was seen.

    `probe`
        The shortest latency is forgotten after this many times the limit windows (30), or half of it: chance keeps
        clients from doing so at the same time.

    For calls that cost alike. Source: TCP Vegas, as Netflix's concurrency-limits has it. Raises `ValueError` for a
    `probe` below 1.
    """

    probe: int = 30

    def __post_init__(self) -> None:
        if self.probe < 1:
            raise ValueError(f"probe={self.probe!r}: how many times the limit, at least 1")

    def rule(self) -> LimitRule:
        """Return a new machine."""
        return VegasRule(probe=self.probe)


@final
@dataclass(frozen=True, slots=True)
class Aimd:
    """One more after each good window, a tenth less after a bad one: additive increase, multiplicative decrease.

    `backoff`
        What is left of the limit after a window in which calls were turned away or got no answer in time (0.9).
    `slow`
        The seconds of latency that count as bad as well (5.0).

    It needs no latency that means anything, but drives the far side into refusing again and again. Raises
    `ValueError` for values that are out of range.
    """

    backoff: float = 0.9
    slow: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.backoff < 1:
            raise ValueError(f"backoff={self.backoff!r}: what is left of the limit, more than 0 and less than 1")
        if not self.slow > 0:
            raise ValueError(f"slow={self.slow!r}: seconds, more than 0")

    def rule(self) -> LimitRule:
        """Return a new machine."""
        return AimdRule(backoff=self.backoff, slow=self.slow)
