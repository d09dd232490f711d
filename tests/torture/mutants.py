"""Stores that are broken on purpose, each in one way that real ones are: they prove that the suite can fail.

They stand around the right store, whichever it is, and take back one of its rules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, final

from resilient.backends.store import BlockingStore, BlockingTransaction, Record, Run
from tests.torture.checker import Row
from tests.torture.hooks import RECORDED, Fate, HookedBlocking
from tests.torture.places import Deferred, Place

T = TypeVar("T")


class Mutant(HookedBlocking):
    """Right so far."""

    def __init__(self, store: BlockingStore, place: Place, fate: Fate) -> None:
        super().__init__(store, fate)
        self.place = place

    def heartbeat(self, run: Run, *, lease: float) -> bool:
        return self.store.heartbeat(run, lease=lease)

    def complete(self, run: Run, result: bytes | None, *, ttl: float) -> bool:
        return self.store.complete(run, result, ttl=ttl)

    def begin(self, *args: Any, **kwargs: Any) -> Any:
        return self.store.begin(*args, **kwargs)

    def transaction(self, run: Run) -> BlockingTransaction | None:
        return self.store.transaction(run)

    def gc(self, limit: int = 1000) -> int:
        return self.store.gc(limit)

    def current(self, run: Run) -> Run:
        """The run of whoever holds the key now."""
        record: Record | None = self.store.lookup(run.scope, run.key)
        return run if record is None else run._replace(fence=record.fence)


@final
class WithoutFence(Mutant):
    """Takes any executor for the current one."""

    def complete(self, run: Run, result: bytes | None, *, ttl: float) -> bool:
        return self.store.complete(self.current(run), result, ttl=ttl)

    def transaction(self, run: Run) -> BlockingTransaction | None:
        return self.store.transaction(self.current(run))


@final
class WithoutGuard(Mutant):
    """Opens the transaction of the effect without a look at the claim, and does not mind what became of the record."""

    def transaction(self, run: Run) -> BlockingTransaction | None:
        def commit(effect: list[Row], result: bytes | None, ttl: float) -> bool:
            self.place.apply(effect)
            self.store.complete(run, result, ttl=ttl)
            return True

        return _Deferred(commit)

    def complete(self, run: Run, result: bytes | None, *, ttl: float) -> bool:
        self.store.complete(run, result, ttl=ttl)
        return True


@final
class RecordFirst(Mutant):
    """Records, and then lets the effect follow."""

    def transaction(self, run: Run) -> BlockingTransaction | None:
        def commit(effect: list[Row], result: bytes | None, ttl: float) -> bool:
            if not self.store.complete(run, result, ttl=ttl):
                return False
            self.fate.reach(RECORDED)
            self.place.apply(effect)
            return True

        return _Deferred(commit)


@final
class Deleting(Mutant):
    """Deletes the record where the key is to be given back."""

    def release(self, run: Run) -> bool:
        self.place.delete(run.key)
        return True


MUTANTS: dict[str, Callable[[BlockingStore, Place, Fate], Mutant]] = {
    "without the fence": WithoutFence,
    "without the guard": WithoutGuard,
    "record before effect": RecordFirst,
    "delete instead of release": Deleting,
}


@final
class _Deferred:
    """A transaction that only remembers what is to be written."""

    def __init__(self, commit: Callable[[list[Row], bytes | None, float], bool]) -> None:
        self.connection = Deferred()
        self._commit = commit

    def call(self, fn: Callable[..., T], /, *args: Any) -> T:
        return fn(self.connection, *args)

    def commit(self, result: bytes | None, *, ttl: float) -> bool:
        return self._commit(self.connection.rows, result, ttl)

    def rollback(self) -> None:
        self.connection.rows.clear()
