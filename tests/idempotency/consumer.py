"""A consumer of JetStream in a process of its own, which dies where it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys

import nats
import psycopg
from nats.errors import TimeoutError as NatsTimeoutError

from resilient.errors import InProgress
from resilient.idempotency import Claim, Handler, Inbox

LEASE = 0.4
ACK_WAIT = 0.5


def reach(name: str, moment: str) -> None:
    if name == moment:
        os.kill(os.getpid(), signal.SIGKILL)


def make_handler(url: str, moment: str) -> Handler:
    inbox = Inbox(url, consumer="billing", attempts=3, lease=LEASE)

    def write(connection: sqlite3.Connection, order: str) -> None:
        connection.execute("INSERT INTO orders VALUES (?, 1)", (order,))
        reach("in the middle of the effect", moment)
        connection.execute("INSERT INTO orders VALUES (?, 2)", (order,))

    async def write_async(connection: psycopg.AsyncConnection, order: str) -> None:
        await connection.execute("INSERT INTO orders VALUES (%s, 1)", (order,))
        reach("in the middle of the effect", moment)
        await connection.execute("INSERT INTO orders VALUES (%s, 2)", (order,))

    @inbox.handler
    async def bill(claim: Claim, payload: bytes) -> None:
        order = payload.decode()
        if order == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        if order == "unreadable":
            raise ValueError("unreadable")
        reach("before the effect", moment)
        await claim.run(write if url.startswith("sqlite") else write_async, order)
        reach("after the effect, before the commit", moment)

    return bill


async def consume(server: str, url: str, moment: str) -> None:
    bill = make_handler(url, moment)
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
            reach("after the commit, before the acknowledgement", moment)
            await message.ack()
            print(receipt, message.data.decode(), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(consume(*sys.argv[1:]))
