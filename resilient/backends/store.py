"""The protocol of durable stores: who may run an operation under a key, and what came of it.

A store keeps one record for each (scope, key). This is the whole of its state machine; ``f`` is the fence that
`begin` gave to an executor, and a write under any other fence changes nothing and answers False:

=========  ============================================  ==================  ==========================
state      event                                         next state          answer
=========  ============================================  ==================  ==========================
absent     begin                                         running, f          `Run(f)`
running    begin, another fingerprint                    running             `Mismatch`
running    begin, the lease is in force                  running             `Busy(what is left of it)`
running    begin, the lease is over                      running, f' > f     `Run(f', takeover=True)`
running    begin with takeover=False, the lease is over  running             `Abandoned`
running    begin, the lease was released                 running, f' > f     `Run(f', takeover=True)`
running    heartbeat(f): the lease begins anew           running             True
running    save(f): the recovery point moves             running             True
running    release(f): the lease is zero                 running, released   True
running    complete(f)                                   done                True
done       begin, the same fingerprint                   done                `Replay(result)`
done       begin, another fingerprint                    done                `Mismatch`
done       heartbeat, save, release, complete            done                False
forgotten  begin                                         running, f' > f     `Run(f')`, as if absent
forgotten  gc                                            absent              counted
=========  ============================================  ==================  ==========================

A record is *forgotten* when its retention is over and no lease on it is in force: retention is no lease, so a live
claim never disappears, however long it runs. Until `gc` removes the record, its last executor can still write. Three
rules carry the argument that an effect is applied at most once:

- every write after `begin` is conditional on the fence, those of error paths included, and none deletes the record;
- the store's clock decides, read after the store's lock is held, never the clock of a client;
- fences only rise, also after `gc` and after a loss of data: max(the last one + 1, microseconds since the epoch).

In `transactional` mode the guard (is the fence still mine, and nothing recorded?), the effect and the record share one
commit. That commit is the moment at which the operation happened; no clock occurs in the argument, and leases only
decide when somebody else may try.

Some stores can also `open`: claim, effect and record then share one commit. Until that, nobody else sees the claim; who
begins under its key waits for a while and gets `Busy`, or finds what became of it: a result, or nothing.

Whatever a store cannot do or find out is a `StoreUnavailable`: nothing is ever run on a guess.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar, final, runtime_checkable

__all__ = [
    "STARTED",
    "Abandoned",
    "Answer",
    "BlockingOneCommitStore",
    "BlockingOpenTransaction",
    "BlockingOpened",
    "BlockingStore",
    "BlockingTransaction",
    "Busy",
    "Mismatch",
    "Mode",
    "OneCommitStore",
    "OpenTransaction",
    "Opened",
    "Record",
    "Replay",
    "Run",
    "Schema",
    "Stats",
    "Store",
    "Transaction",
]

T = TypeVar("T")

Mode: TypeAlias = Literal["transactional", "fenced", "at_most_once"]
"""What is guaranteed about an operation under a key.

`transactional`
    The effect and its record share one commit: applied once, and every retry gets the same result.
`fenced`
    Only the record is protected. An executor that dies between its effect and its record is followed by another one,
    so what the operation does elsewhere must carry a key of its own (`Claim.derive_key`) that is honoured there.
`at_most_once`
    After an executor that may have died nobody runs again: the operation stops in `OutcomeUnknown`, to be reconciled.
