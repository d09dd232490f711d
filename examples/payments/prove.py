"""Kills the payments service, its relays and the bank with `kill -9`, again and again, and proves what is left.

    python -m examples.payments.prove [SECONDS] [URL]

Clients pay, and repeat every payment until it is answered. For `SECONDS` (20) one process after another is killed and
started again. In the end every payment that was asked for is there once, and the bank has booked every payment once, in
the order in which they were made in each account. `URL` is the database of the service: an SQLite file in a temporary
folder, unless it says otherwise.
"""

from __future__ import annotations

import contextlib
import random
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.to_thread
import httpx

from examples.payments.storage import Storage, open_storage
from resilient import Backoff, Honoured, Pipeline, Retry, Timeout, options
from resilient.http import PipelineTransport
from resilient.idempotency import Outbox

ROOT = Path(__file__).parents[2]
ACCOUNTS = 8
AT_LEAST = 4
"""How often something is killed, however slow the machine."""
PATIENCE = 60.0


def free_port() -> int:
    """Return a port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class System:
    """The processes, and what they share."""

    folder: Path
    url: str
    ports: tuple[int, int] = field(default_factory=lambda: (free_port(), free_port()))
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict[str, subprocess.Popen[bytes]])
    kills: Counter[str] = field(default_factory=Counter[str])
    over: bool = False
    """Nothing is killed any more."""

    @property
    def bank_file(self) -> Path:
        """The bank's books."""
        return self.folder / "bank.db"

    def start(self, name: str) -> None:
        """Start one of the processes."""
        service, bank = map(str, self.ports)
        arguments = {
            "service": ["service", self.url, service],
            "bank": ["bank", str(self.bank_file), bank],
            "relay-1": ["relay", self.url, f"http://127.0.0.1:{bank}"],
            "relay-2": ["relay", self.url, f"http://127.0.0.1:{bank}"],
        }[name]
        module, *rest = arguments
        command = [sys.executable, "-m", f"examples.payments.{module}", *rest]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)  # noqa: S603 - ours

    def works(self, name: str) -> bool:
        """Whether a process is at work: on a busy machine it takes seconds to come up."""
        if name.startswith("relay"):
            return (self.folder / f"{name}.log").read_text().count("relaying") > self.kills[name]
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.ports[name == "bank"])) == 0

    def kill(self, name: str) -> None:
        """End one of them at once, wherever it is: SIGKILL."""
        self.processes[name].kill()
        self.processes[name].wait()


async def kill_again_and_again(system: System, seconds: float) -> None:
    """Kill one process after another that is at work, and start it again."""
    until = time.monotonic() + seconds
    while time.monotonic() < until or system.kills.total() < AT_LEAST:
        await anyio.sleep(random.uniform(0.2, 0.7))
        victim = random.choice(list(system.processes))
        if not system.works(victim):
            continue
        await anyio.to_thread.run_sync(system.kill, victim)
        system.kills[victim] += 1
        system.start(victim)
    system.over = True


async def pay(client: httpx.AsyncClient, account: str, system: System, asked: list[tuple[str, str, int]]) -> None:
    """Pay from one account, one payment after another; each is repeated until it is answered."""
    while not system.over:
        payment = (f"{account}-{len(asked)}", account, random.randrange(1, 1000))
        asked.append(payment)
        name, _, cents = payment
        with options(idempotency_key=f"payment {name}"):
            response = await client.post("/payments", json={"id": name, "account": account, "cents": cents})
        assert response.status_code == 201, response.text
        await anyio.sleep(0.02)


async def run(system: System, storage: Storage, seconds: float) -> list[tuple[str, str, int]]:
    """Let clients pay while the processes are killed; return what was asked for, when all of it is answered."""
    stack = Pipeline(
        Timeout(PATIENCE),
        Honoured(),
        Retry(attempts=10_000, backoff=Backoff(base=0.02, cap=0.3), budget=None),
        Timeout(2.0),
    )
    asked: list[list[tuple[str, str, int]]] = [[] for _ in range(ACCOUNTS)]
    transport = PipelineTransport(stack, httpx.AsyncHTTPTransport())
    client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{system.ports[0]}", transport=transport)
    async with client, anyio.create_task_group() as group:
        group.start_soon(kill_again_and_again, system, seconds)
        for number, mine in enumerate(asked):
            group.start_soon(pay, client, f"account-{number}", system, mine)
    await wait_until_sent(system.url)
    return [payment for mine in asked for payment in mine]


async def wait_until_sent(url: str) -> None:
    """Wait until the outbox is empty, and nothing in it was given up."""
    deadline = time.monotonic() + PATIENCE
    async with Outbox(url) as outbox:
        stats = await outbox.stats()
        while stats.pending or stats.waiting:
            assert time.monotonic() < deadline, stats
            await anyio.sleep(0.05)
            stats = await outbox.stats()
        assert stats.parked == 0, await outbox.parked()


def check(asked: list[tuple[str, str, int]], paid: list[tuple[str, str, int]], bank_file: Path) -> None:
    """Raise unless everything that was asked for is there once, and nothing else."""
    with contextlib.closing(sqlite3.connect(bank_file)) as connection:
        booked = connection.execute("SELECT payment, account, cents FROM bookings ORDER BY number").fetchall()
    assert sorted(paid) == sorted(asked), "payments differ from what was asked for"
    assert sorted(booked) == sorted(asked), "bookings differ from what was asked for"
    for account in {account for _, account, _ in asked}:
        mine = [payment for payment in asked if payment[1] == account]
        assert [payment for payment in booked if payment[1] == account] == mine, f"{account}: out of order"


def main(arguments: list[str]) -> None:
    """Kill, and prove."""
    seconds = float(arguments[0]) if arguments else 20.0
    url = arguments[1] if len(arguments) > 1 else None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        system = System(folder, url or f"sqlite:///{folder}/payments.db")
        storage = open_storage(system.url)
        storage.create()
        for process in ("bank", "service", "relay-1", "relay-2"):
            system.start(process)
        try:
            asked = anyio.run(run, system, storage, seconds)
        finally:
            for process in system.processes:
                system.kill(process)
        check(asked, storage.read(), system.bank_file)
        killed = ", ".join(f"{name} {times}" for name, times in sorted(system.kills.items()))
        print(f"{len(asked)} payments, each made once and booked once, in order; killed: {killed}")


if __name__ == "__main__":
    main(sys.argv[1:])
