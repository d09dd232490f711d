"""What type checkers know of outboxes, relays and inboxes. Checked, never run."""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from typing import assert_type

from resilient.idempotency import (
    BlockingClaim,
    BlockingHandler,
    Claim,
    Handler,
    Inbox,
    Message,
    Outbox,
    Receipt,
    Relay,
)


def inboxes(inbox: Inbox) -> None:
    @inbox.handler
    async def later(claim: Claim, payload: bytes) -> int:
        return len(payload)

    @inbox.handler
    def now(claim: BlockingClaim, payload: bytes) -> None: ...

    assert_type(later, Handler)
    assert_type(now, BlockingHandler)
    assert_type(now(b"", key="1"), Receipt)


async def receipts(handle: Handler) -> None:
    assert_type(await handle(b"", stream="s", position=1), Receipt)


def relays(outbox: Outbox) -> None:
    async def later(message: Message) -> int:
        return message.attempt

    def now(message: Message) -> None: ...

    Relay(outbox, later)
    Relay(outbox, now)
    Relay(outbox, lambda message: message.key)


def refused(inbox: Inbox) -> None:
    def nothing() -> None: ...

    inbox.handler(nothing)  # type: ignore[arg-type]
