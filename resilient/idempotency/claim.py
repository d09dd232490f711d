"""What a handler holds while it runs under a key."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar, final, overload

import anyio

from resilient.idempotency.execution import Execution
from resilient.idempotency.fingerprint import derive_key
from resilient.waiting import drive

__all__ = ["BlockingClaim", "Claim"]

P = ParamSpec("P")
T = TypeVar("T")

Wait = Callable[[Callable[..., Coroutine[Any, Any, Any]]], Any]
"""Runs a coroutine function to its end and returns its result."""


class _AnyClaim:
    __slots__ = ("_execution",)

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    @property
    def scope(self) -> str:
        """What the key is unique in."""
        return self._execution.run.scope

    @property
    def key(self) -> str:
        """The idempotency key."""
        return self._execution.run.key

    @property
    def fence(self) -> int:
        """A number that is higher than that of every earlier claim of this store.

        For systems that refuse a writer whose number is lower than one they have seen. It tells executors apart; it
        does not tell whether an earlier one took effect: that takes `derive_key`.
        """
        return self._execution.run.fence

    @property
    def takeover(self) -> bool:
        """Whether somebody began under this key before and did not finish."""
        return self._execution.run.takeover

    @property
    def lost(self) -> bool:
        """Whether somebody else may have taken over, as far as is known: the result will not be recorded."""
        return self._execution.lost

    @property
    def recovery_point(self) -> str:
        """The name that was saved last, by this executor or the one it followed; "started" before the first."""
        return self._execution.recovery_point

    @property
    def recovery_data(self) -> Any:
        """What was saved with the recovery point."""
        data = self._execution.recovery_data
        return None if data is None else json.loads(data)

    @property
    def connection(self) -> Any:
        """The store's own connection, inside the transaction that also commits the record.

        With SQLite a `sqlite3.Connection`, with PostgreSQL a `psycopg.AsyncConnection` on asyncio and a
        `psycopg.Connection` elsewhere. Committing it is not for the handler. Raises `RuntimeError` outside a
        block of `transaction()`.
        """
        return self._execution.connection

    def derive_key(self, step: str) -> str:
        """Return the idempotency key of one step: a UUID, the same for every executor of this claim.

        To be sent with whatever the handler causes elsewhere, so that it happens once there, too.
        """
        return derive_key(self.scope, self.key, step)

    def release(self) -> None:
        """Declare that nothing was done: no result is recorded, and the key is free as soon as the handler ends.

        For a refusal that a retry should not be answered with. What was written in a transaction is undone.
        """
        self._execution.released = True

    def fail(self) -> None:
        """Declare that this run failed, as an exception does that leaves the handler: no result is recorded.

        For frameworks that answer an exception themselves, so that a response is all that can be seen from outside.
        What was written in a transaction is undone and the key is free when the handler ends; a `fenced` lease is held
        to its end; with `at_most_once` the outcome is unknown.
        """
        self._execution.failed = True

    def __repr__(self) -> str:
        return f"{type(self).__name__}(scope={self.scope!r}, key={self.key!r}, fence={self.fence})"


@final
class Claim(_AnyClaim):
    """The right to run an operation under a key, held by a coroutine. The library makes it; handlers receive it.

    The lease behind it is renewed while the handler runs. How effects become exactly-once depends on where they go:

    - into the store's own database: write them in one block of `transaction()` (or with `run`), in mode
      `transactional`. They are committed together with the handler's result, after the handler returned;
    - elsewhere: send `derive_key(step)` along, and `save` what came back before the next step.
    """

    __slots__ = ()

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Any]:
        """Open the transaction that commits this block's writes together with the record.

        Yields the connection. With SQLite its statements run where they are called, which is short: the lock is held
        already, and the disk is synced later, in a worker thread. An exception that leaves the block undoes it.

        The transaction stays open until the handler returns, and keeps other writers waiting: compute first, write
        last, in one block. After a lease (30 seconds by default) it is undone. Raises `LeaseLost` when somebody else
        has taken over, `StoreUnavailable` when the store cannot, `RuntimeError` for a second block after one that
        succeeded, and in other modes.
        """
        connection = await self._execution.open()
        try:
            yield connection
        except BaseException:
            await self._execution.undo()
            raise
        self._execution.close()

    @overload
    async def run(
        self, effect: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...
    @overload
    async def run(self, effect: Callable[Concatenate[Any, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    async def run(self, effect: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Return `effect(connection, *args, **kwargs)`, run in the transaction that also commits the record.

        Like a block of `transaction()`. With SQLite `effect` is a plain function, and the whole of it runs in a worker
        thread, so that the event loop never waits for the disk. Where the store's connection is asynchronous, it is a
        coroutine function.
        """

        def step(connection: Any) -> Any:
            return effect(connection, *args, **kwargs)

        return await self._execution.apply(step)

    async def save(self, point: str, data: Any = None) -> None:
        """Save how far the work has come: whoever takes over finds `recovery_point` and `recovery_data`.

        `data` is what JSON can say. Raises `LeaseLost` when somebody else has taken over, `StoreUnavailable`, and
        `RuntimeError` where claim and effect are one commit: `resumable=True` makes them two.
        """
        await self._execution.save(point, None if data is None else json.dumps(data).encode())

    @property
    def blocking(self) -> BlockingClaim:
        """The same claim for a worker thread of anyio: what FastAPI and Starlette run plain functions in."""
        return BlockingClaim(self._execution, anyio.from_thread.run)


@final
class BlockingClaim(_AnyClaim):
    """The right to run an operation under a key, held by a plain function. See `Claim`."""

    __slots__ = ("_wait",)

    def __init__(self, execution: Execution, wait: Wait | None = None) -> None:
        super().__init__(execution)
        self._wait: Wait = _drive if wait is None else wait

    @contextmanager
    def transaction(self) -> Generator[Any]:
        """Open the transaction that commits this block's writes together with the record.

        See `Claim.transaction`.
        """
        connection = self._wait(self._execution.open)
        try:
            yield connection
        except BaseException:
            self._wait(self._execution.undo)
            raise
        self._execution.close()

    def save(self, point: str, data: Any = None) -> None:
        """Save how far the work has come. See `Claim.save`."""
        encoded = None if data is None else json.dumps(data).encode()
        self._wait(lambda: self._execution.save(point, encoded))


def _drive(step: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return drive(step())
