"""A task that belongs to an object."""

from __future__ import annotations

import gc
import threading

import anyio
import pytest

from resilient.backends.background import Background
from resilient.context import ambient, serving
from resilient.testing import virtual_time


class Owner:
    pass


class Work:
    def __init__(self) -> None:
        self.state = "new"

    async def __call__(self) -> None:
        self.state = "running"
        try:
            await anyio.sleep(100)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1)
            self.state = "ended"


def test_it_runs_beside_its_owner_and_ends(backend: str) -> None:
    async def main() -> None:
        work, owner = Work(), Owner()
        Background(work, owner)
        await anyio.sleep(1)
        assert work.state == "running"
        await anyio.sleep(101)
        assert work.state == "ended"

    virtual_time.run(main, backend=backend)


def test_to_stop_is_to_wait_for_its_end(backend: str) -> None:
    async def main() -> None:
        work, owner = Work(), Owner()
        task = Background(work, owner)
        await anyio.sleep(1)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await task.stop()
        assert work.state == "ended"
        assert anyio.current_time() == 2.0
        await task.stop()

    virtual_time.run(main, backend=backend)


def test_what_never_ends_is_waited_for_five_seconds(backend: str) -> None:
    async def stubborn() -> None:
        try:
            await anyio.sleep(60)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(60)

    async def main() -> None:
        owner = Owner()
        task = Background(stubborn, owner)
        await anyio.sleep(1)
        await task.stop()
        assert anyio.current_time() == 6.0

    virtual_time.run(main, backend=backend)


def test_it_ends_when_its_owner_is_garbage(backend: str) -> None:
    async def main() -> None:
        work, owner = Work(), Owner()
        Background(work, owner)
        await anyio.sleep(1)
        del owner
        gc.collect()
        await anyio.sleep(2)
        assert work.state == "ended"

    virtual_time.run(main, backend=backend)


def test_another_thread_may_collect_the_garbage(backend: str) -> None:
    async def main() -> None:
        work, owners = Work(), [Owner()]
        Background(work, owners[0])
        await anyio.sleep(0.05)
        thread = threading.Thread(target=owners.clear)
        thread.start()
        thread.join()
        with anyio.fail_after(30):
            while work.state != "ended":
                await anyio.sleep(0.01)

    anyio.run(main, backend=backend)


def test_an_owner_may_outlive_the_event_loop(backend: str) -> None:
    work, owners = Work(), [Owner()]

    async def main() -> None:
        Background(work, owners[0])
        await anyio.sleep(1)

    virtual_time.run(main, backend=backend)
    assert work.state == "ended"
    owners.clear()


def test_what_it_raises_is_logged(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> None:
        raise ValueError("broken")

    async def main() -> None:
        task = Background(broken, owner := Owner())
        await anyio.sleep(1)
        await task.stop()
        del owner

    virtual_time.run(main, backend=backend)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


def test_it_does_not_inherit_a_deadline(backend: str) -> None:
    seen: list[object] = []

    async def look() -> None:
        seen.append(ambient.get().deadline)

    async def main() -> None:
        owner = Owner()
        with serving(deadline=5.0):
            Background(look, owner)
        await anyio.sleep(1)

    virtual_time.run(main, backend=backend)
    assert seen == [None]
