"""A store in whose steps a process dies, falls asleep, or loses what it was about to say or to hear.

The store is the real one; this stands around it, on both of its faces, and production code knows nothing of it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar, cast, final

import anyio

from resilient.backends.store import (
    Answer,
    BlockingOneCommitStore,
    BlockingOpened,
    BlockingOpenTransaction,
    BlockingStore,
    BlockingTransaction,
    Mode,
    OneCommitStore,
    Opened,
    OpenTransaction,
    Record,
    Run,
    Stats,
    Store,
    Transaction,
)
from resilient.errors import StoreUnavailable
from tests.torture.history import Pen

T = TypeVar("T")

CLAIMED = "after the claim"
WRITING = "in the middle of the effect"
WRITTEN = "after the effect, before the record"
RECORDED = "after the record"
REPLYING = "in the middle of the reply"
COLLECTING = "during the collection"
POINTS = (CLAIMED, WRITING, WRITTEN, RECORDED, REPLYING, COLLECTING)


@final
@dataclass
class Fate:
    """What becomes of a process: drawn from its seed when it is born, written down as it happens."""

    pen: Pen
    random: Random
    action: str = ""
    """`kill`, `stop`, or nothing."""
    point: str = ""
    passage: int = 1
    """At which passage of the point."""
    cuts: float = 0.0
    """The share of records that are cut off: half of them before they are written, half of their answers."""
    heart: str = "beats"
    """`beats`, `lost` (nothing is sent), `cut` (an error), `slow` (sent when the lease is over)."""
    lease: float = 0.25
    _passed: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reach(self, point: str) -> None:
        """Pass a point, or not."""
        if not self.action or point != self.point:
            return
        with self._lock:
            self._passed[point] += 1
            met = self._passed[point] == self.passage
        if met:
            self.meet()

    def collect(self, gc: Callable[[], int]) -> int:
        """Collect, in the midst of which the process may end: from another thread, at a moment nobody chose."""
        if self.action and self.point == COLLECTING:
            threading.Timer(self.random.random() * 0.003, self.reach, (COLLECTING,)).start()
        return gc()

    def meet(self) -> None:
        """Die, or sleep until somebody sends SIGCONT."""
        self.pen.write(self.action, point=self.point, pid=os.getpid())
        os.kill(os.getpid(), signal.SIGKILL if self.action == "kill" else signal.SIGSTOP)

    def forgive(self) -> None:
        """From here on nothing happens any more."""
        self.action, self.cuts, self.heart = "", 0.0, "beats"

    def cut(self) -> bool:
        """Whether this message is lost."""
        return self.cuts > 0 and self.random.random() < self.cuts / 2

    def lose(self, what: str) -> StoreUnavailable:
        """The error of whoever was cut off."""
        self.pen.write("cut", point=what)
        return StoreUnavailable(f"cut off {what}")


class HookedBlocking:
    """The blocking face."""

    def __init__(self, store: BlockingStore, fate: Fate) -> None:
        self.store, self.fate = store, fate

    @property
    def modes(self) -> frozenset[Mode]:
        return self.store.modes

    def begin(
        self, scope: str, key: str, fingerprint: bytes, *, owner: str, lease: float, ttl: float, takeover: bool = True
    ) -> Answer:
        answer = self.store.begin(scope, key, fingerprint, owner=owner, lease=lease, ttl=ttl, takeover=takeover)
        if isinstance(answer, Run):
            self.fate.reach(CLAIMED)
        return answer

    def heartbeat(self, run: Run, *, lease: float) -> bool:
        match self.fate.heart:
            case "lost":
                return True
            case "cut":
                raise self.fate.lose("at a heartbeat")
            case "slow":
                time.sleep(self.fate.lease * 1.3)
        return self.store.heartbeat(run, lease=lease)

    def save(self, run: Run, point: str, data: bytes | None) -> bool:
        return self.store.save(run, point, data)

    def complete(self, run: Run, result: bytes | None, *, ttl: float) -> bool:
        return _recorded(self.fate, lambda: self.store.complete(run, result, ttl=ttl))

    def release(self, run: Run) -> bool:
        return self.store.release(run)

    def transaction(self, run: Run) -> BlockingTransaction | None:
        opened = self.store.transaction(run)
        return None if opened is None else _BlockingTransaction(opened, self.fate)

    def lookup(self, scope: str, key: str) -> Record | None:
        return self.store.lookup(scope, key)

    def gc(self, limit: int = 1000) -> int:
        return self.fate.collect(lambda: self.store.gc(limit))

    def stats(self) -> Stats:
        return self.store.stats()

    def close(self) -> None:
        self.store.close()


@final
class HookedOneCommitBlocking(HookedBlocking):
    """The blocking face of a store that can claim inside the effect's transaction."""

    def open(
        self, scope: str, key: str, fingerprint: bytes, *, owner: str, lease: float, ttl: float
    ) -> BlockingOpened | Answer:
        store = cast("BlockingOneCommitStore", self.store)
        opened = store.open(scope, key, fingerprint, owner=owner, lease=lease, ttl=ttl)
        if not isinstance(opened, BlockingOpened):
            return opened
        self.fate.reach(CLAIMED)
        return BlockingOpened(opened.run, _BlockingOpenTransaction(opened.transaction, self.fate))


