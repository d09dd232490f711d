"""Clients and servers that are killed, as real processes: one effect, one key, one body, and the result is found."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from random import Random

import pytest

from tests.idempotency.bank_server import BankServer, read

KILLS = 7


@pytest.fixture
def bank() -> Iterator[BankServer]:
    with BankServer() as server:
        yield server


# How it runs, when it dies, whether it was paid by then, and whether something is left to be resumed.
DEATHS = [
    ("asyncio", "before it is written down", False, False),
    ("asyncio", "before it is sent", False, True),
    ("asyncio", "before it is read", True, True),
    ("asyncio", "before the result is written down", True, True),
    ("asyncio", "after the result is written down", True, False),
    ("trio", "before it is read", True, True),
    ("plain", "before it is sent", False, True),
    ("plain", "before the result is written down", True, True),
]


def test_a_client_that_is_killed_finishes_what_it_began(bank):
    orders = [f"order-{number}" for number in range(len(DEATHS))]
    killed = [
        bank.client(how, moment, order, folder=order) for order, (how, moment, *_) in zip(orders, DEATHS, strict=True)
    ]
    for process in killed:
        _, error = process.communicate(timeout=40)
        assert process.returncode == -signal.SIGKILL, error
    assert sorted(bank.payments()) == [order for order, death in zip(orders, DEATHS, strict=True) if death[2]]
    time.sleep(0.5)  # the leases of the dead
    again = [bank.client(how, "never", order, folder=order) for order, (how, *_) in zip(orders, DEATHS, strict=True)]
    for order, (*_, resumed), process in zip(orders, DEATHS, again, strict=True):
        out, error = process.communicate(timeout=40)
        assert process.returncode == 0, error
        receipt = f"receipt {1 + bank.payments().index(order)} for {order}"
        assert out.splitlines() == [f"{what} {receipt}" for what in (["resumed", "paid"] if resumed else ["paid"])]
    bank.check(*orders)


def test_without_intents_the_same_death_pays_twice(bank):
    for dies in ("before it is read", "never"):
        bank.client("careless", dies, "a").communicate(timeout=40)
    assert bank.payments() == ["a", "a"]
    with pytest.raises(AssertionError):
        bank.check("a")


@pytest.mark.parametrize("moment", ["before the effect", "before the commit", "before the reply"])
def test_a_server_that_is_killed_is_asked_again_under_the_same_key(bank, moment):
    bank.kill()
    bank.dies = moment
    bank.start()
    client = bank.client("asyncio", "never", "a")
    assert bank.process is not None
    assert bank.process.wait(20) == -signal.SIGKILL
    bank.kill()
    bank.dies = "never"
    bank.start()
    out, error = client.communicate(timeout=40)
    assert client.returncode == 0, error
    assert out == "paid receipt 1 for a\n"
    assert len({request["key"] for request in read(bank.folder / "requests")}) == 1
    bank.check("a")


def test_whoever_is_killed_and_whenever_each_order_is_paid_once(bank):
    random = Random(5)
    orders = [f"order-{number}" for number in range(45)]
    clients: dict[str, tuple[list[str], subprocess.Popen[str] | None]] = {}
    for number, how in enumerate(["asyncio", "trio", "plain"]):
        clients[how] = (orders[number::3] + orders[number - 1 :: 3][:5], None)  # some are paid by two of them
    kills = 0
    deadline = time.monotonic() + 45
    left = set(clients)
    while left:
        assert time.monotonic() < deadline, "the machine is too busy for this"
        for how in sorted(left):
            mine, process = clients[how]
            if process is None:
                clients[how] = (mine, bank.client(how, "never", *mine))
            elif process.poll() is not None:
                _, error = process.communicate()
                if process.returncode == 0:
                    left.discard(how)
                else:
                    assert process.returncode == -signal.SIGKILL or "InProgress" in error, error
                clients[how] = (mine, None)
        if kills < KILLS:
            time.sleep(random.uniform(0.2, 1.2))
            victim = random.choice(["server", *sorted(left)])
            kills += 1
            if victim == "server":
                bank.kill()
                bank.start()
            elif (process := clients[victim][1]) is not None:
                process.kill()
        else:
            time.sleep(0.05)
    assert kills >= 3, "they were done before anybody was killed"
    bank.check(*orders)
