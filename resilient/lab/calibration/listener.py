"""A real HTTP server in front of a simulated one: the socket is real, the work is not."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias, final

import h11

from resilient.lab.engine import Engine, Signal
from resilient.lab.world.job import Job, Reply
from resilient.lab.world.server import Server

__all__ = ["HOST", "Listener", "Port", "Take"]

HOST = "127.0.0.1"
_BACKLOG = 1024
_MOST_AHEAD = 65_536
"""Bytes that a caller may send before its last request is answered."""
_REUSE = getattr(socket, "SO_REUSEPORT", socket.SO_REUSEADDR)
_RESET = struct.pack("ii", 1, 0)
_CHANGED = b"HTTP/1.1 2\x00\x00 OK\r\n\r\n"

Take: TypeAlias = "Callable[[Mapping[str, str], Signal], Sequence[Job]]"
"""Gives a request, by its headers, to the server, whose reply the signal is told. `LookupError`: nobody knows it."""


@final
class Port:
    """A port of the loopback interface, which nobody else gets until `close`, whether somebody listens there or not."""

    def __init__(self) -> None:
        self._kept = self._bound(0)
        self.number: int = self._kept.getsockname()[1]

    def _bound(self, number: int) -> socket.socket:
        # asyncio turns Nagle's algorithm off only where the protocol is named; with it, replies wait 40 ms for an ACK.
        bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            bound.setsockopt(socket.SOL_SOCKET, _REUSE, 1)
            bound.bind((HOST, number))
        except BaseException:
            bound.close()
            raise
        return bound

    def listen(self) -> socket.socket:
        """Return a socket on which connections are accepted from now on."""
        listening = self._bound(self.number)
        listening.listen(_BACKLOG)
        return listening

    def close(self) -> None:
        """Let others have it."""
        self._kept.close()


@final
class Listener:
    """Accepts connections for a server while that can be reached.

    When the server dies its open connections are reset and new ones refused; when it is back, so is the listener, on
    the same port. Begin on a running asyncio loop; `close` ends it at once.
    """

    def __init__(self, port: Port, server: Server, engine: Engine, take: Take) -> None:
        self.accepted = 0
        """Connections."""
        self._port = port
        self._server = server
        self._engine = engine
        self._take = take
        self._socket: socket.socket | None = None
        self._opening: socket.socket | None = None
        self._accepting: asyncio.Server | None = None
        self._connections: dict[_Connection, None] = {}

    def begin(self) -> None:
        """Follow the server: be there when it is."""
        self._server.on_change = self._follow
        self._follow()

    def close(self) -> None:
        """Reset what is open, and accept nothing more."""
        self._server.on_change = None
        self._hang_up()

    def _follow(self) -> None:
        if self._server.reachable:
            self._socket = listening = self._port.listen()
            self._engine.spawn(self._accept, listening)
        else:
            self._hang_up()

    async def _accept(self, listening: socket.socket) -> None:
        if self._socket is not listening:
            return
        loop = asyncio.get_running_loop()
        self._opening = listening
        accepting = await loop.create_server(partial(self._connect, listening), sock=listening, backlog=_BACKLOG)
        self._opening = None
        if self._socket is listening:
            self._accepting = accepting
        else:  # it died meanwhile
            accepting.close()

    def _connect(self, listening: socket.socket) -> _Connection:
        return _Connection(self, listening)

    def add(self, connection: _Connection, listening: socket.socket) -> bool:
        """Keep a connection that was accepted there, until `remove`; False: the server has died since."""
        self.accepted += 1
        self._connections[connection] = None
        return self._socket is listening

    def remove(self, connection: _Connection) -> None:
        """Forget a connection that is closed."""
        self._connections.pop(connection, None)

    def take(self, headers: Mapping[str, str]) -> tuple[asyncio.Future[Any], Sequence[Job]]:
        """Give a request to the server; return what is told the reply, and what the server has of it."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        return answer, self._take(headers, answer)

    def _hang_up(self) -> None:
        if self._accepting is not None:
            self._accepting.close()
            self._accepting = None
        if self._socket is not None:
            if self._socket is not self._opening:  # asyncio, which just begins to listen on that one, has to close it
                self._socket.close()
            self._socket = None
        for connection in [*self._connections]:
            connection.reset()


@final
class _Connection(asyncio.Protocol):
    """One connection, as the server sees it: a request, its answer, the next request."""

    def __init__(self, listener: Listener, listening: socket.socket) -> None:
        self._listener = listener
        self._listening = listening
        self._http = h11.Connection(h11.SERVER)
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # asyncio connects it at once
        self._request: h11.Request | None = None
        self._answer: asyncio.Future[Any] | None = None
        self._jobs: Sequence[Job] = ()
        self._ahead = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if not self._listener.add(self, self._listening):
            self.reset()

    def connection_lost(self, exc: Exception | None) -> None:
        """The caller has gone, and the server does not know: it works on."""
        del exc
        self._listener.remove(self)
        self._leave()
        if self._answer is not None:
            self._answer.cancel()
            self._answer = None

    def _leave(self) -> None:
        for job in self._jobs:
            job.left = True
        self._jobs = ()

    def reset(self) -> None:
        """Break off, as the connections of a process that dies do."""
        connected = self._transport.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._answer is not None:
            self._ahead += len(data)
            if self._ahead > _MOST_AHEAD:
                self.reset()
                return
        try:
            self._http.receive_data(data)
            self._read()
        except h11.RemoteProtocolError as error:
            self._turn_away(error.error_status_hint)

    def _read(self) -> None:
        """Read one whole request, if it is there."""
        while self._answer is None:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                self._request = event
            elif isinstance(event, h11.EndOfMessage):
                self._begin()
            elif not isinstance(event, h11.Data):
                return

    def _begin(self) -> None:
        assert self._request is not None
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in self._request.headers}
        try:
            self._answer, self._jobs = self._listener.take(headers)
        except LookupError:
            self._turn_away(400)
        else:
            self._answer.add_done_callback(self._answered)

    def _answered(self, answer: asyncio.Future[Any]) -> None:
        if answer is not self._answer or answer.cancelled():
            return
        self._leave()
        reply: Reply | Exception = answer.result()
        if isinstance(reply, Exception):
            self.reset()
        elif not reply.intact:
            self._transport.write(_CHANGED)
            self._transport.close()
        else:
            self._say(reply.status, reply.retry_after)
            self._go_on()

    def _say(self, status: int, retry_after: float | None = None) -> None:
        headers = [("Content-Length", "0")]
        if retry_after is not None:
            headers.append(("Retry-After", f"{retry_after:.0f}"))
        response = h11.Response(status_code=status, headers=headers)
        for event in (response, h11.EndOfMessage()):
            self._transport.write(self._http.send(event) or b"")

    def _go_on(self) -> None:
        if self._http.our_state is not h11.DONE:  # the caller asked to close
            self._transport.close()
            return
        self._http.start_next_cycle()
        self._answer = None
        self._ahead = 0
        try:
            self._read()
        except h11.RemoteProtocolError as error:
            self._turn_away(error.error_status_hint)

    def _turn_away(self, status: int) -> None:
        if self._http.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            self._say(status)
        self._transport.close()
