"""The account that retries and hedges are paid from."""

from __future__ import annotations

from typing import final

from resilient.machines.window import TimeWindow

__all__ = ["DEPOSITS", "Budget"]

DEPOSITS, _WITHDRAWALS = 0, 1
"""The counters of the window."""


@final
class Budget:
    """A leaky account: over the last `ttl` seconds, at most `ratio` withdrawals a deposit, plus `floor` a second.

    Both deposits and withdrawals are forgotten after `ttl` (a tenth later at most, see `TimeWindow`), so an unused
    balance cannot be saved up for an outage. The model is Finagle's `RetryBudget`.
    """

    __slots__ = ("_ratio", "_reserve", "window")

    def __init__(self, *, ratio: float, floor: float, ttl: float) -> None:
        self._ratio = ratio
        self._reserve = floor * ttl
        self.window = TimeWindow(ttl, 2)

    def deposit(self, now: float) -> None:
        """Count one logical call."""
        self.window.add(DEPOSITS, now)

    def balance(self, now: float) -> float:
        """How many withdrawals there is room for."""
        deposits, withdrawals = self.window.totals(now)
        return self._reserve + self._ratio * deposits - withdrawals

    def withdraw(self, now: float) -> bool:
        """Pay for one more attempt, if there is room."""
        # Room is compared with a hair's tolerance: 10 deposits at a ratio of 0.1 pay for one attempt.
        if self.balance(now) < 1.0 - 1e-9:
            return False
        self.window.add(_WITHDRAWALS, now)
        return True
