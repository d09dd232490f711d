"""What the torture suite shares: one zygote for all of its processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.torture.fleet import Fleet
from tests.torture.grounds import GROUNDS, Ground


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    with Fleet() as fleet:
        yield fleet


@pytest.fixture(scope="session")
def _grounds() -> Iterator[tuple[dict[str, Ground], ExitStack]]:
    with ExitStack() as stack:
        yield {}, stack


@pytest.fixture(params=GROUNDS)
def ground(request: pytest.FixtureRequest, _grounds: tuple[dict[str, Ground], ExitStack]) -> Ground:
    """Every store that processes share, with a server of the suite's own, whatever the test before did to it."""
    known, stack = _grounds
    name: str = request.param
    if name not in known:
        known[name] = stack.enter_context(GROUNDS[name]())
    known[name].heal()
    return known[name]
