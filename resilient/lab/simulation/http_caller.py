"""Callers that are real HTTP clients, so that the adapter is tried too."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self, final

import httpx

from resilient.balancing.orca import HEADER, format_load
from resilient.call import Priority
from resilient.context import current_runtime
from resilient.http import Transport
from resilient.instance import Instance
from resilient.lab.simulation.caller import Send
from resilient.lab.world.job import Errand, Reply
from resilient.lab.world.network import CorruptReply
from resilient.runtime import Runtime
from resilient.service import Service

__all__ = ["Attached", "HttpCaller", "http_in_memory"]


class Attached(NamedTuple):
    """What a request carries of its errand, for whoever finds it at the other end of the wire."""

    headers: dict[str, str]
    extensions: dict[str, object]


@final
class HttpCaller:
    """Calls with an `httpx.AsyncClient` through `resilient.http.Transport`: a GET for a read, a POST for a write.

    `attach` says what goes with the request of an errand.
    """

    def __init__(
        self, service: Service, transport: Transport, attach: Callable[[Errand], Attached], *, reckless: bool
    ) -> None:
        self.service = service
        self._attach = attach
        self._reckless = reckless
        self._client = httpx.AsyncClient(
            transport=transport,
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
        headers, extensions = self._attach(errand)
        if options:
            extensions["resilient"] = options
        method = "GET" if errand.repeatable else "POST"
        response = await self._client.request(method, "/", headers=headers, extensions=extensions)
        return Reply(response.status_code)


def http_in_memory(service: Service, send: Send, *, reckless: bool, tells: bool) -> HttpCaller:
    """Make a caller whose requests, at the point where they would be written to a socket, are sent by `send`."""
    runtime = current_runtime()

    def wire(instance: Instance) -> httpx.AsyncBaseTransport:
        return _Wire(instance, send, runtime, tells=tells)

    def attach(errand: Errand) -> Attached:
        return Attached({}, {"lab": errand})

    return HttpCaller(service, Transport(service, wire), attach, reckless=reckless)


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
        told = {} if reply.retry_after is None else {"Retry-After": f"{reply.retry_after:.0f}"}
        if reply.load is not None:
            told[HEADER] = format_load(reply.load)
        return httpx.Response(reply.status, headers=told, request=request)
