"""Claims in a PostgreSQL database, beside the tables that their effects change.

A claim is committed apart (`begin`), or in one transaction with its effect and its record (`open`). Then nobody else
sees it before that is over: who begins under the same key waits at the table's unique index, for a while, and finds the
result, or nothing. An executor that dies leaves no trace, and nobody has to wait for the end of its lease.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, final

import psycopg
from psycopg import errors

from resilient.backends.postgres.database import Work
from resilient.backends.postgres.sessions import Session
from resilient.backends.postgres.statements import Statements
from resilient.backends.store import Answer, Busy, Mode, Opened, Record, Run, Stats
from resilient.context import current_runtime
from resilient.errors import StoreUnavailable

__all__ = ["Claims", "Transaction"]

R = TypeVar("R")

_ROUNDS = 8
"""How often a claim looks again after somebody else was quicker."""
_LONGEST_IDLE = 2_147_483_647
"""Milliseconds: the largest limit that the server takes."""


@final
class Claims:
    """The state machine of a store in PostgreSQL: over asyncio's connections, or over blocking ones."""

    modes: frozenset[Mode] = frozenset({"transactional", "fenced", "at_most_once"})

    def __init__(self, work: Work, sql: Statements, *, lock_timeout: float) -> None:
        self.work = work
        self.sql = sql
        self._lock_timeout = lock_timeout
        self._opening: dict[tuple[str, str], object] = {}
        """The keys for which somebody here waits in the database, which takes a connection: one for each is enough."""

    async def begin(
        self, scope: str, key: str, fingerprint: bytes, *, owner: str, lease: float, ttl: float, takeover: bool = True
    ) -> Answer:
        """Ask for the right to run."""
        values = (_ms(self._lock_timeout), scope, key, fingerprint, owner, lease, ttl, lease, ttl, takeover)
        uncertain = False
        for _ in range(_ROUNDS):
            known, answer = await self._look(scope, key, fingerprint, takeover=takeover)
            if uncertain and known is not None and known.record.state == "running" and known.record.owner == owner:
                return known.run(scope, key)  # the claim was made; only the answer was lost
            if answer is not None:
                return answer
            session = await self.work.take()
            try:
                rows = await session.run(self.sql.claim, *values)
            except errors.LockNotAvailable:
                return Busy(self._lock_timeout)  # past its lease, and its transaction is still open
            except (errors.SerializationFailure, errors.DeadlockDetected):
                continue
            except psycopg.Error as error:
                if uncertain or not session.connection.closed:
                    raise self.work.unavailable(error) from error
                uncertain = True
                continue
            finally:
                await self.work.tidy(session)
            if rows:
                return _claimed(rows[0], scope, key, owner)
        raise self._overtaken(key)

    async def begin_checked(
        self,
        check: Callable[[Session], Awaitable[R | None]],
        scope: str,
        key: str,
        fingerprint: bytes,
        *,
        owner: str,
        lease: float,
        ttl: float,
        takeover: bool,
    ) -> Answer | R:
        """Ask for the right to run, in a transaction in which `check` has nothing against it.

        Before it looks at anything it keeps others from beginning under this key, and from removing its record. What it
        answers instead is committed together with what it did.
        """
        values = (scope, key, fingerprint, owner, lease, ttl, lease, ttl, takeover)

        async def step(session: Session) -> Answer | R | None:
            await session.run("BEGIN ISOLATION LEVEL READ COMMITTED")
            refused = await check(session)
            if refused is not None:
                await session.run("COMMIT")
                return refused
            known = await session.run(self.sql.find, scope, key)
            if known:
                row = _Row.read(known[0])
                if row.record.state == "running" and row.record.owner == owner:
                    return row.run(scope, key)  # the claim was made; only the answer was lost
                answer = row.record.answer(fingerprint, takeover=takeover)
                if answer is not None:
                    await session.run("COMMIT")
                    return answer
            rows = await session.run(self.sql.claim_inside, *values)
            if not rows:
                return None  # its executor has just renewed its lease, or finished
            await session.run("COMMIT")
            return _claimed(rows[0], scope, key, owner)

        for _ in range(_ROUNDS):
            await self._look(scope, key, fingerprint, takeover=takeover)  # for the house that is to be kept
            begun = await self.work.repeat(step, broken=True)
            if begun is not None:
                return begun
        raise self._overtaken(key)

    async def open(
        self, scope: str, key: str, fingerprint: bytes, *, owner: str, lease: float, ttl: float
    ) -> Opened | Answer:
        """Ask for the right to run, and open the transaction of the effect."""
        idle = min(_ms(lease), _LONGEST_IDLE)
        claim = (scope, key, fingerprint, owner, lease, ttl, lease, ttl, True)
        values = (_ms(self._lock_timeout), idle, key, scope, *claim)
        broken, turn = False, object()
        for _ in range(_ROUNDS):
            _, answer = await self._look(scope, key, fingerprint, takeover=True)
            if answer is not None:
                return answer
            if self._opening.setdefault((scope, key), turn) is not turn:
                return Busy(self._lock_timeout)
            session: Session | None = None
            rows: Sequence[Sequence[Any]] = ()
            try:
                session = await self.work.take()
                rows = await session.run(self.sql.open, *values)
            except errors.LockNotAvailable:
                return Busy(self._lock_timeout)
            except (errors.SerializationFailure, errors.DeadlockDetected):
                continue
            except psycopg.Error as error:
                if session is None or broken or not session.connection.closed:
                    raise self.work.unavailable(error) from error
                broken = True  # nothing of it is left
                continue
            finally:
                del self._opening[scope, key]
                if session is not None and not rows:
                    await self.work.tidy(session)
            if session is not None and rows:
                run = _claimed(rows[0], scope, key, owner)
                return Opened(run, Transaction(self, run, session, seconds=lease))
        raise self._overtaken(key)

    async def heartbeat(self, run: Run, *, lease: float) -> bool:
        """Let the lease begin anew."""
        return bool(await self.work.run(self.sql.heartbeat, lease, *_mine(run)))

    async def save(self, run: Run, point: str, data: bytes | None) -> bool:
        """Move the recovery point."""
        return bool(await self.work.run(self.sql.save, point, data, *_mine(run)))

    async def complete(self, run: Run, result: bytes | None, *, ttl: float) -> bool:
        """Record the result."""
        # Not repeated: after one that took place it would be refused. Whoever asked looks it up.
        return bool(await self.work.run(self.sql.complete, result, ttl, *_mine(run), repeatable=False))

    async def release(self, run: Run) -> bool:
        """Give the key back."""
        return bool(await self.work.run(self.sql.release, *_mine(run)))

    async def transaction(self, run: Run) -> Transaction | None:
        """Open the transaction of the effect."""
        session = await self.work.take()
        rows: Sequence[Sequence[Any]] = ()
        try:
            with self.work.database.reporting():
                rows = await session.run(self.sql.guard, _ms(self.work.database.timeout), *_mine(run))
        finally:
            if not rows:
                await self.work.tidy(session)
        return Transaction(self, run, session, seconds=rows[0][0]) if rows else None

    async def lookup(self, scope: str, key: str) -> Record | None:
        """Read the record of a key."""
        rows = await self.work.run(self.sql.find, scope, key)
        record = _Row.read(rows[0]).record if rows else None
        return None if record is None or record.forgotten else record

    async def gc(self, limit: int = 1000) -> int:
        """Remove forgotten records."""
        return len(await self.work.run(self.sql.gc, limit))

    async def stats(self) -> Stats:
        """Count what is held; `size` is that of the table and its indexes."""
        ((records, running, forgotten, oldest, size),) = await self.work.run(self.sql.stats)
        return Stats(
            records=records, running=running, done=records - running, forgotten=forgotten, oldest=oldest, size=size
        )

    async def close(self) -> None:
        """Close the connections that nobody uses; new ones are opened when the store is used again."""
        self.work.close()

    async def _look(
        self, scope: str, key: str, fingerprint: bytes, *, takeover: bool
    ) -> tuple[_Row | None, Answer | None]:
        """What is known of a key, and the answer if it takes no write: for a replay this is all, one round trip."""
        ((due, *columns),) = await self.work.run(self.sql.look, scope, key)
        known = None if columns[0] is None else _Row.read(columns)
        answer = None if known is None else known.record.answer(fingerprint, takeover=takeover)
        if answer is None and due:
            await self.work.run(self.sql.keep_house)
        return known, answer

    def _overtaken(self, key: str) -> StoreUnavailable:
        return StoreUnavailable(f"{self.work.database.name}: {key!r} changed hands {_ROUNDS} times in a moment")


