"""The proxy itself, between a client and a server that answers in capitals."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.servers.proxy import Proxy


class Loud:
    """Answers whatever it is told in capitals, and remembers it."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.ended = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self.threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(4096):
                    self.heard.append(data)
                    connection.sendall(data.upper())
            except OSError:
                pass
        self.ended += 1


@pytest.fixture
def server() -> Iterator[Loud]:
    server = Loud()
    yield server
    server.close()


@pytest.fixture
def proxy(server: Loud) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=0.3) as client:
        assert say(client, b"hello") == b"HELLO"
        yield client


def say(client: socket.socket, what: bytes) -> bytes:
    client.sendall(what)
    return client.recv(4096)


def test_it_forwards_and_counts(proxy: Proxy, client: socket.socket) -> None:
    assert (proxy.connections, proxy.cuts) == (1, 0)
    assert say(client, b"x" * 3000) == b"X" * 3000


def test_an_end_is_passed_on(server: Loud, client: socket.socket) -> None:
    client.shutdown(socket.SHUT_WR)
    assert client.recv(10) == b""
    assert server.heard == [b"hello"]


def test_latency_is_added_in_both_directions(proxy: Proxy, client: socket.socket) -> None:
    proxy.latency = 0.05
    started = time.monotonic()
    assert say(client, b"slowly") == b"SLOWLY"
    assert time.monotonic() - started >= 0.1


def test_a_reset_is_a_reset(proxy: Proxy, client: socket.socket) -> None:
    assert proxy.reset() == 1
    with pytest.raises(ConnectionResetError):
        say(client, b"anybody?")


def test_a_black_hole_swallows_and_keeps_the_connection(proxy: Proxy, client: socket.socket, server: Loud) -> None:
    proxy.black_hole()
    with pytest.raises(TimeoutError):
        say(client, b"anybody?")
    assert server.heard == [b"hello"]
    proxy.heal()
    with pytest.raises(ConnectionResetError):
        client.recv(10)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=1) as another:
        assert say(another, b"again") == b"AGAIN"


def test_half_open_the_server_is_told_and_the_client_is_not(proxy: Proxy, client: socket.socket, server: Loud) -> None:
    assert proxy.half_open() == 1
    with pytest.raises(TimeoutError):
        say(client, b"anybody?")
    assert server.ended == 1
    assert server.heard == [b"hello"]


def test_a_connection_is_refused(proxy: Proxy) -> None:
    def call() -> None:
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=1) as client:
            say(client, b"hello")
            say(client, b"hello")

    proxy.refuse()
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        call()


@pytest.mark.parametrize("size", [5, 8, 11])
def test_a_cut_after_so_many_bytes_to_the_server(proxy: Proxy, client: socket.socket, server: Loud, size: int) -> None:
    proxy.cut_after(size)
    with pytest.raises(ConnectionResetError):
        say(client, b"abcdef")
    proxy.wait_for_cut(1)
    assert b"".join(server.heard) in {b"helloabcdef"[:size], b"hello"}  # a reset may overtake what came before it


def test_a_cut_after_so_many_bytes_to_the_client(proxy: Proxy, client: socket.socket, server: Loud) -> None:
    proxy.cut_after(8, "to client")
    with pytest.raises(ConnectionResetError):
        while say(client, b"abcdef"):
            pass
    assert server.heard[1] == b"abcdef"


def test_a_cut_before_a_pattern(proxy: Proxy, client: socket.socket, server: Loud) -> None:
    proxy.cut_before(b"commit")
    assert say(client, b"insert") == b"INSERT"
    with pytest.raises(ConnectionResetError):
        say(client, b"commit")
    assert server.heard == [b"hello", b"insert"]


def test_a_cut_of_an_answer(proxy: Proxy, client: socket.socket, server: Loud) -> None:
    proxy.cut_answer(b"commit")
    assert say(client, b"insert") == b"INSERT"
    with pytest.raises(ConnectionResetError):
        say(client, b"commit")
    assert server.heard == [b"hello", b"insert", b"commit"]
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=1) as another:
        assert say(another, b"commit") == b"COMMIT"
