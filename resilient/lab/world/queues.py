"""What a server does with calls that must wait for a worker: the disciplines of lines, with the names of scenarios.

Who is refused or discarded gets a 503.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from resilient.lab.world.job import Job
from resilient.machines.lines import AdaptiveLifo, CoDel, Fifo, Line, Priorities

__all__ = ["AdaptiveLifo", "CoDel", "Fifo", "Priorities", "Queue", "discipline"]

Queue: TypeAlias = Line[Job]
"""A line of calls in front of a server's workers."""


def discipline(name: str, *, limit: int, expected: float) -> Callable[[], Queue]:
    """Return what makes the queues that scenarios know by name, for calls that take `expected` seconds on average.

    `unbounded`, and `bounded` to `limit` calls; `expired` and `hopeless`, which discard those calls (see `Fifo`); and
    `lifo`, which is an `AdaptiveLifo`. `ValueError` for any other name.
    """
    kinds: dict[str, Callable[[], Queue]] = {
        "unbounded": Fifo,
        "bounded": lambda: Fifo(limit),
        "expired": lambda: Fifo(drop="expired"),
        "hopeless": lambda: Fifo(drop="hopeless", expected=expected),
        "lifo": lambda: AdaptiveLifo(limit=None),
    }
    if name not in kinds:
        raise ValueError(f"queue={name!r}: one of {', '.join(kinds)}")
    return kinds[name]
