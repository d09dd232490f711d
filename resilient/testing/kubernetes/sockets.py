"""HTTP/1.1 on real sockets, a thread a connection, which can be killed, frozen and begun again."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, cast, final

import h11

__all__ = ["Connection", "Gone", "Listener"]

_LARGEST_BODY = 8 * 1024 * 1024
_LEAVE = 10.0


class Gone(Exception):
    """The client, or the server itself, has closed the connection."""


@final
class Connection:
    """One connection, as the server sees it."""

    def __init__(self, plain: socket.socket, listener: Listener) -> None:
        self._socket = plain
        self._listener = listener
        self._left = False
        self._lock = threading.Lock()
        self._http = h11.Connection(h11.SERVER)
        self.client: tuple[str, int] = plain.getpeername()[:2]

    def serve(self, handle: Callable[[Connection, h11.Request, bytes], None]) -> None:
        """Answer requests until somebody has enough."""
        with suppress(OSError, h11.ProtocolError, Gone):
            if self._listener.tls is not None:
                self._begin_tls(self._listener.tls)
            while True:
                request, body = self._request()
                handle(self, request, body)
                if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                    break
                self._http.start_next_cycle()
        self.close()

    def _begin_tls(self, context: ssl.SSLContext) -> None:
        with self._lock:  # one that is closed meanwhile would stay open: its socket goes over to another object
            if self._left:
                raise Gone
            wrapped = context.wrap_socket(self._socket, server_side=True, do_handshake_on_connect=False)
            self._socket = wrapped
        wrapped.do_handshake()

    def _request(self) -> tuple[h11.Request, bytes]:
        request = self._event()
        if not isinstance(request, h11.Request):
            raise Gone
        body = b""
        while isinstance(event := self._event(), h11.Data):
            body += event.data
            if len(body) > _LARGEST_BODY:
                raise Gone
        return request, body

    def _event(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(self._socket.recv(65_536))
            self._listener.pass_if_awake()
        return event

    def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole answer."""
        self.begin(status, {**headers, "content-length": str(len(body))})
        self._send(h11.Data(data=body))
        self._send(h11.EndOfMessage())

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the head of an answer; without a length its body is chunked."""
        self._send(h11.Response(status_code=status, headers=list(headers.items())))

    def write(self, pieces: Iterable[bytes]) -> None:
        """Send parts of a body, each a chunk of its own."""
        for piece in pieces:
            self._send(h11.Data(data=piece))

    def end(self) -> None:
        """End a body that is chunked."""
        self._send(h11.EndOfMessage())

    def _send(self, event: Any) -> None:
        self._listener.pass_if_awake()
        data = cast("bytes | None", self._http.send(event))
        if data:
            self._socket.sendall(data)

    @property
    def left(self) -> bool:
        """Whether the client, or the server, has closed it while it was being answered."""
        try:  # underneath TLS, which knows no peeking
            return not socket.socket.recv(self._socket, 1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def reset(self) -> None:
        """Break it off with a reset, as the end of a process does that has not read everything."""
        with self._lock, suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._leave(socket.SHUT_RD)

    def close(self) -> None:
        """Close it."""
        self._leave(socket.SHUT_RDWR)

    def _leave(self, how: int) -> None:
        with self._lock:
            self._left = True
            with suppress(OSError):
                self._socket.shutdown(how)  # wakes up who reads
            self._socket.close()
        self._listener.forget(self)


@final
class Listener:
    """Accepts connections on one port of 127.0.0.1, which it keeps when it begins again."""

    def __init__(
        self, handle: Callable[[Connection, h11.Request, bytes], None], tls: ssl.SSLContext | None = None
    ) -> None:
        self.tls = tls
        self.port = 0
        self.accepted = 0
        self._handle = handle
        self._awake = threading.Event()
        self._awake.set()
        self._lock = threading.Lock()
        self._connections: set[Connection] = set()
        self._threads: list[threading.Thread] = []
        self._listening: socket.socket | None = None

    @property
    def connections(self) -> int:
        """How many are open."""
        with self._lock:
            return len(self._connections)

    def start(self) -> None:
        """Listen; the first time on a port that is free."""
        if self._listening is not None:
            raise RuntimeError("it is running")
        self._listening = socket.create_server(("127.0.0.1", self.port), backlog=128)
        self.port = self._listening.getsockname()[1]
        self._spawn(self._accept, self._listening)

    def stop(self, *, reset: bool) -> None:
        """Stop listening and close every connection, with a reset or properly."""
        listening, self._listening = self._listening, None
        if listening is not None:
            with suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)  # wakes up who accepts
            listening.close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            if reset:
                connection.reset()
            else:
                connection.close()

    def freeze(self) -> None:
        """Neither read nor write any more: connections stay open, and nothing comes."""
        self._awake.clear()

    def thaw(self) -> None:
        """Go on."""
        self._awake.set()

    def pass_if_awake(self) -> None:
        """Wait while everything is frozen."""
        self._awake.wait()

    def join(self) -> None:
        """Wait until all threads have ended."""
        for thread in self._threads:
            thread.join(_LEAVE)

    def forget(self, connection: Connection) -> None:
        """Leave a closed connection alone."""
        with self._lock:
            self._connections.discard(connection)

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                plain, _ = listening.accept()
                self.pass_if_awake()
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    if self._listening is not listening:
                        plain.close()
                        return
                    self.accepted += 1
                    try:
                        connection = Connection(plain, self)
                    except OSError:  # it has gone again
                        plain.close()
                        continue
                    self._connections.add(connection)
                self._spawn(connection.serve, self._handle)

    def _spawn(self, target: Callable[..., object], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name="fake API server", daemon=True)
        self._threads = [one for one in self._threads if one.is_alive()]
        self._threads.append(thread)
        thread.start()
