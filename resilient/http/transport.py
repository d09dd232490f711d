"""Transports for httpx and httpx2 clients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, final

from resilient.call import Call
from resilient.context import Options
from resilient.http.classify import classify_http
from resilient.http.connections import Connectivity
from resilient.http.exchange import Exchange
from resilient.http.package import package_of
from resilient.http.routes import Route, options_for
from resilient.instance import Instance
from resilient.pipeline import Pipeline
from resilient.service import Service
from resilient.waiting import drive

if TYPE_CHECKING:
    import httpx

    class _Transport(httpx.AsyncBaseTransport, httpx.BaseTransport):
        """What type checkers are told; at run time a transport is one by structure, for httpx and httpx2 alike."""
else:
    _Transport = object

__all__ = ["PipelineTransport", "Transport"]


class _Base(_Transport):
    """Both kinds of transport, for both kinds of client."""

    def _exchange(self, request: Any, *, sync: bool) -> tuple[Exchange, Call, Pipeline]:
        """What the request becomes: its exchange, its call, and what that goes through."""
        raise TypeError(f"{type(self).__name__} does not say how a request is sent")

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request of an asynchronous client through the policies."""
        return await self._run(*self._exchange(request, sync=False))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request of a synchronous client through the policies, without an event loop."""
        exchange, call, pipeline = self._exchange(request, sync=True)
        call.blocking = True
        return drive(self._run(exchange, call, pipeline))

    async def _run(self, exchange: Exchange, call: Call, pipeline: Pipeline) -> httpx.Response:
        try:
            response: httpx.Response = await pipeline.chain(call)
        except BaseException as error:
            await exchange.abandon(error)
            call.finish(error)
            raise
        if response.is_closed:  # it came with its content, as that of a MockTransport does: nobody will close it
            await exchange.close(response.stream)
        return response

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self.close()


def _begin(begin: Callable[..., Call], exchange: Exchange, name: str, options: Options | None = None) -> Call:
    call = begin(name, exchange.invoke, exchange.request, repeatable=exchange.repeatable, options=options)
    exchange.prepare(call)
    call.classify = classify_http
    call.ends = []
    return call


@final
class Transport(_Base):
    """A transport that sends each attempt to an instance of a service.

    For an `httpx.AsyncClient`, an `httpx.Client`, or those of httpx2. The client speaks to `http://<name of the
    service>/...`; each attempt is a new request with the chosen instance's address and the caller's headers, so
    that `Host`, `response.url`, redirects and cookies stay the service's, and TLS verifies its name. A request
    for any other host is refused, so that a redirect elsewhere does not reach an instance: mount another
    transport for it.

    GET, HEAD, OPTIONS, PUT and DELETE are repeatable, anything else where the service honours an idempotency
    key. Nothing is repeated once the response reached the caller, nor when the body can be read only once.
    Streams are never buffered.

    `inner`
        Makes the transport of one instance: `httpx.MockTransport`, `ASGITransport`, one with certificates of
        your own. By default an HTTP transport of the request's package.
    `timeout`
        Seconds for each call as a whole; options of a route, a request or the surrounding code may shorten it. The
        timeouts of the client itself count for single reads and writes; `http.client` turns them off.
    `routes`
        Options by path; see `Route`.
    `connections`
        How many requests may be with one instance at once, 100 (with HTTP/2 these are streams); beyond them a request
        waits within its deadline.
    `http2`
        Whether to speak HTTP/2, which needs the extra `h2` of the package.

    In `response.extensions["resilient"]` stands how the response came about: a `Delivery`.
    """

    def __init__(
        self,
        service: Service,
        inner: Callable[[Instance], Any] | None = None,
        *,
        timeout: float | None = None,
        routes: Sequence[Route] = (),
        connections: int = 100,
        http2: bool = False,
    ) -> None:
        if timeout is not None and not (math.isfinite(timeout) and timeout > 0):
            raise ValueError(f"timeout={timeout!r}: a finite number of seconds, more than 0")
        if connections < 1:
            raise ValueError(f"connections={connections!r}: how many requests may be with an instance, at least 1")
        self.service = service
        self._options = None if timeout is None else Options(timeout=timeout)
        self._routes = tuple(routes)
        self._async = Connectivity(inner, sync=False, places=connections, http2=http2)
        self._sync = Connectivity(inner, sync=True, places=connections, http2=http2)
        self._seen: object = None

    def __repr__(self) -> str:
        return f"Transport({self.service!r})"

    def _exchange(self, request: Any, *, sync: bool) -> tuple[Exchange, Call, Pipeline]:
        package = package_of(request)
        service = self.service
        if request.url.host != service.name:
            raise package.module.UnsupportedProtocol(
                f"{request.url.host!r} is not the service {service.name!r}: mount another transport for other hosts",
                request=request,
            )
        connectivity = self._sync if sync else self._async
        exchange = Exchange(package, request, sync=sync, connect=connectivity.to)
        options = self._options if not self._routes else options_for(request, self._routes, self._options)
        call = _begin(service.begin, exchange, f"{request.method} {service.name}", options)
        return exchange, call, service.pipeline

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request of an asynchronous client to an instance, through the policies."""
        self._follow_snapshot()
        for transport in self._async.take_idle():
            await transport.aclose()
        return await super().handle_async_request(request)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request of a synchronous client to an instance, through the policies."""
        self._follow_snapshot()
        for transport in self._sync.take_idle():
            transport.close()
        return super().handle_request(request)

    def _follow_snapshot(self) -> None:
        snapshot = self.service.balancer.snapshot
        if snapshot is not self._seen and snapshot is not None:
            self._seen = snapshot
            self._async.keep(snapshot.instances)
            self._sync.keep(snapshot.instances)

    async def aclose(self) -> None:
        """Close the connections to every instance."""
        for transport in self._async.take_all():
            await transport.aclose()

    def close(self) -> None:
        """Close the connections to every instance."""
        for transport in self._sync.take_all():
            transport.close()


@final
class PipelineTransport(_Base):
    """A transport that sends every request through a pipeline, and then to `inner`.

    For one host, or for public interfaces that have no instances to choose from::

        api = Pipeline(Timeout(10.0), Retry(), RateLimit("50/second"), CircuitBreaker(), Timeout(3.0))
        client = httpx.AsyncClient(transport=PipelineTransport(api, httpx.AsyncHTTPTransport()))

    What may be repeated is decided as in `Transport`: put `Honoured()` into the pipeline where the other side
    honours the Idempotency-Key header. `inner` is any transport for the kind of client that this one is used
    in.
    """

    def __init__(self, pipeline: Pipeline, inner: Any) -> None:
        self.pipeline = pipeline
        self.inner = inner

    def __repr__(self) -> str:
        return f"PipelineTransport({self.pipeline!r}, {self.inner!r})"

    def _exchange(self, request: Any, *, sync: bool) -> tuple[Exchange, Call, Pipeline]:
        exchange = Exchange(package_of(request), request, sync=sync, transport=self.inner)
        call = _begin(self.pipeline.begin, exchange, f"{request.method} {request.url.host}")
        return exchange, call, self.pipeline

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self.inner.aclose()

    def close(self) -> None:
        """Close the inner transport."""
        self.inner.close()
