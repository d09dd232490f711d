"""One logical request: what its attempts are made of."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from resilient.backends.clients import LEASED
from resilient.call import Call, End, Priority
from resilient.context import Options
from resilient.errors import DeadlineExceeded
from resilient.http.body import Body, body_of, close_quietly, once_only
from resilient.http.connections import Connections
from resilient.http.package import Package
from resilient.http.punctual import TimeLeft
from resilient.idempotency.keys import format_key, parse_key
from resilient.instance import Instance

__all__ = ["Delivery", "Exchange"]

_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""The idempotent methods of RFC 9110, 9.2.2."""
_PRIORITIES = {priority: priority.name.lower().replace("_", "-").encode() for priority in Priority}
_TIMEOUT, _PRIORITY = b"Resilient-Timeout-Ms", b"Resilient-Priority"
_CLIENT, _ACK = b"Resilient-Client", b"Resilient-Ack"
_INTERNAL = frozenset(name.lower() for name in (_TIMEOUT, _PRIORITY, _CLIENT, _ACK))
_CONNECTING = 0.9
"""The share of an attempt's time in which a connection must be made. A connect timeout says that nothing was sent, so
that even a POST may go elsewhere; the attempt's own end could not tell."""


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

    __slots__ = (
        "_admitted",
        "_connect",
        "_dropped",
        "_keyed",
        "_learn",
        "_transport",
        "opened",
        "package",
        "request",
        "sync",
    )

    def __init__(
        self,
        package: Package,
        request: Any,
        dropped: deque[Body],
        *,
        sync: bool,
        transport: Any = None,
        connect: Callable[[Instance, str, Package], Connections] | None = None,
        learn: Callable[[Call, Any], None] | None = None,
    ) -> None:
        self.package = package
        self.request = request
        self.sync = sync
        self.opened: list[Body] = []
        self._dropped = dropped
        self._transport = transport
        self._connect = connect
        self._learn = learn
        self._admitted: dict[str, Connections] = {}
        self._keyed = False
        request.stream = once_only(package, request.stream)

    @property
    def repeatable(self) -> bool:
        """Whether the method alone allows to repeat it."""
        return self.request.method in _REPEATABLE

    def prepare(self, call: Call) -> None:
        """Take over what the request says itself."""
        given = self.request.extensions.get("resilient")
        key = None
        if given is not None:
            try:
                options = given if isinstance(given, Options) else Options(**given)
            except TypeError as error:
                raise TypeError(
                    f"extensions['resilient']={given!r}: not the options of resilient.options: {error}"
                ) from error
            options.apply(call)
            key = options.idempotency_key
        keys = [value for name, value in self.request.headers.raw if name.lower() == b"idempotency-key"]
        if keys:
            sent = parse_key(keys)
            if key not in {None, sent}:
                raise ValueError(f"two idempotency keys: {sent!r} in the header and {key!r} in extensions['resilient']")
            call.idempotency_key = sent
            self._keyed = True

    async def admit(self, call: Call) -> End:
        """Take a place among the connections to the instance of an attempt; return what gives it back."""
        assert self._connect is not None
        assert call.instance is not None
        while True:
            connections = self._connect(call.instance, self.request.url.scheme, self.package)
            leave = await connections.hold(call)
            if not connections.closed:
                self._admitted[call.instance.id] = connections
                return leave
            leave(None)  # it was retired between the two steps: another one takes its place

    async def invoke(self, call: Call) -> Any:
        """Make one attempt: the innermost step."""
        connections = None if call.instance is None else self._admitted.get(call.instance.id)
        if connections is None:
            transport, url, break_off = self._transport, self.request.url, None
        else:
            transport, break_off = connections.transport, connections.break_off
            url = connections.url(self.request.url)
        attempt = self._attempt(call, url)
        try:
            if self.sync:
                response = self._send(call, transport, attempt)
            else:
                response = await transport.handle_async_request(attempt)
        except Exception:
            raise
        except BaseException:
            if break_off is not None:
                break_off()
            raise
        return self._take_over(call, response, attempt, break_off)

    def _take_over(self, call: Call, response: Any, attempt: Any, break_off: Callable[[], None] | None) -> Any:
        """Put a body of ours around the response's own, and say how it came about."""
        if self._learn is not None:
            self._learn(call, response)
        # One that came with its content, as that of a MockTransport does, has nothing to close (and may be shared).
        inner = self.package.ByteStream(b"") if response.is_closed else response.stream
        body = body_of(self.package)(
            call,
            inner,
            self._dropped,
            sync=self.sync,
            timeout=attempt.extensions["timeout"]["read"] if self.sync else None,
            multiplexed=response.extensions.get("http_version") == b"HTTP/2",
            break_off=break_off,
        )
        self.opened.append(body)
        response.stream = body
        response.extensions["resilient"] = Delivery(
            attempt=call.attempt, instance=call.instance, idempotency_key=call.idempotency_key
        )
        return response

    def _send(self, call: Call, transport: Any, attempt: Any) -> Any:
        try:
            return transport.handle_request(attempt)
        except self.package.timed_out as error:
            remaining = call.remaining
            if remaining is None or remaining > 0 or isinstance(error, self.package.unreachable):
                raise
            raise DeadlineExceeded(f"{call.name}: no answer within the deadline") from error

    def _attempt(self, call: Call, url: Any) -> Any:
        """A new request: the instance's address, everything else as the caller wrote it."""
        request = self.request
        headers = request.headers
        if call.idempotency_key is not None and not self._keyed:
            # On the original request, because a redirect is made from that one and must carry the same key.
            headers["Idempotency-Key"] = format_key(call.idempotency_key)
            self._keyed = True
        remaining = call.remaining
        if remaining == math.inf:
            remaining = None
        extensions = dict(request.extensions)
        if remaining is not None or self.sync:
            extensions["timeout"] = self._timeouts(call, extensions.get("timeout") or {})
        leased = call.get(LEASED)
        if self._connect is not None:
            headers = self._told(call, remaining)
        elif leased is not None:
            headers = [*headers.raw]
        if leased is not None:
            numbered = leased()
            headers += [(_CLIENT, numbered.client.encode()), (_ACK, b"%d" % numbered.acknowledged)]
        if self._connect is not None:
            extensions.setdefault("sni_hostname", request.url.raw_host.decode("ascii"))
        return self.package.Request(request.method, url, headers=headers, stream=request.stream, extensions=extensions)

    def _timeouts(self, call: Call, usual: dict[str, float | None]) -> dict[str, float | None]:
        """The timeouts of single steps, which alone can end one that blocks."""
        timeouts = {**usual, "connect": TimeLeft(call, usual.get("connect"), _CONNECTING)}
        if self.sync:
            for step in ("read", "write", "pool"):
                timeouts[step] = TimeLeft(call, usual.get(step))
        return timeouts

    def _told(self, call: Call, remaining: float | None) -> list[tuple[bytes, bytes]]:
        """The headers, with what an instance of one's own is told of the call. It is told once, and by us."""
        told = [pair for pair in self.request.headers.raw if pair[0].lower() not in _INTERNAL]
        if remaining is not None:
            told.append((_TIMEOUT, b"%d" % max(1, int(remaining * 1000))))
        if call.priority is not Priority.CRITICAL:
            told.append((_PRIORITY, _PRIORITIES[call.priority]))
        return told

    async def deliver(self, response: Any, call: Call) -> Any:
        """Give the response to the caller, and settle what nobody is going to close."""
        body, opened = response.stream, self.opened
        others = [other for other in opened if other is not body]
        if len(others) < len(opened):
            if others:
                await self._close(others)
            if response.is_closed:
                await body.aclose()
        elif not any(other.open for other in others):  # a policy answered by itself, with none of our bodies inside
            call.finish(None)
        self.opened = []  # it is the caller's now; without it there is no circle for the garbage collector
        return response

    async def abandon(self, error: BaseException) -> None:
        """Close what was opened although no response reaches the caller."""
        for body in self.opened:
            body.error = body.error or error
        await self._close(self.opened)

    async def _close(self, bodies: list[Body]) -> None:
        """Close each of them, whatever becomes of another one."""
        for index, body in enumerate(bodies):
            try:
                await close_quietly(body, sync=self.sync)
            except BaseException:
                await self._close(bodies[index + 1 :])
                raise
