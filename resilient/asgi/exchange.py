"""One request under a claim: the application runs, and its response is held back until it is recorded."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import final

import anyio

from resilient.asgi.bodies import Body
from resilient.asgi.problems import Headers, Problem
from resilient.asgi.recorded import Recorded
from resilient.asgi.types import ASGIApp, Message, Receive, Scope, Send
from resilient.errors import LeaseLost, StoreUnavailable
from resilient.events import IdempotencyBypassed
from resilient.idempotency.claim import Claim
from resilient.idempotency.execution import Execution

__all__ = ["Exchange", "Manners"]

_log = logging.getLogger("resilient.asgi")

_SERVER_ERROR = 500
_OTHER_WAYS = frozenset({"http.response.pathsend", "http.response.push", "http.response.zerocopysend"})
"""Extensions by which parts of a response go past the messages that can be recorded."""

_TAKEN_OVER = Problem(
    status=409,
    kind="idempotency-in-progress",
    title="Taken over by another execution",
    detail="This execution took longer than its lease, and another one answers in its place. Repeat the request with "
    "the same Idempotency-Key.",
    headers=[(b"retry-after", b"1")],
)
_NOT_RECORDED = Problem(
    status=503,
    kind="idempotency-store-unavailable",
    title="The outcome could not be recorded",
    detail="Repeat the request with the same Idempotency-Key.",
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Manners:
    """How the middleware treats responses."""

    max_body: int
    """Bytes of a response that are kept."""
    open_on_failure: bool = False
    """Whether a response goes out although it could not be recorded."""
    links: Headers = field(default_factory=Headers)
    """What every problem carries."""


@final
class Exchange:
    """Stands between the server and the application for one request.

    The response is kept back, at most `max_body` bytes of it, until it is recorded. What is longer, what is a stream of
    events, and what goes past these messages is recorded without its body when that is known, and then passed on as it
    comes.
    """

    def __init__(self, execution: Execution, body: Body, receive: Receive, send: Send, manners: Manners) -> None:
        self._execution = execution
        self._request = body
        self._receive = receive
        self._send = send
        self._manners = manners
        self._start: Message | None = None
        self._rest: list[Message] = []
        """What followed the start and is held back."""
        self._size = 0
        self._complete = False
        self._gone: Message | None = None
        self._settled = anyio.Event()
        self._dropped = False

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Run the application, and end the claim."""
        scope["resilient.claim"] = Claim(self._execution)
        if "extensions" in scope:
            extensions: dict[str, object] = scope["extensions"] or {}
            scope["extensions"] = {name: extensions[name] for name in extensions if name not in _OTHER_WAYS}
        try:
            await app(scope, self.receive, self.send)
            if self._complete and not self._settled.is_set():
                await self._settle(self._whole())
        except BaseException:
            if not self._settled.is_set():
                await self._execution.fail()
                if self._is_server_error():
                    await self._pass_on_what_is_held()
            raise
        if not self._settled.is_set():  # a response that has no end
            await self._execution.fail()

    async def receive(self) -> Message:
        """The request's body, and then whatever the server says.

        A disconnect is kept back until the outcome is recorded: frameworks abort a response when they see one, and its
        effect would be left without a record.
        """
        if not self._request.done:
            return await self._request.next()
        message = self._gone or await self._receive()
        if message["type"] == "http.disconnect":
            self._gone = message
            await self._settled.wait()
        return message

    async def send(self, message: Message) -> None:
        """Hold a message back, or pass it on once the outcome is recorded."""
        if self._settled.is_set():
            if not self._dropped:
                await self._send(message)
            return
        kind, start = message["type"], self._start
        if kind == "http.response.start":
            self._start = message
            if _is_event_stream(message):
                await self._settle(Recorded.of(message, None))
        elif start is None:
            await self._send(message)  # early hints, and what else is no part of the response
        elif kind == "http.response.body":
            await self._hold(start, message, last=not message.get("more_body", False) and not start.get("trailers"))
        elif kind == "http.response.trailers":
            await self._hold(start, message, last=not message.get("more_trailers", False))
        else:
            # A part of the response, perhaps, that cannot be recorded: it goes out behind what was held.
            await self._settle(Recorded.of(start, None))
            await self.send(message)

    async def _hold(self, start: Message, message: Message, *, last: bool) -> None:
        self._rest.append(message)
        self._size += len(message.get("body", b""))
        self._size += sum(len(name) + len(value) for name, value in message.get("headers", ()))
        self._complete = last
        if self._size > self._manners.max_body:
            await self._settle(Recorded.of(start, None))
        elif self._complete and not self._is_server_error():
            await self._settle(self._whole())

    def _is_server_error(self) -> bool:
        """Whether it may be what a framework made of an exception that is still on its way.

        Such a response is the result if the application returns, and none if it raises.
        """
        return self._complete and self._start is not None and self._start["status"] >= _SERVER_ERROR

    def _whole(self) -> Recorded:
        assert self._start is not None
        body = b"".join(message.get("body", b"") for message in self._rest)
        trailers = [line for message in self._rest for line in message.get("headers", ())]
        return Recorded.of(self._start, body, trailers)

    async def _settle(self, recorded: Recorded) -> None:
        problem: Problem | None = None
        try:
            await self._execution.complete(recorded.dump(), kept=recorded.body is not None)
        except LeaseLost:
            problem = _TAKEN_OVER
        except StoreUnavailable as error:
            if self._manners.open_on_failure:
                self._execution.account.tell(IdempotencyBypassed, error=str(error), ran=True)
                _log.warning("the idempotency store failed; a response goes out unrecorded", exc_info=True)
            else:
                problem = _NOT_RECORDED
        if problem is None:
            await self._pass_on_what_is_held()
            return
        self._dropped = True
        self._settled.set()
        await problem.send(self._send, self._manners.links)

    async def _pass_on_what_is_held(self) -> None:
        assert self._start is not None
        self._settled.set()
        held, self._rest = [self._start, *self._rest], []
        for message in held:
            await self._send(message)


def _is_event_stream(start: Message) -> bool:
    return any(
        bytes(name).lower() == b"content-type" and bytes(value).lower().startswith(b"text/event-stream")
        for name, value in start.get("headers", ())
    )
