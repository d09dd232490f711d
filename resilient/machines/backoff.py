"""How long to wait before the next attempt."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

__all__ = ["Backoff"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential backoff with full jitter: a uniform share of `min(cap, base * multiplier ** (attempt - 1))`.

    `base` is 50 ms, as long as a transient fault of a nearby service lasts. `cap`, 5 s, bounds the wait before
    it is jittered; capping afterwards would send most late retries at exactly the cap, all together. Full jitter
    spreads a herd best for its length (Brooker, "Exponential Backoff And Jitter", AWS 2015).

    Raises `ValueError` for a `base` or `cap` that is negative or not finite, or a `multiplier` below 1.
    """

    base: float = 0.05
    cap: float = 5.0
    multiplier: float = 2.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.base) and self.base >= 0):
            raise ValueError(f"base={self.base!r}: a finite number of seconds, at least 0")
        if not (math.isfinite(self.cap) and self.cap >= 0):
            raise ValueError(f"cap={self.cap!r}: a finite number of seconds, at least 0")
        if not (math.isfinite(self.multiplier) and self.multiplier >= 1):
            raise ValueError(f"multiplier={self.multiplier!r}: a finite number, at least 1")

    def delay(self, attempt: int, random: Callable[[], float]) -> float:
        """Seconds to wait after attempt number `attempt` (1, 2, ...) failed."""
        try:
            ceiling = min(self.cap, self.base * math.pow(self.multiplier, attempt - 1))
        except OverflowError:
            ceiling = self.cap if self.base else 0.0
        return random() * ceiling
