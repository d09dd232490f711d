"""Transports for httpx and httpx2 clients."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack, ExitStack, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, final

from resilient.balancing.orca import load_of
from resilient.balancing.policy import ADMISSION
from resilient.call import Call
from resilient.context import Options
from resilient.http.adapter import HttpAdapter, Send
from resilient.http.body import Body, close_quietly
from resilient.http.classify import classify_http
from resilient.http.connections import SECURE, Connectivity, Verify, Wire
from resilient.http.exchange import Exchange
from resilient.http.package import package_of
from resilient.http.probing import HttpProbes
from resilient.http.punctual import make_punctual
from resilient.http.routes import Route, options_for
from resilient.instance import Instance
from resilient.pipeline import Pipeline
from resilient.policies.base import OwnPolicy
from resilient.service import Service
from resilient.snapshot import Snapshot
from resilient.waiting import drive

if TYPE_CHECKING:
    import httpx
    import httpx2

    class _Transport(
        httpx.AsyncBaseTransport, httpx.BaseTransport, httpx2.AsyncBaseTransport, httpx2.BaseTransport, ABC
    ):
        """What type checkers are told; at run time a transport is one by structure, for httpx and httpx2 alike."""

        async def handle_async_request(self, request: Any) -> Any: ...
        def handle_request(self, request: Any) -> Any: ...
else:
    _Transport = ABC

__all__ = ["PipelineTransport", "Transport"]

_NO_HOST = re.compile(r"[\s/?#@:\[\]\\%]|^$")


class _Base(_Transport):
    """Both kinds of transport, for both kinds of client."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._needs_loop = next(
            (policy for policy in pipeline if isinstance(policy, OwnPolicy) and policy.needs_loop is not None), None
        )
        # The responses that clients dropped without closing them: asynchronous ones, synchronous ones.
        self._dropped: tuple[deque[Body], deque[Body]] = (deque(), deque())
        self._closed = [False, False]
        """Asynchronous clients, synchronous ones."""

    @abstractmethod
    def _exchange(self, request: Any, *, sync: bool) -> tuple[Exchange, Call, Pipeline]:
        """What the request becomes: its exchange, its call, and what that goes through."""

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request of an asynchronous client through the policies."""
        return await self._run(request, sync=False)

    def handle_request(self, request: Any) -> Any:
        """Send a request of a synchronous client through the policies, without an event loop."""
        policy = self._needs_loop
        if policy is not None:
            raise TypeError(f"a synchronous client has no event loop, and {policy!r} needs one: {policy.needs_loop}")
        return drive(self._run(request, sync=True))

    async def _run(self, request: Any, *, sync: bool) -> Any:
        if self._is_untidy(sync=sync):
            await self._tidy(sync=sync)
        exchange, call, pipeline = self._exchange(request, sync=sync)
        try:
            return await exchange.deliver(await pipeline.chain(call), call)
        except BaseException as error:
            try:
                await exchange.abandon(error)
            finally:
                call.finish(error)
            raise

    async def _ask(self, request: Any, *, sync: bool) -> Any:
        """Send a request of the library's own, unless the client is closed: it would open connections again."""
        if self._closed[sync]:
            raise RuntimeError(f"{self!r} is closed")
        return await self._run(request, sync=sync)

    def _is_untidy(self, *, sync: bool) -> bool:
        """Whether something waits for being closed."""
        return bool(self._dropped[sync])

    async def _tidy(self, *, sync: bool) -> None:
        """Close it. The request that comes by has no part in it, and none in its errors."""
        with suppress(IndexError):  # other threads take from it too
            while True:
                await close_quietly(self._dropped[sync].popleft(), sync=sync)

    async def __aenter__(self) -> Self:
        self._closed[False] = False
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        self._closed[True] = False
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self.close()


