"""The processes of the service: started, disturbed, and never left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self, final

import anyio

from resilient.discovery import connect
from resilient.lab.demo.ledger import create
from resilient.lab.demo.script import Deed

__all__ = ["Fleet", "FleetError"]

_STARTUP = 30.0
_LEAVE = 10.0
_LAST_WORDS = 2000


class FleetError(Exception):
    """A process of the service did not do what it should."""


@final
class Fleet:
    """The processes of one run, in a folder of their own: the database, the registry, and what each process said.

    ::

        with Fleet(folder, seed=1) as fleet:
            await fleet.start("orders-1", "orders-2")
            ...
            await fleet.leave()

    Whatever happens, none outlives the block. Should this process be killed meanwhile, each finds its standard input at
    its end and leaves; and one that is stopped, being alone in a process group that loses its last parent, gets SIGHUP
    and SIGCONT from the kernel (POSIX, `_exit`).
    """

    def __init__(self, folder: Path, *, seed: int) -> None:
        self.database = folder / "orders.db"
        self.registry = f"{(folder / 'registry').as_uri()}/"
        self._folder = folder
        self._seed = seed
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._killed: set[str] = set()

    def __enter__(self) -> Self:
        (self._folder / "registry").mkdir()
        create(self.database)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            process.kill()  # works on a stopped process, too
        for process in self._processes.values():
            process.wait()
            if process.stdin is not None:
                process.stdin.close()

    async def start(self, *names: str) -> None:
        """Start instances, and wait until they have registered.

        Raises `FleetError` when one ends, or does not register, with what it said last.
        """
        for name in names:
            self._spawn(name)
        missing = set(names)
        with anyio.move_on_after(_STARTUP):
            async for snapshot in connect(f"{self.registry}?interval=0.1").watch():
                missing -= {instance.id for instance in snapshot.instances}
                if not missing:
                    return
                self._check(missing)
        raise FleetError(f"{', '.join(sorted(missing))}: not registered after {_STARTUP:g} s{self._said(*missing)}")

    def do(self, deed: Deed, name: str) -> None:
        """Do something to an instance that runs already."""
        process = self._processes[name]
        if deed == "kill":
            self._killed.add(name)
            process.kill()
        elif deed == "wake":
            self._tell(name, "heal")
            process.send_signal(signal.SIGCONT)
        else:
            self._tell(name, deed)

    async def leave(self) -> None:
        """End all processes when they have done what they were asked to do: nothing is written any more.

        Raises `FleetError` for one that ended before, or does not end.
        """
        self._check(set(self._processes))
        remaining = {name: process for name, process in self._processes.items() if name not in self._killed}
        for process in remaining.values():
            process.send_signal(signal.SIGCONT)
            assert process.stdin is not None
            process.stdin.close()
        with anyio.move_on_after(_LEAVE):
            while any(process.poll() is None for process in remaining.values()):  # noqa: ASYNC110 - nobody sets an event
                await anyio.sleep(0.02)
        stayed = [name for name, process in remaining.items() if process.poll() is None]
        if stayed:
            raise FleetError(f"{', '.join(stayed)}: still running {_LEAVE:g} s after the end{self._said(*stayed)}")
        # The kernel shows a process's end some time after the fact: while one of its threads has still to go.
        self._report_gone([name for name, process in remaining.items() if process.returncode])

    def _spawn(self, name: str) -> None:
        with (self._folder / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(  # noqa: S603 - this interpreter, our own module
                [
                    *(sys.executable, "-m", "resilient.lab.demo.server"),
                    *(name, str(self.database), self.registry, str(self._seed)),
                ],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                process_group=0,  # Ctrl-C in the terminal is for us alone; and see above
            )

    def _tell(self, name: str, word: str) -> None:
        stdin = self._processes[name].stdin
        assert stdin is not None
        try:
            stdin.write(f"{word}\n".encode())
        except BrokenPipeError:
            raise FleetError(f"{name}: ended by itself{self._said(name)}") from None

    def _check(self, names: set[str]) -> None:
        self._report_gone([name for name in sorted(names - self._killed) if self._processes[name].poll() is not None])

    def _report_gone(self, names: list[str]) -> None:
        if names:
            raise FleetError(f"{', '.join(names)}: ended by itself{self._said(*names)}")

    def _said(self, *names: str) -> str:
        said = ((self._folder / f"{name}.log").read_text(errors="replace")[-_LAST_WORDS:].strip() for name in names)
        return "".join(f"\n{words}" for words in said if words)
