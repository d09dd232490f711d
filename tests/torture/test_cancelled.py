"""A caller is cancelled at each await in turn, in real time, at stores that are really waited for."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from resilient.errors import InProgress
from resilient.idempotency import Claim, once
from tests.torture.checker import PARTS, Row
from tests.torture.grounds import Ground
from tests.torture.places import PLACES, Place
from tests.torture.worker import RIGHT

pytestmark = pytest.mark.timeout(120)


class Until:
    """A coroutine during whose n-th await something happens."""

    def __init__(self, coroutine: Coroutine[Any, Any, str], number: int, happens: Callable[[], object]) -> None:
        self._coroutine, self._left, self._happens = coroutine, number, happens

    @property
    def came(self) -> bool:
        return self._left <= 0

    def __await__(self) -> Generator[Any, Any, str]:
        inner = self._coroutine.__await__()
        step: Callable[[], Any] = partial(inner.send, None)
        while True:
            try:
                waits_for = step()
            except StopIteration as stop:
                return str(stop.value)
            self._left -= 1
            if self._left == 0:
                self._happens()
            try:
                value = yield waits_for
            except BaseException as error:
                step = partial(inner.throw, error)
            else:
                step = partial(inner.send, value)


async def through_the_task(coroutine: Coroutine[Any, Any, str], number: int) -> bool:
    """Pierces every shield; whether there was such an await."""
    loop = asyncio.get_running_loop()
    until: Until

    async def run() -> str:
        nonlocal until
        task = asyncio.current_task()
        assert task is not None
        until = Until(coroutine, number, lambda: loop.call_soon(task.cancel))
        return await until

    await asyncio.wait((asyncio.create_task(run()),))
    return until.came


async def through_a_scope(coroutine: Coroutine[Any, Any, str], number: int) -> bool:
    with anyio.CancelScope() as scope:
        until = Until(coroutine, number, scope.cancel)
        await until
    return until.came


class Shop:
    def __init__(self, place: Place, *, resumable: bool) -> None:
        self.place = place
        self.store = place.store()
        self.runs = 0

        @once(self.store, key=lambda key: key, scope="torture", lease=20.0, resumable=resumable)
        async def sell(claim: Claim, key: str) -> str:
            self.runs += 1
            mine = str(self.runs)
            async with claim.transaction() as connection:
                for part in PARTS:
                    row = Row(key, RIGHT, mine, part)
                    if asyncio.iscoroutinefunction(connection.execute):
                        await place.write_async(connection, row)
                    else:
                        place.write(connection, row)
                    await anyio.lowlevel.checkpoint()
            return mine

        self.sell = sell

    async def sell_at_last(self, key: str) -> str:
        """Repeat until there is a result."""
        with anyio.fail_after(10):  # less than a lease: whoever was cancelled gave the key back, or has recorded
            while True:
                try:
                    return await self.sell(key)
                except InProgress:
                    await anyio.sleep(0.005)


@pytest.mark.parametrize(
    ("ground", "resumable"),
    [("sqlite", True), ("postgres", True), ("postgres", False), ("valkey", True)],
    ids=["sqlite", "postgres-apart", "postgres-one-commit", "valkey"],
    indirect=["ground"],
)
@pytest.mark.parametrize("how", ["task", "scope", "trio"])
def test_whoever_is_cancelled_leaves_all_or_nothing_and_a_retry_finishes(
    ground: Ground, tmp_path: Path, how: str, resumable: bool
) -> None:
    (tmp_path / "place").mkdir()
    place = PLACES[ground.place](tmp_path / "place", ground.fresh())
    place.prepare()
    shop = Shop(place, resumable=resumable)
    cancelled_run = through_the_task if how == "task" else through_a_scope
    results: dict[str, str] = {}

    async def main() -> None:
        for number in itertools.count(1):
            key = f"cancelled at {number}"
            came = await cancelled_run(shop.sell(key), number)
            results[key] = await shop.sell_at_last(key)
            if not came:
                break
        await shop.store.close()

    anyio.run(main, backend="trio" if how == "trio" else "asyncio")
    assert len(results) > 4
    sold = sorted((row.key, row.attempt, row.part) for row in place.rows())
    assert sold == sorted((key, by, part) for key, by in results.items() for part in PARTS)
