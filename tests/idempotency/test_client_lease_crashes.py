"""Leased clients and their server as real processes that are killed, on a network that repeats what is old."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from resilient.backends.sqlite import BlockingSQLiteStore
from tests.idempotency.bank_server import BankServer, read
from tests.idempotency.teller import CLIENT_LEASE

KILLS = 6


@pytest.fixture
def bank() -> Iterator[BankServer]:
    with BankServer() as server:
        yield server


def orders_in(path: Path) -> list[str]:
    return [line["order"] for line in read(path)] if path.exists() else []


def test_whoever_is_killed_nothing_is_paid_twice_and_nothing_stays(bank):
    random = Random(7)
    clients: dict[str, subprocess.Popen[str] | None] = dict.fromkeys(["leased", "leased trio"])
    orders = {how: [f"{how}-{number}" for number in range(60)] for how in clients}
    kills, deadline, left = 0, time.monotonic() + 50, set(clients)
    while left:
        assert time.monotonic() < deadline, "the machine is too busy for this"
        for how in sorted(left):
            process = clients[how]
            if process is None:
                begun = set(orders_in(bank.folder / how / "begun"))
                todo = [order for order in orders[how] if order not in begun]
                clients[how] = bank.client(how, "never", *todo, folder=how)
            elif process.poll() is not None:
                _, error = process.communicate()
                assert process.returncode in {0, -9}, error
                if process.returncode == 0:
                    left.discard(how)
                clients[how] = None
        time.sleep(random.uniform(0.3, 0.8))
        if kills < KILLS:
            kills += 1
            victim = clients.get(random.choice(["server", *sorted(left)]))
            if victim is None:
                bank.kill()
                bank.start()
            else:
                victim.kill()
    paid = Counter(bank.payments())
    assert all(count == 1 for count in paid.values())
    for how in clients:
        answers = read(bank.folder / how / "answers")
        # On a slow machine the server is away for longer than a lease: then it no longer knows the client.
        assert {line["status"] for line in answers} <= {201, 410}
        answered = {line["order"] for line in answers if line["status"] == 201}
        assert answered
        assert answered <= set(paid)
        late = read(bank.folder / how / "late")
        assert {line["status"] for line in late} <= {201, 409, 410}
        assert any(line["status"] == 410 for line in late)
    store = BlockingSQLiteStore(bank.folder / "bank.db")
    wait = time.monotonic() + 4 * CLIENT_LEASE + 5
    while store.clients().count():
        assert time.monotonic() < wait
        time.sleep(0.1)
        store.clients().collect()
    assert store.stats().records == 0
    store.close()