@final
class Transaction:
    """The transaction of one effect, and of its claim as well where `Claims.open` made it.

    The guard was its first write. Were the transaction undone by something else (an error can do that), the record
    would not find it any more; were it committed by something else, everybody else would find it and not run.
    """

    def __init__(self, claims: Claims, run: Run, session: Session, *, seconds: float) -> None:
        self._claims = claims
        self._run = run
        self._session: Session | None = session
        self.connection = session.lend_to_effect(current_runtime().now() + seconds)

    async def call(self, fn: Callable[..., Any], /, *args: Any) -> Any:
        """Return `fn(connection, *args)`, awaited where the connection is asynchronous."""
        result = fn(self.connection, *args)
        if isinstance(self.connection, psycopg.AsyncConnection) and inspect.isawaitable(result):
            return await result
        return result

    async def commit(self, result: bytes | None, *, ttl: float) -> bool:
        """Record `result` and commit it together with the effect."""
        session = await self._end()
        if session is None:
            return False
        sql = self._claims.sql.record
        try:
            with self._claims.work.database.reporting():
                await session.run(sql, result, ttl, *_mine(self._run, state="written"))
        except StoreUnavailable as error:
            if isinstance(error.__cause__, errors.DivisionByZero | errors.InFailedSqlTransaction):
                return False
            raise
        finally:
            await self._claims.work.tidy(session)
        return True

    async def undo(self) -> None:
        """Undo the effect, and keep the claim."""
        if self._session is not None:
            try:
                await self._session.run(self._claims.sql.undo)
            except psycopg.Error:
                await self.rollback()  # the server has undone the whole of it, or will

    async def rollback(self) -> None:
        """Undo all of it."""
        session = await self._end()
        if session is not None:
            await self._claims.work.tidy(session)

    async def _end(self) -> Session | None:
        session, self._session = self._session, None
        if session is not None:
            await session.end_effect()
        return session


