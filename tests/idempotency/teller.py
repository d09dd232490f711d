"""Both ends of a payment as real processes, which the tests kill: `serve` and `pay`."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
from pathlib import Path
from random import Random
from typing import Any

import anyio
import httpx

from resilient.asgi.types import Receive, Scope, Send
from resilient.backends.sqlite import SQLiteStore
from resilient.http import PipelineTransport
from resilient.idempotency import ClientLease, Intents, derived
from resilient.pipeline import Pipeline
from resilient.policies.honoured import Honoured
from resilient.policies.retry import Backoff, Retry
from resilient.policies.timeout import Timeout

SPACE = "8e03978e-40d5-43e8-bc93-6894a57f9324"
LEASE = 0.4
CLIENT_LEASE = 3.0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def note(folder: Path, name: str, **fields: Any) -> None:
    """One append for each line, which the system does not interleave."""
    file = os.open(folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, json.dumps(fields).encode() + b"\n")
    os.close(file)


# -- the far side ----------------------------------------------------------------------------------------------------


def make_app(folder: Path, dies: str) -> Any:
    from resilient.asgi import IdempotencyMiddleware

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        order = json.loads(body)["order"]
        claim = scope["resilient.claim"]

        def insert(connection: sqlite3.Connection) -> int | None:
            return connection.execute("INSERT INTO payments (reference) VALUES (?)", (order,)).lastrowid

        if dies == "before the effect":
            die()
        number = await claim.run(insert)
        if dies == "before the commit":
            die()
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": f"receipt {number} for {order}".encode()})

    store = SQLiteStore(folder / "bank.db")
    guarded = IdempotencyMiddleware(app, store, mode="transactional", lease=LEASE, client_lease=CLIENT_LEASE)

    async def noted(scope: Scope, receive: Receive, send: Send) -> None:
        async def noting() -> Any:
            message = await receive()
            key = dict(scope["headers"]).get(b"idempotency-key", b"").decode()
            note(folder, "requests", key=key, body=message.get("body", b"").decode())
            return message

        async def dying(message: Any) -> None:
            if dies == "before the reply":
                die()
            await send(message)

        await guarded(scope, noting, dying)

    return noted


def serve(folder: Path, port: int, dies: str) -> None:
    import uvicorn

    uvicorn.run(make_app(folder, dies), port=port, log_level="critical", lifespan="off")


# -- the client ------------------------------------------------------------------------------------------------------


class Line(httpx.AsyncHTTPTransport):
    """The connection, cut by the death of the process."""

    dies = ""

    async def handle_async_request(self, request: Any) -> httpx.Response:
        if self.dies == "before it is sent":
            die()
        response = await super().handle_async_request(request)
        if self.dies == "before it is read":
            die()
        return response


class PlainLine(httpx.HTTPTransport):
    dies = ""

    def handle_request(self, request: Any) -> httpx.Response:
        if self.dies == "before it is sent":
            die()
        response = super().handle_request(request)
        if self.dies == "before it is read":
            die()
        return response


def make_intents(folder: Path, dies: str) -> Intents:
    intents = Intents(f"sqlite:///{folder}/intents.db", lease=LEASE, backoff=Backoff(base=0.02, cap=0.1))
    store: Any = intents.terms.store
    begin, finish = store.begin, store.finish

    def dying_begin(*args: Any, **kwargs: Any) -> Any:
        if dies == "before it is written down":
            die()
        return begin(*args, **kwargs)

    def dying_finish(*args: Any, **kwargs: Any) -> Any:
        if dies == "before the result is written down":
            die()
        done = finish(*args, **kwargs)
        if dies == "after the result is written down":
            die()
        return done

    store.begin, store.finish = dying_begin, dying_finish
    return intents


def policies(intents: Intents) -> Pipeline:
    keys = derived(SPACE, lambda call: ("pay", json.loads(call.request.content)["order"]))
    retry = Retry(attempts=1000, backoff=Backoff(base=0.02, cap=0.2), budget=None)
    return Pipeline(Timeout(40.0), Honoured(keys=keys, intents=intents), retry, Timeout(2.0))


async def pay(folder: Path, url: str, orders: list[str], dies: str) -> None:
    intents = make_intents(folder, dies)
    line = Line()
    line.dies = dies
    transport = PipelineTransport(policies(intents), line)
    async with httpx.AsyncClient(transport=transport, base_url=url) as client:
        report = await intents.resume(client)
        for item in report.finished:
            print("resumed", item.result.text, flush=True)
        for order in orders:
            response = await client.post("/payments", json={"order": order})
            note(folder, "answers", order=order, status=response.status_code, text=response.text)
            print("paid", response.text, flush=True)


async def pay_carelessly(folder: Path, url: str, orders: list[str], dies: str) -> None:
    """The control: keys that are drawn anew, and nothing is written down."""
    line = Line()
    line.dies = dies
    async with httpx.AsyncClient(transport=PipelineTransport(Pipeline(Honoured()), line), base_url=url) as client:
        for order in orders:
            await client.post("/payments", json={"order": order})


def pay_plainly(folder: Path, url: str, orders: list[str], dies: str) -> None:
    intents = make_intents(folder, dies)
    line = PlainLine()
    line.dies = dies
    with httpx.Client(transport=PipelineTransport(policies(intents), line), base_url=url) as client:
        for item in intents.blocking.resume(client).finished:
            print("resumed", item.result.text, flush=True)
        for order in orders:
            response = client.post("/payments", json={"order": order})
            note(folder, "answers", order=order, status=response.status_code, text=response.text)
            print("paid", response.text, flush=True)


class Echo(httpx.AsyncHTTPTransport):
    """A network that delivers copies of old requests, late and in any order."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.seen: list[httpx.Request] = []
        self.random = Random(os.getpid())

    async def handle_async_request(self, request: Any) -> httpx.Response:
        if request.url.path == "/payments":
            self.seen.append(request)
        response = await super().handle_async_request(request)
        if self.random.random() < 0.5:
            old = self.random.choice(self.seen or [request])
            late = await super().handle_async_request(old)
            await late.aread()
            replayed = late.headers.get("idempotency-replayed") == "true"
            note(self.folder, "late", status=late.status_code, replayed=replayed)
        return response


