"""Cancelled at every moment: effect and record are never torn apart, and a retry always finishes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from resilient.backends.sqlite import SQLiteStore
from resilient.backends.store import Run
from resilient.context import current_runtime
from resilient.errors import InProgress, StoreUnavailable
from resilient.idempotency import BlockingClaim, Claim, once
from resilient.testing import virtual_time
from resilient.testing.cancellation import for_each_cancellation
from tests.idempotency.shop import Shop, Slow, insert, whole


class Scene:
    """A shop, and an operation that passes through every step of a claim."""

    def __init__(self, folder: Path) -> None:
        self.shop = Shop(folder)
        self.runs = 0

        @once(self.shop.store, key=lambda order: order, lease=30.0)
        async def place(claim: Claim, order: str) -> int:
            self.runs += 1
            mine = self.runs
            await claim.save("priced", 5)
            await current_runtime().sleep(0.1)
            async with claim.transaction() as connection:
                insert(connection, f"{order} by {mine}")
                await current_runtime().sleep(0.1)
            await current_runtime().sleep(0.1)
            return mine

        @once(self.shop.store, key=lambda order: order, scope="in one piece", lease=30.0)
        async def place_in_one_piece(claim: Claim, order: str) -> int:
            self.runs += 1
            await claim.run(insert, f"{order} by {self.runs}")
            return self.runs

        self.place, self.place_in_one_piece = place, place_in_one_piece


@pytest.mark.parametrize("name", ["place", "place_in_one_piece"])
def test_a_cancelled_run_leaves_all_of_the_effect_or_nothing(tmp_path: Path, backend: str, name: str) -> None:
    numbers = itertools.count()

    def fresh() -> Scene:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        return Scene(folder)

    async def scenario(scene: Scene) -> None:
        await getattr(scene, name)("a")

    async def check(scene: Scene) -> None:
        started = current_runtime().now()
        result = await until_answered(partial(getattr(scene, name), "a"))
        # Whoever was cancelled gave the key back, or had recorded: nobody waits for a lease to end.
        assert current_runtime().now() - started < 1
        assert scene.shop.orders() == whole(f"a by {result}")

    steps = for_each_cancellation(fresh, scenario=scenario, check=check, backend=backend)
    assert steps > 10


def test_a_native_cancellation_during_a_real_commit_does_not_tear_it() -> None:
    """With worker threads, in real time: cancelled before each await of the task in turn."""

    async def main(folder: Path) -> int:
        store = SQLiteStore(folder / "shop.db")
        runs = []

        @once(store, key=lambda order: order)
        async def place(claim: Claim, order: str) -> int:
            runs.append(order)
            mine = len(runs)
            async with claim.transaction() as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS orders (id TEXT, part INTEGER)")
                insert(connection, f"{order} by {mine}")
                await asyncio.sleep(0)
            return mine

        cancelled = 0
        for await_ in itertools.count(1):
            order = f"order {await_}"
            task = asyncio.create_task(CancelledAt(place(order), await_).run())
            await asyncio.wait([task])
            cancelled += task.cancelled()
            result = await until_answered(partial(place, order))
            connection = sqlite3.connect(folder / "shop.db")
            found = connection.execute("SELECT id, part FROM orders WHERE id LIKE ?", (f"{order} by %",)).fetchall()
            connection.close()
            assert sorted(found) == whole(f"{order} by {result}")
            if not task.cancelled():
                break
        await store.close()
        return cancelled

    with tempfile.TemporaryDirectory() as folder:
        assert asyncio.run(main(Path(folder))) >= 4


@pytest.mark.parametrize("shape", ["function", "block"])
def test_an_effect_that_its_handler_stopped_waiting_for_is_undone(tmp_path: Path, shape: str) -> None:
    """Its timeout pierces the shield; the effect goes on in its thread while the handler returns."""
    shop = Shop(tmp_path)
    store = SQLiteStore(shop.path)
    waiting, go_on = threading.Event(), threading.Event()

    def effect(connection: sqlite3.Connection, order: str) -> None:
        insert(connection, order)
        waiting.set()
        assert go_on.wait(10)
        insert(connection, f"{order}, too late")

    def block(claim: BlockingClaim, order: str) -> None:
        with claim.transaction() as connection:
            effect(connection, order)

    @once(store, key=lambda order: order)
    async def place(claim: Claim, order: str) -> str:
        work = (
            claim.run(effect, order) if shape == "function" else anyio.to_thread.run_sync(block, claim.blocking, order)
        )
        task = asyncio.create_task(work)
        while not waiting.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        asyncio.get_running_loop().call_later(0.05, go_on.set)
        return "gave up"

    async def main() -> None:
        if shape == "function":
            assert await place("a") == await place("a") == "gave up"
        else:  # the block is still open
            with pytest.raises(RuntimeError, match="inside a block"):
                await place("a")
        await asyncio.sleep(0.1)
        await store.close()

    asyncio.run(main())
    assert shop.orders() == []


def test_a_step_that_fails_after_its_caller_left_is_not_silent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Unplugged(Slow):
        async def complete(self, run: Run, result: bytes | None, *, ttl: float) -> bool:
            await current_runtime().sleep(1)
            raise StoreUnavailable("unplugged")

    async def main() -> None:
        @once(Unplugged(Shop(tmp_path).store.blocking), key=lambda: "k", mode="fenced")
        async def work(claim: Claim) -> None:
            pass

        task = asyncio.create_task(work())
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(5)

    virtual_time.run(main)
    assert "a step failed after its caller had been cancelled: StoreUnavailable('unplugged')" in caplog.text


async def until_answered(call: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Repeat until there is a result."""
    with anyio.fail_after(60):
        while True:
            with contextlib.suppress(InProgress):
                return await call()
            await current_runtime().sleep(0.005)


class CancelledAt:
    """A coroutine whose task is cancelled as it waits for the n-th time."""

    def __init__(self, coroutine: Coroutine[Any, Any, int], await_: int) -> None:
        self.coroutine, self.left = coroutine, await_

    async def run(self) -> int:
        return await self

    def __await__(self) -> Generator[Any, Any, int]:
        inner = self.coroutine.__await__()
        try:
            waits_for = inner.send(None)
            while True:
                self.left -= 1
                task = asyncio.current_task()
                if self.left == 0 and task is not None:
                    asyncio.get_running_loop().call_soon(task.cancel)
                try:
                    value = yield waits_for
                except BaseException as error:
                    waits_for = inner.throw(error)
                else:
                    waits_for = inner.send(value)
        except StopIteration as stop:
            return int(stop.value)
