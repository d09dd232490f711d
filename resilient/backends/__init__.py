"""Durable stores and the clients of other systems: what the library keeps its state in."""

from __future__ import annotations

from resilient.backends.connecting import connect
from resilient.backends.store import Mode, Record, Stats, Store

__all__ = ["Mode", "Record", "Stats", "Store", "connect"]
