"""What the torture suite shares: one zygote for all of its processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.torture.fleet import Fleet


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    with Fleet() as fleet:
        yield fleet
