"""Conversations with the server: a script's lost answer asked for again, and failures that say what to do.

A script that writes can tell that it has run already (see `scripts`), and what only reads may be repeated. So whatever
breaks off is sent once more, over a new connection; what gets no answer in time is not: the server has enough to do.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final

from anyio.lowlevel import RunVar
from redis.exceptions import (
    AskError,
    ClusterCrossSlotError,
    ClusterDownError,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from resilient.backends.faces import Threads
from resilient.backends.redis.scripts import Script
from resilient.backends.redis.server import Address, Commands, LoopPool, Lost, Reply, ThreadPool
from resilient.errors import StoreUnavailable
from resilient.waiting import library

__all__ = ["Door", "LoopDoor", "Session", "Sight", "Terms", "ThreadDoor"]

_log = logging.getLogger("resilient.backends")

_CLUSTER = (AskError, ClusterCrossSlotError, ClusterDownError, TryAgainError)
_CLOSED = "grant it, or take what may be evicted as it comes with allow_eviction=True"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How a server is used. See `RedisStore`."""

    address: Address
    connections: int
    timeout: float
    allow_eviction: bool
    replicas: int
    wait: float

    def __post_init__(self) -> None:
        if self.replicas < 0:
            raise ValueError(f"replicas={self.replicas!r}: 0 or more")
        if self.replicas and not 0 < self.wait < self.timeout:
            raise ValueError(f"wait={self.wait!r}: more than 0 seconds, less than timeout={self.timeout!r}")


class Door(Protocol):
    """A way to the server."""

    async def exchange(self, commands: Commands) -> list[Reply]:
        """Send the commands in one go and return their answers. Raises `Lost` and `StoreUnavailable`."""
        ...

    async def close(self) -> None:
        """Close what is idle."""
        ...


@final
class ThreadDoor:
    """For plain functions: it never suspends, the thread waits."""

    def __init__(self, pool: ThreadPool) -> None:
        self._pool = pool

    async def exchange(self, commands: Commands) -> list[Reply]:
        """Send the commands in one go and return their answers."""
        return self._pool.exchange(commands)

    async def close(self) -> None:
        """Close what is idle."""
        self._pool.close()


@final
class LoopDoor:
    """For coroutines: on asyncio the loop's own connections, on trio those of worker threads."""

    def __init__(self, terms: Terms, threads: ThreadPool) -> None:
        self._terms = terms
        self._pool: RunVar[LoopPool | None] = RunVar("resilient.redis.pool", None)
        self._threads = threads
        self._workers = Threads(terms.connections)

    async def exchange(self, commands: Commands) -> list[Reply]:
        """Send the commands in one go and return their answers."""
        if library.name == "trio":
            return await self._workers.run(lambda: self._threads.exchange(commands))
        pool = self._pool.get()
        if pool is None:
            terms = self._terms
            pool = LoopPool(terms.address, connections=terms.connections, timeout=terms.timeout)
            self._pool.set(pool)
        return await pool.exchange(commands)

    async def close(self) -> None:
        """Close what is idle in this event loop, and in threads."""
        self._threads.close()
        if library.name != "trio":
            pool = self._pool.get()
            if pool is not None:
                await pool.close()


@final
class Sight:
    """What is known of the server, shared by all sessions with it."""

    looked = False
    warned = False


