"""Messages that take effect once, however often a broker delivers them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, cast, final, overload

from resilient.backends.borrowed import perform, perform_async
from resilient.backends.connecting import connect
from resilient.backends.faces import DirectStore, ThreadedStore
from resilient.backends.inbox import BlockingInbox, Failure, HasInbox, InboxStats, Known, Letter
from resilient.backends.outbox import Plan
from resilient.backends.store import BlockingStore, Store
from resilient.idempotency.claim import BlockingClaim, Claim
from resilient.idempotency.execution import Execution
from resilient.idempotency.hosts import Host, LoopHost, ThreadHost
from resilient.idempotency.outbox import check_name
from resilient.idempotency.processing import Ask, Invoke, Processing, Receipt
from resilient.idempotency.terms import Terms
from resilient.runtime import Runtime
from resilient.waiting import drive

__all__ = ["BlockingHandler", "Handler", "Inbox", "Receipt"]

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 4
_HIGHEST = 2**63 - 1
"""What databases count up to."""


@final
class Inbox:
    """What a message consumer has processed: each message takes effect once, however often it is delivered.

    ```python
    import sqlite3

    from resilient.idempotency import BlockingClaim, Inbox, Receipt

    inbox = Inbox("sqlite:///shop.db", consumer="billing")

    @inbox.handler
    def bill(claim: BlockingClaim, payload: bytes) -> None:
        with claim.transaction() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS bills (customer TEXT)")
            connection.execute("INSERT INTO bills VALUES (?)", (payload.decode(),))

    assert bill(b"alice", key="message-1") is Receipt.PROCESSED
    assert bill(b"alice", key="message-1") is Receipt.DUPLICATE  # delivered again: acknowledge it again
    ```

    The handler receives a `Claim` first (a plain function a `BlockingClaim`) and the payload. What it writes in a block
    of `claim.transaction()` is committed together with the record that the message was processed.

    `store`
        A store in a database, or its URL: the database that effects are written to.
    `consumer`
        Who consumes. Each consumer processes every message once.
    `attempts`
        After how many failed attempts a message is parked (10). A rejection of a policy of ours does not count, nor
        does a database that fails.
    `park_on`
        Exceptions that no repetition will change (none): the message is parked at once.
    `ttl`
        Seconds for which it is remembered that a message was processed (a week: longer than the broker may deliver it
        again).
    `lease`
        Seconds after which a silent consumer counts as dead (30.0). It is renewed three times in that span.
    `runtime`
        Replaces the ambient one.

    Raises `ValueError` for a store that is in no database, or an argument out of its bounds.
    """

    def __init__(
        self,
        store: Store | str,
        *,
        consumer: str,
        attempts: int = 10,
        park_on: tuple[type[Exception], ...] = (),
        ttl: float = 604_800.0,
        lease: float = 30.0,
        runtime: Runtime | None = None,
    ) -> None:
        store = connect(store) if isinstance(store, str) else store
        blocking: BlockingStore = store.blocking
        if not isinstance(blocking, HasInbox):
            raise ValueError(  # noqa: TRY004 - it is a store, but one that keeps none
                f"store={store!r}: an inbox lies in the database that effects are written to, and this is none"
            )
        if attempts < 1:
            raise ValueError(f"attempts={attempts!r}: at least 1")
        self.consumer = check_name("consumer", consumer)
        self.attempts = attempts
        self.park_on = park_on
        # The claim is committed apart: of a message that kills its consumer nothing would be known otherwise.
        self.terms = Terms.agree(store, mode="transactional", lease=lease, ttl=ttl, runtime=runtime, resumable=True)
        self._face = store if isinstance(store, DirectStore) else ThreadedStore(blocking, threads=_THREADS)
        self._blocking = blocking.inbox()

    @overload
    def handler(self, fn: Callable[[Claim, bytes], Coroutine[Any, Any, object]], /) -> Handler: ...
    @overload
    def handler(self, fn: Callable[[BlockingClaim, bytes], object], /) -> BlockingHandler: ...
    def handler(self, fn: Callable[..., Any], /) -> Handler | BlockingHandler:
        """Decorate a function of a claim and a payload, so that it processes messages.

        It is then called with each message that the broker delivers, see `Handler`. Raises `TypeError` for a generator
        function.
        """
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise TypeError(f"{fn.__qualname__}: a generator function; a message is processed by a function")
        return Handler(self, fn) if inspect.iscoroutinefunction(fn) else BlockingHandler(self, fn)

    def advance(self, connection: Any, stream: str, position: int) -> bool:
        """Move the position of a stream in the transaction that is open on `connection`; False where it was there.

        For a consumer that processes a stream in batches of its own: advance to the last message of a batch first, and
        write its effects in the same transaction, only if this returned True. `connection` is as for `Outbox.add`.
        """
        plan = self._advance(stream, position)
        self._blocking.prepare()
        return perform(connection, plan)

    async def advance_async(self, connection: Any, stream: str, position: int) -> bool:
        """Move the position of a stream through an asynchronous connection. See `advance`."""
        plan = self._advance(stream, position)
        await self.ask(self._blocking.prepare)
        return await perform_async(connection, plan)

    async def position(self, stream: str) -> int | None:
        """Return how far a stream was processed, to go on behind it; None for one of which nothing was."""
        return await self.ask(self._blocking.position, self.consumer, stream)

    async def parked(self, *, limit: int = 100, after: int = 0) -> list[Failure]:
        """Return parked messages with an id above `after`, in the order of their ids; see `Handler.retry`."""
        return await self.ask(self._blocking.parked, self.consumer, limit=limit, after=after)

    async def discard(self, *ids: int) -> int:
        """Forget parked messages; return how many there were."""
        return await self.ask(self._blocking.discard, self.consumer, ids)

    async def stats(self) -> InboxStats:
        """Count what could not be processed: `parked` and `oldest` are worth an alarm."""
        return await self.ask(self._blocking.stats, self.consumer)

    async def close(self) -> None:
        """Give back connections. They are opened again when they are needed."""
        await self.ask(self._blocking.close)
        await self.terms.store.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def blocking(self) -> BlockingInbox:
        """The same inbox for plain functions, which pass the consumer: `position`, `parked`, `discard`, `stats`."""
        return self._blocking

    def __repr__(self) -> str:
        return f"Inbox({self.terms.store!r}, consumer={self.consumer!r})"

    def _advance(self, stream: str, position: int) -> Plan[bool]:
        _check_place(stream, position)
        return self._blocking.advance(self.consumer, stream, position)

    async def ask(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `fn(*args, **kwargs)`, waited for as everything of the store is."""
        return await self._face.run_blocking(fn, *args, **kwargs)


