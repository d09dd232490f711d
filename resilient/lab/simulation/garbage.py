"""The garbage collector, while a world runs."""

from __future__ import annotations

import gc
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import final

__all__ = ["collected_rarely"]

_THRESHOLDS = (100_000, 20, 100)


@final
class _Rarely:
    """The collector's thresholds: raised by the first run of this process, put back by the last one to end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs = 0
        self._usual = gc.get_threshold()

    def begin(self) -> None:
        with self._lock:
            if self._runs == 0:
                self._usual = gc.get_threshold()
                gc.set_threshold(*_THRESHOLDS)
            self._runs += 1

    def end(self) -> None:
        with self._lock:
            self._runs -= 1
            if self._runs == 0:
                gc.set_threshold(*self._usual)


_rarely = _Rarely()


@contextmanager
def collected_rarely() -> Generator[None]:
    """Let the collector look for cycles less often in the block.

    Hardly a call leaves one behind, but those that wait in a long queue are hundreds of thousands of objects, and with
    the usual thresholds a third of the time goes into walking through them again and again.
    """
    _rarely.begin()
    try:
        yield
    finally:
        _rarely.end()
