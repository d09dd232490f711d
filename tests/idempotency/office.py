"""An outbox in virtual time, and a receiver that notes what it gets."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import anyio

from resilient.backends.faces import DirectStore
from resilient.context import current_runtime
from resilient.idempotency import Message, Outbox, Relay
from resilient.machines.backoff import Backoff
from tests.contract.stores import clocked_sqlite
from tests.idempotency.shop import Slow

SECOND = Backoff(base=1.0, cap=1.0)


class Office:
    """An outbox in virtual time, and a receiver that notes what it gets."""

    def __init__(self, folder: Path, face: type[DirectStore] = Slow) -> None:
        self.path = folder / "office.db"
        self.outbox = Outbox(face(clocked_sqlite(self.path, lambda: current_runtime().wall())))
        self.got: list[str] = []
        self.times: list[float] = []
        self.now = 0
        self.most = 0
        self.takes = 0.0

    def connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path)
        connection.create_function("test_clock", 0, lambda: round(current_runtime().wall() * 1000))
        return connection

    def add(self, *keys: str, **fields: Any) -> None:
        connection = self.connect()
        with connection:
            for key in keys:
                self.outbox.add(connection, "mail", {"key": key}, key=key, **fields)
        connection.close()

    async def deliver(self, message: Message) -> None:
        self.got.append(message.key)
        self.times.append(current_runtime().now())
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await current_runtime().sleep(self.takes)
        finally:
            self.now -= 1

    def relay(self, deliver: Any = None, **terms: Any) -> Relay:
        return Relay(self.outbox, deliver or self.deliver, **terms)


async def run_for(seconds: float, *relays: Relay) -> None:
    """Let relays work for a while, and end them."""
    with anyio.move_on_after(seconds):
        async with anyio.create_task_group() as group:
            for relay in relays:
                group.start_soon(relay.run)
