"""The processes of the demo: real ones, disturbed and cleared away."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import anyio
import httpx
import pytest

from resilient.discovery import connect
from resilient.lab.demo.fleet import Fleet, FleetError
from resilient.lab.demo.ledger import rows

pytestmark = pytest.mark.timeout(120)


def state_of(pid: int) -> str:
    """What the kernel says of a process, after its name in parentheses: R, S, T (stopped), Z; nothing: it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def alive(pid: int) -> bool:
    return state_of(pid) not in {"", "Z", "X"}


def pid_of(fleet: Fleet, name: str) -> int:
    return fleet._processes[name].pid


def wait_until(true: Callable[[], object], seconds: float = 30.0) -> None:
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up, "it did not come about"
        time.sleep(0.02)


async def address_of(fleet: Fleet) -> str:
    snapshot = await anext(connect(fleet.registry).watch())
    return f"http://{snapshot.instances[0].address}/orders"


def order(number: int) -> dict[str, object]:
    return {"number": number, "item": "A-1", "cents": 500}


def test_an_order_is_taken_as_often_as_it_arrives_and_once_under_a_key(tmp_path):
    async def main() -> None:
        with Fleet(tmp_path, seed=1) as fleet:
            await fleet.start("orders-1")
            url = await address_of(fleet)
            async with httpx.AsyncClient(timeout=10) as client:
                for number, headers in ((1, {}), (2, {"Idempotency-Key": '"order-2"'})):
                    first, again = [await client.post(url, json=order(number), headers=headers) for _ in range(2)]
                    assert first.status_code == again.status_code == 201
                    assert ("Idempotency-Replayed" in again.headers) == bool(headers)
            await fleet.leave()
            assert rows(fleet.database) == {1: 2, 2: 1}

    anyio.run(main)


def test_a_stopped_instance_locks_nobody_out_and_does_its_work_when_it_wakes_up(tmp_path):
    async def main() -> None:
        with Fleet(tmp_path, seed=1) as fleet:
            await fleet.start("orders-1")
            url = await address_of(fleet)
            pid = pid_of(fleet, "orders-1")
            async with httpx.AsyncClient(timeout=1.0) as client:
                fleet.do("stop", "orders-1")
                number = 0
                with pytest.raises(httpx.ReadTimeout):
                    while number < 100:  # the word may arrive after an order
                        number += 1
                        headers = {"Idempotency-Key": f'"order-{number}"'}
                        assert (await client.post(url, json=order(number), headers=headers)).status_code == 201
                assert state_of(pid) == "T"
                with closing(sqlite3.connect(fleet.database, timeout=0)) as connection:
                    connection.execute("BEGIN IMMEDIATE")
                    connection.rollback()
                assert rows(fleet.database)[number] == 0
                fleet.do("wake", "orders-1")
                with anyio.fail_after(30):
                    while rows(fleet.database)[number] == 0:
                        await anyio.sleep(0.05)
            await fleet.leave()

    anyio.run(main)


def test_a_killed_instance_is_dead_and_a_lost_reply_is_a_broken_connection(tmp_path):
    async def main() -> None:
        with Fleet(tmp_path, seed=1) as fleet:
            await fleet.start("orders-1")
            url = await address_of(fleet)
            fleet.do("lose", "orders-1")
            async with httpx.AsyncClient(timeout=10) as client:
                number = 0
                with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
                    while number < 100:
                        number += 1
                        await client.post(url, json=order(number))
                assert rows(fleet.database)[number] == 1
                fleet.do("kill", "orders-1")
                wait_until(lambda: not alive(pid_of(fleet, "orders-1")))
                with pytest.raises(httpx.TransportError):
                    await client.post(url, json=order(0))
            await fleet.leave()

    anyio.run(main)


def test_an_instance_that_ends_by_itself_is_reported_with_its_last_words(tmp_path):
    async def main() -> None:
        with Fleet(tmp_path, seed=1) as fleet:
            await fleet.start("orders-1")
            os.kill(pid_of(fleet, "orders-1"), signal.SIGKILL)
            os.waitid(os.P_PID, pid_of(fleet, "orders-1"), os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222
            (tmp_path / "orders-1.log").write_text("Traceback: something broke")
            with pytest.raises(FleetError, match="orders-1: ended by itself\nTraceback: something broke"):
                await fleet.leave()
            with pytest.raises(FleetError, match="orders-1: ended by itself"):
                fleet.do("slow", "orders-1")

    anyio.run(main)


def test_an_end_that_the_kernel_shows_only_later_is_reported_too(tmp_path, monkeypatch):
    async def main() -> None:
        with Fleet(tmp_path, seed=1) as fleet:
            await fleet.start("orders-1")
            os.kill(pid_of(fleet, "orders-1"), signal.SIGKILL)
            monkeypatch.setattr(Fleet, "_check", lambda fleet, names: None)  # it is asked too early
            with pytest.raises(FleetError, match="orders-1: ended by itself"):
                await fleet.leave()

    anyio.run(main)


def test_an_error_leaves_no_process_behind_not_even_a_stopped_one(tmp_path):
    pids: list[int] = []

    async def main() -> None:
        with Fleet(tmp_path, seed=1) as fleet:
            await fleet.start("orders-1", "orders-2")
            pids.extend(pid_of(fleet, name) for name in ("orders-1", "orders-2"))
            os.kill(pids[0], signal.SIGSTOP)
            raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        anyio.run(main)
    assert len(pids) == 2
    assert not any(alive(pid) for pid in pids)


@pytest.fixture
def demo(tmp_path) -> Iterator[subprocess.Popen[bytes]]:
    """The demo as a user starts it, in the middle of its first run."""
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "resilient", "demo", "--out", str(tmp_path / "report.html")),
                "--instances=3",
                "--duration=20",
            ],
            stdout=output,
            stderr=output,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            process_group=0,
        )
        try:
            wait_until(lambda: b"orders-1 is killed" in (tmp_path / "output").read_bytes(), 60)
            yield process
        finally:
            process.kill()
            process.wait()


def children_of(process: subprocess.Popen[bytes]) -> list[int]:
    found: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == process.pid:
                found.append(int(stat.parent.name))
    return [pid for pid in found if alive(pid)]


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_no_process_and_no_file_behind(demo, tmp_path, way):
    children = children_of(demo)
    assert len(children) in {2, 3}  # one of three is killed about now
    os.kill(children[0], signal.SIGSTOP)
    demo.send_signal(way)
    assert demo.wait(30) == 128 + way
    assert not any(alive(pid) for pid in children)
    assert [path.name for path in tmp_path.iterdir()] == ["output"]
    assert f"Ended by {way.name}" in (tmp_path / "output").read_text()


def test_nothing_runs_on_when_the_demo_itself_is_killed(demo):
    children = children_of(demo)
    assert len(children) in {2, 3}
    os.kill(children[0], signal.SIGSTOP)
    wait_until(lambda: state_of(children[0]) == "T")
    demo.kill()
    demo.wait()
    wait_until(lambda: not any(alive(pid) for pid in children))
