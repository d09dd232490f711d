"""A process that dies at one chosen moment, and what the next one finds."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resilient.backends.sqlite import BlockingSQLiteStore, SQLiteStore
from resilient.backends.store import Replay, Run
from resilient.errors import InProgress
from resilient.idempotency import BlockingClaim, once
from tests.idempotency.shop import Shop, insert, whole

ROOT = Path(__file__).parents[2]
LEASE = 0.3

PLACE = """
import os, signal, sys, time
from resilient.idempotency import once

path, moment, order = sys.argv[1:]

def reach(name):
    if name != moment:
        return
    if moment.startswith("paused"):
        print("here", flush=True)
        sys.stdin.readline()
    else:
        os.kill(os.getpid(), signal.SIGKILL)

@once("sqlite:///" + path, key=lambda order: order, scope="orders", lease=0.3)
def place(claim, order):
    reach("after the claim")
    reach("paused after the claim")
    with claim.transaction() as connection:
        connection.execute("INSERT INTO orders VALUES (?, 1)", (order,))
        reach("in the middle of the effect")
        connection.execute("INSERT INTO orders VALUES (?, 2)", (order,))
    reach("after the effect, before the commit")
    return "by the first"

result = place(order)
reach("after the record, before the reply")
print(result)
"""


def start(shop: Shop, moment: str, order: str = "a") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PLACE, str(shop.path), moment, order]
    return subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def retry(shop: Shop, order: str = "a") -> str:
    """What another process gets, which repeats until it is answered."""

    @once(SQLiteStore(shop.path), key=lambda order: order, scope="orders", lease=LEASE)
    def place(claim: BlockingClaim, order: str) -> str:
        with claim.transaction() as connection:
            insert(connection, order)
        return "by the second"

    deadline = time.monotonic() + 10
    while True:
        try:
            return place(order)
        except InProgress:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize(
    ("moment", "left", "reply"),
    [
        ("after the claim", [], "by the second"),
        ("in the middle of the effect", [], "by the second"),
        ("after the effect, before the commit", [], "by the second"),
        ("after the record, before the reply", whole("a"), "by the first"),
    ],
)
def test_a_kill_leaves_all_or_nothing_and_the_retry_finishes(
    shop: Shop, moment: str, left: list[tuple[str, int]], reply: str
) -> None:
    process = start(shop, moment)
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGKILL
    assert shop.orders() == left
    assert retry(shop) == reply
    assert shop.orders() == whole("a")
    assert retry(shop) == reply


def test_a_process_that_slept_through_its_lease_changes_nothing(shop: Shop) -> None:
    zombie = start(shop, "paused after the claim")
    assert zombie.stdout is not None
    assert zombie.stdout.readline() == "here\n"
    zombie.send_signal(signal.SIGSTOP)  # its heartbeat, too
    assert retry(shop) == "by the second"
    zombie.send_signal(signal.SIGCONT)
    out, error = zombie.communicate("go on\n", timeout=20)
    assert (zombie.returncode, out) == (1, "")
    assert "LeaseLost" in error
    assert shop.orders() == whole("a")
    assert retry(shop) == "by the second"


def test_a_process_that_slept_while_nobody_came_finishes(shop: Shop) -> None:
    sleeper = start(shop, "paused after the claim")
    assert sleeper.stdout is not None
    assert sleeper.stdout.readline() == "here\n"
    sleeper.send_signal(signal.SIGSTOP)
    time.sleep(LEASE * 1.5)
    sleeper.send_signal(signal.SIGCONT)
    out, _ = sleeper.communicate("go on\n", timeout=20)
    assert out == "by the first\n"
    assert retry(shop) == "by the first"
    assert shop.orders() == whole("a")


GC = """
import os, signal, sys
from resilient.backends.sqlite import BlockingSQLiteStore

steps = 0

def count():
    global steps
    steps += 1
    if steps == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

store = BlockingSQLiteStore(sys.argv[1], on_connect=lambda connection: connection.set_progress_handler(count, 500))
store.lookup("s", "k")
steps = 0
store.gc(10_000)
print("finished after", steps)
"""


def test_a_kill_during_gc_forgets_nothing_that_counts(tmp_path: Path) -> None:
    path = tmp_path / "claims.db"
    store = BlockingSQLiteStore(path, on_connect=lambda connection: connection.execute("PRAGMA synchronous = OFF"))
    for number in range(300):
        run = store.begin("s", f"old {number}", b"", owner="o", lease=0.001, ttl=0.001 if number else 3600)
        assert isinstance(run, Run)
    kept = store.begin("s", "kept", b"", owner="o", lease=3600.0, ttl=3600.0)
    assert isinstance(kept, Run)
    assert store.complete(kept, b"result", ttl=3600.0)
    # A claim sweeps a few others up: make up for it.
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE resilient_claims SET expires_at = 0, lease_until = 0 WHERE key LIKE 'old %'")
        connection.executemany(
            "INSERT OR IGNORE INTO resilient_claims SELECT scope, 'older ' || ?, fingerprint, state, fence, owner, 0, "
            "recovery_point, recovery_data, result, 0, 0 FROM resilient_claims WHERE key = 'kept'",
            [(number,) for number in range(2000)],
        )
    connection.close()
    store.close()
    died = 0
    for step in (1, 20, 60, 10_000):
        command = [sys.executable, "-c", GC, str(path), str(step)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
        died += done.returncode == -signal.SIGKILL
        assert store.begin("s", "kept", b"", owner="o", lease=1.0, ttl=1.0) == Replay(b"result")
        store.close()
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()
    assert died >= 2
    assert store.stats().records == 1


def test_duplicates_from_several_processes_take_effect_once(shop: Shop) -> None:
    processes = [start(shop, "never") for _ in range(4)]
    ends = [(process.communicate(timeout=20), process.returncode) for process in processes]
    assert shop.orders() == whole("a")
    assert retry(shop) == "by the first"
    for (out, error), code in ends:
        assert out == "by the first\n" if code == 0 else "InProgress" in error
