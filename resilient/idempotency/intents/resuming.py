"""What a restarted process does with the intents that it finds."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, final
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from resilient.backends.intents import Busy, Finished, Held, Intent
from resilient.context import Options, detached, options
from resilient.errors import InProgress, OutcomeUnknown
from resilient.idempotency.intents.kept import KeptRequest
from resilient.idempotency.intents.operations import Operation
from resilient.idempotency.intents.sending import RESUMED, Desk, Request, Resumption, Terms
from resilient.idempotency.keys import format_key
from resilient.runtime import Runtime

__all__ = ["Report", "Resumed", "Resuming"]

_PAGE = 100


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """What came of one intent."""

    intent: Intent
    """As it was found."""
    result: Any = None
    """The response, or what the operation returned."""
    error: Exception | None = None
    """Why it is not finished; `OutcomeUnknown` for a lapsed one."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of the intents that were found."""

    finished: list[Resumed] = field(default_factory=list[Resumed])
    """The far side has answered."""
    open: list[Resumed] = field(default_factory=list[Resumed])
    """To be resumed again: it failed, is being sent by somebody else, or nobody here could send it."""
    lapsed: list[Resumed] = field(default_factory=list[Resumed])
    """May have been processed, and may not be sent again: to be found out, and settled."""


class Owner(Protocol):
    """What of `Intents` is needed here."""

    terms: Terms
    operations: dict[str, Operation]

    def now(self) -> Runtime: ...


Send = Callable[[Resumption], Awaitable[Any]]
"""Sends an intent that is held."""


