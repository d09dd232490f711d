"""One request under a claim: the application runs, and its response is held back until it is recorded."""

from __future__ import annotations

from typing import final

import anyio

from resilient.asgi.problems import Problem
from resilient.asgi.recorded import Recorded
from resilient.asgi.types import ASGIApp, Message, Receive, Scope, Send
from resilient.errors import LeaseLost, StoreUnavailable
from resilient.idempotency.claim import Claim
from resilient.idempotency.execution import Execution

__all__ = ["Exchange"]

_SERVER_ERROR = 500
_OTHER_WAYS = frozenset(
    {"http.response.pathsend", "http.response.push", "http.response.trailers", "http.response.zerocopysend"}
)
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
class Exchange:
    """Stands between the server and the application for one request.

    The response is kept back, at most `max_body` bytes of it, until it is recorded. What is longer, and what is a
    stream of events, is recorded without its body when that is known, and then passed on as it comes.
    """

    def __init__(self, execution: Execution, body: bytes, receive: Receive, send: Send, *, max_body: int) -> None:
        self._execution = execution
        self._request: bytes | None = body
        self._receive = receive
        self._send = send
        self._max_body = max_body
        self._start: Message | None = None
        self._body: list[Message] = []
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
            await self._execution.fail()
            if self._is_server_error() and not self._settled.is_set():
                await self._pass_on_what_is_held()
            raise
        # For a response that has no end; there is nothing to do otherwise.
        await self._execution.fail()

    async def receive(self) -> Message:
        """The request's body, and then whatever the server says.

        A disconnect is kept back until the outcome is recorded: frameworks abort a response when they see one, and its
        effect would be left without a record.
        """
        if self._request is not None:
            body, self._request = self._request, None
            return {"type": "http.request", "body": body, "more_body": False}
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
        if message["type"] == "http.response.start":
            self._start = message
            if _is_event_stream(message):
                await self._settle(Recorded.of(message, None))
        elif message["type"] == "http.response.body" and self._start is not None:
            await self._hold(self._start, message)
        else:
            await self._send(message)

    async def _hold(self, start: Message, message: Message) -> None:
        self._body.append(message)
        self._size += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._size > self._max_body:
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
        return Recorded.of(self._start, b"".join(message.get("body", b"") for message in self._body))

    async def _settle(self, recorded: Recorded) -> None:
        problem: Problem | None = None
        try:
            await self._execution.complete(recorded.dump())
        except LeaseLost:
            problem = _TAKEN_OVER
        except StoreUnavailable:
            problem = _NOT_RECORDED
        if problem is None:
            await self._pass_on_what_is_held()
            return
        self._dropped = True
        self._settled.set()
        await problem.send(self._send)

    async def _pass_on_what_is_held(self) -> None:
        assert self._start is not None
        self._settled.set()
        held, self._body = [self._start, *self._body], []
        for message in held:
            await self._send(message)


def _is_event_stream(start: Message) -> bool:
    return any(
        bytes(name).lower() == b"content-type" and bytes(value).lower().startswith(b"text/event-stream")
        for name, value in start.get("headers", ())
    )
