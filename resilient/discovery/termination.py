"""What is done before SIGTERM ends the process.

Python leaves SIGTERM to the system, which ends the process without unwinding anything: no `finally` runs, no block is
left. Whoever has something to take back registers it here.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import final

__all__ = ["PATIENCE", "BeforeTermination"]

PATIENCE = 5.0
"""Seconds that the process goes on at most: half of what the most impatient of the usual supervisors grant."""

# A process has one handler of a signal, so this is the process's.
_waiting: list[BeforeTermination] = []


@final
class BeforeTermination:
    """Calls `act` when SIGTERM comes, from a thread, and then lets the signal do what it would have done.

    Only if nothing else handles the signal: a server or a framework that does unwinds its blocks itself. Only if made
    in the main thread, as handlers can be set nowhere else. A process that is forked meanwhile ends without calling
    `act`, which is its parent's business.
    """

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act
        self._process = os.getpid()
        if threading.current_thread() is not threading.main_thread():
            return
        handler = signal.getsignal(signal.SIGTERM)
        if handler is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _end)
        elif handler is not _end:
            return
        _waiting.append(self)

    def cancel(self) -> None:
        """Call nothing any more. The last one gives the signal back, unless somebody else took it since.

        May be called again: only the main thread can give it back.
        """
        with suppress(ValueError):
            _waiting.remove(self)
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and not _waiting and signal.getsignal(signal.SIGTERM) is _end:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def begin(self) -> _thread.LockType | None:
        """Begin to act; the lock is free once it is done."""
        return _begin(self._act) if self._process == os.getpid() else None


def _begin(act: Callable[[], object]) -> _thread.LockType:
    """Run `act` in a thread; the lock that is returned is free once it is done."""
    done = _thread.allocate_lock()
    done.acquire()

    def run() -> None:
        try:
            act()
        finally:
            done.release()

    # Not through `threading`: the signal may have come while this very thread holds a lock of that module.
    _thread.start_new_thread(run, ())
    return done


def _end(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends it at once
    # Other threads, because this one may be in the middle of whatever they need a lock for.
    begun = [done for each in _waiting if (done := each.begin()) is not None]
    _begin(lambda: [done.acquire() for done in begun]).acquire(timeout=PATIENCE)
    signal.raise_signal(signal.SIGTERM)
