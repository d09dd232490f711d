"""Which of a client's calls are still under way, and so up to which one everything can be forgotten."""

from __future__ import annotations

from typing import final

__all__ = ["Outstanding"]


@final
class Outstanding:
    """Numbers calls 1, 2, ... and acknowledges them in order (RIFL, Lee et al., SOSP 2015, section 4).

    =======  ==============================  ==============================================================
    event    condition                       effect
    =======  ==============================  ==============================================================
    begin    fewer than `window` are ahead   the next number; it is under way
    begin    `window` are ahead              refused
    end(n)   n is under way                  n is over
    end(n)   it was the first under way      `acknowledged` moves to the last one before the next under way
    =======  ==============================  ==============================================================

    What is *ahead* are the numbers given out after `acknowledged`: the far side has to remember those. One call that
    takes long lets them grow, also while all others end; hence the window.
    """

    __slots__ = ("_over", "acknowledged", "last", "window")

    def __init__(self, window: int) -> None:
        self.window = window
        self.last = 0
        """The number that was given out last."""
        self.acknowledged = 0
        """No call up to this number is under way."""
        self._over: set[int] = set()

    @property
    def under_way(self) -> int:
        """How many calls are."""
        return self.last - self.acknowledged - len(self._over)

    def begin(self) -> int | None:
        """Return the number of a call that begins; None where the window is full."""
        if self.last - self.acknowledged >= self.window:
            return None
        self.last += 1
        return self.last

    def end(self, number: int) -> bool:
        """Note that a call is over, and tell whether `acknowledged` moved."""
        if number != self.acknowledged + 1:
            self._over.add(number)
            return False
        self.acknowledged = number
        while self.acknowledged + 1 in self._over:
            self.acknowledged += 1
            self._over.discard(self.acknowledged)
        return True
