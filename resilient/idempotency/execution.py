"""One run of an operation under a claim: its lease, its transaction, and the one way it ends.

A host decides what is waited for and how; everything else is the same for coroutines and plain functions.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, final

from resilient.backends.store import OpenTransaction, Run, Store, Transaction
from resilient.errors import LeaseLost, StoreUnavailable
from resilient.events import ClaimFailed, ClaimLost, ResultRecorded
from resilient.idempotency.account import Account
from resilient.idempotency.hosts import Host
from resilient.runtime import Runtime

if TYPE_CHECKING:
    from resilient.idempotency.terms import Terms

__all__ = ["Execution"]

T = TypeVar("T")

_log = logging.getLogger("resilient.idempotency")

_BEATS = 3
"""Heartbeats a lease: one may be lost, and another late, before the lease is."""


@final
class Execution:
    """Holds the lease while a handler runs, and ends exactly once: `complete` or `fail`, whichever comes first."""

    def __init__(
        self,
        terms: Terms,
        host: Host,
        store: Store,
        run: Run,
        runtime: Runtime,
        account: Account,
        *,
        whole: OpenTransaction | None = None,
    ) -> None:
        self.run = run
        self.account = account
        self.recovery_point = run.recovery_point
        self.recovery_data = run.recovery_data
        self.lost = False
        self.released = False
        self.failed = False
        self._terms = terms
        self._host = host
        self._store = store
        self._runtime = runtime
        self._whole = whole
        """The transaction that holds the claim as well."""
        self._transaction: Transaction | None = None
        """The one that an effect is, or was, written in."""
        self._opened_at = runtime.now()
        self._writing = False
        """The effect is being written: half of it may be there."""
        self._ended = False
        self._turn = host.turn()
        self._stop = host.repeat(self._beat, terms.lease / _BEATS, runtime)

    @property
    def transactional(self) -> bool:
        """Whether effect and record share a transaction."""
        return self._terms.mode == "transactional"

    @property
    def connection(self) -> Any:
        """The connection of the open transaction."""
        if self._transaction is None:
            raise RuntimeError("no transaction is open: claim.connection is for code inside `claim.transaction()`")
        return self._transaction.connection

    async def open(self) -> Any:
        """Open the transaction of the effect and return its connection; `close` or `undo` has to follow."""
        self._check_ready()
        transaction = await self._host.shelter(self._open, self._undo)
        return transaction.connection

    def close(self) -> None:
        """Declare that the effect is written."""
        self._writing = False

    async def apply(self, effect: Callable[..., Any]) -> Any:
        """Open the transaction and run `effect` in it, undone if it raises."""
        self._check_ready()
        return await self._host.shelter(lambda: self._apply(effect), self._undo)

    async def append(self, effect: Callable[..., Any]) -> None:
        """Run one more effect in the transaction, which is opened if it is not; undone if it raises.

        It is for what belongs to the record. A handler that ended inside its block is left to `complete` to report.
        """
        await self._host.shelter(lambda: self._append(effect), self._undo)

    async def undo(self) -> None:
        """Undo the transaction; another one may be opened."""
        await self._host.shelter(self._undo)

    async def save(self, point: str, data: bytes | None) -> None:
        """Save the recovery point."""
        self._check_ready()
        if self._terms.one_commit:
            raise RuntimeError(
                "a recovery point takes a commit of its own, and this operation has one in all: pass resumable=True"
            )
        await self._host.shelter(lambda: self._save(point, data))

    async def complete(self, result: bytes | None, *, kept: bool = True) -> None:
        """Record the result, together with the effect where a transaction is open.

        `kept=False` tells that `result` only says that it happened.

        Raises `LeaseLost` when somebody else has taken over, and `StoreUnavailable` when the record could not be
        written: then the effect was undone in a transaction, and is unrecorded without one.
        """
        await self._host.shelter(lambda: self._complete(result, kept=kept))

    async def fail(self) -> None:
        """Record nothing: undo the transaction, and give the key back where nothing can have happened."""
        await self._host.shelter(self._fail)

    async def _open(self) -> Transaction:
        async with self._turn:
            return await self._begin()

    async def _apply(self, effect: Callable[..., Any]) -> Any:
        async with self._turn:
            transaction = await self._begin()
            try:
                result = await transaction.call(effect)
            except BaseException:
                await self._undo_effect()
                raise
            self.close()
            return result

    async def _append(self, effect: Callable[..., Any]) -> None:
        async with self._turn:
            if self._writing:
                return
            transaction = await self._begin() if self._transaction is None else self._transaction
            try:
                await transaction.call(effect)
            except BaseException:
                await self._undo_effect()
                raise
            self.close()

    async def _begin(self) -> Transaction:
        if not self.transactional:
            raise RuntimeError(f"mode={self._terms.mode!r}: only transactional mode has a transaction")
        self._check_ready()
        transaction: Transaction | None = self._whole
        if transaction is None:
            with self.account.closed_on_failure(self._store):
                transaction = await self._store.transaction(self.run)
            self._opened_at = self._runtime.now()
        if transaction is None:
            self._lose()
            raise self._lease_lost()
        self._transaction, self._writing = transaction, True
        return transaction

    async def _undo(self, _result: object = None) -> None:
        async with self._turn:
            await self._undo_effect()

    async def _undo_effect(self) -> None:
        if self._whole is None:
            await self._roll_back()
        elif self._transaction is not None:
            self._transaction, self._writing = None, False
            await self._whole.undo()

    async def _roll_back(self) -> None:
        transaction = self._take_transaction()
        if transaction is not None:
            await transaction.rollback()

    def _take_transaction(self) -> Transaction | None:
        transaction = self._transaction or self._whole
        self._transaction = self._whole = None
        self._writing = False
        return transaction

    async def _save(self, point: str, data: bytes | None) -> None:
        async with self._turn:
            self._check_ready()
            with self.account.closed_on_failure(self._store):
                saved = await self._store.save(self.run, point, data)
            if not saved:
                self._lose()
                raise self._lease_lost()
            self.recovery_point, self.recovery_data = point, data

    async def _complete(self, result: bytes | None, *, kept: bool) -> None:
        async with self._turn:
            if self._ended:
                raise _over()
            if self.released or self.failed or self.lost or self._writing:
                obstacle = self._obstacle()
                await self._finish_without_record()
                if obstacle is not None:
                    raise obstacle
                return
            self._end()
            transaction = self._take_transaction()
            problem: StoreUnavailable | None = None
            recorded = False
            try:
                with self.account.closed_on_failure(self._store):
                    recorded = await self._record(transaction, result)
            except StoreUnavailable as error:
                problem = error
            except LeaseLost:
                self._lose()
                raise
            if recorded or (problem is not None and await self._was_recorded()):
                self.account.tell(ResultRecorded, fence=self.run.fence, kept=kept and result is not None)
                return
            if transaction is None:
                if problem is None:
                    self._lose()
                raise problem or self._lease_lost()
            await self._quietly(self._give_back)
            raise problem or RuntimeError(
                "the claim's transaction was undone before its end, by an error inside it that the handler caught; "
                "nothing was written"
            )

    def _obstacle(self) -> Exception | None:
        """Why there is nothing to record; None where the handler said so."""
        if self.released or self.failed:
            return None
        if self.lost:
            return self._lease_lost()
        return RuntimeError("the handler ended inside a block of its claim's transaction, which was undone")

    async def _record(self, transaction: Transaction | None, result: bytes | None) -> bool:
        ttl = self._terms.ttl
        if transaction is None:
            return await self._store.complete(self.run, result, ttl=ttl)
        return await transaction.commit(result, ttl=ttl)

    async def _was_recorded(self) -> bool:
        """Whether only the answer was lost, not the record."""
        record = await self._quietly(lambda: self._store.lookup(self.run.scope, self.run.key))
        return record is not None and record.state == "done" and record.fence == self.run.fence

    async def _fail(self) -> None:
        async with self._turn:
            await self._finish_without_record()

    async def _finish_without_record(self) -> None:
        if self._ended:
            return
        self._end()
        await self._quietly(self._roll_back)
        await self._quietly(self._give_back)
        if not self.lost:
            free = self.released or self.transactional
            self.account.tell(ClaimFailed, fence=self.run.fence, released=free)

    async def _give_back(self) -> None:
        if self._terms.one_commit:
            return  # there is no claim without its effect
        if self.released or self.transactional:
            await self._store.release(self.run)
        elif self._terms.mode == "at_most_once":
            # Not given back: from here on the outcome is unknown, and need not be waited for.
            await self._store.heartbeat(self.run, lease=0.0)
        # A fenced lease is held to its end: what was begun elsewhere gets that long to come to rest.

    async def _beat(self) -> None:
        async with self._turn:
            if self._ended or self.lost:
                return
            if self._transaction is None and self._whole is None:
                await self._quietly(self._renew)
            elif self._runtime.now() - self._opened_at > self._terms.lease:
                # Nobody can take over while it is open, so there is nothing to renew; but everybody waits for it.
                self._lose()
                await self._quietly(self._roll_back)

    async def _renew(self) -> None:
        if not await self._store.heartbeat(self.run, lease=self._terms.lease):
            self._lose()

    async def _quietly(self, step: Callable[[], Awaitable[T]]) -> T | None:
        """Run a step whose failure changes nothing for the caller: the lease ends by itself."""
        try:
            return await step()
        except Exception:  # noqa: BLE001 - stores are anybody's; what they raise is logged
            _log.warning("key %r: %r failed", self.run.key, self._store, exc_info=True)
            return None

    def _lose(self) -> None:
        self.lost = True
        self.account.tell(ClaimLost, fence=self.run.fence)

    def _end(self) -> None:
        self._ended = True
        self._stop()

    def _check_ready(self) -> None:
        # Asked for before the turn, too: an effect that holds the turn must not wait for it.
        if self.lost:
            raise self._lease_lost()
        if self._ended:
            raise _over()
        if self._transaction is not None:
            raise RuntimeError(
                "the claim's transaction is open already: write everything in one block, and save recovery points "
                "before it"
            )

    def _lease_lost(self) -> LeaseLost:
        return LeaseLost(f"{self.run.key!r}: the lease ended, and somebody else may run it now")


def _over() -> RuntimeError:
    return RuntimeError("the claim has ended: its result is recorded, or it failed")
