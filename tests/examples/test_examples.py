"""The examples do what they say."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


@contextmanager
def running(*command: str):
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_orders_are_taken_once_while_an_instance_is_killed(tmp_path):
    service = str(EXAMPLES / "orders_service.py")
    with running(service, str(tmp_path)) as first, running(service, str(tmp_path)) as second:
        for process in (first, second):
            assert process.stdout is not None
            assert "takes orders" in process.stdout.readline()
        with running(str(EXAMPLES / "orders_client.py"), str(tmp_path), "12") as client:
            assert client.stdout is not None
            lines = [client.stdout.readline() for _ in range(4)]
            first.kill()
            lines += client.stdout.readlines()
    assert len([line for line in lines if "taken_by" in line]) == 12, lines
    assert str(second.pid) in "".join(lines[4:12])
    with closing(sqlite3.connect(tmp_path / "orders.db")) as connection:
        orders = [sku for (sku,) in connection.execute("SELECT sku FROM orders ORDER BY id")]
    assert orders == [f"A-{number}" for number in range(12)]


def test_the_worker_pays_once():
    told = subprocess.run([sys.executable, str(EXAMPLES / "worker.py")], capture_output=True, text=True, check=True)
    assert re.search(r"10 jobs, delivered three times each, paid 10 times", told.stdout)


def test_payments_and_bookings_happen_once_whatever_is_killed():
    command = [sys.executable, "-m", "examples.payments.prove", "4"]
    told = subprocess.run(command, cwd=EXAMPLES.parent, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert re.search(r"\d+ payments, each made once and booked once, in order; killed: \w", told.stdout)
