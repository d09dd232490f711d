"""Several relays on one outbox, in processes that are killed, stopped past their leases and continued.

What must hold: every message arrives, in order within its group; and no message is with two living relays at once.
"""

from __future__ import annotations

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

import psycopg
import pytest

from resilient.idempotency import Outbox
from tests.idempotency.relay_worker import LEASE

ROOT = Path(__file__).parents[2]
RELAYS = 4
LONGEST = 40.0


@dataclass
class Scene:
    url: str
    folder: Path
    connect: Callable[[], Any]
    seed: int = 1
    kind: str = "leases"
    killed: set[int] = field(default_factory=set)
    stopped: set[int] = field(default_factory=set)
    added: int = 0

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.outbox = Outbox(self.url)

    def spawn(self) -> subprocess.Popen[bytes]:
        arguments = [self.url, str(self.folder), str(self.random.randrange(2**31)), self.kind]
        return subprocess.Popen([sys.executable, "-m", "tests.idempotency.relay_worker", *arguments], cwd=ROOT)

    @contextmanager
    def relays(self) -> Iterator[list[subprocess.Popen[bytes]]]:
        relays = [self.spawn() for _ in range(RELAYS)]
        try:
            yield relays
        finally:
            for relay in relays:
                relay.kill()
                relay.wait()

    def add(self, count: int) -> None:
        """In one transaction, half of them in groups; and one that is rolled back."""
        connection = self.connect()
        for _ in range(count):
            number = self.added
            group = f"g{number % 5}" if number % 2 else None
            self.outbox.add(connection, "mail", {}, key=f"{group or 'free'}-{number}", group=group)
            self.added += 1
        connection.commit()
        self.outbox.add(connection, "mail", {}, key=f"undone-{self.added}")
        connection.rollback()
        connection.close()

    def events(self) -> list[tuple[str, str, int]]:
        received = self.folder / "received"
        lines = received.read_text().split("\n")[:-1] if received.exists() else []
        return [(what, key, int(pid)) for what, key, _, pid in map(str.split, lines)]

    def violations(self) -> list[str]:
        """What must not be, whatever was killed. Processes that were stopped in the meantime prove nothing."""
        problems = []
        holders: dict[str, set[int]] = defaultdict(set)
        last: dict[str, int] = defaultdict(lambda: -1)
        for what, key, pid in self.events():
            if key.startswith("undone"):
                problems.append(f"{key} was never committed")
            living = holders[key] - self.killed - self.stopped
            if what == "end":
                holders[key].discard(pid)
                continue
            if living and pid not in self.stopped:
                problems.append(f"{key} began in {pid} while it was with {living}")
            holders[key].add(pid)
            group, _, number = key.partition("-")
            if group != "free" and pid not in self.stopped:
                if int(number) < last[group]:
                    problems.append(f"{key} after {last[group]}")
                last[group] = int(number)
        return problems

    def missing(self) -> int:
        return self.added - len({key for what, key, _ in self.events() if what == "end"})

    def settle(self) -> None:
        """Wait until nothing is left to deliver."""
        deadline = time.monotonic() + LONGEST
        while (stats := self.outbox.blocking.stats()).pending + stats.waiting:
            assert time.monotonic() < deadline, stats
            time.sleep(0.05)
        assert stats.parked == 0
        assert stats.delivered == self.added
        self.outbox.blocking.close()


@pytest.fixture(params=["postgres", "sqlite"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    if request.param == "sqlite":
        path = tmp_path / "shop.db"
        return Scene(f"sqlite:///{path}", tmp_path, lambda: sqlite3.connect(path))
    url = request.getfixturevalue("postgres_url")
    return Scene(url, tmp_path, lambda: psycopg.connect(url))


def test_whatever_is_killed_every_message_arrives_in_order(scene: Scene) -> None:
    with scene.relays() as relays:
        for _ in range(6):
            scene.add(10)
            time.sleep(0.15)
            victim = scene.random.randrange(RELAYS)
            relays[victim].kill()
            relays[victim].wait()
            scene.killed.add(relays[victim].pid)
            relays[victim] = scene.spawn()
        scene.settle()
    assert scene.missing() == 0
    assert scene.violations() == []


def test_relays_that_are_stopped_past_their_leases_are_followed(scene: Scene) -> None:
    with scene.relays() as relays:
        time.sleep(0.5)
        for _ in range(2):
            scene.add(20)
            time.sleep(0.1)
            victim = relays[scene.random.randrange(RELAYS)]
            victim.send_signal(signal.SIGSTOP)
            scene.stopped.add(victim.pid)
            time.sleep(LEASE * 1.4)
            victim.send_signal(signal.SIGCONT)
        scene.settle()
    assert scene.missing() == 0
    assert scene.violations() == []


@pytest.mark.parametrize("scene", ["sqlite"], indirect=True)
def test_relays_that_are_broken_on_purpose_are_caught(scene: Scene) -> None:
    scene.kind = "no leases"
    deadline = time.monotonic() + LONGEST
    with scene.relays():
        while not scene.violations():
            assert time.monotonic() < deadline
            scene.add(10)
            time.sleep(0.1)
    scene.outbox.blocking.close()


def test_a_relay_that_is_told_to_end_leaves_nothing_leased(scene: Scene) -> None:
    with scene.relays() as relays:
        scene.add(60)
        deadline = time.monotonic() + LONGEST
        while scene.missing() == 60:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for relay in relays:
            relay.send_signal(signal.SIGINT)
        for relay in relays:
            relay.wait(10)
        assert scene.outbox.blocking.stats().in_flight == 0
        assert scene.violations() == []
    scene.outbox.blocking.close()
