"""The operation behind the middleware, under uvicorn, and those who call it over HTTP."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any, final

import uvicorn

from resilient.asgi import IdempotencyMiddleware
from resilient.asgi.types import ASGIApp, Message, Receive, Scope, Send
from resilient.errors import InProgress, KeyReused, OutcomeUnknown, StoreUnavailable
from tests.torture.hooks import REPLYING
from tests.torture.operation import TTL, HandlerError, mode_of
from tests.torture.worker import Caller, Config, Worker

ANSWERS: dict[str, type[Exception]] = {
    "in-progress": InProgress,
    "key-reused": KeyReused,
    "outcome-unknown": OutcomeUnknown,
    "store-unavailable": StoreUnavailable,
}


def serve(config: Config) -> None:
    """Serve, at a port that several processes share."""
    worker = Worker(config)
    app = IdempotencyMiddleware(
        Application(worker),
        store=worker.store,
        ttl=TTL,
        lease=config.lease,
        principal=lambda scope: "torture",
        mode=mode_of(config.way),
        wait=config.wait,
        resumable=config.way != "one_commit",
        runtime=worker.runtime,
    )
    server = uvicorn.Server(
        uvicorn.Config(Outside(app, worker), log_level="critical", lifespan="off", loop="asyncio", http="h11")
    )
    server.run(sockets=[listening_at(config.port)])


def listening_at(port: int) -> socket.socket:
    """A socket at a port that others are bound to as well."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    return listener


@final
class Application:
    """Handles `POST /`, of a key and a payload; the response comes in two pieces."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        asked = json.loads(message["body"])
        op = next(value for name, value in scope["headers"] if name == b"x-op").decode()
        handle = self._worker.operation.handle
        reply = await handle(scope["resilient.claim"], asked["key"], asked["payload"], op)
        body = json.dumps(reply).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body[:20], "more_body": True})
        await send({"type": "http.response.body", "body": body[20:]})


@final
class Outside:
    """Between the server and everything else: the process may end when half of a response is on its way.

    It also collects, now and then, as a task of the life span would.
    """

    def __init__(self, app: ASGIApp, worker: Worker) -> None:
        self._app, self._worker, self._caller = app, worker, Caller(worker)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_half(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.body" and message.get("more_body"):
                self._worker.fate.reach(REPLYING)

        await self._app(scope, receive, send_half)
        if self._caller.collects():
            await self._worker.collect_in_task()


@final
class Visitor(Worker):
    """Calls over HTTP, from plain threads, and leaves early at times."""

    def call(self, key: str, payload: str, op: str) -> dict[str, Any]:
        leaves = self.random.random() < self.config.cuts
        patience = self.random.uniform(0.005, 0.05) if leaves else self.config.patience
        connection = http.client.HTTPConnection("127.0.0.1", self.config.port, timeout=patience)
        try:
            body = json.dumps({"key": key, "payload": payload})
            headers = {"idempotency-key": f'"{key}"', "content-type": "application/json", "x-op": op}
            connection.request("POST", "/", body, headers)
            response = connection.getresponse()
            return self._read(response.status, response.read())
        finally:
            connection.close()

    def _read(self, status: int, body: bytes) -> dict[str, Any]:
        if status == http.client.OK:
            reply: dict[str, Any] = json.loads(body)
            return reply
        if status == http.client.INTERNAL_SERVER_ERROR:
            raise HandlerError
        kind = json.loads(body)["type"]
        raise next(error for name, error in ANSWERS.items() if kind.endswith(name))
