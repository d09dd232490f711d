"""One logical request: what its attempts are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from resilient.call import Call, Priority
from resilient.context import Options
from resilient.errors import DeadlineExceeded
from resilient.http.body import AsyncBody, SyncBody, bodies_of, once_only
from resilient.http.connections import Connections
from resilient.http.package import Package
from resilient.idempotency.keys import format_key, parse_key
from resilient.instance import Instance

__all__ = ["Delivery", "Exchange"]

_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""The idempotent methods of RFC 9110, 9.2.2."""
_MAX_URLS = 256
_PRIORITIES = {priority: priority.name.lower().replace("_", "-") for priority in Priority}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How a response came about; found in `response.extensions["resilient"]`."""

    attempt: int
    """The number of the attempt that was answered."""
    instance: Instance | None
    """Who answered."""
    idempotency_key: str | None


@final
class Exchange:
    """The request of one logical call, and the bodies that its attempts have opened."""

    __slots__ = ("_connect", "_own", "_transport", "opened", "package", "request", "sync")

    def __init__(
        self,
        package: Package,
        request: Any,
        *,
        sync: bool,
        transport: Any = None,
        connect: Callable[[Instance, str, Package], Connections] | None = None,
    ) -> None:
        self.package = package
        self.request = request
        self.sync = sync
        self.opened: list[AsyncBody | SyncBody] = []
        self._transport = transport
        self._connect = connect
        self._own = connect is not None
        request.stream = once_only(package, request.stream)

    @property
    def repeatable(self) -> bool:
        """Whether the method alone allows to repeat it."""
        return self.request.method in _REPEATABLE

    def prepare(self, call: Call) -> None:
        """Take over what the request says itself."""
        headers = self.request.headers
        if "idempotency-key" in headers:
            call.idempotency_key = parse_key(value for name, value in headers.raw if name.lower() == b"idempotency-key")
        given = self.request.extensions.get("resilient")
        if given is not None:
            try:
                options = Options(**given)
            except TypeError as error:
                raise TypeError(f"extensions['resilient']={given!r}: the options of resilient.options") from error
            options.apply(call)

    async def invoke(self, call: Call) -> Any:
        """Make one attempt: the innermost step."""
        if self._connect is None or call.instance is None:
            return await self._send(call, self._transport, self._attempt(call, self.request.url), _nothing)
        connections = self._connect(call.instance, self.request.url.scheme, self.package)
        release = await connections.admit(call)
        try:
            attempt = self._attempt(call, self._url(connections, call.instance))
            return await self._send(call, connections.transport, attempt, lambda: release(None))
        except BaseException:
            release(None)
            raise

    async def _send(self, call: Call, transport: Any, attempt: Any, release: Callable[[], None]) -> Any:
        if self.sync:
            response = self._send_sync(call, transport, attempt)
        else:
            response = await transport.handle_async_request(attempt)
        async_body, sync_body = bodies_of(self.package)
        body: AsyncBody | SyncBody
        if self.sync:
            body = sync_body(call, response.stream, release)
            body.timeouts = attempt.extensions["timeout"]
        else:
            body = async_body(call, response.stream, release)
        self.opened.append(body)
        response.stream = body
        response.extensions["resilient"] = Delivery(
            attempt=call.attempt, instance=call.instance, idempotency_key=call.idempotency_key
        )
        return response

    def _send_sync(self, call: Call, transport: Any, attempt: Any) -> Any:
        """Send with the remaining time as the timeout of each step: a blocking read knows no other limit."""
        timeouts: dict[str, float | None] = dict(attempt.extensions.get("timeout") or {})
        remaining = call.remaining
        if remaining is not None:
            for step in ("connect", "read", "write", "pool"):
                usual = timeouts.get(step)
                timeouts[step] = remaining if usual is None else min(usual, remaining)
        attempt.extensions["timeout"] = timeouts
        try:
            return transport.handle_request(attempt)
        except self.package.timed_out as error:
            remaining = call.remaining
            if remaining is not None and remaining <= 0 and not isinstance(error, self.package.unreachable):
                raise DeadlineExceeded(f"{call.name}: no answer within the deadline") from error
            raise

    def _attempt(self, call: Call, url: Any) -> Any:
        """A new request: the instance's address, everything else as the caller wrote it."""
        request = self.request
        if call.idempotency_key is not None and "idempotency-key" not in request.headers:
            # On the original request, because a redirect is made from that one and must carry the same key.
            request.headers["Idempotency-Key"] = format_key(call.idempotency_key)
        headers = request.headers
        extensions = dict(request.extensions)
        if self._own:
            told: list[tuple[bytes, bytes]] = []
            remaining = call.remaining
            if remaining is not None:
                told.append((b"Resilient-Timeout-Ms", b"%d" % max(1, int(remaining * 1000))))
            if call.priority is not Priority.CRITICAL:
                told.append((b"Resilient-Priority", _PRIORITIES[call.priority].encode()))
            if told:
                headers = self.package.Headers([*headers.raw, *told])
            extensions.setdefault("sni_hostname", request.url.host)
        return self.package.Request(request.method, url, headers=headers, stream=request.stream, extensions=extensions)

    def _url(self, connections: Connections, instance: Instance) -> Any:
        url = self.request.url
        known = connections.urls.get(url)
        if known is None:
            if len(connections.urls) >= _MAX_URLS:
                connections.urls.clear()
            known = connections.urls[url] = url.copy_with(host=instance.host, port=instance.port)
        return known

    async def abandon(self, error: BaseException) -> None:
        """Close what was opened although no response reaches the caller."""
        for body in reversed(self.opened):
            body.error = body.error or error
            await self.close(body)

    async def close(self, body: Any) -> None:
        """Close a response's body."""
        if self.sync:
            body.close()
        else:
            await body.aclose()


def _nothing() -> None:
    pass
