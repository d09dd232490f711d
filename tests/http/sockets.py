"""A server by script on a real socket, for what no well-behaved server does."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Self

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
OK = HEAD % 2 + b"ok"


class Peer:
    """One connection, as the server sees it."""

    def __init__(self, connection: socket.socket, server: RawServer) -> None:
        self.connection = connection
        self.over = server.over
        self.requests = server.requests

    def request(self) -> bytes:
        """Read the head of a request, and its body as far as a Content-Length announces one."""
        data = b""
        while b"\r\n\r\n" not in data:
            chunk = self.connection.recv(65536)
            if not chunk:
                raise ConnectionResetError
            data += chunk
        head, _, body = data.partition(b"\r\n\r\n")
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                while len(body) < int(line.partition(b":")[2]):
                    body += self.connection.recv(65536)
        request = head + b"\r\n\r\n" + body
        self.requests.append(request)
        return request

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def drip(self, data: bytes, interval: float) -> None:
        for byte in data:
            self.connection.sendall(bytes([byte]))
            self.rest(interval)

    def rest(self, seconds: float) -> None:
        if self.over.wait(seconds):
            raise ConnectionResetError

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


class RawServer:
    """Runs `script` for each connection, in a thread of its own."""

    def __init__(self, script: Callable[[Peer], object], tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.tls = tls
        self.connections = 0
        self.requests: list[bytes] = []
        self.over = threading.Event()
        self.threads: list[threading.Thread] = []
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listening.getsockname()[1]
        self.url = f"static://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start(self.accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        with suppress(OSError):
            self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        for thread in self.threads:
            thread.join(10)

    def start(self, target: Callable[..., object], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self.threads.append(thread)
        thread.start()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.listening.accept()
                self.connections += 1
                connection.settimeout(10)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.start(self.serve, connection)

    def serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
            with connection:
                self.script(Peer(connection, self))


def answering(answer: bytes = OK, *, keeps: bool = True) -> Callable[[Peer], None]:
    """A script that gives every request the same answer, and keeps its connection."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(answer)
        while keeps:
            peer.request()
            peer.send(answer)

    return script


class Full:
    """A port on which connections are not even refused: its line is full, and further ones are not answered."""

    def __enter__(self) -> Self:
        self.listening = socket.socket()
        self.listening.bind(("127.0.0.1", 0))
        self.listening.listen(0)
        self.port: int = self.listening.getsockname()[1]
        self.waiting: list[socket.socket] = []
        until = time.monotonic() + 10
        while time.monotonic() < until:
            one = socket.socket()
            one.settimeout(0.2)
            self.waiting.append(one)
            try:
                one.connect(("127.0.0.1", self.port))
            except TimeoutError:
                return self
        raise AssertionError("the line never became full")

    def __exit__(self, *_: object) -> None:
        for one in (*self.waiting, self.listening):
            one.close()
