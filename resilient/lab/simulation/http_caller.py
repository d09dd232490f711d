"""Callers that are real HTTP clients, so that the adapter is tried too; only the wire is simulated."""

from __future__ import annotations

from types import TracebackType
from typing import Self, final

import httpx

from resilient.call import Priority
from resilient.context import current_runtime
from resilient.http import Transport
from resilient.instance import Instance
from resilient.lab.simulation.caller import Send
from resilient.lab.world.job import Errand, Reply
from resilient.lab.world.network import CorruptReply
from resilient.runtime import Runtime
from resilient.service import Service

__all__ = ["HttpCaller"]


@final
class HttpCaller:
    """Calls with an `httpx.AsyncClient` through `resilient.http.Transport`: a GET for a read, a POST for a write."""

    def __init__(self, service: Service, send: Send, *, reckless: bool, tells: bool) -> None:
        self.service = service
        self._reckless = reckless
        runtime = current_runtime()

        def wire(instance: Instance) -> httpx.AsyncBaseTransport:
            return _Wire(instance, send, runtime, tells=tells)

        self._client = httpx.AsyncClient(
            transport=Transport(service, wire),
            base_url=f"http://{service.name}",
            timeout=httpx.Timeout(None),  # the policies' deadline rules
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def call(self, errand: Errand) -> Reply:
        """Make one request."""
        options: dict[str, object] = {}
        if self._reckless:
            options["idempotent"] = True
        if errand.priority is not Priority.CRITICAL:
            options["priority"] = errand.priority
        extensions = {"lab": errand} | ({"resilient": options} if options else {})
        response = await self._client.request("GET" if errand.repeatable else "POST", "/", extensions=extensions)
        return Reply(response.status_code)


@final
class _Wire(httpx.AsyncBaseTransport):
    """The connections to one instance."""

    def __init__(self, instance: Instance, send: Send, runtime: Runtime, *, tells: bool) -> None:
        self._instance = instance
        self._send = send
        self._runtime = runtime
        self._tells = tells

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request into the world, and say what comes back in the words of httpx."""
        headers = request.headers
        left = headers.get("Resilient-Timeout-Ms") if self._tells else None
        deadline = None if left is None else self._runtime.now() + int(left) / 1000
        try:
            reply = await self._send(
                request.extensions["lab"], self._instance.id, deadline, headers.get("Idempotency-Key")
            )
        except ConnectionRefusedError as error:
            raise httpx.ConnectError(str(error), request=request) from error
        except CorruptReply as error:
            raise httpx.RemoteProtocolError(str(error), request=request) from error
        except ConnectionError as error:
            raise httpx.ReadError(str(error), request=request) from error
        hint = {} if reply.retry_after is None else {"Retry-After": f"{reply.retry_after:.0f}"}
        return httpx.Response(reply.status, headers=hint, request=request)