class _Handler:
    def __init__(self, inbox: Inbox, fn: Callable[..., Any]) -> None:
        self.inbox = inbox
        self._fn = fn
        functools.update_wrapper(cast("Any", self), fn)

    async def process(self, host: Host, ask: Ask, invoke: Invoke, letter: Letter, *, again: bool) -> Receipt:
        """Process one message, or find out that it was processed or parked."""
        inbox = self.inbox
        known: Known = await ask(inbox.blocking.look, inbox.consumer, letter)
        processing = Processing(
            inbox=inbox.blocking,
            terms=inbox.terms,
            consumer=inbox.consumer,
            most=inbox.attempts,
            park_on=inbox.park_on,
            host=host,
            ask=ask,
            letter=letter,
            again=again,
        )
        return await processing.run(invoke, known)


@final
class Handler(_Handler):
    """Processes messages in a coroutine; `Inbox.handler` makes it."""

    async def __call__(
        self, payload: bytes, *, key: str | None = None, stream: str | None = None, position: int | None = None
    ) -> Receipt:
        """Process a message, once; to return is to have processed it, now or before: acknowledge it.

        `key`
            What the message is known by: an id that its producer gave it (a relay sends the same one with each
            delivery), or that the broker did. Left out, it is made of `stream` and `position`.
        `stream`, `position`
            Where it stands in a stream that is delivered in order, such as a partition: committed together with the
            effect, so that `Inbox.position` tells where to go on. Messages of one stream are processed one after
            another.

        Raises whatever the handler raises (do not acknowledge: have it delivered again), `InProgress` while another
        consumer has it, `StoreUnavailable` when the database fails, `LeaseLost` when it took so long that somebody else
        has taken over, `RuntimeError` for a message behind one that failed, `ValueError` for an argument out of bounds.
        """
        return await self._process(_letter(payload, key, stream, position), again=False)

    async def retry(self, failure: Failure) -> Receipt:
        """Process a parked message after all. It stays parked if it fails again, and is forgotten with its effect."""
        return await self._process(failure.letter, again=True)

    async def _process(self, letter: Letter, *, again: bool) -> Receipt:
        fn = self._fn

        async def invoke(execution: Execution, payload: bytes) -> object:
            return await fn(Claim(execution), payload)

        return await self.process(LoopHost(), self.inbox.ask, invoke, letter, again=again)


@final
class BlockingHandler(_Handler):
    """Processes messages in a plain function; `Inbox.handler` makes it."""

    def __call__(
        self, payload: bytes, *, key: str | None = None, stream: str | None = None, position: int | None = None
    ) -> Receipt:
        """Process a message, once. See `Handler`."""
        return self._process(_letter(payload, key, stream, position), again=False)

    def retry(self, failure: Failure) -> Receipt:
        """Process a parked message after all. See `Handler.retry`."""
        return self._process(failure.letter, again=True)

    def _process(self, letter: Letter, *, again: bool) -> Receipt:
        fn = self._fn

        async def invoke(execution: Execution, payload: bytes) -> object:
            result = fn(BlockingClaim(execution), payload)
            if inspect.isawaitable(result):
                if inspect.iscoroutine(result):
                    result.close()
                raise TypeError(f"{fn.__qualname__} is a plain function, but its result is awaitable")
            return result

        async def ask(step: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
            return step(*args, **kwargs)

        return drive(self.process(ThreadHost(), ask, invoke, letter, again=again))


def _letter(payload: bytes, key: str | None, stream: str | None, position: int | None) -> Letter:
    if not isinstance(payload, bytes):
        raise TypeError(f"payload={payload!r}: bytes, as they came")
    if (stream is None) != (position is None):
        raise ValueError(f"stream={stream!r}, position={position!r}: given together, or neither")
    if stream is not None and position is not None:
        _check_place(stream, position)
        key = f"{stream}:{position}" if key is None else key
    if key is None:
        raise ValueError("key: what the message is known by, or else its stream and position")
    return Letter(key=check_name("key", key), payload=payload, stream=stream, position=position)


def _check_place(stream: str, position: int) -> None:
    check_name("stream", stream)
    if not isinstance(position, int) or not 0 <= position <= _HIGHEST:
        raise ValueError(f"position={position!r}: an integer from 0 to 2**63 - 1")
