"""What the tests of this room share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from resilient.testing import virtual_time
from tests.idempotency.billing import Billing
from tests.idempotency.office import Office
from tests.idempotency.shop import Shop


@pytest.fixture
def run(backend: str) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Runs a scenario in virtual time."""
    return lambda main: virtual_time.run(main, backend=backend)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


@pytest.fixture
def billing(shop: Shop) -> Billing:
    return Billing(shop, attempts=3)
