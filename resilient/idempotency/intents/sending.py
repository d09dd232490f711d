"""One call under an intent: written down before it is sent, settled when it is known what came of it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, final

from resilient.backends.faces import Threads
from resilient.backends.intents import BlockingIntentStore, Busy, Finished, Held, IntentAnswer, Lapsed, Mismatch
from resilient.call import Attribute, Call, Form, Next
from resilient.errors import InProgress, KeyReused, OutcomeUnknown, StoreUnavailable
from resilient.idempotency.hosts import Host, LoopHost, ThreadHost
from resilient.idempotency.steps import Steps
from resilient.machines.backoff import Backoff
from resilient.verdict import Effect

__all__ = ["RESUMED", "Desk", "Request", "Resumption", "Sending", "Terms", "answered"]

_log = logging.getLogger("resilient.idempotency")

_BEATS = 3
"""Heartbeats a lease: one may be lost, and another late, before the lease is."""
_REASON = 500
"""Characters that are kept of why an attempt failed."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What all calls of one `Intents` share."""

    store: BlockingIntentStore
    lease: float
    keep: float
    max_body: int
    headers: frozenset[str]
    backoff: Backoff


@final
class Desk:
    """Where the steps of a store are made: in worker threads of an event loop, or in the thread of a plain function."""

    def __init__(self, store: BlockingIntentStore, threads: Threads, *, blocking: bool) -> None:
        self.store = store
        self.blocking = blocking
        self.host: Host = ThreadHost() if blocking else LoopHost()
        self.do = Steps(store, threads, blocking=blocking).do

    async def begin(self, request: Request, terms: Terms, *, owner: str, window: float, create: bool) -> IntentAnswer:
        """Write an intent down, or take over the one that is there; undone when the caller is cancelled meanwhile."""
        begin = partial(
            self.store.begin,
            request.scope,
            request.key,
            request.fingerprint,
            request.data,
            owner=owner,
            lease=terms.lease,
            window=window,
            create=create,
        )

        async def undo(answer: IntentAnswer) -> None:
            # Nothing was sent this time. One that somebody else may have sent stays.
            if isinstance(answer, Held) and answer.fresh:
                await self.do(partial(self.store.drop, answer))
            elif isinstance(answer, Held):
                await self.do(partial(self.store.release, answer, delay=0.0, reason="cancelled before it was sent"))

        return await self.host.shelter(lambda: self.do(begin), undo)

    async def settle(self, step: Callable[[], object], held: Held) -> None:
        """Make a step that is not torn by a cancellation.

        Its failure changes nothing for the caller, who knows what came of the call: the lease ends by itself, and
        then the intent is resumed.
        """

        async def settle() -> None:
            try:
                await self.do(step)
            except StoreUnavailable:
                _log.warning("intent %r: %r failed; the intent stays open", held.key, self.store, exc_info=True)

        await self.host.shelter(settle)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is written down."""

    scope: str
    key: str
    fingerprint: bytes
    data: bytes


@final
class Resumption:
    """An intent that is being resumed, as the call by which that is done finds it."""

    def __init__(self, intents: object, held: Held) -> None:
        self.held = held
        self.taken = False
        """The call has come by."""
        self.finished = False
        """It is known what the operation came to."""
        self._intents = intents

    def take(self, intents: object, form: Form) -> Held:
        """Hand the intent over to the call. Raises where that would send something else than what was kept."""
        if intents is not self._intents:
            raise TypeError(f"the intent belongs to {self._intents!r}, and the call goes through {intents!r}")
        lacking = form.lacks(self.held.request)
        if lacking is not None:
            raise ValueError(f"{self.held.key!r}: not what was to be sent: {lacking}")
        self.taken = True
        return self.held


RESUMED: Attribute[Resumption | None] = Attribute("resumed intent", None)


@final
class Sending:
    """Sends what an intent holds, and settles the intent."""

    def __init__(self, desk: Desk, terms: Terms, form: Form, held: Held) -> None:
        self._desk = desk
        self._terms = terms
        self._form = form
        self._held = held
        self.finished = False
        """It is known what the operation came to."""
        self._sent = 0
        """How many attempts were made."""
        self._answered = False

    async def run(self, call: Call, nxt: Next[Any]) -> Any:
        """Make the call within the window, and settle the intent by what comes of it."""
        desk, held, runtime = self._desk, self._held, call.runtime
        over = runtime.now() + held.window_left
        sent = call.evolve(deadline=over if call.deadline is None else min(call.deadline, over))
        invoke = sent.invoke

        def counted(attempt: Call) -> Awaitable[Any]:
            self._sent += 1
            return invoke(attempt)

        sent.invoke = counted
        stop = desk.host.repeat(self._beat, self._terms.lease / _BEATS, runtime)
        try:
            result = await self._send(sent, nxt)
        except BaseException as error:
            stop()
            unknown = await self._failed(call, error)
            if unknown and isinstance(error, Exception):
                if runtime.now() >= over:
                    raise OutcomeUnknown(
                        f"{call.name}: {held.key!r} may have been sent, and the far side may have forgotten it by now; "
                        "reconcile it"
                    ) from error
                error.add_note(f"intent {held.key!r} stays open, to be resumed")
            raise
        stop()
        return result

    async def _send(self, call: Call, nxt: Next[Any]) -> Any:
        result = await nxt(call)
        self._answered = True
        if not self._form.is_final(result):
            verdict = call.classify.judge_result(result).verdict
            await self._leave(call, verdict.effect, f"{verdict.name}: {result!r}")
            return result
        problem: TypeError | None = None
        data: bytes | None = None
        try:
            data = await self._form.keep_result(result, self._terms.max_body)
        except TypeError as error:  # it has no bytes: a mistake of whoever wrote the operation
            problem = error
        await self._desk.settle(partial(self._desk.store.finish, self._held, data, keep=self._terms.keep), self._held)
        self.finished = True
        if problem is not None:
            problem.add_note("the call took effect; operation(result=(dump, load)) keeps what JSON cannot")
            raise problem
        return result

    async def _failed(self, call: Call, error: BaseException) -> bool:
        """Settle after an error, and tell whether the intent stays open."""
        effect = Effect.UNKNOWN if self._answered else call.classify.error(error).effect
        return await self._leave(call, effect, repr(error))

    async def _leave(self, call: Call, effect: Effect, reason: str) -> bool:
        """Remove the intent where asking again is harmless, or leave it to be resumed; tell whether it was left."""
        held, store = self._held, self._desk.store
        nothing_sent = not self._sent or effect is Effect.NONE
        if held.fresh and (nothing_sent or (effect is Effect.DONE and self._sent == 1)):
            await self._desk.settle(partial(store.drop, held), held)
            return False
        delay = self._terms.backoff.delay(held.attempts, call.runtime.random)
        await self._desk.settle(partial(store.release, held, delay=delay, reason=reason[:_REASON]), held)
        return True

    async def _beat(self) -> None:
        heartbeat = partial(self._desk.store.heartbeat, self._held, lease=self._terms.lease)
        try:
            await self._desk.do(heartbeat)
        except StoreUnavailable:
            _log.warning("intent %r: its lease was not renewed", self._held.key, exc_info=True)


def answered(answer: Busy | Finished | Lapsed | Mismatch | None, request: Request) -> bytes:
    """Return what was kept of a call that was finished before; raise for what else keeps it from being sent."""
    key, where = request.key, request.scope
    match answer:
        case Finished(bytes() as result):
            return result
        case Finished():
            raise OutcomeUnknown(f"{where}: {key!r} was finished before, but its result was too large to be kept")
        case Mismatch():
            raise KeyReused(f"{where}: {key!r} is the key of another request; this one was not sent")
        case Busy(retry_after):
            raise InProgress(f"{where}: {key!r} is being sent, here or in another process", retry_after=retry_after)
        case _:
            raise OutcomeUnknown(
                f"{where}: {key!r} may have been sent, and its window is over: the far side may have forgotten it; "
                "reconcile it"
            )
