"""A consumer of NATS JetStream, which delivers at least once: killed, restarted, and every effect is there once."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nats
import psycopg
import pytest
from nats.js.api import ConsumerConfig, StreamConfig

from resilient.idempotency import Inbox
from tests.idempotency.consumer import ACK_WAIT
from tests.idempotency.shop import whole
from tests.servers.nats import Nats

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0


@pytest.fixture
def server() -> Iterator[Nats]:
    with Nats() as started:
        yield started


@dataclass
class Ledger:
    """Where the consumers write."""

    url: str
    connect: Callable[[], Any]

    def orders(self) -> list[tuple[str, int]]:
        with closing(self.connect()) as connection:
            return list(connection.execute("SELECT id, part FROM orders ORDER BY id, part").fetchall())


@pytest.fixture(params=["postgres", "sqlite"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    path = tmp_path / "ledger.db"
    url = f"sqlite:///{path}" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    made = Ledger(url, partial(sqlite3.connect, path) if request.param == "sqlite" else partial(psycopg.connect, url))
    with closing(made.connect()) as connection:
        connection.execute("CREATE TABLE orders (id TEXT, part INTEGER)")
        connection.commit()
    return made


def publish(server: Nats, *orders: str) -> None:
    async def main() -> None:
        connection = await nats.connect(server.url)
        stream = connection.jetstream()
        await stream.add_stream(StreamConfig(name="ORDERS", subjects=["orders"]))
        await stream.add_consumer("ORDERS", ConsumerConfig(durable_name="billing", ack_wait=ACK_WAIT, max_deliver=20))
        for order in orders:
            await stream.publish("orders", order.encode(), headers={"Nats-Msg-Id": order})
        await connection.close()

    asyncio.run(main())


def left(server: Nats) -> int:
    """How many messages the broker still wants an acknowledgement for."""

    async def main() -> int:
        connection = await nats.connect(server.url)
        info = await connection.jetstream().consumer_info("ORDERS", "billing")
        await connection.close()
        return (info.num_pending or 0) + (info.num_ack_pending or 0)

    return asyncio.run(main())


def start(server: Nats, ledger: Ledger, moment: str = "never") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.idempotency.consumer", server.url, ledger.url, moment]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def run_until_killed(server: Nats, ledger: Ledger, moment: str) -> str:
    process = start(server, ledger, moment)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL
    return out


def run_until_all_are_acknowledged(server: Nats, ledger: Ledger) -> list[str]:
    process = start(server, ledger)
    deadline = time.monotonic() + PATIENCE
    while left(server):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    return process.communicate(timeout=PATIENCE)[0].splitlines()


@pytest.mark.parametrize(
    ("moment", "receipt"),
    [
        ("before the effect", "processed"),
        ("in the middle of the effect", "processed"),
        ("after the effect, before the commit", "processed"),
        ("after the commit, before the acknowledgement", "duplicate"),
    ],
)
def test_a_consumer_that_is_killed_has_done_all_or_nothing(
    server: Nats, ledger: Ledger, moment: str, receipt: str
) -> None:
    publish(server, "a", "b")
    run_until_killed(server, ledger, moment)
    assert ledger.orders() == (whole("a") if receipt == "duplicate" else [])
    assert left(server) == 2
    said = run_until_all_are_acknowledged(server, ledger)
    first = {order: receipt for receipt, order in map(str.split, reversed(said))}
    assert first == {"a": receipt, "b": "processed"}  # a slow machine makes the broker deliver more often
    assert ledger.orders() == whole("a", "b")


def test_a_message_that_kills_its_consumers_or_fails_is_parked_and_the_others_get_through(
    server: Nats, ledger: Ledger
) -> None:
    publish(server, "a", "poison", "unreadable", "b")
    for _ in range(3):
        run_until_killed(server, ledger, "never")
    said = run_until_all_are_acknowledged(server, ledger)
    assert "parked poison" in said
    assert ledger.orders() == whole("a", "b")
    parked = Inbox(ledger.url, consumer="billing").blocking.parked("billing")
    assert sorted((each.letter.payload, each.attempts) for each in parked) == [(b"poison", 3), (b"unreadable", 3)]
    assert {each.error for each in parked} == {"no consumer that processed it survived", "ValueError: unreadable"}


def test_two_consumers_and_a_broker_that_restarts(server: Nats, ledger: Ledger) -> None:
    orders = [f"order {number}" for number in range(40)]
    publish(server, *orders)
    consumers = [start(server, ledger) for _ in range(2)]
    deadline = time.monotonic() + PATIENCE
    while len(ledger.orders()) < 20:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    consumers[0].kill()
    server.kill()
    server.start()
    run_until_all_are_acknowledged(server, ledger)
    for consumer in consumers:
        consumer.kill()
        consumer.communicate()
    assert ledger.orders() == whole(*orders)
