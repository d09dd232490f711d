"""A file of instances, with real files. Time is virtual, except where threads read."""

# ruff: noqa: ASYNC240 - in virtual time nothing else wants to run meanwhile

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import anyio
import pytest

from resilient.discovery import File, connect, inline
from resilient.events import Event, SnapshotStale
from resilient.snapshot import Snapshot
from resilient.testing import virtual_time

T = TypeVar("T")
Watch = AsyncIterator[Snapshot]

ONE = '[[instances]]\nhost = "a"\nport = 1\n'
TWO = ONE + '[[instances]]\nhost = "b"\nport = 2\n'


def ids(snapshot: Snapshot) -> list[str]:
    return [instance.id for instance in snapshot.instances]


async def nothing(watch: Watch, seconds: float = 60.0) -> None:
    """Nothing comes for so long."""
    with anyio.move_on_after(seconds):
        snapshot = await anext(watch)
        raise AssertionError(snapshot)


def replace(path: Path, content: str | bytes) -> None:
    """As it should be done."""
    temporary = path.with_suffix(".new")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.replace(path)


class Writing:
    """Reads in the event loop; between the reads somebody writes."""

    def __init__(self, path: Path, *contents: str) -> None:
        self.path = path
        self.contents = list(contents)

    async def __call__(self, work: Callable[[], T], /) -> T:
        result = work()
        if self.contents:
            self.path.write_text(self.contents.pop(0))
        return result


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "instances.toml"


def test_the_present_comes_first_and_then_every_change(path: Path, backend: str) -> None:
    async def main() -> None:
        path.write_text(ONE)
        watch = File(path, offload=inline).watch()
        first = await anext(watch)
        assert (first.version, ids(first), first.stale_since) == (1, ["a:1"], None)
        await nothing(watch)
        replace(path, TWO)
        second = await anext(watch)
        assert (second.version, ids(second)) == (2, ["a:1", "b:2"])
        path.write_text(ONE)
        assert ids(await anext(watch)) == ["a:1"]

    virtual_time.run(main, backend=backend)


def test_a_change_is_seen_within_the_interval_and_the_time_to_settle(path: Path, backend: str) -> None:
    async def main() -> None:
        path.write_text(ONE)
        watch = File(path, interval=2.0, offload=inline).watch()
        await anext(watch)
        assert anyio.current_time() == pytest.approx(0.05)
        replace(path, TWO)
        await anext(watch)
        assert anyio.current_time() == pytest.approx(2.1)

    virtual_time.run(main, backend=backend)


def test_json_is_read_too(tmp_path: Path, backend: str) -> None:
    async def main() -> None:
        path = tmp_path / "instances.json"
        path.write_text(json.dumps({"instances": [{"host": "a", "port": 1}]}))
        assert ids(await anext(File(path, offload=inline).watch())) == ["a:1"]

    virtual_time.run(main, backend=backend)


def test_what_says_the_same_in_other_words_is_no_change(path: Path, backend: str) -> None:
    async def main() -> None:
        path.write_text(ONE)
        watch = File(path, offload=inline).watch()
        await anext(watch)
        path.write_text("# a comment\n" + ONE + "weight = 1\n")
        await nothing(watch)

    virtual_time.run(main, backend=backend)


def test_a_file_that_is_not_there_yet_is_waited_for(path: Path, backend: str, caplog: pytest.LogCaptureFixture) -> None:
    events: list[Event] = []

    async def main() -> None:
        watch = File(path, offload=inline).watch()
        await nothing(watch)
        path.write_text(ONE)
        assert ids(await anext(watch)) == ["a:1"]

    virtual_time.run(main, backend=backend, emit=events.append)
    (event,) = events  # told once, at the beginning
    assert isinstance(event, SnapshotStale)
    assert event.name == str(path)
    assert "No such file" in event.error
    assert caplog.messages == [f"{path}: {event.error}"]


def test_a_file_that_vanishes_leaves_the_last_good_instances_stale(path: Path, backend: str) -> None:
    events: list[Event] = []

    async def main() -> None:
        path.write_text(ONE)
        watch = File(path, offload=inline).watch()
        await anext(watch)
        path.unlink()
        stale = await anext(watch)
        assert (ids(stale), stale.version) == (["a:1"], 2)
        assert stale.stale_since == pytest.approx(0.05)
        await nothing(watch)
        path.write_text(ONE)
        fresh = await anext(watch)
        assert (ids(fresh), fresh.version, fresh.stale_since) == (["a:1"], 3, None)
        path.unlink()
        await anext(watch)

    virtual_time.run(main, backend=backend, emit=events.append)
    assert len(events) == 2


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[[instances",
        TWO[:-1],
        TWO[:-2],
        TWO + "[[instances]]\n",
        TWO + '[[instances]]\nhost = "c"\n',
        TWO + '[[instances]]\nhost = "c"\nport = 80',
        '[[instances]]\nhost = "a"\nport = 1\nwieght = 2\n',
        "\0",
    ],
)
def test_what_is_not_whole_is_not_believed(path: Path, backend: str, content: str) -> None:
    async def main() -> None:
        path.write_text(ONE)
        watch = File(path, offload=inline).watch()
        await anext(watch)
        path.write_text(content)
        stale = await anext(watch)
        assert ids(stale) == ["a:1"]
        assert stale.stale_since is not None
        await nothing(watch)
        path.write_text(TWO)
        assert ids(await anext(watch)) == ["a:1", "b:2"]

    virtual_time.run(main, backend=backend)


