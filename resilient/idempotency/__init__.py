"""Exactly once: a function or a request that takes effect once for each key, however often it is sent.

`once` makes a function so; `resilient.asgi.IdempotencyMiddleware` makes HTTP requests so. Both keep what came of each
key in a `Store`, which `connect` makes from a URL. `Outbox` and `Relay` are for what
leaves the database afterwards, `Inbox` for consumers of messages.
"""

from __future__ import annotations

from resilient.backends.connecting import connect
from resilient.backends.inbox import BlockingInbox, Failure, InboxStats, Letter
from resilient.backends.outbox import BlockingOutbox, Message, OutboxStats, Parked
from resilient.backends.store import Mode, Record, Stats, Store
from resilient.idempotency.claim import BlockingClaim, Claim
from resilient.idempotency.derived import derived
from resilient.idempotency.inbox import BlockingHandler, Handler, Inbox
from resilient.idempotency.intents import BlockingIntents, Intent, Intents, Report, Resumed
from resilient.idempotency.keys import format_key, parse_key
from resilient.idempotency.leasing import ClientCall, ClientLease, client_call
from resilient.idempotency.once import Once, once
from resilient.idempotency.outbox import Outbox
from resilient.idempotency.processing import Receipt
from resilient.idempotency.relay import Relay

__all__ = [
    "BlockingClaim",
    "BlockingHandler",
    "BlockingInbox",
    "BlockingIntents",
    "BlockingOutbox",
    "Claim",
    "ClientCall",
    "ClientLease",
    "Failure",
    "Handler",
    "Inbox",
    "InboxStats",
    "Intent",
    "Intents",
    "Letter",
    "Message",
    "Mode",
    "Once",
    "Outbox",
    "OutboxStats",
    "Parked",
    "Receipt",
    "Record",
    "Relay",
    "Report",
    "Resumed",
    "Stats",
    "Store",
    "client_call",
    "connect",
    "derived",
    "format_key",
    "once",
    "parse_key",
]
