"""One process of the orders service: `python -m resilient.lab.demo.server NAME DATABASE REGISTRY SEED`.

It listens on a free port of this machine, registers itself, and obeys the words that it reads from its standard input:
a fault (see `Faults`) or `heal`. When that input ends, whoever started it is gone, and it leaves, too.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from resilient.asgi.types import Scope
from resilient.discovery import register
from resilient.instance import Instance
from resilient.lab.demo.app import orders_service
from resilient.lab.demo.faults import Faults

__all__ = ["TTL", "serve"]

TTL = 3.0
"""Seconds after which an instance that does not renew its registration is not listed any more."""

_PHASES_APART = 5


async def serve(name: str, database: Path, registry: str, seed: int) -> None:
    """Serve until standard input ends."""
    # asyncio turns Nagle's algorithm off only where the protocol is named; with it, replies wait 40 ms for an ACK.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        host, port = listener.getsockname()
        listener.listen()
        faults = Faults(phase=_PHASES_APART * int(name.rpartition("-")[2]))
        app = orders_service(
            database,
            name=name,
            seed=seed,
            work=faults.work,
            registered=register(registry, Instance(id=name, host=host, port=port), ttl=TTL),
        )

        def drop(scope: Scope) -> None:
            """Reset a connection, for which ASGI has no message."""
            for connection in list(server.server_state.connections):
                if isinstance(connection, H11Protocol) and connection.client == tuple(scope["client"]):
                    connection.transport.abort()

        config = uvicorn.Config(
            faults.around(app, drop), http="h11", loop="asyncio", lifespan="on", log_level="warning", access_log=False
        )
        server = uvicorn.Server(config)
        obeying = asyncio.create_task(_obey(faults, server))
        await server.serve(sockets=[listener])
        obeying.cancel()


async def _obey(faults: Faults, server: uvicorn.Server) -> None:
    words = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(words), sys.stdin)
    async for word in words:
        faults.obey(word.decode().strip())
    server.should_exit = True


if __name__ == "__main__":
    _, name, database, registry, seed = sys.argv
    asyncio.run(serve(name, Path(database), registry, int(seed)))
