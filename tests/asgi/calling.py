"""Calls an ASGI application as a server does, and keeps what it says."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import anyio

from resilient.asgi.types import ASGIApp, Message, Receive, Scope, Send

Headers = Iterable[tuple[str, str]]


@dataclass
class Reply:
    """What a client gets."""

    messages: list[Message] = field(default_factory=list)

    @property
    def status(self) -> int:
        status: int = self.messages[0]["status"]
        return status

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0].get("headers", ())}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def problem(self) -> str:
        """The kind of the problem that it reports."""
        assert self.headers["content-type"] == "application/problem+json"
        document = json.loads(self.body)
        assert document["status"] == self.status
        assert document["title"]
        assert document["detail"]
        return str(document["type"]).removeprefix("urn:problem-type:idempotency-")

    @property
    def replayed(self) -> bool:
        return self.headers.get("idempotency-replayed") == "true"


def make_scope(method: str = "POST", path: str = "/orders", headers: Headers = (), query: bytes = b"") -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "query_string": query,
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
        "extensions": {"http.response.pathsend": {}, "http.response.debug": {}},
    }


class Client:
    """One exchange: the chunks of a request's body, an end of the connection when told, and the reply."""

    def __init__(self, *chunks: bytes) -> None:
        self.reply = Reply()
        self.waiting = list(chunks) or [b""]
        self.left = anyio.Event()
        self.received = 0

    def leave(self) -> None:
        self.left.set()

    async def receive(self) -> Message:
        self.received += 1
        if self.waiting:
            chunk = self.waiting.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(self.waiting)}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.reply.messages.append(message)


async def post(
    app: ASGIApp,
    key: str | None = '"k"',
    body: bytes = b"{}",
    *,
    method: str = "POST",
    path: str = "/orders",
    headers: Headers = (),
    query: bytes = b"",
) -> Reply:
    client = Client(body)
    given = [*headers] if key is None else [("idempotency-key", key), *headers]
    await app(make_scope(method, path, given, query), client.receive, client.send)
    return client.reply


def respond(
    status: int = 200, body: bytes = b"ok", headers: Headers = (), *, chunks: int = 1
) -> Callable[[Send], Awaitable[None]]:
    """What sends one response."""

    async def send_all(send: Send) -> None:
        raw = [(name.encode(), value.encode()) for name, value in headers]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        size = max(1, -(-len(body) // chunks))
        parts = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
        for part in parts[:-1]:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": parts[-1]})

    return send_all


@dataclass
class App:
    """An application that counts what it is asked, and answers with the number of the run."""

    answer: Callable[[Scope, Receive, Send], Awaitable[None]] | None = None
    runs: int = 0
    bodies: list[bytes] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.runs += 1
        self.bodies.append(await read(receive))
        if self.answer is None:
            await respond(201, f"run {self.runs}".encode(), [("content-type", "text/plain")])(send)
        else:
            await self.answer(scope, receive, send)


async def read(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message: Any = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body
