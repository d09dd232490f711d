"""The bank of `teller` as a real server, which is killed and started again."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.servers.process import Server

ROOT = Path(__file__).parents[2]
TELLER = [sys.executable, "-m", "tests.idempotency.teller"]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class BankServer(Server):
    name = "bank"

    def __init__(self) -> None:
        super().__init__()
        self.dies = "never"
        connection = sqlite3.connect(self.folder / "bank.db")
        # No constraint: a duplicate must be seen, not prevented.
        connection.execute("CREATE TABLE payments (id INTEGER PRIMARY KEY AUTOINCREMENT, reference TEXT)")
        connection.close()

    def command(self) -> Sequence[str]:
        return [*TELLER, "serve", str(self.folder), str(self.port), self.dies]

    def launch(self) -> None:
        if self.process is None:
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, cwd=ROOT)

    def answers(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), 1):
            return True

    def client(self, how: str, dies: str, *orders: str, folder: str = ".") -> subprocess.Popen[str]:
        place = self.folder / folder
        place.mkdir(exist_ok=True)
        command = [*TELLER, how, str(place), f"http://127.0.0.1:{self.port}", dies, *orders]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def payments(self) -> list[str]:
        connection = sqlite3.connect(self.folder / "bank.db")
        try:
            return [order for (order,) in connection.execute("SELECT reference FROM payments ORDER BY id")]
        finally:
            connection.close()

    def check(self, *orders: str) -> None:
        """Each order was paid once, under one key and with one body, and everybody was told the same."""
        assert Counter(self.payments()) == dict.fromkeys(orders, 1)
        bodies: dict[str, set[str]] = {}
        for request in read(self.folder / "requests"):
            if request["body"]:
                bodies.setdefault(request["body"], set()).add(request["key"])
        assert {json.loads(body)["order"] for body in bodies} == set(orders)
        assert all(len(keys) == 1 for keys in bodies.values())
        told: dict[str, set[str]] = {}
        for answer in [line for path in self.folder.rglob("answers") for line in read(path)]:
            assert answer["status"] == 201
            told.setdefault(answer["order"], set()).add(answer["text"])
        assert all(len(texts) == 1 for texts in told.values())
