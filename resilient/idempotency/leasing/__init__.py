"""Leased clients: keys that are forgotten exactly when they are no longer needed."""

from __future__ import annotations

from resilient.backends.clients import ClientCall
from resilient.idempotency.leasing.client import ClientLease, client_call

__all__ = ["ClientCall", "ClientLease", "client_call"]
