"""A rate limit in one number."""

from __future__ import annotations

import math
from typing import final

__all__ = ["Gcra"]


@final
class Gcra:
    """The generic cell rate algorithm: `amount` calls a `period`, at most `burst` of them at once.

    Its whole state is the theoretical arrival time of the next call (TAT). In any span of W seconds it admits
    at most `burst + W * amount / period` calls, whatever the arrivals; there is no window with an edge to exploit.
    A silence, however long, earns one burst. Source: ITU-T I.371, annex A.

    A call is admitted when `tat - now <= (burst - 1) * interval`; then `tat = max(tat, now) + interval`. The TAT is
    rounded like the clock's reading: on one that counts for a year, a rate of a million a second is kept to 1 %.
    """

    __slots__ = ("_grain", "interval", "tat", "tolerance")

    def __init__(self, *, amount: int, period: float, burst: int) -> None:
        self.interval = period / amount
        self.tolerance = (burst - 1) * self.interval
        # What the sums of one burst, and the few of a caller that waits, lose to rounding, as a share of the clock's.
        self._grain = (burst + 8) * 2.0**-53
        self.tat = -math.inf

    def admit(self, now: float) -> float:
        """Take a place now and return 0.0; or take nothing and return the seconds until there is one."""
        tat = self.tat
        if tat <= now:
            self.tat = now + self.interval
            return 0.0
        early = tat - now - self.tolerance
        # Neither the last call of a burst nor one that waited exactly as long as it was told is refused by a last bit.
        if early > 0.0 and early > self._grain * (abs(now) + abs(tat)):
            return early
        self.tat = tat + self.interval
        return 0.0

    def reserve(self, now: float, longest: float) -> tuple[float, float] | None:
        """Take the next place if it comes within `longest` seconds; return the wait, and a token to give it back."""
        tat = max(self.tat, now)
        wait = max(0.0, tat - now - self.tolerance)
        if wait > longest:
            return None
        self.tat = tat + self.interval
        return wait, tat

    def give_back(self, token: float) -> None:
        """Return a reserved place that was not used. Only the last one can be: those behind it keep their time."""
        # The same sum as in `reserve`, not its inverse: what is restored is exact, for the place before this one too.
        if self.tat == token + self.interval:
            self.tat = token
