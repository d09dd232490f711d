"""A real name server: dnsmasq, from Debian's `dnsmasq-base`, which has the program and no service.

`python -m tests.servers.dnsmasq` installs it where it is missing.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Self

import dns.exception
import dns.message
import dns.query

INSTALL = (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", "dnsmasq-base"])
PATIENCE = 20.0


def executable() -> str:
    """The path of the server, which is installed first where it is missing; an error says what to do if that fails."""
    lock = Path(tempfile.gettempdir()) / "resilient-tests-dnsmasq.lock"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # another worker of the tests may be installing it
        if (found := shutil.which("dnsmasq", path=path)) is not None:
            return found
        for command in INSTALL:
            try:
                done = subprocess.run(command, check=False, capture_output=True, text=True)
            except FileNotFoundError:
                raise RuntimeError("no dnsmasq and no apt-get here: install dnsmasq") from None
            if done.returncode:
                raise RuntimeError(f"no dnsmasq, and `{' '.join(command)}` failed: {done.stderr.strip()[-500:]}")
    found = shutil.which("dnsmasq", path=path)
    assert found is not None, "the package dnsmasq-base has no such command"
    return found


def free_port() -> int:
    """A port of this machine that nobody uses, for UDP and TCP."""
    while True:
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as udp:
            udp.bind(("127.0.0.1", 0))
            port: int = udp.getsockname()[1]
            with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as tcp:
                try:
                    tcp.bind(("127.0.0.1", port))
                except OSError:
                    continue
                return port


class Dnsmasq:
    """`with Dnsmasq("--host-record=orders.test,127.0.0.1") as server:`; asked for what it was not told, it refuses."""

    def __init__(self, *flags: str) -> None:
        self.address = ("127.0.0.1", free_port())
        self._process: subprocess.Popen[bytes] | None = None
        self._flags: Sequence[str] = flags

    @property
    def nameserver(self) -> str:
        """As the option of a URL."""
        return "{}:{}".format(*self.address)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def start(self, *flags: str) -> None:
        """Start it, with other flags than before if some are given, and wait until it answers."""
        self._flags = flags or self._flags
        host, port = self.address
        fixed = ["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--no-daemon"]
        where = [f"--port={port}", f"--listen-address={host}", "--bind-interfaces", "--pid-file="]
        user = ["--user=root"] if os.geteuid() == 0 else []
        command = [executable(), *fixed, *where, *user, "--local=/test/", "--local-ttl=1", *self._flags]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + PATIENCE
        query = dns.message.make_query("ready.test", "A")
        while True:
            try:
                dns.query.udp(query, host, port=port, timeout=0.1)
            except (OSError, dns.exception.DNSException):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self._process.kill()
                    told = self._process.communicate()[1].decode()
                    raise RuntimeError(f"dnsmasq did not start: {told[-500:]}") from None
                time.sleep(0.01)
            else:
                return

    def kill(self) -> None:
        """End it as a crash would."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


if __name__ == "__main__":
    try:
        print(executable())
    except RuntimeError as error:
        sys.exit(str(error))
