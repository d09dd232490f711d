"""A consumer of NATS JetStream, which delivers at least once: killed, restarted, and every effect is there once."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nats
import pytest
from nats.js.api import ConsumerConfig, StreamConfig

from resilient.idempotency import Inbox
from tests.idempotency.consumer import ACK_WAIT
from tests.idempotency.shop import Shop, whole
from tests.servers.nats import Nats

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0


@pytest.fixture
def server() -> Iterator[Nats]:
    with Nats() as started:
        yield started


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


def start(server: Nats, shop: Shop, moment: str = "never") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.idempotency.consumer", server.url, str(shop.path), moment]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def run_until_killed(server: Nats, shop: Shop, moment: str) -> str:
    process = start(server, shop, moment)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL
    return out


def run_until_all_are_acknowledged(server: Nats, shop: Shop) -> list[str]:
    process = start(server, shop)
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
def test_a_consumer_that_is_killed_has_done_all_or_nothing(server: Nats, shop: Shop, moment: str, receipt: str) -> None:
    publish(server, "a", "b")
    run_until_killed(server, shop, moment)
    assert shop.orders() == (whole("a") if receipt == "duplicate" else [])
    assert left(server) == 2
    said = run_until_all_are_acknowledged(server, shop)
    assert sorted(said) == sorted([f"{receipt} a", "processed b"])
    assert shop.orders() == whole("a", "b")


def test_a_message_that_kills_its_consumers_or_fails_is_parked_and_the_others_get_through(
    server: Nats, shop: Shop
) -> None:
    publish(server, "a", "poison", "unreadable", "b")
    for _ in range(3):
        run_until_killed(server, shop, "never")
    said = run_until_all_are_acknowledged(server, shop)
    assert "parked poison" in said
    assert shop.orders() == whole("a", "b")
    parked = Inbox(shop.store, consumer="billing").blocking.parked("billing")
    assert sorted((each.letter.payload, each.attempts) for each in parked) == [(b"poison", 3), (b"unreadable", 3)]
    assert {each.error for each in parked} == {"no consumer that processed it survived", "ValueError: unreadable"}


def test_two_consumers_and_a_broker_that_restarts(server: Nats, shop: Shop) -> None:
    orders = [f"order {number}" for number in range(40)]
    publish(server, *orders)
    consumers = [start(server, shop) for _ in range(2)]
    deadline = time.monotonic() + PATIENCE
    while len(shop.orders()) < 20:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    consumers[0].kill()
    server.kill()
    server.start()
    run_until_all_are_acknowledged(server, shop)
    for consumer in consumers:
        consumer.kill()
        consumer.communicate()
    assert shop.orders() == whole(*orders)
