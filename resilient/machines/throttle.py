"""Reject on the client's side what the far side would refuse anyway."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

from resilient.machines.window import TimeWindow

__all__ = ["Throttle"]

_REQUESTS, _ACCEPTS = 0, 1


@final
class Throttle:
    """Client-side adaptive throttling (Google SRE, "Handling Overload").

    Over the last `window` seconds it counts `requests`, those that the far side answered and those that were rejected
    here, and `accepts`, those that the far side did not refuse. A call is rejected with the probability
    `max(0, (requests - k * accepts) / (requests + 1))`, so about `k` times what is accepted is sent. Once a second a
    call goes through whatever the odds: without it a long outage would be noticed to be over only by luck.

    A call counts when it is known what came of it. One in flight is no refusal: counted when it begins, as the book has
    it, most of the first hundred calls of a client that just started were rejected although all are well.
    """

    __slots__ = ("_k", "_probed", "window")

    def __init__(self, *, k: float, window: float) -> None:
        self._k = k
        self.window = TimeWindow(window, 2)
        self._probed = -math.inf

    def probability(self, now: float) -> float:
        """The share of calls that is rejected at this moment."""
        # Every call comes through here: the window's `totals`, without the list.
        window = self.window
        if now >= window.edge:
            window.roll(now)
        counts, base = window.counts, window.base
        requests = counts[_REQUESTS] - base[_REQUESTS]
        excess = requests - self._k * (counts[_ACCEPTS] - base[_ACCEPTS])
        return excess / (requests + 1) if excess > 0 else 0.0

    def admit(self, now: float, random: Callable[[], float]) -> bool:
        """Let a call through; False: reject it here, it is counted."""
        odds = self.probability(now)
        if odds <= 0.0:
            return True
        if now - self._probed >= 1.0:
            self._probed = now
            return True
        if random() >= odds:
            return True
        self.window.counts[_REQUESTS] += 1
        return False

    def accepted(self, now: float) -> None:
        """Count a request that the far side did not refuse."""
        window = self.window
        if now >= window.edge:
            window.roll(now)
        window.counts[_REQUESTS] += 1
        window.counts[_ACCEPTS] += 1

    def refused(self, now: float) -> None:
        """Count a request that the far side turned away."""
        self.window.add(_REQUESTS, now)
