"""A real etcd: `python -m tests.servers.etcd` makes sure that there is one."""

from __future__ import annotations

import shutil
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx

from tests.servers.debian import unpacked
from tests.servers.process import Server, free_port


def executable() -> str:
    """The path of etcd: the one that is installed, or the one in Debian's package."""
    return shutil.which("etcd") or str(unpacked("etcd", "etcd-server") / "usr/bin/etcd")


class Etcd(Server):
    """One member of its own cluster, with fast elections; it does not wait for the disk."""

    name = "etcd"

    def __init__(self, member: str = "one") -> None:
        super().__init__()
        self._member = member
        self._peer = f"http://127.0.0.1:{free_port()}"
        self._cluster = {member: self._peer}

    def command(self) -> list[str]:
        client, peer = f"http://{self.address}", self._peer
        return [
            executable(),
            *("--name", self._member, "--data-dir", str(self.folder / "data")),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", ",".join(f"{member}={each}" for member, each in self._cluster.items())),
            *("--heartbeat-interval", "10", "--election-timeout", "50", "--unsafe-no-fsync"),
            *("--logger", "zap", "--log-level", "warn"),
            *("--bcrypt-cost", "4"),  # a login that is meant to be slow makes a test slow
        ]

    def answers(self) -> bool:
        try:
            answer = httpx.get(f"http://{self.address}/health", timeout=1.0)
        except httpx.TransportError as error:
            raise OSError(str(error)) from error
        return answer.status_code == 200 and answer.json()["health"] in {"true", True}

    def ask(self, path: str, **fields: Any) -> dict[str, Any]:
        """Do what no client of ours does: compact, put keys of others."""
        answer = httpx.post(f"http://{self.address}/v3/{path}", json=fields, timeout=10.0)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def put(self, key: str, value: str, **fields: Any) -> int:
        """Write a key and return the revision."""
        answer = self.ask("kv/put", key=encode(key), value=encode(value), **fields)
        return int(answer["header"]["revision"])

    def delete(self, key: str) -> None:
        self.ask("kv/deleterange", key=encode(key))

    def keys(self, prefix: str) -> dict[str, str]:
        """All keys under `prefix`, with their values."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        found = self.ask("kv/range", key=encode(prefix), range_end=encode(end))
        return {
            b64decode(each["key"]).decode(): b64decode(each.get("value", "")).decode() for each in found.get("kvs", ())
        }


@contextmanager
def cluster(*members: str) -> Iterator[list[Etcd]]:
    """Several members of one cluster."""
    found = [Etcd(member) for member in members]
    whole = {each._member: each._peer for each in found}
    with ExitStack() as stack:
        for each in found:
            each._cluster = whole
            stack.callback(each.__exit__)
            each.launch()  # none serves before the others are there
        for each in found:
            each.start()
        yield found


def encode(text: str) -> str:
    return b64encode(text.encode()).decode()


if __name__ == "__main__":
    try:
        print(executable())
    except RuntimeError as error:
        sys.exit(str(error))
