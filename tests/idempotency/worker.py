"""A process that the torture suite kills, stops and continues: it runs operations and writes down what it saw."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time
import uuid
from pathlib import Path
from random import Random
from typing import Any

from resilient.backends.faces import DirectStore
from resilient.backends.sqlite import BlockingSQLiteStore
from resilient.backends.store import Run
from resilient.idempotency import BlockingClaim, once

LEASE = 0.25
RATE = 30
"""New keys a second."""
WINDOW = 30
"""How many of the newest keys the workers contend for: longer than it takes to follow a dead executor."""


class Deaf:
    """Renews no lease: whoever works for longer than one is followed while it still works."""

    def heartbeat(self, run: Run, *, lease: float) -> bool:
        return True


class DeafStore(Deaf, BlockingSQLiteStore):
    """Right, but deaf."""


class DeafWithoutFence(Deaf, BlockingSQLiteStore):
    """Takes any executor for the current one."""

    guard = "scope = ? AND key = ? AND ? > 0 AND state = ?"


class DeafWithoutGuard(Deaf, BlockingSQLiteStore):
    """Takes any executor for the current one, and does not even look whether it is done."""

    guard = "scope = ? AND key = ? AND ? > 0 AND ? <> ''"


STORES: dict[str, type[BlockingSQLiteStore]] = {
    "right": BlockingSQLiteStore,
    "deaf": DeafStore,
    "deaf, without fence": DeafWithoutFence,
    "deaf, without guard": DeafWithoutGuard,
}


class History:
    """Events in the order in which they happened: a single append for each, which the system does not interleave."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, kind: str, **fields: Any) -> None:
        os.write(self._file, json.dumps({"kind": kind, **fields}).encode() + b"\n")


def make_operation(folder: Path, store: str, random: Random, history: History) -> Any:
    @once(DirectStore(STORES[store](folder / "sink.db")), key=lambda key: key, scope="torture", lease=LEASE)
    def operation(claim: BlockingClaim, key: str) -> dict[str, Any]:
        attempt = uuid.uuid4().hex
        history.write("begin", key=key, fence=claim.fence, attempt=attempt)
        time.sleep(random.choice([0.0, 0.05, LEASE * 1.2]))
        with claim.transaction() as connection:
            write_effect(connection, key, attempt)
        return {"attempt": attempt, "fence": claim.fence}

    return operation


def write_effect(connection: sqlite3.Connection, key: str, attempt: str) -> None:
    """No constraint: a duplicate must be seen, not prevented."""
    for part in (1, 2):
        connection.execute("INSERT INTO sink VALUES (?, ?, ?)", (key, attempt, part))


def try_once(operation: Any, key: str, history: History) -> bool:
    """Whether the operation was answered."""
    try:
        reply = operation(key)
    except Exception as error:  # whatever it is, the retry decides
        history.write("info", key=key, error=type(error).__name__)
        return False
    history.write("ok", key=key, **reply)
    return True


def main(folder: Path, store: str, seed: int, started: float) -> None:
    random = Random(seed)
    history = History(folder / "history")
    operation = make_operation(folder, store, random, history)
    answered: set[int] = set()
    while True:
        newest = int((time.time() - started) * RATE)
        open_ones = [number for number in range(newest - WINDOW, newest) if number not in answered]
        number = random.choice(open_ones or [newest])
        if try_once(operation, str(number), history):
            answered.add(number)
        else:
            time.sleep(0.002)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
