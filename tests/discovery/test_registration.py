"""Being found, through a real folder."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.lowlevel
import pytest

from resilient.discovery import FileRegistry, connect, inline, register
from resilient.discovery.records import FileEntry, Record, RecordFile, read_records
from resilient.discovery.registration import LeasedRegistration, RemoteEntry
from resilient.errors import DiscoveryError
from resilient.instance import Instance
from resilient.runtime import Runtime
from resilient.snapshot import Snapshot
from resilient.testing import virtual_time
from resilient.testing.cancellation import for_each_cancellation

T = TypeVar("T")

A = Instance(id="a", host="10.0.0.1", port=80)
B = Instance(id="b", host="10.0.0.2", port=80)


async def with_steps(work: Callable[[], T], /) -> T:
    """Like a worker thread: it can be cancelled before the work begins, and after it is done."""
    await anyio.lowlevel.checkpoint()
    result = work()
    await anyio.lowlevel.checkpoint()
    return result


def registered(folder: Path, instance: Instance = A, ttl: float = 9.0, offload=with_steps) -> LeasedRegistration:
    def enter(runtime: Runtime) -> FileEntry:
        return FileEntry(RecordFile(folder, instance, ttl, runtime.new_id()), runtime.wall)

    return LeasedRegistration(str(folder), instance, enter, ttl=ttl, offload=offload)


def ids(snapshot: Snapshot) -> list[str]:
    return [instance.id for instance in snapshot.instances]


def renewed_at(folder: Path) -> float | None:
    for content in read_records(folder).values():
        assert content is not None
        return Record.decode(content).renewed_at
    return None


# In virtual time


def test_an_instance_is_there_while_the_block_runs(tmp_path: Path, backend: str) -> None:
    async def main() -> None:
        watch = FileRegistry(tmp_path, on_empty="fail", offload=inline).watch()
        assert ids(await anext(watch)) == []
        async with registered(tmp_path) as registration:
            assert registration.instance is A
            assert ids(await anext(watch)) == ["a"]
            async with registered(tmp_path, B):
                assert ids(await anext(watch)) == ["a", "b"]
            assert ids(await anext(watch)) == ["a"]
        assert ids(await anext(watch)) == []

    virtual_time.run(main, backend=backend)
    assert list(tmp_path.iterdir()) == []


def test_it_is_renewed_each_third_of_its_time(tmp_path: Path, backend: str) -> None:
    async def main() -> list[float | None]:
        began = virtual_time.EPOCH
        async with registered(tmp_path):
            stamps = []
            await anyio.sleep(0.1)
            for _ in range(4):
                stamps.append(renewed_at(tmp_path))
                await anyio.sleep(3.0)
        return [None if stamp is None else stamp - began for stamp in stamps]

    assert virtual_time.run(main, backend=backend) == pytest.approx([0.0, 3.0, 6.0, 9.0], abs=0.01)


def test_it_stays_for_as_long_as_the_block_runs(tmp_path: Path, backend: str) -> None:
    async def main() -> None:
        watch = FileRegistry(tmp_path, on_empty="fail", offload=inline).watch()
        async with registered(tmp_path):
            assert ids(await anext(watch)) == ["a"]
            with anyio.move_on_after(600.0):
                await anext(watch)
                raise AssertionError("it changed")

    virtual_time.run(main, backend=backend)


def test_a_record_that_somebody_deleted_is_written_again(tmp_path: Path, backend: str) -> None:
    async def main() -> None:
        async with registered(tmp_path):
            (tmp_path / "a.json").unlink()
            await anyio.sleep(3.1)
            assert renewed_at(tmp_path) is not None

    virtual_time.run(main, backend=backend)


def test_trouble_with_a_renewal_is_told_once_and_tried_again(
    tmp_path: Path, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "registry"

    async def main() -> None:
        async with registered(folder):
            folder.rename(tmp_path / "away")
            await anyio.sleep(10.0)
            (tmp_path / "away").rename(folder)
            await anyio.sleep(1.0)
            stamp = renewed_at(folder)
            assert stamp is not None
            assert stamp > virtual_time.EPOCH + 9.0

    virtual_time.run(main, backend=backend)
    assert len(caplog.messages) == 1
    assert "could not be renewed" in caplog.messages[0]


def test_a_first_write_that_fails_is_an_error(tmp_path: Path, backend: str) -> None:
    (tmp_path / "file").write_text("in the way")

    async def main() -> None:
        with pytest.raises(DiscoveryError, match="a could not be registered in"):
            async with registered(tmp_path / "file"):
                raise AssertionError("entered")

    virtual_time.run(main, backend=backend)


def test_trouble_with_the_withdrawal_is_told(tmp_path: Path, backend: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with registered(tmp_path):
            (tmp_path / "a.json").unlink()
            (tmp_path / "a.json").mkdir()

    virtual_time.run(main, backend=backend)
    assert "was not withdrawn and has to expire" in caplog.messages[0]


def test_the_error_of_the_block_comes_out_as_it_is(tmp_path: Path, backend: str) -> None:
    async def main() -> None:
        async with registered(tmp_path):
            raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        virtual_time.run(main, backend=backend)
    assert list(tmp_path.iterdir()) == []


def test_one_registration_is_for_one_block(tmp_path: Path, backend: str) -> None:
    async def main() -> None:
        registration = registered(tmp_path)
        async with registration:
            pass
        with pytest.raises(RuntimeError, match="is for one block"):
            async with registration:
                raise AssertionError("entered")

    virtual_time.run(main, backend=backend)


def test_whenever_it_is_cancelled_nothing_is_left_behind(tmp_path: Path, backend: str) -> None:
    """At every step, with a cancel scope and with a native `task.cancel()`, which pierces shields."""

    async def scenario(folder: Path) -> None:
        async with registered(folder, ttl=3.0):
            await anyio.sleep(1.5)

    def check(folder: Path) -> None:
        assert not folder.exists() or list(folder.iterdir()) == []

    runs = for_each_cancellation(lambda: tmp_path / "registry", scenario=scenario, check=check, backend=backend)
    assert runs > 5


def test_a_cancelled_block_still_withdraws_off_the_event_loop(tmp_path: Path, backend: str) -> None:
    done: list[Callable[[], object]] = []

    async def noting(work: Callable[[], T], /) -> T:
        result = await with_steps(work)
        done.append(work)
        return result

    async def main() -> None:
        with anyio.move_on_after(1.0):
            async with registered(tmp_path, offload=noting):
                await anyio.sleep(60.0)

    virtual_time.run(main, backend=backend)
    assert [getattr(work, "__name__", "create") for work in done] == ["create", "withdraw"]


def test_a_withdrawal_that_hangs_is_waited_for_no_longer_than_the_record_lives(tmp_path: Path, backend: str) -> None:
    async def hanging(work: Callable[[], T], /) -> T:
        if getattr(work, "__name__", "") == "withdraw":
            await anyio.sleep(86_400.0)
        return work()

    async def main() -> float:
        async with registered(tmp_path, ttl=9.0, offload=hanging):
            began = anyio.current_time()
        return anyio.current_time() - began

    assert virtual_time.run(main, backend=backend) == pytest.approx(9.0)


def test_who_stops_renewing_expires_in_its_time(tmp_path: Path, backend: str) -> None:
    async def main() -> None:
        watch = FileRegistry(tmp_path, on_empty="fail", offload=inline).watch()
        async with registered(tmp_path):
            await anyio.sleep(1.0)
            assert ids(await anext(watch)) == ["a"]
            record = (tmp_path / "a.json").read_bytes()
        (tmp_path / "a.json").write_bytes(record)  # as a crash leaves it
        began = anyio.current_time()
        assert ids(await anext(watch)) == []
        assert 7.0 <= anyio.current_time() - began <= 9.6

    virtual_time.run(main, backend=backend)


def test_a_registry_that_is_not_there_is_trouble_and_not_empty(tmp_path: Path, backend: str) -> None:
    folder = tmp_path / "registry"

    async def main() -> None:
        watch = FileRegistry(folder, on_empty="fail", offload=inline).watch()
        with anyio.move_on_after(10.0):
            await anext(watch)
            raise AssertionError("something was yielded")
        async with registered(folder, ttl=60.0):
            assert ids(await anext(watch)) == ["a"]
            folder.rename(tmp_path / "away")
            stale = await anext(watch)
            assert ids(stale) == ["a"]
            assert stale.stale_since is not None
            await anyio.sleep(600.0)  # nobody could renew meanwhile, and nobody is expired for it
            (tmp_path / "away").rename(folder)
            fresh = await anext(watch)
            assert (ids(fresh), fresh.stale_since) == (["a"], None)

    virtual_time.run(main, backend=backend)


# In real time, with threads and processes


async def until(watch: AsyncIterator[Snapshot], expected: list[str]) -> Snapshot:
    async for snapshot in watch:
        if ids(snapshot) == expected:
            return snapshot
    raise AssertionError("the watch ended")


def test_a_url_registers_and_finds(tmp_path: Path, backend: str) -> None:
    url = f"file://{tmp_path}/registry/?interval=0.01&on_empty=fail"

    async def main() -> None:
        with anyio.fail_after(30):
            watch = connect(url).watch()
            async with register(url, A, ttl=0.3):
                await until(watch, ["a"])
                await anyio.sleep(0.5)  # longer than it lives without a renewal
                assert len(read_records(tmp_path / "registry")) == 1
            await until(watch, [])

    anyio.run(main, backend=backend)


def test_plain_code_registers_too(tmp_path: Path) -> None:
    with register(f"file://{tmp_path}/", A, ttl=0.3):
        first = renewed_at(tmp_path)
        deadline = time.monotonic() + 30
        while renewed_at(tmp_path) == first:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert list(tmp_path.iterdir()) == []


def test_the_error_of_a_plain_block_comes_out_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(KeyError), register(f"file://{tmp_path}/", A):
        raise KeyError("x")
    assert list(tmp_path.iterdir()) == []


def test_a_task_that_is_cancelled_twice_withdraws_all_the_same(tmp_path: Path) -> None:
    """The second `task.cancel()` hits the withdrawal itself."""

    async def hold() -> None:
        async with register(f"file://{tmp_path}/", A):
            await asyncio.sleep(3600)

    async def main() -> None:
        task = asyncio.create_task(hold())
        while not read_records(tmp_path):
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        deadline = time.monotonic() + 30
        while read_records(tmp_path):  # a thread may still be at it
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)

    asyncio.run(main())


PROGRAM = """
import sys, anyio
from resilient.discovery import register
from resilient.instance import Instance
from resilient.runtime import Runtime

