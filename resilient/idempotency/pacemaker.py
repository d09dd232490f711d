"""One thread that looks after the executions of plain functions: a thread for each would cost more than most of them.

An execution is given a thread of its own only when its first heartbeat is due, and few live that long.
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
from collections.abc import Callable
from typing import final

from resilient.runtime import Runtime

__all__ = ["after"]

_IDLE = 5.0
"""Seconds without anything to wait for, after which the thread ends."""
_FEWEST = 64
"""Entries below which those that were cancelled are not cleared away."""


@final
class _Entry:
    __slots__ = ("due", "number", "run")

    def __init__(self, due: float, number: int, run: Callable[[], object]) -> None:
        self.due = due
        self.number = number
        self.run: Callable[[], object] | None = run

    def __lt__(self, other: _Entry) -> bool:
        return (self.due, self.number) < (other.due, other.number)


@final
class _Pacemaker:
    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._changed = threading.Condition(threading.Lock())
        self._entries: list[_Entry] = []
        self._cancelled = 0
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    def after(self, seconds: float, run: Callable[[], object]) -> Callable[[], None]:
        entry = _Entry(self._now() + seconds, next(self._numbers), run)
        with self._changed:
            heapq.heappush(self._entries, entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="resilient pacemaker", daemon=True)
                self._thread.start()
            elif self._entries[0] is entry:
                self._changed.notify()

        def cancel() -> None:
            with self._changed:
                if entry.run is not None:
                    entry.run = None
                    self._cancelled += 1
                    self._clear_away()

        return cancel

    def _clear_away(self) -> None:
        # Else a busy server would hold every execution of the last third of a lease.
        if len(self._entries) > _FEWEST and 2 * self._cancelled > len(self._entries):
            self._entries = [entry for entry in self._entries if entry.run is not None]
            heapq.heapify(self._entries)
            self._cancelled = 0

    def _watch(self) -> None:
        while (run := self._next()) is not None:
            threading.Thread(target=run, name="resilient heartbeat", daemon=True).start()

    def _next(self) -> Callable[[], object] | None:
        """What is due, as soon as something is; None, and the thread is to end, where nobody waits."""
        with self._changed:
            while True:
                while self._entries and self._entries[0].run is None:
                    heapq.heappop(self._entries)
                    self._cancelled -= 1
                if not self._entries:
                    if not self._changed.wait(_IDLE) and not self._entries:
                        self._thread = None
                        return None
                    continue
                entry = self._entries[0]
                left = entry.due - self._now()
                if left > 0:
                    self._changed.wait(left)
                    continue
                heapq.heappop(self._entries)
                run, entry.run = entry.run, None
                return run


_pacemaker = _Pacemaker(Runtime().now)


def after(seconds: float, run: Callable[[], object]) -> Callable[[], None]:
    """Call `run` in a thread of its own after `seconds` of real time, unless the returned function is called before."""
    return _pacemaker.after(seconds, run)


def _forget() -> None:
    global _pacemaker  # noqa: PLW0603 - the one thread of a process, which a fork does not take along
    _pacemaker = _Pacemaker(Runtime().now)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
