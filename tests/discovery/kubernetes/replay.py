"""A server that says again what a real one said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import h11

from resilient.backends.kubernetes import Access
from resilient.testing.kubernetes.sockets import Connection, Listener
from tests.discovery.kubernetes.traces import Trace

HEADERS = {"content-type": "application/json"}


class Replay:
    """Answers each request with the next trace, or with a list of chunks: a 200 which is cut off if it holds None."""

    def __init__(self, *script: Trace | Sequence[bytes | None]) -> None:
        self.script = list(script)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.heads: list[dict[str, str]] = []
        self.listener = Listener(self.handle)

    def __enter__(self) -> Self:
        self.listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.stop(reset=False)
        self.listener.join()

    def access(self) -> Access:
        return Access(server=f"http://127.0.0.1:{self.listener.port}", token="t")  # noqa: S106

    def handle(self, connection: Connection, request: h11.Request, _: bytes) -> None:
        target = urlsplit(request.target.decode())
        self.asked.append((target.path, dict(parse_qsl(target.query))))
        self.heads.append({name.decode(): value.decode() for name, value in request.headers})
        step: Any = self.script.pop(0)
        if isinstance(step, Trace):
            connection.begin(step.status, {**step.headers, "transfer-encoding": "chunked"})
            connection.write(chunk for _, chunk in step.chunks)
            connection.end()
            return
        connection.begin(200, {**HEADERS, "transfer-encoding": "chunked"})
        for chunk in step:
            if chunk is None:
                connection.reset()
                return
            connection.write([chunk])
        connection.end()