async def main():
    async with register(sys.argv[1], Instance(id=sys.argv[2], host="127.0.0.1", port=80), ttl=1.0):
        print("registered", flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


@contextmanager
def process(url: str, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process, that registers."""
    found = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, url, name], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with found:
        try:
            assert found.stdout is not None
            assert found.stdout.readline() == b"registered\n"
            yield found
        finally:
            found.kill()


def test_a_process_that_is_killed_expires_and_one_that_is_stopped_withdraws(tmp_path: Path, backend: str) -> None:
    url = f"file://{tmp_path}/registry/?interval=0.05&on_empty=fail"

    async def main() -> None:
        watch = connect(url).watch()
        with anyio.fail_after(45):
            with process(url, "killed") as killed, process(url, "stopped") as stopped:
                await until(watch, ["killed", "stopped"])
                stopped.send_signal(signal.SIGINT)
                stopped.wait()
                await until(watch, ["killed"])
                assert sorted(read_records(tmp_path / "registry")) == ["killed.json"]
                killed.kill()
                killed.wait()
                assert sorted(read_records(tmp_path / "registry")) == ["killed.json"]
                await until(watch, [])
            with process(url, "killed"):  # its successor takes the record over
                await until(watch, ["killed"])

    anyio.run(main, backend=backend)


def test_many_writers_and_a_reader_never_see_half_a_record(tmp_path: Path) -> None:
    """Renewals replace files while others read them, as fast as they can."""
    over = threading.Event()

    def write(name: str) -> None:
        file = RecordFile(tmp_path, Instance(id=name, host="h", port=1, metadata={"filler": "x" * 5000}), 10.0, name)
        file.create(0.0)
        stamp = 0.0
        while not over.is_set():
            stamp += 1.0
            file.write(stamp)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    try:
        for _ in range(200):
            for content in read_records(tmp_path).values():
                assert content is not None
                Record.decode(content)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json", "c.json", "d.json"]


# SIGTERM

TERMINATED = """
import os, signal, sys, threading, time
from contextlib import nullcontext
import anyio
from resilient.discovery import register
from resilient.instance import Instance

url, how = sys.argv[1:]
entry = register(url, Instance(id="a", host="127.0.0.1", port=80), ttl=60.0, sigterm=how != "declined")

def ready():
    print("registered", flush=True)

async def main():
    async with entry:
        ready()
        await anyio.sleep_forever()

async def handling():
    async with entry, anyio.create_task_group() as tasks:
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            ready()
            async for _ in signals:
                tasks.cancel_scope.cancel()
                break

match how:
    case "asyncio" | "trio":
        anyio.run(main, backend=how)
    case "declined":
        anyio.run(main)
    case "plain":
        with entry:
            ready()
            time.sleep(60)
    case "handled":
        anyio.run(handling)
    case "left":
        with entry:
            pass
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        ready()
        time.sleep(60)
    case "thread":
        def run():
            with entry:
                ready()
                time.sleep(60)
        threading.Thread(target=run, daemon=True).start()
        time.sleep(60)
    case "forked":
        with entry:
            if os.fork() == 0:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
            os.wait()
            ready()
            time.sleep(60)
"""


@contextmanager
def terminated(folder: Path, how: str) -> Iterator[subprocess.Popen[bytes]]:
    found = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", TERMINATED, f"file://{folder}/", how], stdout=subprocess.PIPE
    )
    with found:
        try:
            assert found.stdout is not None
            assert found.stdout.readline() == b"registered\n"
            yield found
        finally:
            found.kill()


@pytest.mark.parametrize("how", ["asyncio", "trio", "plain"])
def test_sigterm_withdraws_and_ends_the_process_as_ever(tmp_path: Path, how: str) -> None:
    with terminated(tmp_path, how) as process:
        assert sorted(read_records(tmp_path)) == ["a.json"]
        process.terminate()
        assert process.wait(timeout=30) == -signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_who_handles_sigterm_leaves_the_block_and_withdraws(tmp_path: Path) -> None:
    with terminated(tmp_path, "handled") as process:
        process.terminate()
        assert process.wait(timeout=30) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["declined", "thread"])
def test_without_a_handler_the_entry_is_left_to_expire(tmp_path: Path, how: str) -> None:
    """What the signal does by itself; which shows that the handler does something."""
    with terminated(tmp_path, how) as process:
        process.terminate()
        assert process.wait(timeout=30) == -signal.SIGTERM
    assert sorted(read_records(tmp_path)) == ["a.json"]


def test_after_the_block_sigterm_is_what_it_was(tmp_path: Path) -> None:
    with terminated(tmp_path, "left") as process:
        process.terminate()
        assert process.wait(timeout=30) == -signal.SIGTERM


def test_a_forked_process_does_not_withdraw_its_parent(tmp_path: Path) -> None:
    with terminated(tmp_path, "forked") as process:
        assert sorted(read_records(tmp_path)) == ["a.json"]
        process.terminate()
        assert process.wait(timeout=30) == -signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_a_withdrawal_that_hangs_does_not_keep_the_process_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    from resilient.discovery import termination

    monkeypatch.setattr(termination, "PATIENCE", 0.1)
    ended: list[int] = []
    monkeypatch.setattr(signal, "raise_signal", ended.append)
    over = threading.Event()
    waiting = termination.BeforeTermination(over.wait)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        began = time.monotonic()
        while not ended:
            assert time.monotonic() - began < 30
        assert ended == [signal.SIGTERM]
    finally:
        over.set()
        waiting.cancel()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


class Unreachable(RemoteEntry):
    """Counts what is done to it, and hangs in the withdrawal until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []
        self.let_go = threading.Event()

    def _create(self) -> None:
        self.done.append("create")

    def _renew(self) -> None:
        self.done.append("renew")

    def _withdraw(self) -> None:
        self.let_go.wait(30)
        self.done.append("withdraw")


def test_what_was_abandoned_is_withdrawn_by_a_thread_and_never_written_again() -> None:
    entry = Unreachable()
    entry.create()
    entry.abandon()
    renewal = threading.Thread(target=entry.renew)
    renewal.start()
    entry.let_go.set()
    renewal.join(30)
    deadline = time.monotonic() + 30
    while entry.done != ["create", "withdraw"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_task_that_is_cancelled_twice_withdraws_from_a_registry_far_away() -> None:
    """The second `task.cancel()` pierces the shield before the worker thread has begun."""
    entry = Unreachable()
    entry.let_go.set()

    async def never(work: Callable[[], T], /) -> T:
        if work == entry.withdraw:
            await anyio.sleep_forever()
        return work()

    async def hold() -> None:
        async with LeasedRegistration("far away", A, lambda _: entry, ttl=60.0, offload=never):
            await asyncio.sleep(3600)

    async def main() -> None:
        task = asyncio.create_task(hold())
        while not entry.done:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0.01)
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    deadline = time.monotonic() + 30
    while entry.done != ["create", "withdraw"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
