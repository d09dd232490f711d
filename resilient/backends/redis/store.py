"""The store, for coroutines and for plain functions."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar, final

from resilient.backends.redis.claims import Claims
from resilient.backends.redis.effects import RedisEffect
from resilient.backends.redis.scripts import Scripts
from resilient.backends.redis.server import Address, ThreadPool
from resilient.backends.redis.session import LoopDoor, Session, Sight, Terms, ThreadDoor
from resilient.backends.store import Answer, Mode, Record, Run, Stats
from resilient.errors import LeaseLost
from resilient.waiting import drive

__all__ = ["BlockingRedisStore", "RedisStore", "RedisTransaction"]

T = TypeVar("T")

_MODES: frozenset[Mode] = frozenset({"transactional", "fenced", "at_most_once"})
_TAG = re.compile(r"[\w.:-]+", re.ASCII)


class RedisStore(Claims):
    """Claims in Redis or Valkey: modes `transactional` (for effects in its own slot), `fenced` and `at_most_once`.

    What it promises is what its server keeps: see the documentation before an operation must not run twice.

    `url`
        `redis://[user:password@]host:port/0`, `rediss://` for TLS (also `valkey://`, `valkeys://`), or
        `unix:///path/of/socket`.
    `tag`
        Names the store ("resilient"): stores with one tag share their records, and effects write keys with it.
    `connections`
        The most for each event loop, and again for all plain functions and worker threads together (16: a conversation
        takes a fraction of a millisecond, so that is tens of thousands a second).
    `timeout`
        Seconds for a conversation, the wait for a connection included (2.0: a thousand times what it takes, less than a
        caller waits). Without an answer in that time it is `StoreUnavailable`.
    `allow_eviction`
        Use a server even if it may evict records when its memory is full (False: an evicted record is an operation that
        silently runs again).
    `replicas`, `wait`
        Let `begin` and every record wait until that many replicas have it (0), for up to so many seconds (1.0). A claim
        that they do not get in time is refused; a record that they do not get is logged. This makes it less likely
        that a failover forgets, and does not rule it out.
    `database`
        The number of the database of a `unix://` server (0).
    `certificates`, `certificate`, `key`
        Paths of PEM files, for TLS: the authorities to trust in place of the system's, and the client's own.

    In a transaction the claim's `connection` is a `RedisEffect`.
    """

    modes: frozenset[Mode] = _MODES
    scripts: ClassVar[Scripts] = Scripts()

    def __init__(
        self,
        url: str,
        *,
        tag: str = "resilient",
        connections: int = 16,
        timeout: float = 2.0,
        allow_eviction: bool = False,
        replicas: int = 0,
        wait: float = 1.0,
        database: int = 0,
        certificates: str | None = None,
        certificate: str | None = None,
        key: str | None = None,
    ) -> None:
        if not _TAG.fullmatch(tag):
            raise ValueError(f"tag={tag!r}: letters, digits, '_', '.', ':' and '-'")
        terms = Terms(
            address=Address.parse(url, database=database, certificates=certificates, certificate=certificate, key=key),
            connections=connections,
            timeout=timeout,
            allow_eviction=allow_eviction,
            replicas=replicas,
            wait=wait,
        )
        threads = ThreadPool(terms.address, connections=connections, timeout=timeout)
        sight = Sight()
        super().__init__(Session(LoopDoor(terms, threads), terms, sight), tag, self.scripts, terms)
        plain = Claims(Session(ThreadDoor(threads), terms, sight), tag, self.scripts, terms)
        self._blocking = BlockingRedisStore(plain, repr(self))

    @property
    def blocking(self) -> BlockingRedisStore:
        """The same store for plain functions."""
        return self._blocking

    async def transaction(self, run: Run) -> RedisTransaction | None:
        """Open the transaction of the effect. It holds nothing: who takes over meanwhile is found out at its end."""
        return RedisTransaction(self, run) if await self.guard(run) else None

    def slot_key(self, name: str) -> str:
        """Return `name` as a key in the slot of this store, which effects may write: `{resilient}:name`."""
        return f"{{{self.tag}}}:{name}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"RedisStore('{self._terms.address}', tag={self.tag!r})"


@final
class RedisTransaction:
    """The effect of a claim, collected until its record is written. See `RedisEffect`."""

    def __init__(self, claims: Claims, run: Run) -> None:
        self._claims = claims
        self._run = run
        self._over = False
        self.connection = RedisEffect(claims.tag)

    async def call(self, fn: Callable[..., Any], /, *args: Any) -> Any:
        """Return `fn(connection, *args)`, awaited where it has to be."""
        result = fn(self.connection, *args)
        return await result if inspect.isawaitable(result) else result

    async def commit(self, result: bytes | None, *, ttl: float) -> bool:
        """Execute the effect and record `result`, in one step.

        False after `rollback`. Raises `LeaseLost` when somebody else has taken over meanwhile; then nothing is written.
        """
        if self._over:
            return False
        await self.rollback()
        if not await self._claims.commit(self._run, result, ttl=ttl, effect=self.connection):
            raise LeaseLost(f"{self._run.key!r}: the lease ended, and somebody else has taken over; nothing is written")
        return True

    async def rollback(self) -> None:
        """Forget the effect."""
        self._over = True
        self.connection.end()


@final
class BlockingRedisStore:
    """`RedisStore` for plain functions."""

    modes: frozenset[Mode] = _MODES

    def __init__(self, claims: Claims, name: str) -> None:
        self._claims = claims
        self._name = name

    def begin(
        self, scope: str, key: str, fingerprint: bytes, *, owner: str, lease: float, ttl: float, takeover: bool = True
    ) -> Answer:
        """Ask for the right to run."""
        begin = self._claims.begin
        return drive(begin(scope, key, fingerprint, owner=owner, lease=lease, ttl=ttl, takeover=takeover))

    def heartbeat(self, run: Run, *, lease: float) -> bool:
        """Let the lease begin anew."""
        return drive(self._claims.heartbeat(run, lease=lease))

    def save(self, run: Run, point: str, data: bytes | None) -> bool:
        """Move the recovery point."""
        return drive(self._claims.save(run, point, data))

    def complete(self, run: Run, result: bytes | None, *, ttl: float) -> bool:
        """Record the result."""
        return drive(self._claims.complete(run, result, ttl=ttl))

    def release(self, run: Run) -> bool:
        """Give the key back."""
        return drive(self._claims.release(run))

    def transaction(self, run: Run) -> BlockingRedisTransaction | None:
        """Open the transaction of the effect. See `RedisStore.transaction`."""
        return BlockingRedisTransaction(self._claims, run) if drive(self._claims.guard(run)) else None

    def lookup(self, scope: str, key: str) -> Record | None:
        """Read the record of a key."""
        return drive(self._claims.lookup(scope, key))

    def gc(self, limit: int = 1000) -> int:
        """Return 0: the server removes what is forgotten by itself, as its time comes."""
        return drive(self._claims.gc(limit))

    def stats(self) -> Stats:
        """Count what is held. See `RedisStore.stats`."""
        return drive(self._claims.stats())

    def close(self) -> None:
        """Close the connections; the store opens new ones when it is used again."""
        drive(self._claims.close())

    def __repr__(self) -> str:
        return self._name


@final
class BlockingRedisTransaction:
    """`RedisTransaction` for plain functions."""

    def __init__(self, claims: Claims, run: Run) -> None:
        self._transaction = RedisTransaction(claims, run)

    @property
    def connection(self) -> RedisEffect:
        """What the effect is written through."""
        return self._transaction.connection

    def call(self, fn: Callable[..., T], /, *args: Any) -> T:
        """Return `fn(connection, *args)`."""
        return fn(self.connection, *args)

    def commit(self, result: bytes | None, *, ttl: float) -> bool:
        """Execute the effect and record `result`, in one step. See `RedisTransaction.commit`."""
        return drive(self._transaction.commit(result, ttl=ttl))

    def rollback(self) -> None:
        """Forget the effect."""
        drive(self._transaction.rollback())