class _BlockingTransaction:
    def __init__(self, transaction: BlockingTransaction, fate: Fate) -> None:
        self.transaction, self.fate = transaction, fate

    @property
    def connection(self) -> Any:
        return self.transaction.connection

    def call(self, fn: Callable[..., T], /, *args: Any) -> T:
        return self.transaction.call(fn, *args)

    def commit(self, result: bytes | None, *, ttl: float) -> bool:
        return _recorded(self.fate, lambda: self.transaction.commit(result, ttl=ttl), self.transaction.rollback)

    def rollback(self) -> None:
        self.transaction.rollback()


@final
class _BlockingOpenTransaction(_BlockingTransaction):
    def undo(self) -> None:
        cast("BlockingOpenTransaction", self.transaction).undo()


def _recorded(fate: Fate, record: Callable[[], bool], undo: Callable[[], object] = lambda: None) -> bool:
    fate.reach(WRITTEN)
    if fate.cut():
        undo()
        raise fate.lose("before the record")
    done = record()
    fate.reach(RECORDED)
    if fate.cut():
        raise fate.lose("after the record")
    return done


class HookedStore:
    """The asynchronous face of a store whose own is asynchronous, with the blocking one beside it."""

    def __init__(self, store: Store, fate: Fate) -> None:
        self.store, self.fate = store, fate

    @property
    def modes(self) -> frozenset[Mode]:
        return self.store.modes

    @property
    def blocking(self) -> BlockingStore:
        store = self.store.blocking
        able = isinstance(store, BlockingOneCommitStore)
        return (HookedOneCommitBlocking if able else HookedBlocking)(store, self.fate)

    async def begin(
        self, scope: str, key: str, fingerprint: bytes, *, owner: str, lease: float, ttl: float, takeover: bool = True
    ) -> Answer:
        answer = await self.store.begin(scope, key, fingerprint, owner=owner, lease=lease, ttl=ttl, takeover=takeover)
        if isinstance(answer, Run):
            self.fate.reach(CLAIMED)
        return answer

    async def open(
        self, scope: str, key: str, fingerprint: bytes, *, owner: str, lease: float, ttl: float
    ) -> Opened | Answer:
        store = cast("OneCommitStore", self.store)
        opened = await store.open(scope, key, fingerprint, owner=owner, lease=lease, ttl=ttl)
        if not isinstance(opened, Opened):
            return opened
        self.fate.reach(CLAIMED)
        return Opened(opened.run, _OpenTransaction(opened.transaction, self.fate))

    async def heartbeat(self, run: Run, *, lease: float) -> bool:
        match self.fate.heart:
            case "lost":
                return True
            case "cut":
                raise self.fate.lose("at a heartbeat")
            case "slow":
                await anyio.sleep(self.fate.lease * 1.3)
        return await self.store.heartbeat(run, lease=lease)

    async def save(self, run: Run, point: str, data: bytes | None) -> bool:
        return await self.store.save(run, point, data)

    async def complete(self, run: Run, result: bytes | None, *, ttl: float) -> bool:
        self.fate.reach(WRITTEN)
        if self.fate.cut():
            raise self.fate.lose("before the record")
        done = await self.store.complete(run, result, ttl=ttl)
        self.fate.reach(RECORDED)
        if self.fate.cut():
            raise self.fate.lose("after the record")
        return done

    async def release(self, run: Run) -> bool:
        return await self.store.release(run)

    async def transaction(self, run: Run) -> Transaction | None:
        opened = await self.store.transaction(run)
        return None if opened is None else _Transaction(opened, self.fate)

    async def lookup(self, scope: str, key: str) -> Record | None:
        return await self.store.lookup(scope, key)

    async def gc(self, limit: int = 1000) -> int:
        if self.fate.action and self.fate.point == COLLECTING:
            threading.Timer(self.fate.random.random() * 0.003, self.fate.reach, (COLLECTING,)).start()
        return await self.store.gc(limit)

    async def stats(self) -> Stats:
        return await self.store.stats()

    async def close(self) -> None:
        await self.store.close()


class _Transaction:
    def __init__(self, transaction: Transaction, fate: Fate) -> None:
        self.transaction, self.fate = transaction, fate

    @property
    def connection(self) -> Any:
        return self.transaction.connection

    async def call(self, fn: Callable[..., Any], /, *args: Any) -> Any:
        return await self.transaction.call(fn, *args)

    async def commit(self, result: bytes | None, *, ttl: float) -> bool:
        self.fate.reach(WRITTEN)
        if self.fate.cut():
            await self.transaction.rollback()
            raise self.fate.lose("before the record")
        done = await self.transaction.commit(result, ttl=ttl)
        self.fate.reach(RECORDED)
        if self.fate.cut():
            raise self.fate.lose("after the record")
        return done

    async def rollback(self) -> None:
        await self.transaction.rollback()


@final
class _OpenTransaction(_Transaction):
    async def undo(self) -> None:
        await cast("OpenTransaction", self.transaction).undo()