@dataclass(frozen=True, slots=True)
class _Row:
    record: Record
    attempt: int

    @classmethod
    def read(cls, columns: Sequence[Any]) -> _Row:
        fingerprint, state, fence, owner, attempt, given_back, lease_left, expires_in, *columns = columns
        recovery_point, recovery_data, result = columns
        record = Record(
            fingerprint=fingerprint,
            # What was written without a record took place all the same, and must not run again.
            state="running" if state == "running" else "done",
            fence=fence,
            owner=owner,
            lease_left=lease_left if state == "running" else 0.0,
            released=state == "running" and given_back,
            expires_in=expires_in,
            recovery_point=recovery_point,
            recovery_data=recovery_data,
            result=result,
        )
        return cls(record, attempt)

    def run(self, scope: str, key: str) -> Run:
        known = self.record
        return _claimed((known.fence, self.attempt, known.recovery_point, known.recovery_data), scope, key, known.owner)


def _claimed(columns: Sequence[Any], scope: str, key: str, owner: str) -> Run:
    fence, attempt, point, data = columns
    return Run(
        scope=scope,
        key=key,
        fence=fence,
        owner=owner,
        takeover=attempt > 1,
        recovery_point=point,
        recovery_data=data,
    )


def _mine(run: Run, *, state: str = "running") -> tuple[str, str, int, str]:
    return run.scope, run.key, run.fence, state


def _ms(seconds: float) -> int:
    return math.ceil(seconds * 1000)
