"""A server of the tests: a process on the loopback, on free ports, in a folder of its own, ended by its id."""

from __future__ import annotations

import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

PATIENCE = 30.0


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """Started with `with`; killed, stopped and restarted at the same address as a test likes."""

    name = "server"

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix=f"resilient-{self.name}-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        self.log = self.folder / "log"
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        """What starts it."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Does it serve? May raise an `OSError` while it does not."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        self._folder.cleanup()

    def start(self) -> None:
        """Start it, unless it runs, and wait until it serves."""
        self.launch()
        assert self.process is not None
        deadline = time.monotonic() + PATIENCE
        while not self._serves():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self.name} does not serve: {self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.01)

    def launch(self) -> None:
        """Start it, unless it runs, and do not wait."""
        if self.process is None:
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, cwd=self.folder)

    def kill(self) -> None:
        """End it at once, as a crash does. What it wrote to its folder stays."""
        if self.process is not None:
            self.process.kill()  # also ends one that is stopped
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """Freeze it: its connections stay open, and nothing answers (SIGSTOP)."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let one that was stopped go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def heal(self) -> None:
        """Whatever a test did to it: it serves again."""
        if self.process is not None:
            self.go_on()
        self.start()

    def _serves(self) -> bool:
        try:
            return self.answers()
        except OSError:
            return False
