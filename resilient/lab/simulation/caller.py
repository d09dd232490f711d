"""Callers: the real policies, around a simulated network."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import final

from resilient.call import Call
from resilient.http.classify import verdict_of_status
from resilient.lab.world.job import Errand, Reply
from resilient.service import Service
from resilient.verdict import Classifier, Verdict, classify_function

__all__ = ["CLASSIFY", "Caller"]


def _result(reply: Reply) -> Verdict:
    if reply.status == 409 and reply.retry_after is not None:  # noqa: PLR2004 - as HTTP has it
        return Verdict.PENDING
    return verdict_of_status(reply.status)


def _hint(ended: object) -> float | None:
    hint = getattr(ended, "retry_after", None)
    return hint if isinstance(hint, int | float) else None


CLASSIFY = Classifier(error=classify_function.error, result=_result, hint=_hint, on_declares=False)
"""Judges as HTTP's classifier does."""


@final
class Caller:
    """One process that calls one service, with policies, balancer and breakers of its own.

    It is an adapter, as the one of HTTP is: what it runs is the service's own pipeline.
    """

    def __init__(self, service: Service, send: Callable[[Call], Awaitable[Reply]], *, reckless: bool) -> None:
        self.service = service
        self._send = send
        self._reckless = reckless
        self._name = service.name
        self._chain = service.pipeline.chain

    async def call(self, errand: Errand) -> Reply:
        """Make one logical call."""
        call = self.service.begin(self._name, self._send, errand, repeatable=self._reckless or errand.repeatable)
        call.classify = CLASSIFY
        call.priority = errand.priority
        reply: Reply = await self._chain(call)
        return reply
