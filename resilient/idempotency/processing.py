"""One message in an inbox, from its delivery to its receipt."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, TypeAlias, TypeVar, final

from resilient.backends.borrowed import perform_any
from resilient.backends.inbox import BlockingInbox, Known, Letter
from resilient.backends.outbox import Plan
from resilient.backends.store import Replay
from resilient.context import current_runtime
from resilient.errors import InProgress, KeyReused, LeaseLost, OutcomeUnknown, Rejected, StoreUnavailable
from resilient.events import MessageParked, send_event
from resilient.idempotency.execution import Execution
from resilient.idempotency.fingerprint import digest
from resilient.idempotency.hosts import Host
from resilient.idempotency.terms import Terms

__all__ = ["Ask", "Invoke", "Processing", "Receipt"]

T = TypeVar("T")

Invoke: TypeAlias = Callable[[Execution, bytes], Awaitable[object]]

_log = logging.getLogger("resilient.idempotency")

_LONGEST_ERROR = 2000
"""Characters of an error that are kept with a message."""
_KEY_KEPT = 200
"""Bytes of a key that another payload is parked under, with a mark of its own."""
_NOT_ITS_FAULT = (InProgress, LeaseLost, OutcomeUnknown, Rejected, StoreUnavailable)
"""Failures that say nothing about the message."""
_DIED = "no consumer that processed it survived"


class Ask(Protocol):
    """Waits for something blocking."""

    async def __call__(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Return `fn(*args, **kwargs)`."""
        ...


class Receipt(StrEnum):
    """What became of a message. Whichever it is: acknowledge it."""

    PROCESSED = "processed"
    """Its effect is committed."""
    DUPLICATE = "duplicate"
    """Its effect was committed before."""
    PARKED = "parked"
    """It failed too often. It is kept, with what it failed with, until somebody has looked into it."""


class _Passed(Exception):
    """Somebody else has moved the stream past the message."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Processing:
    """What is done about one delivery of a message."""

    inbox: BlockingInbox
    terms: Terms
    consumer: str
    most: int
    """Attempts after which a message is parked."""
    park_on: tuple[type[Exception], ...]
    host: Host
    ask: Ask
    letter: Letter
    again: bool
    """It is parked, and somebody asked for another attempt."""

    async def run(self, invoke: Invoke, known: Known) -> Receipt:
        """Process it, or find out that it was processed or parked."""
        receipt = self._settled(known)
        if receipt is not None:
            return receipt
        letter = self.letter
        scope = f"inbox {self.consumer}"
        try:
            record = await self.host.face(self.terms.store).lookup(scope, letter.key)
            begun = await self.terms.begin(self.host, scope, letter.key, digest([letter.payload]))
        except KeyReused as error:
            return await self._park_reuse(error)
        if isinstance(begun, Replay):
            if self.again:
                await self.ask(self.inbox.clear, self.consumer, letter.key)
            return Receipt.DUPLICATE
        died = begun.run.takeover and record is not None and record.state == "running" and not record.released
        return await self._run(begun, invoke, known.attempts, died=died)

    def _settled(self, known: Known) -> Receipt | None:
        if self.again:
            return None
        if known.parked:
            return Receipt.PARKED
        position = self.letter.position
        if position is not None and known.position is not None and position <= known.position:
            return Receipt.DUPLICATE
        if known.behind is not None:
            raise RuntimeError(
                f"position={position!r}: the message at {known.behind} of {self.letter.stream!r} failed; deliver that "
                "one again first, until it is processed or parked"
            )
        return None

    async def _run(self, execution: Execution, invoke: Invoke, failed: int, *, died: bool) -> Receipt:
        attempt = failed + 1
        failure: Exception | None = None
        try:
            if died and not self.again:  # and could not count that
                attempt = await self.ask(self.inbox.begun, self.consumer, self.letter)
            if attempt > self.most and not self.again:
                await execution.fail()
                return await self._park(attempt - 1, _DIED)
            await invoke(execution, self.letter.payload)
            if execution.released:
                raise RuntimeError("claim.release(): a message is given back by an exception")  # noqa: TRY301 - as any
            await self._complete(execution, retried=attempt > 1 or self.again)
        except Exception as error:  # noqa: BLE001 - raised again below, unless the message is parked
            failure = error
        except BaseException:
            await execution.fail()
            raise
        if failure is None:
            return Receipt.PROCESSED
        await execution.fail()
        if isinstance(failure, _Passed):
            return Receipt.DUPLICATE
        return await self._fail(attempt, failure)

    async def _complete(self, execution: Execution, *, retried: bool) -> None:
        """Commit the effect, the record, the position, and that the message fails no more, all together."""
        letter = self.letter
        plans: list[Plan[object]] = []
        if retried:
            plans.append(self.inbox.done(self.consumer, letter.key))
        if letter.stream is not None and letter.position is not None and not self.again:
            plans.append(_pass(self.inbox.advance(self.consumer, letter.stream, letter.position)))

        def effect(connection: Any) -> object:
            return perform_any(connection, _all(plans))

        if plans:
            await execution.append(effect)
        await execution.complete(b"")

    async def _fail(self, attempt: int, failure: Exception) -> Receipt:
        if self.again or isinstance(failure, _NOT_ITS_FAULT):
            raise failure
        error = f"{type(failure).__name__}: {failure}"[:_LONGEST_ERROR]
        if attempt >= self.most or isinstance(failure, self.park_on):
            return await self._park(attempt, error)
        await self._write_failure(self.letter, attempt, error, park=False)
        failure.add_note(f"resilient: attempt {attempt} of {self.most}; have {self.letter.key!r} delivered again")
        raise failure

    async def _park_reuse(self, error: KeyReused) -> Receipt:
        """Keep a message whose key belongs to another one: neither may be lost."""
        letter = self.letter
        mark = digest([letter.payload]).hex()[:16]
        key = f"{letter.key.encode()[:_KEY_KEPT].decode(errors='ignore')} {mark}"
        other = Letter(key=key, payload=letter.payload, stream=letter.stream, position=letter.position)
        return await self._park(0, f"KeyReused: {error}", other)

    async def _park(self, attempts: int, error: str, letter: Letter | None = None) -> Receipt:
        letter = self.letter if letter is None else letter
        await self._write_failure(letter, attempts, error, park=True)
        _log.warning("message %r of %r is parked: %s", letter.key, self.consumer, error)
        runtime = self.terms.runtime or current_runtime()
        if runtime.emit is not None:
            event = MessageParked(at=runtime.now(), name=self.consumer, key=letter.key, attempt=attempts, reason=error)
            send_event(runtime.emit, event)
        return Receipt.PARKED

    async def _write_failure(self, letter: Letter, attempts: int, error: str, *, park: bool) -> None:
        await self.ask(
            self.inbox.fail, self.consumer, letter, attempts=attempts, error=error, park=park, keep=self.terms.ttl
        )


def _all(plans: list[Plan[object]]) -> Plan[None]:
    for plan in plans:
        yield from plan


def _pass(plan: Plan[bool]) -> Plan[object]:
    if not (yield from plan):
        raise _Passed
    return None
