"""Processes that are killed, stopped past their lease and continued, all on the same keys.

What must hold for every key: the effect is there at most once, and exactly once if anybody was told of success; all
replies are the same; no executor completes after a later one began; some retry finishes. Two stores that are broken on
purpose prove that the suite can fail.
"""

from __future__ import annotations

import heapq
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.idempotency.worker import LEASE, History, make_operation, try_once

ROOT = Path(__file__).parents[2]
WORKERS = 6
LONGEST = 30.0
"""Seconds after which it was enough in any case."""


@dataclass
class Torture:
    folder: Path
    store: str
    seed: int
    asleep: int = 0
    """How many workers are stopped at a time."""
    started: float = field(default_factory=time.time)
    killed: int = 0
    stopped: int = 0

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        connection = sqlite3.connect(self.folder / "sink.db")
        connection.execute("CREATE TABLE sink (key TEXT, attempt TEXT, part INTEGER)")
        connection.close()

    def spawn(self) -> subprocess.Popen[bytes]:
        arguments = [str(self.folder), self.store, str(self.random.randrange(2**31)), str(self.started)]
        return subprocess.Popen([sys.executable, "-m", "tests.idempotency.worker", *arguments], cwd=ROOT)

    @contextmanager
    def workers(self) -> Iterator[list[subprocess.Popen[bytes]]]:
        workers = [self.spawn() for _ in range(WORKERS)]
        try:
            yield workers
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()

    def run(self, enough: Callable[[], bool]) -> None:
        """Go on until it was enough, and let somebody finish what is left."""
        asleep: list[tuple[float, int]] = []
        look_at = self.started
        with self.workers() as workers:
            while time.time() < look_at or not enough():
                if time.time() > look_at:
                    assert look_at < self.started + LONGEST, "the machine is too busy for this"
                    look_at = time.time() + 0.5
                time.sleep(0.03)
                while asleep and asleep[0][0] < time.time():
                    workers[heapq.heappop(asleep)[1]].send_signal(signal.SIGCONT)
                victim = self.random.randrange(WORKERS)
                if any(index == victim for _, index in asleep):
                    continue
                if self.random.random() < 0.08:
                    workers[victim].kill()
                    workers[victim].wait()
                    workers[victim] = self.spawn()
                    self.killed += 1
                elif len(asleep) < self.asleep:
                    workers[victim].send_signal(signal.SIGSTOP)
                    heapq.heappush(asleep, (time.time() + LEASE * self.random.uniform(1.5, 3.0), victim))
                    self.stopped += 1
        self.finish()

    def finish(self) -> None:
        """Every key that was ever begun is answered in the end."""
        history = History(self.folder / "history")
        operation = make_operation(self.folder, self.store, self.random, history)
        for key in {event["key"] for event in self.events()}:
            deadline = time.monotonic() + 10
            while not try_once(operation, key, history):
                assert time.monotonic() < deadline, f"nobody can finish {key}"
                time.sleep(0.01)

    def events(self) -> list[dict[str, Any]]:
        # A process that is killed may leave half a line.
        history = self.folder / "history"
        lines = history.read_bytes().split(b"\n") if history.exists() else []
        return [json.loads(line) for line in lines if line.endswith(b"}")]

    def followed(self) -> int:
        """How many executors began where another one had begun before."""
        begun = [event["key"] for event in self.events() if event["kind"] == "begin"]
        return len(begun) - len(set(begun))

    def failures(self, error: str) -> int:
        """How many calls ended in this error."""
        return sum(event.get("error") == error for event in self.events())

    def violations(self) -> list[str]:
        events = self.events()  # first: an effect is there before anybody is told of it
        connection = sqlite3.connect(self.folder / "sink.db")
        effects = connection.execute("SELECT key, attempt, part FROM sink").fetchall()
        connection.close()
        replies: dict[str, set[tuple[str, int]]] = defaultdict(set)
        begun: dict[str, list[int]] = defaultdict(list)
        for event in events:
            if event["kind"] == "ok":
                replies[event["key"]].add((event["attempt"], event["fence"]))
            elif event["kind"] == "begin":
                begun[event["key"]].append(event["fence"])
        return [
            problem
            for key, fences in sorted(begun.items())
            if replies[key]
            for problem in check_key(sorted(row[1:] for row in effects if row[0] == key), replies[key], fences)
        ]


def check_key(effects: list[tuple[str, int]], replies: set[tuple[str, int]], fences: list[int]) -> Iterator[str]:
    if len(replies) != 1:
        yield f"different replies: {replies}"
        return
    ((attempt, fence),) = replies
    if effects != [(attempt, 1), (attempt, 2)]:
        yield f"replied {attempt}, found {effects}"
    if len(set(fences)) != len(fences):
        yield f"one fence for two executors: {fences}"
    if fence != max(fences):
        yield f"fence {fence} completed although {max(fences)} had begun"


def test_no_kill_and_no_pause_makes_an_effect_happen_twice_or_get_lost(tmp_path: Path) -> None:
    torture = Torture(tmp_path, "right", seed=1, asleep=3)
    torture.run(lambda: torture.killed >= 5 and torture.stopped >= 15 and torture.followed() >= 6)
    assert torture.violations() == []


def test_no_executor_that_lost_its_lease_writes_anything(tmp_path: Path) -> None:
    torture = Torture(tmp_path, "deaf", seed=1)
    torture.run(lambda: torture.failures("LeaseLost") >= 5)
    assert torture.violations() == []


@pytest.mark.parametrize("store", ["deaf, without fence", "deaf, without guard"])
def test_a_store_that_is_broken_on_purpose_is_caught(tmp_path: Path, store: str) -> None:
    torture = Torture(tmp_path, store, seed=1)
    torture.run(lambda: bool(torture.violations()))
    assert torture.violations()
