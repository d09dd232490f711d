"""Real servers for a test, in a thread, on a free port of the loopback: uvicorn, and hypercorn on asyncio and trio."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import anyio
import hypercorn.asyncio
import hypercorn.config
import hypercorn.trio
import uvicorn

Kind: TypeAlias = Literal["uvicorn", "hypercorn", "hypercorn on trio"]

PATIENCE = 10.0


@contextmanager
def served(app: Any, kind: Kind = "uvicorn") -> Iterator[str]:
    """Serve `app` and yield its URL. No server adds a date: what they send can be compared."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        serve = _uvicorn if kind == "uvicorn" else _hypercorn
        with serve(app, listener, kind):
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def _uvicorn(app: Any, listener: socket.socket, _kind: Kind) -> Iterator[None]:
    config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=5, date_header=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        deadline = time.monotonic() + PATIENCE
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        yield
    finally:
        server.should_exit = True
        thread.join(PATIENCE)


@contextmanager
def _hypercorn(app: Any, listener: socket.socket, kind: Kind) -> Iterator[None]:
    listener.listen(100)  # whoever comes before it serves is heard when it does
    config = hypercorn.config.Config()
    config.bind = [f"fd://{os.dup(listener.fileno())}"]  # which it closes
    config.include_date_header = False
    config.graceful_timeout = 5.0
    config.errorlog = logging.getLogger("tests.hypercorn")
    stop = threading.Event()

    async def until_told() -> None:
        while not stop.is_set():
            await anyio.sleep(0.01)

    async def serve() -> None:
        run: Callable[..., Awaitable[None]] = hypercorn.asyncio.serve if kind == "hypercorn" else hypercorn.trio.serve
        await run(app, config, shutdown_trigger=until_told, mode="asgi")

    def main() -> None:
        if kind == "hypercorn":
            asyncio.run(serve())
        else:
            anyio.run(serve, backend="trio")

    thread = threading.Thread(target=main)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()