async def pay_leased(folder: Path, url: str, orders: list[str]) -> None:
    lease = ClientLease()
    retry = Retry(attempts=1000, backoff=Backoff(base=0.02, cap=0.2), budget=None)
    pipeline = Pipeline(Timeout(40.0), Honoured(lease=lease), retry, Timeout(2.0))
    transport = PipelineTransport(pipeline, Echo(folder))
    places = anyio.Semaphore(3)

    async def pay_one(client: httpx.AsyncClient, order: str) -> None:
        async with places:
            note(folder, "begun", order=order)
            response = await client.post("/payments", json={"order": order})
            note(folder, "answers", order=order, status=response.status_code, text=response.text)

    async with httpx.AsyncClient(transport=transport, base_url=url) as client:
        async with anyio.create_task_group() as tasks:
            for order in orders:
                tasks.start_soon(pay_one, client, order)
        if not orders or orders[-1].endswith("leave"):
            await lease.leave()


def main(role: str, folder: Path, where: str, dies: str, *orders: str) -> None:
    match role:
        case "serve":
            serve(folder, int(where), dies)
        case "plain":
            pay_plainly(folder, where, list(orders), dies)
        case "careless":
            anyio.run(pay_carelessly, folder, where, list(orders), dies)
        case "leased" | "leased trio":
            backend = "trio" if role.endswith("trio") else "asyncio"
            anyio.run(pay_leased, folder, where, list(orders), backend=backend)
        case backend:
            anyio.run(pay, folder, where, list(orders), dies, backend=backend)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
