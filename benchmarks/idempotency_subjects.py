"""One small service behind each idempotency library, for `benchmarks.idempotency_peers` to ask the same questions.

    python -m benchmarks.idempotency_subjects NAME FD FOLDER REDIS_URL

Each library is configured as its documentation shows, with the shortest lease that it offers set to one second, and a
scope by the ``Authorization`` header where it has one. A request that takes effect appends a line to FOLDER/effects.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

__all__ = ["LEASE", "SUBJECTS"]

LEASE = 1.0
Wrap = Callable[[Any], Any]


class Service:
    """What is protected. Its journal outlives it."""

    def __init__(self, folder: Path) -> None:
        self.journal = folder / "effects"
        self.killed = folder / "killed"

    def take_effect(self, what: str) -> int:
        """Append one line, which is what must not happen twice."""
        with self.journal.open("a") as journal:
            journal.write(f"{what}\n")
        return self.journal.read_text().split().count(what)

    async def answer(self, request: Request) -> Response:
        """Take effect, and answer in the way that the path asks for."""
        await request.body()
        kind = request.path_params["kind"]
        first = not self.killed.exists()
        if kind == "killed-before" and first:
            self.die()
        await asyncio.sleep(float(request.headers.get("x-sleep", "0")))
        key = request.headers.get("idempotency-key", "-").strip('"')
        if kind == "killed-inside":
            await request.scope["resilient.claim"].run(lambda connection: self.write(connection, key))
            if first:
                self.die()
        number = self.take_effect(key)
        if kind == "killed-after" and first:
            self.die()
        return self.respond(request, kind, number)

    def respond(self, request: Request, kind: str, number: int) -> Response:
        """The response that the path asks for."""
        kinds: dict[str, Callable[[], Response]] = {
            "text": lambda: PlainTextResponse(f"run {number}"),
            "cookie": lambda: JSONResponse({"run": number}, headers={"set-cookie": "session=secret"}),
            "stream": lambda: StreamingResponse(self.parts(), media_type="text/plain"),
            "events": lambda: StreamingResponse(self.parts(), media_type="text/event-stream"),
            "204": lambda: Response(status_code=204),
            "303": lambda: RedirectResponse("/elsewhere", 303),
            "402": lambda: JSONResponse({"run": number}, 402),
            "500": lambda: JSONResponse({"run": number}, 500),
        }
        if kind in kinds:
            return kinds[kind]()
        told = {"run": number, "user": request.headers.get("authorization"), "path": request.url.path}
        return JSONResponse(told, headers={"x-custom": "kept"})

    async def parts(self) -> AsyncIterator[str]:
        """A body that comes in parts."""
        for number in range(5):
            await asyncio.sleep(0.002)
            yield f"data: {number}\n\n"

    def write(self, connection: Any, key: str) -> None:
        """An effect inside the transaction of the record; only ours offers that."""
        connection.execute("CREATE TABLE IF NOT EXISTS effects (key TEXT)")
        connection.execute("INSERT INTO effects VALUES (?)", (key,))

    def die(self) -> None:
        """As the kernel ends a process: nothing is cleaned up."""
        self.killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)

    def app(self) -> Starlette:
        """The service without protection."""
        return Starlette(routes=[Route("/{kind}", self.answer, methods=["GET", "POST"])])


def ours(app: Any, folder: Path, redis_url: str) -> Any:
    """`resilient`, with SQLite."""
    from resilient.asgi import IdempotencyMiddleware

    return IdempotencyMiddleware(app, f"sqlite:///{folder}/claims.db", lease=LEASE, mode="transactional")


def asgi_idempotency_header(app: Any, folder: Path, redis_url: str) -> Any:
    """It has neither a lease nor a scope."""
    from idempotency_header_middleware import IdempotencyHeaderMiddleware
    from idempotency_header_middleware.backends import RedisBackend
    from redis.asyncio import Redis

    return IdempotencyHeaderMiddleware(app, backend=RedisBackend(redis=Redis.from_url(redis_url)))


def fastapi_idempotency(app: Any, folder: Path, redis_url: str) -> Any:
    """Its durable store is that of Tortoise ORM."""
    from fastapi_idempotency import IdempotencyMiddleware
    from fastapi_idempotency.stores.tortoise import TortoiseStore
    from tortoise import Tortoise

    protected = IdempotencyMiddleware(
        app, store=TortoiseStore(), lease_seconds=LEASE, heartbeat_seconds=LEASE / 3, scope=_authorization
    )
    ready = asyncio.Event()
    lock: list[asyncio.Lock] = []

    async def prepared(scope: Any, receive: Any, send: Any) -> None:
        if not ready.is_set():
            lock[:] = lock or [asyncio.Lock()]
            async with lock[0]:
                if not ready.is_set():
                    models = {"models": ["fastapi_idempotency.stores.tortoise"]}
                    await Tortoise.init(
                        db_url=f"sqlite://{folder}/tortoise.db", modules=models, _enable_global_fallback=True
                    )
                    await Tortoise.generate_schemas(safe=True)
                    ready.set()
        await protected(scope, receive, send)

    return prepared


def fastapi_idempotency_key(app: Any, folder: Path, redis_url: str) -> Any:
    """It has neither a lease nor a scope."""
    from fastapi_idempotency_key import IdempotencyMiddleware
    from fastapi_idempotency_key.backends.redis import RedisBackend

    return IdempotencyMiddleware(app, backend=RedisBackend(redis_url=redis_url))


def idemkit(app: Any, folder: Path, redis_url: str) -> Any:
    """A duplicate waits for the first; a scope has to be given."""
    from idemkit import HttpConfig, IdempotencyMiddleware, RedisBackend

    config = HttpConfig(scope=_authorization, lease_ttl_seconds=LEASE)
    return IdempotencyMiddleware(app, backend=RedisBackend.from_url(redis_url), config=config)


def aws_lambda_powertools(app: Any, folder: Path, redis_url: str) -> Any:
    """A function, so what is asked of HTTP is glue of ours: the key is its user's to compose, a result is JSON."""
    import json

    from aws_lambda_powertools.utilities.idempotency import IdempotencyConfig, idempotent_function
    from aws_lambda_powertools.utilities.idempotency import exceptions as errors
    from aws_lambda_powertools.utilities.idempotency.persistence.cache import CachePersistenceLayer
    from redis import Redis

    layer = CachePersistenceLayer(client=Redis.from_url(redis_url, decode_responses=True))
    config = IdempotencyConfig(event_key_jmespath="key", payload_validation_jmespath="body", use_local_cache=False)

    async def protected(scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        if scope["method"] != "POST" or "idempotency-key" not in headers:
            await app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        request = Request(scope, receive)
        body = (await request.body()).decode()

        @idempotent_function(data_keyword_argument="event", config=config, persistence_store=layer)
        def run(*, event: dict[str, str]) -> dict[str, Any]:
            return asyncio.run_coroutine_threadsafe(_whole_response(app, scope, body.encode()), loop).result()

        try:
            key = "|".join((headers.get("authorization", ""), scope["path"], headers["idempotency-key"]))
            result = await asyncio.to_thread(run, event={"key": key, "body": body})
        except errors.IdempotencyAlreadyInProgressError:
            result = {"status": 409, "headers": {}, "body": ""}
        except errors.IdempotencyValidationError:
            result = {"status": 422, "headers": {}, "body": ""}
        except errors.IdempotencyPersistenceLayerError as error:
            result = {"status": 500, "headers": {}, "body": json.dumps(str(error))}
        response = Response(result["body"], result["status"], result["headers"])
        await response(scope, receive, send)

    return protected


async def _whole_response(app: Any, scope: Any, body: bytes) -> dict[str, Any]:
    said: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        said.append(message)

    await app(scope, receive, send)
    start, *rest = said
    return {
        "status": start["status"],
        "headers": {name.decode(): value.decode() for name, value in start["headers"]},
        "body": b"".join(message.get("body", b"") for message in rest).decode(),
    }


def _authorization(request: Any) -> str:
    return str(request.headers.get("authorization", "anonymous"))


SUBJECTS: dict[str, tuple[str, Callable[[Any, Path, str], Any]]] = {
    "resilient": ("resilient-mesh", ours),
    "asgi-idempotency-header": ("asgi-idempotency-header", asgi_idempotency_header),
    "fastapi-idempotency": ("fastapi-idempotency", fastapi_idempotency),
    "fastapi-idempotency-key": ("fastapi-idempotency-key", fastapi_idempotency_key),
    "idemkit": ("idemkit", idemkit),
    "aws-lambda-powertools": ("aws-lambda-powertools", aws_lambda_powertools),
}
"""By name: the distribution, and what puts it around an application."""


def main(name: str, descriptor: str, folder: str, redis_url: str) -> None:
    """Serve one subject on a socket that was opened by somebody else."""
    place = Path(folder)
    _, protect = SUBJECTS[name]
    app = protect(Service(place).app(), place, redis_url)
    uvicorn.run(app, fd=int(descriptor), log_level="critical", lifespan="off")


if __name__ == "__main__":
    main(*sys.argv[1:])