"""

STARTED = "started"
"""The recovery point of an operation that has not saved one yet."""


@final
class Run(NamedTuple):
    """The caller may run, and proves it with `fence` in every later write.

    `takeover` tells that somebody began under this key before and did not finish; `recovery_point` and
    `recovery_data` are what they saved last. A tuple, as a frozen dataclass takes five times as long to make.
    """

    scope: str
    key: str
    fence: int
    owner: str
    takeover: bool = False
    recovery_point: str = STARTED
    recovery_data: bytes | None = None


@final
@dataclass(frozen=True, slots=True)
class Replay:
    """It was done before. `result` is what was recorded, None where the effect took place without a result."""

    result: bytes | None


@final
@dataclass(frozen=True, slots=True)
class Mismatch:
    """The key belongs to another payload."""


@final
@dataclass(frozen=True, slots=True)
class Busy:
    """Somebody runs it now; their lease ends after `retry_after` seconds unless they renew it."""

    retry_after: float


@final
@dataclass(frozen=True, slots=True)
class Abandoned:
    """Somebody ran it, and their lease is over; the caller did not ask to take over."""


Answer: TypeAlias = Run | Replay | Mismatch | Busy | Abandoned


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a store knows of a key, with times relative to the moment of reading on the store's own clock."""

    fingerprint: bytes
    state: Literal["running", "done"]
    fence: int
    owner: str
    lease_left: float
    """Seconds; 0.0 or less when it is over."""
    released: bool
    """The last executor gave the key back."""
    expires_in: float
    """Seconds of retention; 0.0 or less when it is over."""
    recovery_point: str = STARTED
    recovery_data: bytes | None = None
    result: bytes | None = None

    @property
    def forgotten(self) -> bool:
        """Whether the record counts as absent."""
        return self.expires_in <= 0 and self.lease_left <= 0

    def answer(self, fingerprint: bytes, *, takeover: bool) -> Answer | None:
        """What `begin` answers without a write; None where the caller may run."""
        if self.forgotten:
            return None
        if self.fingerprint != fingerprint:
            return Mismatch()
        if self.state == "done":
            return Replay(self.result)
        if self.lease_left > 0:
            return Busy(self.lease_left)
        return None if takeover or self.released else Abandoned()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """How much a store holds: for metrics and alarms. Counting reads the whole table."""

    records: int
    running: int
    done: int
    forgotten: int
    """Records that `gc` would remove now."""
    oldest: float
    """Seconds since the oldest record was made; 0.0 for an empty store."""
    size: int
    """Bytes in use, as far as the store can tell."""


class BlockingTransaction(Protocol):
    """The transaction of an effect, opened under the guard of the fence. See `Transaction`."""

    @property
    def connection(self) -> Any:
        """What the effect is written through."""
        ...

    def call(self, fn: Callable[..., T], /, *args: Any) -> T:
        """Return `fn(connection, *args)`."""
        ...

    def commit(self, result: bytes | None, *, ttl: float) -> bool:
        """Record `result` and commit it together with the effect."""
        ...

    def rollback(self) -> None:
        """Undo the effect. The connection cannot write any more."""
        ...


class Schema(Protocol):
    """The tables of a store, which has them as `BlockingStore.schema` where it makes them itself."""

    def statements(self) -> list[str]:
        """What makes the tables in an empty database."""
        ...

    def migrate(self) -> list[str]:
        """Make the tables, or bring them up to date, whatever the store was told; return what was run."""
        ...


class BlockingOpenTransaction(BlockingTransaction, Protocol):
    """A transaction that holds the claim as well. See `OpenTransaction`."""

    def undo(self) -> None:
        """Undo the effect, and keep the claim."""
        ...


@final
@dataclass(frozen=True, slots=True)
class BlockingOpened:
    """The caller may run, and its transaction is open. See `Opened`."""

    run: Run
    transaction: BlockingOpenTransaction


class BlockingStore(Protocol):
    """A durable store for plain functions and worker threads. See `Store`, method by method."""

    @property
    def modes(self) -> frozenset[Mode]:
        """What this store can guarantee."""
        ...

    def begin(
        self, scope: str, key: str, fingerprint: bytes, *, owner: str, lease: float, ttl: float, takeover: bool = True
    ) -> Answer:
        """Ask for the right to run."""
        ...

    def heartbeat(self, run: Run, *, lease: float) -> bool:
        """Let the lease begin anew."""
        ...

    def save(self, run: Run, point: str, data: bytes | None) -> bool:
        """Move the recovery point."""
        ...

    def complete(self, run: Run, result: bytes | None, *, ttl: float) -> bool:
        """Record the result."""
        ...

    def release(self, run: Run) -> bool:
        """Give the key back."""
        ...

    def transaction(self, run: Run) -> BlockingTransaction | None:
        """Open the transaction of the effect."""
        ...

    def lookup(self, scope: str, key: str) -> Record | None:
        """Read the record of a key."""
        ...

    def gc(self, limit: int = 1000) -> int:
        """Remove forgotten records."""
        ...

    def stats(self) -> Stats:
        """Count what is held."""
        ...

    def close(self) -> None:
        """Give back connections."""
        ...


