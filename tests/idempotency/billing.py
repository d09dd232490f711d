"""A consumer of messages, in a shop whose store works in virtual time."""

from __future__ import annotations

from typing import Any

import pytest

from resilient.context import current_runtime
from resilient.idempotency import Claim, Inbox, Receipt
from tests.idempotency.shop import Shop, insert

PROCESSED, DUPLICATE, PARKED = Receipt.PROCESSED, Receipt.DUPLICATE, Receipt.PARKED


class Billing:
    """A consumer: it writes both parts of an order, and fails as it is told."""

    def __init__(self, shop: Shop, **terms: Any) -> None:
        self.shop = shop
        self.inbox = Inbox(shop.store, consumer="billing", **terms)
        self.runs: list[str] = []
        self.error: Exception | None = None
        self.takes = 0.0
        self.handle = self.inbox.handler(self._handle)

    async def _handle(self, claim: Claim, payload: bytes) -> None:
        order = payload.decode()
        self.runs.append(order)
        await current_runtime().sleep(self.takes)
        async with claim.transaction() as connection:
            insert(connection, order)
        if self.error is not None:
            raise self.error

    async def fails(self, payload: bytes, **place: Any) -> Exception:
        try:
            await self.handle(payload, **place)
        except Exception as error:
            return error
        pytest.fail("it did not fail")
