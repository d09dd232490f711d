"""Mutual exclusion between threads, for as long as a few instructions take."""

from __future__ import annotations

from queue import SimpleQueue
from typing import final

__all__ = ["Turn"]


@final
class Turn:
    """What one thread has at a time: a lock that costs less, for what every call passes.

    It is a token in a queue. `take()` takes it out, and waits while another thread has it; `give(None)` puts it back.
    `with turn:` does both, and costs what a lock costs. It is not held over an await.
    """

    __slots__ = ("give", "take")

    def __init__(self) -> None:
        token: SimpleQueue[None] = SimpleQueue()
        self.take = token.get
        self.give = token.put
        self.give(None)

    def __enter__(self) -> None:
        self.take()

    def __exit__(self, *_: object) -> None:
        self.give(None)