@runtime_checkable
class BlockingOneCommitStore(Protocol):
    """What a store has besides that can claim inside the effect's transaction. See `OneCommitStore`."""

    def open(
        self, scope: str, key: str, fingerprint: bytes, *, owner: str, lease: float, ttl: float
    ) -> BlockingOpened | Answer:
        """Ask for the right to run, and open the transaction of the effect."""
        ...


class Transaction(Protocol):
    """The transaction of an effect. It was opened under the guard of the fence, and ends exactly once.

    After its end, in whichever way, `connection` cannot write any more: code that outlived a cancellation must not
    slip an effect in without a record. Committing is refused to whoever merely writes the effect.
    """

    @property
    def connection(self) -> Any:
        """What the effect is written through; its type is the store's."""
        ...

    async def call(self, fn: Callable[..., Any], /, *args: Any) -> Any:
        """Return `fn(connection, *args)`, awaited where the store's connection is asynchronous."""
        ...

    async def commit(self, result: bytes | None, *, ttl: float) -> bool:
        """Record `result` and commit it together with the effect.

        False when the transaction had been undone before: then nothing of the effect is left. Raises `LeaseLost` when
        somebody else took over while it was open, which is possible where it keeps nobody waiting.
        """
        ...

    async def rollback(self) -> None:
        """Undo the effect."""
        ...


class OpenTransaction(Transaction, Protocol):
    """A transaction that holds the claim as well as the effect."""

    async def undo(self) -> None:
        """Undo the effect, and keep the claim: another effect may be written, or none, and be recorded."""
        ...


@final
@dataclass(frozen=True, slots=True)
class Opened:
    """The caller may run, and its transaction is open: its claim will have been when that is committed."""

    run: Run
    transaction: OpenTransaction


class Store(Protocol):
    """A durable store. Its module's docstring holds the state machine.

    Stores open nothing before they are first used, may be shared by threads and event loops, and raise
    `StoreUnavailable` for every failure of their own. `lease` and `ttl` are seconds.
    """

    @property
    def modes(self) -> frozenset[Mode]:
        """What this store can guarantee."""
        ...

    @property
    def blocking(self) -> BlockingStore:
        """The same store for plain functions."""
        ...

    async def begin(
        self, scope: str, key: str, fingerprint: bytes, *, owner: str, lease: float, ttl: float, takeover: bool = True
    ) -> Answer:
        """Ask for the right to run the operation `key` of `scope`.

        `owner` names the executor for those who read the table; it stays the same for the claim's whole life. With
        `takeover=False` a dead executor is not followed by another one.
        """
        ...

    async def heartbeat(self, run: Run, *, lease: float) -> bool:
        """Let the lease begin anew, for `lease` seconds; 0.0 ends it without giving the key back."""
        ...

    async def save(self, run: Run, point: str, data: bytes | None) -> bool:
        """Move the recovery point, for whoever takes over."""
        ...

    async def complete(self, run: Run, result: bytes | None, *, ttl: float) -> bool:
        """Record the result and keep it for `ttl` seconds; None: it took place, and has no result to replay."""
        ...

    async def release(self, run: Run) -> bool:
        """Give the key back at once: the lease is zeroed, fence, fingerprint and recovery point stay."""
        ...

    async def transaction(self, run: Run) -> Transaction | None:
        """Open the transaction of the effect; None when the fence is not the caller's any more.

        Raises `ValueError` where the store is not transactional.
        """
        ...

    async def lookup(self, scope: str, key: str) -> Record | None:
        """Read the record of a key, for reconciliation; None when there is none, or a forgotten one."""
        ...

    async def gc(self, limit: int = 1000) -> int:
        """Remove at most `limit` forgotten records, and tell how many.

        A batch is short, so that claims are not kept waiting. Stores also remove a few with every claim: calling this
        is for those that shrink faster than they are used.
        """
        ...

    async def stats(self) -> Stats:
        """Count what is held."""
        ...

    async def close(self) -> None:
        """Give back connections. The store opens them again when it is used again."""
        ...


class OneCommitStore(Protocol):
    """What a store has besides whose claims can be made inside the effect's transaction."""

    async def open(
        self, scope: str, key: str, fingerprint: bytes, *, owner: str, lease: float, ttl: float
    ) -> Opened | Answer:
        """Ask for the right to run, and open the transaction of the effect: one commit for both and the record.

        There is no lease to renew, no recovery point and nothing to take over: an executor that dies leaves nothing
        behind. `lease` bounds how long a silent one keeps the transaction open.
        """
        ...
