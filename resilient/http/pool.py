"""The open connections to one instance, each of which carries one request at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any, final

import anyio

from resilient.http.body import close_quietly
from resilient.waiting import drive

__all__ = ["Pool"]


@final
class Pool:
    """What a transport of httpx sends its requests to, in place of httpcore's own pool: HTTP/1.1 to a single address.

    httpcore's serves any number of hosts, and requests that wait for one another. For that it looks through all its
    connections and requests, twice a request, and a cancellation at the wrong moment costs it a slot for ever
    (encode/httpcore#1093). Here all requests are alike, and who comes has a place (see `Connections`), so nobody waits:
    a request that finds no idle connection gets a new one. It has it to itself until its body is closed; a connection
    that is not idle then, whatever broke the request off, is closed.

    The connection that was used last is used next, since the server is the least likely to have closed it. Those that
    a burst has left behind expire, and the next request closes them.

    `connect` makes a connection of httpcore to an origin, a synchronous one if `sync`. Thread-safe if it is.
    """

    __slots__ = ("_busy", "_closed", "_connect", "_idle", "_lock", "_sync")

    def __init__(self, connect: Callable[[Any], Any], *, sync: bool) -> None:
        self._connect = connect
        self._sync = sync
        self._lock = threading.Lock()
        self._idle: deque[Any] = deque()
        self._busy: set[Any] = set()
        self._closed = False

    @property
    def connections(self) -> list[Any]:
        """Those that are idle, and those in use."""
        with self._lock:
            return [*self._idle, *self._busy]

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request of httpcore, and return its response."""
        return await self._send(request)

    def handle_request(self, request: Any) -> Any:
        """Send a request of httpcore, and return its response."""
        return drive(self._send(request))

    async def aclose(self) -> None:
        """Close every connection, even those in use."""
        with self._lock:
            self._closed = True
            connections = [*self._idle, *self._busy]
            self._idle.clear()
        async with AsyncExitStack() as stack:  # each of them, even if this is cancelled
            for connection in connections:
                stack.push_async_callback(self._drop, connection)

    def close(self) -> None:
        """Close every connection, even those in use."""
        drive(self.aclose())

    async def _send(self, request: Any) -> Any:
        origin = request.url.origin
        while (connection := self._take(origin)).has_expired():
            await self._drop(connection)
        try:
            if self._sync:
                response = connection.handle_request(request)
            else:
                response = await connection.handle_async_request(request)
        except BaseException:
            await self.take_back(connection)
            raise
        response.stream = _Lent(response.stream, connection, self)
        return response

    def _take(self, origin: Any) -> Any:
        """Take the connection that was idle for the longest if it has expired, else the one used last, or a new one."""
        with self._lock:
            idle = self._idle
            if not idle:
                connection = self._connect(origin)
            elif len(idle) > 1 and idle[0].has_expired():
                connection = idle.popleft()
            else:
                connection = idle.pop()
            self._busy.add(connection)
        return connection

    async def take_back(self, connection: Any) -> None:
        """Keep a connection for the next request, or close it if it is not good for one."""
        with self._lock:
            kept = connection.is_idle() and not connection.is_closed() and not self._closed
            if kept:
                self._busy.discard(connection)
                self._idle.append(connection)
        if not kept:
            await self._drop(connection)

    async def _drop(self, connection: Any) -> None:
        with self._lock:
            self._busy.discard(connection)
        if connection.is_closed():
            return
        if self._sync:
            await close_quietly(connection, sync=True)
        else:
            with anyio.CancelScope(shield=True):
                await close_quietly(connection, sync=False)


@final
class _Lent:
    """The body of a response, and the connection that it comes over."""

    __slots__ = ("_connection", "_inner", "_pool")

    def __init__(self, inner: Any, connection: Any, pool: Pool) -> None:
        self._inner = inner
        self._connection = connection
        self._pool = pool

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._inner)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._inner)

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await self._inner.aclose()
            finally:
                await self._pool.take_back(connection)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                self._inner.close()
            finally:
                drive(self._pool.take_back(connection))
