"""Duplicates that wait for the one that runs, and follow it when it is dead."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import anyio
import pytest

from resilient.backends.faces import DirectStore
from resilient.backends.memory import MemoryStore
from resilient.backends.store import Run
from resilient.context import current_runtime, serving
from resilient.errors import InProgress, KeyReused, LeaseLost, OutcomeUnknown
from resilient.idempotency import BlockingClaim, Claim, once


class Deaf(DirectStore):
    """A store that hears no heartbeats: the executor looks dead when its lease is over."""

    async def heartbeat(self, run: Run, *, lease: float) -> bool:
        raise ConnectionError("unplugged")


def test_a_duplicate_gets_the_result_as_soon_as_it_is_there(run) -> None:
    @once(MemoryStore(), key=lambda: "k", mode="fenced", wait=60.0)
    async def work(claim: Claim) -> int:
        await current_runtime().sleep(5)
        return claim.fence

    async def main() -> None:
        results: list[int] = []

        async def call() -> None:
            results.append(await work())

        began = current_runtime().now()
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(call)
        assert len(set(results)) == 1
        assert len(results) == 10
        assert current_runtime().now() - began < 5.5

    run(main)


@pytest.mark.parametrize("wait", [0.5, 2.0])
def test_the_wait_is_bounded(run, wait: float) -> None:
    @once(MemoryStore(), key=lambda: "k", mode="fenced", wait=wait, lease=30.0)
    async def work(claim: Claim) -> None:
        await current_runtime().sleep(100)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(work)
            await current_runtime().sleep(0.1)
            began = current_runtime().now()
            with pytest.raises(InProgress) as raised:
                await work()
            assert current_runtime().now() - began == pytest.approx(wait, abs=0.01)
            assert raised.value.retry_after is not None
            group.cancel_scope.cancel()

    run(main)


def test_nobody_waits_beyond_the_deadline_of_the_request_it_serves(run) -> None:
    @once(MemoryStore(), key=lambda: "k", mode="fenced", wait=60.0)
    async def work(claim: Claim) -> None:
        await current_runtime().sleep(100)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(work)
            await current_runtime().sleep(0.1)
            began = current_runtime().now()
            with serving(deadline=began + 1.0), pytest.raises(InProgress):
                await work()
            assert current_runtime().now() - began == pytest.approx(1.0, abs=0.01)
            group.cancel_scope.cancel()

    run(main)


def test_who_waits_takes_over_at_the_end_of_the_lease(run) -> None:
    """A waiter that only looked for a result would wait in vain: the one that ran is dead."""
    runs: list[bool] = []

    @once(
        Deaf(MemoryStore().blocking),
        key=lambda seconds: "k",
        fingerprint=lambda seconds: 0,
        mode="fenced",
        lease=10.0,
        wait=60.0,
    )
    async def work(claim: Claim, seconds: float) -> float:
        runs.append(claim.takeover)
        await current_runtime().sleep(seconds)
        return seconds

    async def main() -> None:
        async def dead() -> None:
            with pytest.raises(LeaseLost):
                await work(1000)

        async with anyio.create_task_group() as group:
            group.start_soon(dead)
            await current_runtime().sleep(1)
            began = current_runtime().now()
            assert await work(1) == 1
            assert current_runtime().now() - began == pytest.approx(10.0, abs=0.05)
        assert runs == [False, True]

    run(main)


@pytest.mark.parametrize(("mode", "error"), [("fenced", KeyReused), ("at_most_once", OutcomeUnknown)])
def test_what_cannot_be_waited_for_is_said_at_once(run, mode: Any, error: type[Exception]) -> None:
    @once(MemoryStore(), key=lambda number: "k", mode=mode, wait=60.0)
    async def work(claim: Claim, number: int) -> int:
        if mode == "at_most_once":
            raise ConnectionError
        await current_runtime().sleep(100)
        return number

    async def main() -> None:
        async with anyio.create_task_group() as group:

            async def first() -> None:
                try:
                    await work(1)
                except ConnectionError:
                    return

            group.start_soon(first)
            await current_runtime().sleep(0.1)
            began = current_runtime().now()
            with pytest.raises(error):
                await work(1 if mode == "at_most_once" else 2)
            assert current_runtime().now() == began
            group.cancel_scope.cancel()

    run(main)


def test_threads_wait_too() -> None:
    began = threading.Event()
    runs: list[int] = []

    @once(MemoryStore(), key=lambda: "k", mode="fenced", wait=10.0)
    def work(claim: BlockingClaim) -> int:
        runs.append(claim.fence)
        began.set()
        time.sleep(0.05)
        return claim.fence

    first = threading.Thread(target=work)
    first.start()
    assert began.wait(10)
    assert work() == runs[0]
    first.join()
    assert len(runs) == 1


@pytest.mark.parametrize("wait", [-1.0, math.inf, math.nan])
def test_a_wait_without_bounds_is_refused(wait: float) -> None:
    with pytest.raises(ValueError, match=f"wait={wait}: a finite number of seconds, at least 0"):
        once(MemoryStore(), key=lambda: "k", mode="fenced", wait=wait)