def _begin(
    begin: Callable[..., Call], exchange: Exchange, send: Send, name: str, options: Options | None = None
) -> Call:
    call = begin(name, exchange.invoke, exchange.request, repeatable=exchange.repeatable, options=options)
    exchange.prepare(call)
    call.classify = classify_http
    call.adapter = HttpAdapter(exchange, send)
    call.blocking = exchange.sync
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
        Makes the transport of one instance: `httpx.MockTransport`, `ASGITransport`, one with connections of your own
        kind. Each instance needs its own: it is closed when the instance has left. By default an HTTP transport of the
        request's package.
    `timeout`
        Seconds for each call as a whole; options of a route, a request or the surrounding code may shorten it. The
        timeouts of the client itself count for single reads and writes; `http.client` turns them off.
    `routes`
        Options by path; see `Route`.
    `connections`
        How many requests may be with one instance at once, 100 (with HTTP/2 these are streams, and a tenth is kept in
        reserve); beyond them a request waits within its deadline, and no longer than 30 s, in a line of at most 1,000.
    `http2`
        Whether to speak HTTP/2 over TLS, which needs the extra `http2` of the package.
    `verify`
        Whose word counts for the name of the service, where the URL is `https://...`: an `ssl.SSLContext` (your own
        authorities, a client's certificate), the path of a file or folder of certificates, or True, the certificates
        that the package itself trusts. False trusts everybody. One context serves all connections.

    In `response.extensions["resilient"]` stands how the response came about: a `Delivery`.

    Thread-safe: one may serve a client in an event loop and others in threads.

    Raises `ValueError`, `TypeError` or `ImportError` for arguments that cannot work, and for a service whose name
    cannot be a host.
    """

    def __init__(
        self,
        service: Service,
        inner: Callable[[Instance], Any] | None = None,
        *,
        timeout: float | None = None,
        routes: Iterable[Route] = (),
        connections: int = 100,
        http2: bool = False,
        verify: Verify = True,
    ) -> None:
        super().__init__(service.pipeline)
        if timeout is not None and not (math.isfinite(timeout) and timeout > 0):
            raise ValueError(f"timeout={timeout!r}: a finite number of seconds, more than 0")
        if _NO_HOST.search(service.name):
            raise ValueError(f"service={service!r}: its name is the host of its URLs, and {service.name!r} can be none")
        if inner is not None and (http2 or verify is not True):
            raise ValueError("inner=...: it makes the connections, so http2 and verify are its own business")
        wire = Wire(inner, connections=connections, http2=http2, verify=verify)
        self.service = service
        self._host = service.name.lower()
        self._options = None if timeout is None else Options(timeout=timeout)
        self._routes = tuple(routes)
        for route in self._routes:
            if not isinstance(route, Route):
                raise TypeError(f"routes: {route!r} is no Route(path, options)")
        self._wire = wire

        def snapshot() -> Snapshot | None:
            return service.balancer.snapshot

        self._connectivity = Connectivity(wire, snapshot, sync=False), Connectivity(wire, snapshot, sync=True)

        self._probes: HttpProbes | None = None
        probing = service.balancer.probing
        if probing is not None and probing.ask is None:
            # Connections of their own: they live in the service's event loop, and no probe waits behind a call.
            probing.ask = self._probes = HttpProbes(
                service.name, probing.path, Connectivity(wire, snapshot, sync=False)
            )

    def __repr__(self) -> str:
        return f"Transport({self.service!r})"

    def _exchange(self, request: Any, *, sync: bool) -> tuple[Exchange, Call, Pipeline]:
        package = package_of(request)
        service = self.service
        url = request.url
        if url.host != self._host:
            raise package.module.UnsupportedProtocol(
                f"{url.host!r} is not the service {service.name!r}: mount another transport for other hosts",
                request=request,
            )
        if url.scheme in SECURE:
            self._wire.prepare(package)
        connect = self._connectivity[sync].to
        learn = self._learn if service.balancer.wants_reports else None
        exchange = Exchange(package, request, self._dropped[sync], sync=sync, connect=connect, learn=learn)
        if self._probes is not None:
            self._probes.like(url.scheme, package)
        options = self._options if not self._routes else options_for(request, self._routes, self._options)
        call = _begin(service.begin, exchange, self._ask, f"{request.method} {service.name}", options)
        call.attributes = {**(call.attributes or {}), ADMISSION: exchange.admit}
        return exchange, call, service.pipeline

    def _learn(self, call: Call, response: Any) -> None:
        """Tell the balancer what the instance says of its load."""
        load = load_of(response.headers)
        if load is not None and call.instance is not None:
            self.service.balancer.report(call.instance, load, call.runtime.now())

    def _is_untidy(self, *, sync: bool) -> bool:
        return self._connectivity[sync].retire_the_gone() or super()._is_untidy(sync=sync)

    async def _tidy(self, *, sync: bool) -> None:
        await super()._tidy(sync=sync)
        while (transport := self._connectivity[sync].take_idle()) is not None:
            await close_quietly(transport, sync=sync)

    async def aclose(self) -> None:
        """Close the connections of asynchronous clients to every instance."""
        self._closed[False] = True
        await self._tidy(sync=False)
        async with AsyncExitStack() as stack:  # each of them, whatever another raises
            for transport in self._connectivity[False].take_all():
                stack.push_async_callback(transport.aclose)

    def close(self) -> None:
        """Close the connections of synchronous clients to every instance."""
        self._closed[True] = True
        drive(self._tidy(sync=True))
        with ExitStack() as stack:  # likewise
            for transport in self._connectivity[True].take_all():
                stack.callback(transport.close)


@final
class PipelineTransport(_Base):
    """A transport that sends every request through a pipeline, and then to `inner`.

    For one host, or for public interfaces that have no instances to choose from::

        api = Pipeline(Timeout(10.0), Retry(), RateLimit("50/second"), CircuitBreaker(), Timeout(3.0))
        client = httpx.AsyncClient(transport=PipelineTransport(api, httpx.AsyncHTTPTransport()))

    What may be repeated is decided as in `Transport`: put `Honoured()` into the pipeline where the other side
    honours the Idempotency-Key header. `inner` is any transport for the kind of client that this one is used
    in; it is opened and closed with this one.
    """

    def __init__(self, pipeline: Pipeline, inner: Any) -> None:
        super().__init__(pipeline)
        make_punctual(inner)
        self.pipeline = pipeline
        self.inner = inner

    def __repr__(self) -> str:
        return f"PipelineTransport({self.pipeline!r}, {self.inner!r})"

    def _exchange(self, request: Any, *, sync: bool) -> tuple[Exchange, Call, Pipeline]:
        exchange = Exchange(package_of(request), request, self._dropped[sync], sync=sync, transport=self.inner)
        call = _begin(self.pipeline.begin, exchange, self._ask, f"{request.method} {request.url.host}")
        return exchange, call, self.pipeline

    async def __aenter__(self) -> Self:
        await self.inner.__aenter__()
        self._closed[False] = False
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._closed[False] = True
        await self.inner.__aexit__(exc_type, exc_value, traceback)

    def __enter__(self) -> Self:
        self.inner.__enter__()
        self._closed[True] = False
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._closed[True] = True
        self.inner.__exit__(exc_type, exc_value, traceback)

    async def aclose(self) -> None:
        """Close the inner transport."""
        self._closed[False] = True
        await self.inner.aclose()

    def close(self) -> None:
        """Close the inner transport."""
        self._closed[True] = True
        self.inner.close()
