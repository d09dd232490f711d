"""A consumer of JetStream in a process of its own, which dies where it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys

import nats
from nats.errors import TimeoutError as NatsTimeoutError

from resilient.errors import InProgress
from resilient.idempotency import Claim, Inbox

LEASE = 0.4
ACK_WAIT = 0.5


async def consume(server: str, path: str, moment: str) -> None:
    inbox = Inbox(f"sqlite:///{path}", consumer="billing", attempts=3, lease=LEASE)

    def reach(name: str) -> None:
        if name == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def write(connection: sqlite3.Connection, order: str) -> None:
        connection.execute("INSERT INTO orders VALUES (?, 1)", (order,))
        reach("in the middle of the effect")
        connection.execute("INSERT INTO orders VALUES (?, 2)", (order,))

    @inbox.handler
    async def bill(claim: Claim, payload: bytes) -> None:
        order = payload.decode()
        if order == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        if order == "unreadable":
            raise ValueError("unreadable")
        reach("before the effect")
        await claim.run(write, order)
        reach("after the effect, before the commit")

    connection = await nats.connect(server)
    subscription = await connection.jetstream().pull_subscribe("orders", durable="billing", stream="ORDERS")
    while True:
        try:
            (message,) = await subscription.fetch(1, timeout=0.5)
        except NatsTimeoutError:
            continue
        try:
            receipt = await bill(message.data, key=(message.headers or {})["Nats-Msg-Id"])
        except InProgress as busy:
            await message.nak(delay=busy.retry_after)
        except ValueError:
            await message.nak(delay=0.01)
        else:
            reach("after the commit, before the acknowledgement")
            await message.ack()
            print(receipt, message.data.decode(), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(consume(*sys.argv[1:]))
