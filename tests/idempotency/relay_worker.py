"""A process that the tests kill, stop and continue: a relay whose receiver writes down what it gets."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from random import Random

import anyio

from resilient.idempotency import Message, Outbox, Relay
from resilient.machines.backoff import Backoff

LEASE = 1.0
"""Long enough that a busy machine does not look like a relay that stands still."""
PATIENCE = 0.3
"""Seconds after which a delivery counts as failed."""


class Receiver:
    """Events in the order in which they happened: a single append for each, which the system does not interleave."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._file = os.open(folder / "received", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._random = Random(seed)

    def write(self, what: str, message: Message) -> None:
        os.write(self._file, f"{what} {message.key} {message.fence} {os.getpid()}\n".encode())

    async def deliver(self, message: Message) -> None:
        self.write("begin", message)
        try:
            await anyio.sleep(self._random.choice([0.0, 0.01, 0.1]))
            if self._random.random() < 0.1:
                raise ConnectionError("no")
        finally:
            self.write("end", message)


def main(url: str, folder: Path, seed: int, *, leases: bool) -> None:
    outbox = Outbox(url)
    if not leases:  # broken on purpose
        claim = outbox.blocking.claim
        outbox.blocking.claim = lambda **terms: claim(**terms | {"lease": 0.0})  # type: ignore[method-assign]
    relay = Relay(
        outbox,
        Receiver(folder, seed).deliver,
        concurrency=4,
        lease=LEASE,
        timeout=PATIENCE,
        attempts=1000,
        backoff=Backoff(base=0.01, cap=0.1),
        poll=0.02,
    )
    anyio.run(relay.run, backend="trio" if seed % 2 else "asyncio")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), leases=sys.argv[4] == "leases")
