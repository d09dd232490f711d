"""A real PgBouncer, from Debian's package: what stands between a server and those who have too many connections."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Any

import psycopg

from tests.servers.debian import unpacked
from tests.servers.postgres import UNPRIVILEGED, Postgres
from tests.servers.process import Server

PACKAGES = ("pgbouncer", "libevent-2.1-7", "libc-ares2")


class PgBouncer(Server):
    """`with PgBouncer(postgres) as pooler:` gives every transaction whichever of its two connections is free."""

    name = "pgbouncer"

    def __init__(self, target: Postgres) -> None:
        super().__init__()
        self._target = target

    def url_of(self, url: str) -> str:
        """The way to a database of the server."""
        return url.replace(f":{self._target.port}/", f":{self.port}/")

    def command(self) -> list[str]:
        settings = self.folder / "pgbouncer.ini"
        settings.write_text(
            "[databases]\n"
            f"* = host=127.0.0.1 port={self._target.port} user=postgres\n"
            "[pgbouncer]\n"
            "listen_addr = 127.0.0.1\n"
            f"listen_port = {self.port}\n"
            "unix_socket_dir =\n"
            "auth_type = any\n"
            "pool_mode = transaction\n"
            "default_pool_size = 2\n"
        )
        # As a user who may read neither our caches nor our libraries: it gets a copy.
        programs = self.folder / "programs"
        if not programs.exists():
            shutil.copytree(unpacked("pgbouncer", *PACKAGES), programs, symlinks=True)
        return [str(programs / "usr/sbin/pgbouncer"), str(settings)]

    def launch(self) -> None:
        if self.process is not None:
            return
        command = self.command()
        identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            group = pwd.getpwnam(UNPRIVILEGED).pw_gid
            identity = {"user": UNPRIVILEGED, "group": group, "extra_groups": []}
            shutil.chown(self.folder, UNPRIVILEGED, group)
        libraries = next(Path(self.folder, "programs/usr/lib").glob("*-linux-gnu"))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={"LD_LIBRARY_PATH": str(libraries)},
                **identity,
            )

    def answers(self) -> bool:
        try:
            psycopg.connect(self.url_of(self._target.url), connect_timeout=2).close()
        except psycopg.OperationalError as error:
            raise OSError(str(error)) from error
        return True


if __name__ == "__main__":
    print(unpacked("pgbouncer", *PACKAGES))
