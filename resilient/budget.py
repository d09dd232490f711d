"""The retry budget of a destination."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from typing import final

from resilient.machines.budget import Budget
from resilient.machines.window import TimeWindow

__all__ = ["RetryBudget"]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RetryBudget:
    """Bounds how many extra attempts a destination gets: retries and hedges alike are paid from it.

    Each logical call deposits once; each extra attempt withdraws one. Over `ttl` seconds there is room for `ratio`
    (0.1: one extra attempt for ten calls) of the deposits plus `floor` (1.0) a second, so that a client
    with little traffic can still retry. With everything failing, a far side then gets 1.1 times its load and not
    three times; that loop of retries is what keeps an overloaded service down (Bronson et al., "Metastable Failures
    in Distributed Systems", HotOS 2021). An empty budget means fail now, never wait. Nothing is saved up for longer
    than `ttl`, 10 s: an hour of health does not pay for a storm of retries.

    Share one object between pipelines that call the same destination. Thread-safe.

    Raises `ValueError` for a `ratio` outside 0 to 1, a `floor` that is negative or not finite, or a `ttl` that is not
    positive and finite.
    """

    ratio: float = 0.1
    floor: float = 1.0
    ttl: float = 10.0
    _budget: Budget = field(init=False, repr=False)
    _lock: threading.Lock = field(init=False, repr=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"ratio={self.ratio!r}: a number of extra attempts a call, between 0 and 1")
        if not (math.isfinite(self.floor) and self.floor >= 0):
            raise ValueError(f"floor={self.floor!r}: a finite number of extra attempts a second, at least 0")
        if not (math.isfinite(self.ttl) and self.ttl > 0):
            raise ValueError(f"ttl={self.ttl!r}: a finite number of seconds, more than 0")
        object.__setattr__(self, "_budget", Budget(ratio=self.ratio, floor=self.floor, ttl=self.ttl))

    @property
    def window(self) -> TimeWindow:
        """Where deposits are counted, for whoever counts without a frame of its own: see `TimeWindow`."""
        return self._budget.window

    def deposit(self, now: float) -> None:
        """Count one logical call."""
        with self._lock:
            self._budget.deposit(now)

    def withdraw(self, now: float) -> bool:
        """Pay for one more attempt; False: there is no room, fail now."""
        with self._lock:
            return self._budget.withdraw(now)

    def balance(self, now: float) -> float:
        """How many extra attempts there is room for."""
        with self._lock:
            return self._budget.balance(now)