def test_a_file_is_not_believed_while_it_is_being_written(path: Path, backend: str) -> None:
    """Each beginning of it parses, and lists fewer instances."""

    async def main() -> None:
        path.write_text(ONE)
        lines = [f'[[instances]]\nhost = "{name}"\nport = 1\n' for name in "abcdef"]
        offload = Writing(path, *("".join(lines[: number + 1]) for number in range(1, len(lines))))
        assert len(ids(await anext(File(path, offload=offload).watch()))) == len(lines)

    virtual_time.run(main, backend=backend)


def test_a_file_that_never_stands_still_is_trouble(path: Path, backend: str) -> None:
    events: list[Event] = []

    async def main() -> None:
        path.write_text(ONE)
        offload = Writing(path, *(ONE + f"weight = {number}\n" for number in range(2, 200)))
        watch = File(path, offload=offload).watch()
        await nothing(watch, 5.0)
        await anext(watch)

    virtual_time.run(main, backend=backend, emit=events.append)
    (event,) = events
    assert isinstance(event, SnapshotStale)
    assert event.error == "it is being written all the time"


def test_a_file_that_is_far_too_large_is_trouble(path: Path, backend: str) -> None:
    events: list[Event] = []

    async def main() -> None:
        path.write_text("#" * 5_000_000)
        await nothing(File(path, offload=inline).watch())

    virtual_time.run(main, backend=backend, emit=events.append)
    (event,) = events
    assert isinstance(event, SnapshotStale)
    assert "larger than" in event.error


def test_a_mounted_config_map_is_followed_through_its_links(tmp_path: Path, backend: str) -> None:
    """Kubernetes makes a new folder and swaps the link `..data` to it; the file itself is a link and never changes."""

    def publish(version: int, content: str) -> None:
        folder = tmp_path / f"..{version}"
        folder.mkdir()
        (folder / "instances.toml").write_text(content)
        (tmp_path / "..data_tmp").symlink_to(folder.name)
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")

    async def main() -> None:
        publish(1, ONE)
        (tmp_path / "instances.toml").symlink_to(Path("..data") / "instances.toml")
        watch = File(tmp_path / "instances.toml", offload=inline).watch()
        assert ids(await anext(watch)) == ["a:1"]
        publish(2, TWO)
        assert ids(await anext(watch)) == ["a:1", "b:2"]

    virtual_time.run(main, backend=backend)


def test_an_empty_list_is_believed_after_its_grace(path: Path, backend: str) -> None:
    async def main() -> None:
        path.write_text(ONE)
        watch = File(path, grace=20.0, offload=inline).watch()
        await anext(watch)
        path.write_text("instances = []\n")
        kept = await anext(watch)
        assert ids(kept) == ["a:1"]
        assert kept.stale_since is not None
        began = anyio.current_time()
        assert ids(await anext(watch)) == []
        assert anyio.current_time() - began == pytest.approx(20.0)

    virtual_time.run(main, backend=backend)


def test_an_empty_list_is_believed_at_once_or_never_if_that_is_wanted(path: Path, backend: str) -> None:
    async def main() -> None:
        path.write_text(ONE)
        failing = File(path, on_empty="fail", offload=inline).watch()
        keeping = File(path, on_empty="keep", offload=inline).watch()
        await anext(failing)
        await anext(keeping)
        path.write_text("instances = []\n")
        assert ids(await anext(failing)) == []
        assert ids(await anext(keeping)) == ["a:1"]
        await nothing(keeping, 10_000.0)

    virtual_time.run(main, backend=backend)


def test_the_versions_of_all_watches_rise_together(path: Path, backend: str) -> None:
    async def main() -> None:
        path.write_text(ONE)
        discovery = File(path, offload=inline)
        found = [await anext(discovery.watch()) for _ in range(3)]
        assert [snapshot.version for snapshot in found] == [1, 2, 3]

    virtual_time.run(main, backend=backend)


def test_a_watch_goes_on_after_it_was_cancelled(path: Path, backend: str) -> None:
    async def main() -> None:
        watch = File(path, offload=inline).watch()
        for _ in range(5):
            await nothing(watch, 0.7)
        path.write_text(ONE)
        assert ids(await anext(watch)) == ["a:1"]

    virtual_time.run(main, backend=backend)


def test_a_url_reads_in_threads(path: Path, backend: str) -> None:
    """No virtual time here: real reads in real threads, on the real clock."""

    async def main() -> None:
        path.write_text(ONE)
        watch = connect(f"file://{path}?interval=0.01").watch()
        with anyio.fail_after(30):
            assert ids(await anext(watch)) == ["a:1"]
            replace(path, TWO)
            assert ids(await anext(watch)) == ["a:1", "b:2"]
            path.unlink()
            assert (await anext(watch)).stale_since is not None

    anyio.run(main, backend=backend)


def test_a_read_that_hangs_blocks_neither_the_loop_nor_its_cancellation(path: Path, backend: str) -> None:
    """As on a network file system: opening a FIFO that nobody writes to."""
    os.mkfifo(path)
    ticks = 0

    async def read() -> None:
        await anext(File(path).watch())

    async def main() -> None:
        nonlocal ticks
        with anyio.move_on_after(0.3):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                while True:
                    await anyio.sleep(0.01)
                    ticks += 1

    anyio.run(main, backend=backend)
    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))  # lets the thread go
    assert ticks > 5


@pytest.mark.parametrize("interval", [0.0, -1.0, float("inf"), float("nan")])
def test_a_bad_interval_is_refused(interval: float) -> None:
    with pytest.raises(ValueError, match="interval="):
        File("instances.toml", interval=interval)


def test_a_file_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"path='instances.yaml': a file of instances is named \*.toml or \*.json"):
        File("instances.yaml")