@final
class Session:
    """Runs scripts and commands through a door, after it has looked at what it meets behind it."""

    def __init__(self, door: Door, terms: Terms, sight: Sight) -> None:
        self._door = door
        self._terms = terms
        self._sight = sight

    async def run(self, script: Script, keys: Sequence[str | bytes], args: Sequence[str | bytes | int]) -> Reply:
        """Run a script and return its answer. Raises `StoreUnavailable`."""
        reply, _ = await self._run(script, keys, args, replicas=0)
        return reply

    async def run_copied(
        self, script: Script, keys: Sequence[str | bytes], args: Sequence[str | bytes | int]
    ) -> tuple[Reply, bool]:
        """Run a script; also tell whether as many replicas as are asked for have what it wrote."""
        return await self._run(script, keys, args, replicas=self._terms.replicas)

    async def ask(self, *commands: tuple[str | bytes | int, ...]) -> list[Reply]:
        """Run commands that only read and return their answers. Raises `StoreUnavailable`."""
        if not self._sight.looked:
            await self._look()
        return [self._checked(reply) for reply in await self._exchange(commands)]

    async def close(self) -> None:
        """Close what is idle."""
        await self._door.close()

    def forget(self) -> None:
        """Look at the server again before it is used again."""
        self._sight.looked = False

    async def _run(
        self, script: Script, keys: Sequence[str | bytes], args: Sequence[str | bytes | int], *, replicas: int
    ) -> tuple[Reply, bool]:
        if not self._sight.looked:
            await self._look()
        rest = (len(keys), *keys, *args)
        after = [("WAIT", replicas, round(self._terms.wait * 1000))] if replicas else []
        reply, *copies = await self._exchange([("EVALSHA", script.sha, *rest), *after])
        if isinstance(reply, NoScriptError):
            reply, *copies = await self._exchange([("EVAL", script.source, *rest), *after])
        reply = self._checked(reply)
        return reply, all(self._checked(number) >= replicas for number in copies)

    async def _exchange(self, commands: Commands) -> list[Reply]:
        try:
            replies = await self._door.exchange(commands)
        except Lost:
            replies = None
        if replies is None:
            self._sight.looked = False  # another server may answer from here on
            try:
                replies = await self._door.exchange(commands)
            except Lost as error:
                raise StoreUnavailable(f"{self._terms.address}: the connection broke off: {error}") from error
        if isinstance(replies[0], ReadOnlyError):
            # What was the primary is a replica now. A new connection may lead to the new one.
            self._sight.looked = False
            await self._door.close()
        return replies

    def _checked(self, reply: Reply) -> Reply:
        if not isinstance(reply, ResponseError):
            return reply
        text = str(reply)
        # Clients without clusters in mind leave the first word of an error where it is.
        if isinstance(reply, _CLUSTER) or text.startswith(("MOVED", "ASK", "CROSSSLOT", "CLUSTERDOWN", "TRYAGAIN")):
            text += " (a node of a cluster: name the one that serves the slot of the store's tag, or a proxy)"
        raise StoreUnavailable(f"{self._terms.address}: {text}") from reply

    async def _look(self) -> None:
        """See whether the server can keep a claim. Raises `StoreUnavailable` where it cannot."""
        commands: Commands = (
            ("INFO", "memory"),
            ("INFO", "persistence"),
            ("INFO", "replication"),
            ("CONFIG", "GET", "appendfsync"),
        )
        memory, persistence, replication, config = await self._exchange(commands)
        address = self._terms.address
        if _field(replication, b"role") == b"slave":
            raise StoreUnavailable(f"{address}: a replica, and claims are written at the primary")
        if not self._terms.allow_eviction:
            self._look_for_eviction(memory)
        self._sight.looked = True
        if not self._sight.warned:
            self._sight.warned = True
            for warning in _losses(persistence, config):
                _log.warning("%s: %s", address, warning)

    def _look_for_eviction(self, memory: Reply) -> None:
        if isinstance(memory, ResponseError):
            raise StoreUnavailable(
                f"{self._terms.address}: whether it evicts records cannot be found out ({memory}): {_CLOSED}"
            )
        policy, limit = _field(memory, b"maxmemory_policy"), _field(memory, b"maxmemory")
        if policy != b"noeviction" and limit != b"0":
            raise StoreUnavailable(
                f"{self._terms.address}: its maxmemory-policy is {policy.decode()}, and a record that is evicted early "
                "is an operation that silently runs again: set maxmemory-policy noeviction, or take it as it comes "
                "with allow_eviction=True"
            )


def _losses(persistence: Reply, config: Reply) -> list[str]:
    """What a crash of the server may cost, as far as it lets that be known."""
    if isinstance(persistence, ResponseError):
        return [f"whether it keeps records in a crash cannot be found out ({persistence})"]
    if _field(persistence, b"aof_enabled") != b"1":
        return ["no append-only file: in a crash it forgets all records since its last snapshot, and they run again"]
    policy: bytes = b"" if isinstance(config, ResponseError) else b"".join(config[1:])
    if policy not in {b"", b"always"}:
        return [f"appendfsync is {policy.decode()}: with the machine it may forget the last seconds, which run again"]
    return []


def _field(info: Reply, name: bytes) -> bytes:
    """One line of INFO; empty where there is none."""
    if not isinstance(info, bytes):
        return b""
    found = (line.partition(b":") for line in info.split(b"\r\n"))
    return next((value for key, _, value in found if key == name), b"")
