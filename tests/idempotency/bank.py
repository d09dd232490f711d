"""A bank that honours idempotency keys: the far side of the tests of intents and leases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from resilient.call import Policy
from resilient.context import current_runtime
from resilient.http import PipelineTransport
from resilient.idempotency import Intents
from resilient.pipeline import Pipeline
from resilient.policies.honoured import Honoured
from resilient.policies.retry import Backoff, Retry
from resilient.policies.timeout import Timeout

URL = "https://bank.example"


class Bank:
    """Each step of the script is for one request: an exception, "lost" (done, but the answer is lost), or a response.

    After the script every request is done, once for each key.
    """

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.requests: list[httpx.Request] = []
        self.done: dict[str, bytes] = {}
        self.delay = 0.0

    @property
    def keys(self) -> list[str]:
        return [request.headers["idempotency-key"] for request in self.requests]

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        step = self.script.pop(0) if self.script else None
        if isinstance(step, Exception):
            raise step
        if isinstance(step, httpx.Response):
            return step
        key = request.headers["idempotency-key"]
        replayed = key in self.done
        body = self.done.setdefault(key, b"receipt %d" % (len(self.done) + 1))
        if step == "lost":
            raise httpx.ReadError("the connection broke")
        headers = {"x-kind": "receipt", "set-cookie": "a=b", **({"idempotency-replayed": "true"} if replayed else {})}
        return httpx.Response(201, headers=headers, stream=Chunks([body[:3], body[3:]]))

    async def answer_later(self, request: httpx.Request) -> httpx.Response:
        if self.delay:
            await current_runtime().sleep(self.delay)
        return self.answer(request)

    def client(self, *policies: Policy, **arguments: Any) -> httpx.AsyncClient:
        transport = PipelineTransport(Pipeline(*policies), httpx.MockTransport(self.answer_later))
        return httpx.AsyncClient(transport=transport, **{"base_url": URL, "timeout": None, **arguments})

    def sync_client(self, *policies: Policy, **arguments: Any) -> httpx.Client:
        transport = PipelineTransport(Pipeline(*policies), httpx.MockTransport(self.answer))
        return httpx.Client(transport=transport, **{"base_url": URL, "timeout": None, **arguments})


class Chunks(httpx.AsyncByteStream, httpx.SyncByteStream):
    def __init__(self, chunks: list[Any]) -> None:
        self.chunks = chunks

    def __iter__(self) -> Any:
        for chunk in self.chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    async def __aiter__(self) -> Any:
        for chunk in self.chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk


def stack(intents: Intents, *, keys: Callable[[Any], str] | None = None, window: float = 86_400.0) -> list[Policy]:
    """What a caller of the bank uses."""
    retry = Retry(attempts=2, backoff=Backoff(base=0.1), budget=None)
    return [Timeout(10.0), Honoured(window=window, keys=keys, intents=intents), retry, Timeout(3.0)]
