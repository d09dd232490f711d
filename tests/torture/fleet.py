"""Starts processes through a zygote, and ends them."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0


class Fleet:
    """Processes that are born of one zygote. To be used with `with`."""

    def __init__(self) -> None:
        self.alive: set[int] = set()
        self.codes: dict[int, int] = {}
        """How those ended that did."""
        self._born: queue.Queue[int] = queue.Queue()
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        self._zygote = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.zygote"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()
        return self

    def __exit__(self, *error: object) -> None:
        assert self._zygote.stdin is not None
        assert self._zygote.stdout is not None
        self._zygote.stdin.close()
        self._zygote.wait(PATIENCE)
        self._listener.join()
        self._zygote.stdout.close()

    def start(self, role: str, **config: Any) -> int:
        """Start a process and return its id."""
        assert self._zygote.stdin is not None
        self._zygote.stdin.write(json.dumps({"role": role, "config": config}).encode() + b"\n")
        self._zygote.stdin.flush()
        return self._born.get(timeout=PATIENCE)

    def signal(self, pid: int, number: int) -> None:
        """Send a signal, unless it has ended."""
        if pid in self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def end(self, *pids: int) -> None:
        """Kill, also those that are stopped, and wait."""
        for pid in pids:
            self.signal(pid, signal.SIGKILL)
        for pid in pids:
            self.wait(pid)

    def wait(self, pid: int, timeout: float = PATIENCE) -> int:
        """Wait for an end, and return its code."""
        with self._changed:
            assert self._changed.wait_for(lambda: pid in self.codes, timeout), f"process {pid} does not end"
        return self.codes[pid]

    def _listen(self) -> None:
        assert self._zygote.stdout is not None
        for line in self._zygote.stdout:
            message = json.loads(line)
            with self._changed:
                if "born" in message:
                    self.alive.add(message["born"])
                    self._born.put(message["born"])
                else:
                    self.alive.discard(message["died"])
                    self.codes[message["died"]] = message["code"]
                    self._changed.notify_all()