@final
class Resuming:
    """One pass over the intents that are open."""

    def __init__(self, intents: Owner, desk: Desk, clients: tuple[Any, ...]) -> None:
        self._intents = intents
        self._desk = desk
        self._clients = clients
        self._report = Report()

    async def run(self, *, concurrency: int | None, limit: int) -> Report:
        """Resume at most `limit` intents, `concurrency` at once; None: in this thread, one after the other."""
        if concurrency is not None and concurrency < 1:
            raise ValueError(f"concurrency={concurrency!r}: at least 1")
        for client in self._clients:
            self._check(client, blocking=concurrency is None)
        after, left = 0, limit
        while left > 0:
            page = await self._page(after, min(_PAGE, left))
            if concurrency is None:
                for intent in page:
                    await self._resume(intent)
            else:
                await self._resume_together(page, concurrency)
            left -= len(page)
            if len(page) < _PAGE:
                break
            after = page[-1].id
        return self._report

    def _check(self, client: Any, *, blocking: bool) -> None:
        send = getattr(client, "send", None)
        if send is None or not hasattr(client, "build_request"):
            raise TypeError(f"{client!r}: a client of httpx or httpx2; operations are known by their names")
        if inspect.iscoroutinefunction(send) is blocking:
            raise TypeError(f"{client!r}: {'a synchronous' if blocking else 'an asynchronous'} client is needed here")

    async def _page(self, after: int, size: int) -> list[Intent]:
        store = self._intents.terms.store
        return await self._desk.do(lambda: store.unfinished(limit=size, after=after))

    async def _resume_together(self, page: list[Intent], concurrency: int) -> None:
        places = anyio.Semaphore(concurrency)

        async def resume(intent: Intent) -> None:
            async with places:
                await self._resume(intent)

        async with anyio.create_task_group() as tasks:
            for intent in page:
                tasks.start_soon(resume, intent)

    async def _resume(self, intent: Intent) -> None:
        try:
            with detached():  # an intent is nobody's call: it has a deadline of its own, its window
                await self._attempt(intent)
        except OutcomeUnknown as error:
            self._report.lapsed.append(Resumed(intent=intent, error=error))
        except Exception as error:  # noqa: BLE001 - it is in the report
            self._report.open.append(Resumed(intent=intent, error=error))

    async def _attempt(self, intent: Intent) -> None:
        if intent.state == "lapsed":
            raise _lapsed(intent)
        if intent.lease_left > 0:
            raise InProgress(f"{intent.key!r} is being sent", retry_after=intent.lease_left)
        if intent.due_in > 0:
            raise InProgress(f"{intent.key!r} failed a moment ago: {intent.reason}", retry_after=intent.due_in)
        send = self._sender(intent)
        resumption = await self._take(intent)
        if resumption is None:
            return  # somebody else has finished or removed it meanwhile
        try:
            result = await send(resumption)
        finally:
            if not resumption.taken:
                reason = "the client or operation does not send through an Honoured() with these intents"
                await self._put_back(resumption.held, reason)
        self._judge(intent, resumption, result)

    async def _take(self, intent: Intent) -> Resumption | None:
        terms = self._intents.terms
        request = Request(scope=intent.scope, key=intent.key, fingerprint=intent.fingerprint, data=intent.request)
        owner = self._intents.now().new_id()
        answer = await self._desk.begin(request, terms, owner=owner, window=0.0, create=False)
        match answer:
            case Held() as held:
                return Resumption(self._intents, held)
            case None | Finished():
                return None
            case Busy(retry_after):
                raise InProgress(f"{intent.key!r} is being sent", retry_after=retry_after)
            case _:
                raise _lapsed(intent)

    async def _put_back(self, held: Held, reason: str) -> None:
        desk = self._desk
        delay = self._intents.terms.backoff.delay(held.attempts, self._intents.now().random)

        await desk.settle(partial(desk.store.release, held, delay=delay, reason=reason), held)

    def _judge(self, intent: Intent, resumption: Resumption, result: Any) -> None:
        if resumption.finished:
            self._report.finished.append(Resumed(intent=intent, result=result))
            return
        what = "it was sent past these intents" if not resumption.taken else f"answered with {result!r}"
        error = RuntimeError(f"{intent.key!r} stays open: {what}")
        self._report.open.append(Resumed(intent=intent, result=result, error=error))

    def _sender(self, intent: Intent) -> Send:
        operation = self._intents.operations.get(intent.scope)
        if operation is not None:
            return self._caller(operation, intent)
        if " " in intent.scope:
            return self._requester(intent)
        raise LookupError(f"no operation is named {intent.scope!r}: decorate it with `operation` before resuming")

    def _caller(self, operation: Operation, intent: Intent) -> Send:
        if operation.asynchronous and self._desk.blocking:
            raise TypeError(f"{operation.name!r} is asynchronous: resume it with `await intents.resume()`")
        args, kwargs = operation.load_arguments(intent.request)
        called = operation.wrap()

        async def send(resumption: Resumption) -> Any:
            with options(idempotency_key=intent.key, attributes={RESUMED: resumption}):
                return await self._invoke(operation, lambda: called(*args, **kwargs))

        return send

    async def _invoke(self, operation: Operation, call: Callable[[], Any]) -> Any:
        if operation.asynchronous:
            return await call()
        return call() if self._desk.blocking else await anyio.to_thread.run_sync(call)

    def _requester(self, intent: Intent) -> Send:
        kept = KeptRequest.load(intent.request)
        client = self._client_for(kept.url)
        left_out = kept.left_out
        if client.auth is not None:  # it may wait for a challenge before it says who it is
            left_out = [name for name in left_out if name != "authorization"]
        expected = replace(kept, left_out=left_out).dump()

        async def send(resumption: Resumption) -> Any:
            resumption.held = replace(resumption.held, request=expected)
            headers = [*kept.headers, ("idempotency-key", format_key(intent.key))]
            extensions = {"resilient": Options(attributes={RESUMED: resumption})}
            request = client.build_request(
                kept.method, kept.url, headers=headers, content=kept.body, extensions=extensions
            )
            request.url = type(request.url)(kept.url)  # a client's own parameters are in it already
            answer = client.send(request)
            return await answer if inspect.isawaitable(answer) else answer

        return send

    def _client_for(self, url: str) -> Any:
        wanted = urlsplit(url)[:2]
        anywhere = None
        for client in self._clients:
            base = str(client.base_url)
            if not base:
                anywhere = anywhere or client
            elif urlsplit(base)[:2] == wanted:
                return client
        if anywhere is None:
            raise LookupError(f"no client for {url}: pass one to resume()")
        return anywhere


def _lapsed(intent: Intent) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"{intent.scope}: {intent.key!r} may have been sent, and its window is over: the far side may have forgotten "
        f"it; find out what came of it, and settle it (last known: {intent.reason or 'nothing'})"
    )
