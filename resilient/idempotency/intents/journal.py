"""`Intents`: what a client is about to send is on disk before the first byte leaves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, final, overload

from resilient.backends.connecting import connect
from resilient.backends.faces import Threads
from resilient.backends.intents import Held, Intent
from resilient.backends.store import Store
from resilient.call import Call, Form, Next
from resilient.context import current_runtime
from resilient.idempotency.intents.kept import ALWAYS_KEPT, CREDENTIALS
from resilient.idempotency.intents.operations import OPERATION, Codec, KeptCall, Operation, registered
from resilient.idempotency.intents.resuming import Report, Resuming
from resilient.idempotency.intents.sending import RESUMED, Desk, Request, Sending, Terms, answered
from resilient.machines.backoff import Backoff
from resilient.runtime import Runtime
from resilient.waiting import drive

__all__ = ["BlockingIntents", "Intents"]

F = TypeVar("F", bound=Callable[..., Any])

_THREADS = 8
_SHARE = 24
"""The margin is this part of the window, unless it is given: an hour of a day."""
_BACKOFF = Backoff(base=1.0, cap=300.0)


@final
class Intents:
    """Write each call down before it is sent, so that a restarted process can finish it: same key, same bytes.

    ```python
    from resilient import Honoured, Pipeline, Retry, Timeout
    from resilient.idempotency import Intents

    intents = Intents("sqlite:///intents.db")
    payments = Pipeline(Timeout(10.0), Honoured(intents=intents), Retry(), Timeout(3.0))
    ```

    Calls that go through such an `Honoured` (in a `Pipeline`, or as `Service(idempotency=...)`) and are given a key
    are kept: key and request are on disk before the first attempt, the response is after the last. At start-up
    `await intents.resume(client)` finishes what an earlier process left open. Nothing is ever sent under another key.

    An intent that the far side has answered is *done*, and its response is what a later call under the same key gets,
    without being sent: derive keys from your own numbers (`Honoured(keys=derived(...))`), and a restarted job that does
    its work again gets what it got before. What failed or was cancelled after something may have been sent stays
    *open*; where nothing was sent the intent is removed. When its window is over, an open one is *lapsed*: it may have
    been processed, and may not be sent again. That is an `OutcomeUnknown`, for somebody to find out and to `settle`.

    `store`
        `sqlite:///intents.db`, `postgresql://...`, `memory://` (for tests), or such a store. It may serve many
        processes: leases keep two of them from sending the same intent at once. It holds whole requests and responses:
        protect it as you protect those.
    `margin`
        Seconds before the end of `Honoured.window` at which the last attempt must have ended. It covers what is still
        on its way then, and steps of this machine's clock. By default a 24th of the window: an hour of a day.
    `lease`
        Seconds after which whoever sends an intent counts as dead (30.0). It is renewed three times in that span.
    `keep`
        Seconds for which a done intent and its response are kept (604,800: a week, so that a job that is repeated after
        a weekend still finds them). Later the same key is a new operation, here as on the far side.
    `max_body`
        Bytes of a request (larger: `ValueError`) and of a response (larger: kept without it, and a later call under
        the same key raises `OutcomeUnknown`); 1 MiB. Up to that much of a response is read before it is returned.
    `headers`
        Names of headers to keep besides `Accept`, `Accept-Language`, `Content-*` and `Prefer`. Credentials cannot be
        kept: whoever resumes has its own. Of every other header the name is kept, and a request that would be resumed
        without it is not sent.
    `backoff`
        How long `resume` leaves an intent alone that could not be finished: up to 1 s after the first attempt, doubling
        to at most 5 minutes.
    `runtime`
        Replaces the ambient one.

    A kept call costs two commits, each synced to the disk. It raises `KeyReused` for another request under a known key,
    `InProgress` while the same intent is being sent, `OutcomeUnknown` for a lapsed one, `ValueError` for a body that
    cannot be sent a second time, and `StoreUnavailable` when it could not be written down: then nothing was sent.

    Raises `ValueError` for terms that cannot be kept.
    """

    def __init__(
        self,
        store: Store | str,
        *,
        margin: float | None = None,
        lease: float = 30.0,
        keep: float = 604_800.0,
        max_body: int = 1_048_576,
        headers: Iterable[str] = (),
        backoff: Backoff = _BACKOFF,
        runtime: Runtime | None = None,
    ) -> None:
        store = connect(store) if isinstance(store, str) else store
        make = getattr(store.blocking, "intents", None)
        if make is None:
            raise ValueError(f"store={store!r}: it keeps no intents; sqlite://, postgresql:// and memory:// do")
        for name, seconds in (("lease", lease), ("keep", keep)):
            if not 0 < seconds < math.inf:
                raise ValueError(f"{name}={seconds!r}: a finite number of seconds, more than 0")
        if margin is not None and not 0 <= margin < math.inf:
            raise ValueError(f"margin={margin!r}: a finite number of seconds, at least 0")
        if max_body < 0:
            raise ValueError(f"max_body={max_body!r}: bytes, at least 0")
        named = frozenset(name.lower() for name in headers)
        if secret := named & CREDENTIALS:
            raise ValueError(
                f"headers: {', '.join(sorted(secret))} would put credentials on the disk; give them to the client that "
                "is passed to resume()"
            )
        self.margin = margin
        self.terms = Terms(
            store=make(),
            lease=lease,
            keep=keep,
            max_body=max_body,
            headers=named | ALWAYS_KEPT,
            backoff=backoff,
        )
        self.operations: dict[str, Operation] = {}
        """What `operation` has decorated, by name."""
        self._threads = Threads(_THREADS)
        self._runtime = runtime

    @property
    def blocking(self) -> BlockingIntents:
        """The same intents for plain code."""
        return BlockingIntents(self)

    def desk(self, *, blocking: bool) -> Desk:
        """Where one execution makes its steps."""
        return Desk(self.terms.store, self._threads, blocking=blocking)

    def now(self) -> Runtime:
        """The runtime in force."""
        return self._runtime or current_runtime()

    def check_window(self, window: float) -> None:
        """Raise `ValueError` where the margin leaves nothing of the window."""
        if self.margin is not None and self.margin >= window:
            raise ValueError(f"margin={self.margin!r}: less than the window, which is {window!r} s")

    @overload
    def operation(
        self, fn: F, /, *, name: str | None = None, arguments: Codec | None = None, result: Codec | None = None
    ) -> F: ...
    @overload
    def operation(
        self,
        fn: None = None,
        /,
        *,
        name: str | None = None,
        arguments: Codec | None = None,
        result: Codec | None = None,
    ) -> Callable[[F], F]: ...
    def operation(
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        arguments: Codec | None = None,
        result: Codec | None = None,
    ) -> Any:
        """Decorate a function whose calls are kept, so that they can be resumed: outside of its pipeline or service.

        ```python
        @intents.operation
        @payments
        async def charge(order: str, cents: int) -> str: ...
        ```

        `name`
            What it is found by after a restart: its qualified name, unless given. Name it where it may move.
        `arguments`, `result`
            Pairs of functions, `(dump, load)`, between a value and bytes: of the list `[args, kwargs]`, and of what is
            returned. JSON by default, of values that come back as they were.

        An exception of the function is taken for what its `Classifier` says: by default anything but a refused
        connection leaves the intent open.

        Raises `ValueError` for a name that is taken, and `TypeError` for a generator function.
        """

        def register(fn: Callable[..., Any]) -> Callable[..., Any]:
            return registered(self.operations, fn, name, arguments, result)

        return register if fn is None else register(fn)

    async def run(self, call: Call, nxt: Next[Any], *, window: float) -> Any:
        """Run a call that has its key: what `Honoured` does with it."""
        form = self._form(call)
        desk = self.desk(blocking=call.blocking)
        resumption = call.get(RESUMED)
        # A second request of one resumption (after a challenge, or a redirect) is a call like any other.
        if resumption is not None and not resumption.taken:
            sending = Sending(desk, self.terms, form, resumption.take(self, form))
        else:
            assert call.idempotency_key is not None
            scope, data, fingerprint = form.keep(self.terms.headers, self.terms.max_body)
            request = Request(scope=scope, key=call.idempotency_key, fingerprint=fingerprint, data=data)
            margin = window / _SHARE if self.margin is None else self.margin
            owner = call.runtime.new_id()
            answer = await desk.begin(request, self.terms, owner=owner, window=window - margin, create=True)
            if not isinstance(answer, Held):
                return form.load_result(answered(answer, request))
            sending = Sending(desk, self.terms, form, answer)
        try:
            return await sending.run(call, nxt)
        finally:
            if resumption is not None:
                resumption.finished = sending.finished

    def _form(self, call: Call) -> Form:
        if call.adapter is not None:
            return call.adapter
        operation = call.get(OPERATION)
        if operation is None:
            raise TypeError(
                f"{call.name}: nobody could resume it: decorate it with the `operation` of its intents, outside of its "
                "pipeline or service"
            )
        return KeptCall(operation, call)

    async def open(self, *, limit: int = 1000) -> list[Intent]:
        """Return the intents that are open or lapsed, the oldest first, at most `limit`."""
        store = self.terms.store
        return await self.desk(blocking=False).do(lambda: store.unfinished(limit=limit))

    async def resume(self, *clients: Any, concurrency: int = 8, limit: int = 1000) -> Report:
        """Finish what is open, and tell what came of each intent. For every start-up, and from time to time.

        `clients`
            HTTP clients of httpx or httpx2 for what was sent over HTTP, asynchronous ones. An intent goes to the one
            whose base URL it was sent to, or to one without a base URL. They send through an `Honoured` with these
            intents, and bring credentials and cookies. Decorated operations are known by their names.
        `concurrency`
            How many are sent at once (8).
        `limit`
            How many intents are looked at (1,000, the oldest first).

        Each is sent once through the policies of its client or operation: same key, same bytes. What fails stays
        open, and is left alone for a while (`backoff`). What another process is sending is left to it: many may
        resume at once. It raises nothing for an intent; see `Report`.
        """
        return await Resuming(self, self.desk(blocking=False), clients).run(concurrency=concurrency, limit=limit)

    async def settle(self, intent: Intent) -> bool:
        """Remove an intent of which somebody has found out what came of it; whether it was there.

        For lapsed ones: until then every call under the key raises `OutcomeUnknown`; afterwards the key is new.
        """
        store, keep = self.terms.store, self.terms.keep
        desk = self.desk(blocking=False)
        return await desk.do(lambda: store.settle(intent.scope, intent.key, done=False, result=None, keep=keep))

    async def gc(self, limit: int = 1000) -> int:
        """Remove at most `limit` done intents that are kept no longer, and tell how many; new ones remove some, too."""
        store = self.terms.store
        return await self.desk(blocking=False).do(lambda: store.gc(limit))

    async def close(self) -> None:
        """Give back the store's connections. It opens them again when it is used again."""
        await self.desk(blocking=False).do(self.terms.store.close)

    def __repr__(self) -> str:
        return f"Intents({self.terms.store!r})"


@final
class BlockingIntents:
    """`Intents` for plain code, where there is no event loop."""

    def __init__(self, intents: Intents) -> None:
        self._intents = intents
        self._store = intents.terms.store

    def open(self, *, limit: int = 1000) -> list[Intent]:
        """Return the intents that are open or lapsed."""
        return self._store.unfinished(limit=limit)

    def resume(self, *clients: Any, limit: int = 1000) -> Report:
        """Finish what is open, one after the other: with `httpx.Client`s and plain functions. See `Intents.resume`."""
        desk = self._intents.desk(blocking=True)
        return drive(Resuming(self._intents, desk, clients).run(concurrency=None, limit=limit))

    def settle(self, intent: Intent) -> bool:
        """Remove an intent of which somebody has found out what came of it. See `Intents.settle`."""
        keep = self._intents.terms.keep
        return self._store.settle(intent.scope, intent.key, done=False, result=None, keep=keep)

    def gc(self, limit: int = 1000) -> int:
        """Remove done intents that are kept no longer."""
        return self._store.gc(limit)

    def close(self) -> None:
        """Give back the store's connections."""
        self._store.close()
