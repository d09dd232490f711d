"""Intents: what a client is about to send is on disk before the first byte leaves."""

from __future__ import annotations

from resilient.backends.intents import Intent
from resilient.idempotency.intents.journal import BlockingIntents, Intents
from resilient.idempotency.intents.resuming import Report, Resumed

__all__ = ["BlockingIntents", "Intent", "Intents", "Report", "Resumed"]
