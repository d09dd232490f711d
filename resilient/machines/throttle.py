"""Reject on the client's side what the far side would refuse anyway."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

from resilient.machines.window import TimeWindow

__all__ = ["Throttle"]

_REQUESTS, _ACCEPTS, _WITHDRAWN = range(3)


@final
class Throttle:
    """Client-side adaptive throttling (Google SRE, "Handling Overload").

    Over the last `window` seconds it counts `requests`, the locally rejected ones included, when they begin, and
    `accepts` when the far side did not refuse. A call is rejected with the probability
    `max(0, (requests - k * accepts) / (requests + 1))`, so about `k` times what is accepted is sent. Once a second a
    call goes through whatever the odds: without it a long outage would be noticed to be over only by luck.

    A request that another policy kept from being sent is withdrawn when that is known. The withdrawal leaves the
    window later than the request: in between there is one request too few.
    """

    __slots__ = ("_k", "_probed", "window")

    def __init__(self, *, k: float, window: float) -> None:
        self._k = k
        self.window = TimeWindow(window, 3)
        self._probed = -math.inf

    def probability(self, now: float) -> float:
        """The share of calls that is rejected at this moment."""
        # Every call comes through here: the window's `totals`, without the list.
        window = self.window
        if now >= window.edge:
            window.roll(now)
        counts, base = window.counts, window.base
        requests = counts[_REQUESTS] - base[_REQUESTS] - counts[_WITHDRAWN] + base[_WITHDRAWN]
        excess = requests - self._k * (counts[_ACCEPTS] - base[_ACCEPTS])
        return excess / (requests + 1) if excess > 0 else 0.0

    def admit(self, now: float, random: Callable[[], float]) -> bool:
        """Count a request; False: reject it here."""
        odds = self.probability(now)
        self.window.counts[_REQUESTS] += 1
        if odds <= 0.0:
            return True
        if now - self._probed >= 1.0:
            self._probed = now
            return True
        return random() >= odds

    def accepted(self, now: float) -> None:
        """Count a request that the far side did not refuse."""
        self.window.add(_ACCEPTS, now)

    def withdrawn(self, now: float) -> None:
        """Take back a request that was never sent: the far side had no part in it."""
        self.window.add(_WITHDRAWN, now)
