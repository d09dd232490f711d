"""Effects that leave the database: written down in the transaction, delivered afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, final

from resilient.backends.borrowed import perform, perform_async
from resilient.backends.connecting import connect
from resilient.backends.faces import DirectStore, ThreadedStore
from resilient.backends.outbox import BlockingOutbox, Draft, HasOutbox, OutboxStats, Parked
from resilient.backends.store import BlockingStore, Store
from resilient.context import current_runtime
from resilient.idempotency.once import dump_json
from resilient.runtime import Runtime

__all__ = ["Outbox"]

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 4
"""Worker threads an event loop, where the store itself needs none: a relay claims, settles and renews."""
_LONGEST_NAME = 255
"""Bytes of a topic, a key or a group: what fits an index of every database."""


@final
class Outbox:
    """Messages that are sent exactly if the transaction is committed in which they were added.

    ```python
    import sqlite3

    from resilient.idempotency import Outbox

    outbox = Outbox("sqlite:///shop.db")
    shop = sqlite3.connect("shop.db")
    with shop:
        shop.execute("CREATE TABLE orders (id TEXT)")
        shop.execute("INSERT INTO orders VALUES ('order-1')")
        outbox.add(shop, "confirmations", {"order": "order-1"}, key="order-1")
    assert outbox.blocking.stats().pending == 1
    shop.close()
    ```

    A `Relay` delivers them, at least once, each time under the same key.

    `store`
        A store in a database, or its URL: the database that effects are written to. The tables are made there by
        whoever comes first.
    `keep`
        Seconds for which a delivered message is kept (a day): meanwhile its key is known and cannot be added again.
    `max_payload`
        Bytes of a payload (1 MiB): a message is read into memory, and eight at a time are.
    `runtime`
        Replaces the ambient one.

    Safe to share between threads and event loops. Raises `ValueError` for a store that is in no database.
    """

    def __init__(
        self,
        store: Store | str,
        *,
        keep: float = 86_400.0,
        max_payload: int = 1_048_576,
        runtime: Runtime | None = None,
    ) -> None:
        store = connect(store) if isinstance(store, str) else store
        if not 0 <= keep < math.inf:
            raise ValueError(f"keep={keep!r}: a finite number of seconds, at least 0")
        if max_payload < 0:
            raise ValueError(f"max_payload={max_payload!r}: bytes, at least 0")
        blocking: BlockingStore = store.blocking
        if not isinstance(blocking, HasOutbox):
            raise ValueError(  # noqa: TRY004 - it is a store, but one that keeps none
                f"store={store!r}: an outbox lies in the database that effects are written to, and this is none"
            )
        self._store = store
        self._face = store if isinstance(store, DirectStore) else ThreadedStore(blocking, threads=_THREADS)
        self._blocking = blocking.outbox(keep=keep)
        self._max_payload = max_payload
        self._runtime = runtime

    @property
    def blocking(self) -> BlockingOutbox:
        """The same messages for plain functions: `stats`, `parked`, `requeue`, `discard`, `gc`."""
        return self._blocking

    def add(
        self,
        connection: Any,
        topic: str,
        payload: Any,
        *,
        key: str | None = None,
        group: str | None = None,
        headers: Mapping[str, str] | None = None,
        delay: float = 0.0,
    ) -> str:
        """Add a message in the transaction that is open on `connection`, and return its key.

        `connection`
            That of a claim, or your own: of sqlite3 or psycopg, or a connection or session of SQLAlchemy. Commit it as
            you always do; nothing is committed here.
        `topic`
            What kind of message it is: a relay may be for some topics only.
        `payload`
            Bytes, or what JSON can say.
        `key`
            The idempotency key that is sent along with every delivery, `claim.derive_key(step)` for example. Unique in
            its topic: to add the same message again does nothing. Left out, it is a fresh one.
        `group`
            Messages of one group and topic are delivered one after another, in the order in which they were committed:
            an account's, say. Without one there is no order.
        `headers`
            Text that travels beside the payload: a content type, a trace.
        `delay`
            Seconds before it may be delivered.

        Raises `KeyReused` for a known key with another payload or group, `TypeError` for a connection that is none of
        these and a payload that JSON cannot hold, `ValueError` for a connection to another database or an argument out
        of its bounds, and `RuntimeError` for a connection that commits each statement by itself.
        """
        draft = self._draft(topic, payload, key, group, headers, delay)
        self._blocking.prepare()
        perform(connection, self._blocking.add(draft))
        return draft.key

    async def add_async(
        self,
        connection: Any,
        topic: str,
        payload: Any,
        *,
        key: str | None = None,
        group: str | None = None,
        headers: Mapping[str, str] | None = None,
        delay: float = 0.0,
    ) -> str:
        """Add a message through an asynchronous connection, of psycopg or of SQLAlchemy. See `add`."""
        draft = self._draft(topic, payload, key, group, headers, delay)
        await self.run_blocking(self._blocking.prepare)
        await perform_async(connection, self._blocking.add(draft))
        return draft.key

    async def stats(self) -> OutboxStats:
        """Count what is held: `parked` and `oldest` are worth an alarm."""
        return await self.run_blocking(self._blocking.stats)

    async def parked(self, *, limit: int = 100, after: int = 0) -> list[Parked]:
        """Return messages that are not delivered any more, with an id above `after`, in the order of their ids."""
        return await self.run_blocking(self._blocking.parked, limit=limit, after=after)

    async def requeue(self, *ids: int) -> int:
        """Let parked messages be delivered after all, from their first attempt on; return how many there were."""
        return await self.run_blocking(self._blocking.requeue, ids)

    async def discard(self, *ids: int) -> int:
        """Give up parked messages, and let those behind them go on; return how many there were."""
        return await self.run_blocking(self._blocking.discard, ids)

    async def gc(self, limit: int = 1000) -> int:
        """Remove at most `limit` messages that were kept long enough, and tell how many.

        Relays remove some with every delivery: this is for an outbox that shrinks faster than it is used.
        """
        return await self.run_blocking(self._blocking.gc, limit)

    async def close(self) -> None:
        """Give back connections. They are opened again when they are needed."""
        await self.run_blocking(self._blocking.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"Outbox({self._store!r})"

    async def run_blocking(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `fn(*args, **kwargs)`, waited for as everything of the store is."""
        return await self._face.run_blocking(fn, *args, **kwargs)

    def _draft(
        self,
        topic: str,
        payload: Any,
        key: str | None,
        group: str | None,
        headers: Mapping[str, str] | None,
        delay: float,
    ) -> Draft:
        if key is None:
            key = (self._runtime or current_runtime()).new_id()
        for name, value in (("topic", topic), ("key", key), ("group", group)):
            if value is not None:
                check_name(name, value)
        data = bytes(payload) if isinstance(payload, bytes | bytearray) else dump_json(payload)
        if len(data) > self._max_payload:
            raise ValueError(f"payload: {len(data)} bytes, and at most max_payload={self._max_payload} are allowed")
        if not 0 <= delay < math.inf:
            raise ValueError(f"delay={delay!r}: a finite number of seconds, at least 0")
        headers = {} if headers is None else dict(headers)
        for name, value in headers.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise TypeError(f"headers: {name!r}: {value!r} is not text")
        return Draft(topic=topic, key=key, payload=data, group=group, headers=headers, delay=delay)


def check_name(name: str, value: object) -> str:
    """Return `value`; raise `ValueError` unless it is text of 1 to 255 bytes."""
    if not isinstance(value, str) or not 0 < len(value.encode()) <= _LONGEST_NAME:
        raise ValueError(f"{name}={value!r}: text of 1 to {_LONGEST_NAME} bytes")
    return value
