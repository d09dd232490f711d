"""Callers: the real policies, around a simulated network."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias, final

from resilient.call import Call
from resilient.http.classify import verdict_of_status
from resilient.lab.load import OK
from resilient.lab.world.job import Errand, Reply
from resilient.service import Service
from resilient.verdict import Classifier, Verdict, classify_function

__all__ = ["CLASSIFY", "Caller", "Calling", "Send", "outcome_of"]

Send: TypeAlias = Callable[[Errand, str, float | None, str | None], Awaitable[Reply]]
"""Makes an attempt: the errand, the instance's id, and the deadline and idempotency key that the server is told."""


class Calling(Protocol):
    """One process that calls one service, with policies, balancer and breakers of its own."""

    service: Service

    def call(self, errand: Errand) -> Awaitable[Reply]:
        """Make one logical call."""
        ...


def _result(reply: Reply) -> Verdict:
    if reply.status == 409 and reply.retry_after is not None:  # noqa: PLR2004 - as HTTP has it
        return Verdict.PENDING
    return verdict_of_status(reply.status)


def _hint(ended: object) -> float | None:
    hint = getattr(ended, "retry_after", None)
    return hint if isinstance(hint, int | float) else None


CLASSIFY = Classifier(error=classify_function.error, result=_result, hint=_hint, on_declares=False)
"""Judges as HTTP's classifier does."""


def outcome_of(reply: Reply) -> str:
    """`OK`, or the status by which the call failed: what a record says of it."""
    return OK if reply.ok else str(reply.status)


@final
class Caller:
    """Calls as decorated functions do: an adapter like the one of HTTP, around the service's own pipeline."""

    def __init__(self, service: Service, send: Send, *, reckless: bool, tells: bool) -> None:
        self.service = service
        self._send = send
        self._reckless = reckless
        self._tells = tells
        self._name = service.name
        self._chain = service.pipeline.chain
        self._attempt = self._reported if service.balancer.wants_reports else self._sent

    def call(self, errand: Errand) -> Awaitable[Reply]:
        """Make one logical call."""
        call = self.service.begin(self._name, self._attempt, errand, repeatable=self._reckless or errand.repeatable)
        call.classify = CLASSIFY
        call.priority = errand.priority
        return self._chain(call)

    def _sent(self, call: Call) -> Awaitable[Reply]:
        instance = call.instance
        assert instance is not None
        return self._send(call.request, instance.id, call.deadline if self._tells else None, call.idempotency_key)

    async def _reported(self, call: Call) -> Reply:
        reply = await self._sent(call)
        if reply.load is not None and call.instance is not None:
            self.service.report(call.instance, reply.load)
        return reply
