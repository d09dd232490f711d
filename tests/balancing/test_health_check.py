"""Checks of real servers on loopback: uvicorn, one that hangs, one behind TLS, and none."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import trustme

from resilient.balancing import Check, CheckFailed, HealthCheck, HttpCheck, TcpCheck
from resilient.discovery import Static
from resilient.instance import Instance
from resilient.service import Service

SERVER = Path(__file__).parent / "server.py"


class Uvicorn:
    """A process that serves, which can be killed and stopped."""

    def __init__(self, folder: Path) -> None:
        self.status = folder / "status"
        self.says(200)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        number = self._socket.fileno()
        self.process = subprocess.Popen([sys.executable, str(SERVER), str(number), str(self.status)], pass_fds=[number])
        until = time.monotonic() + 20
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=1.0)
            except httpx.TransportError:
                assert time.monotonic() < until, "the server did not come up"
            else:
                break

    def says(self, status: int) -> None:
        self.status.write_text(str(status))

    def kill(self) -> None:
        self._socket.close()
        self.process.kill()
        self.process.wait(10)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Uvicorn]:
    made = Uvicorn(tmp_path)
    yield made
    made.kill()


def at(port: int, host: str = "127.0.0.1") -> Instance:
    return Instance(id=str(port), host=host, port=port)


def ask(check: Check, instance: Instance, backend: str) -> object:
    async def main() -> object:
        with anyio.fail_after(5):
            return await check(instance)

    return anyio.run(main, backend=backend)


def failing(check: Check, instance: Instance, backend: str) -> CheckFailed:
    with pytest.raises(CheckFailed) as caught:
        ask(check, instance, backend)
    return caught.value


def test_a_server_that_is_well_passes(backend, server: Uvicorn):
    assert ask(HttpCheck(), at(server.port), backend) is None
    assert ask(HttpCheck("/anything?of=it", host="orders"), at(server.port), backend) is None
    assert ask(HttpCheck(port=server.port), at(1), backend) is None
    assert ask(TcpCheck(), at(server.port), backend) is None
    assert ask(TcpCheck(port=server.port), at(1), backend) is None


def test_an_unexpected_status_is_certain(backend, server: Uvicorn):
    server.says(503)
    failed = failing(HttpCheck(), at(server.port), backend)
    assert (str(failed), failed.certain) == ("503 from /health", True)
    server.says(302)
    assert str(failing(HttpCheck(), at(server.port), backend)) == "302 from /health"
    assert ask(HttpCheck(expected=(302,)), at(server.port), backend) is None
    assert str(failing(HttpCheck("/other"), at(server.port), backend)) == "404 from /other"  # it is another host


def test_where_nobody_listens_both_fail(backend, server: Uvicorn):
    server.kill()
    for check in (HttpCheck(), TcpCheck()):
        with pytest.raises((httpx.ConnectError, OSError)):
            ask(check, at(server.port), backend)


def test_an_address_of_ipv6_is_understood(backend):
    with closing(socket.create_server(("::1", 0), family=socket.AF_INET6)) as listening:
        port = listening.getsockname()[1]
        answering = threading.Thread(target=answer, args=(listening, lambda one: one))
        answering.start()
        assert ask(HttpCheck(), at(port, "::1"), backend) is None
        answering.join(10)
        assert ask(TcpCheck(), at(port, "::1"), backend) is None


def answer(listening: socket.socket, wrap: Callable[[socket.socket], socket.socket]) -> None:
    """Answer one connection that everything is well."""
    connection, _ = listening.accept()
    with wrap(connection) as one:
        one.recv(65536)
        one.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def test_tls_is_verified_by_the_name_that_is_given(backend):
    authority = trustme.CA()
    theirs, ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("orders.internal").configure_cert(theirs)
    authority.configure_trust(ours)

    def serve(listening: socket.socket) -> None:
        with suppress(OSError):  # the client may not like the certificate
            answer(listening, lambda one: theirs.wrap_socket(one, server_side=True))

    def check(host: str | None) -> object:
        with closing(socket.create_server(("127.0.0.1", 0))) as listening:
            serving = threading.Thread(target=serve, args=(listening,))
            serving.start()
            try:
                return ask(HttpCheck(host=host, tls=ours), at(listening.getsockname()[1]), backend)
            finally:
                serving.join(10)

    assert check("orders.internal") is None
    with pytest.raises(httpx.ConnectError):
        check(None)


def run(backend: str, service: Service, main: Callable[[], Awaitable[Any]]) -> None:
    async def within() -> None:
        with anyio.fail_after(30):
            async with service:
                await main()

    anyio.run(within, backend=backend)


def test_a_service_notices_a_server_that_is_ill_stopped_killed_and_well(backend, server: Uvicorn):
    rule = HealthCheck(HttpCheck(), interval=0.05, idle_interval=0.05, timeout=0.3)
    with closing(socket.create_server(("127.0.0.1", 0))) as other:  # one that accepts and says nothing
        silent = other.getsockname()[1]
        service = Service("orders", Static([at(server.port), at(silent)]), health=rule)

        def details() -> list[str]:
            return [one.detail for one in service.instances()]

        async def until(holds: Callable[[], bool]) -> None:
            while not holds():
                await anyio.sleep(0.01)

        async def main() -> None:
            await until(lambda: details() == ["", "no answer within 0.3 s"])
            server.says(500)
            await until(lambda: details()[0] == "500 from /health")
            server.says(200)
            await until(lambda: details()[0] == "")
            server.process.send_signal(signal.SIGSTOP)
            await until(lambda: details()[0] == "no answer within 0.3 s")
            server.process.send_signal(signal.SIGCONT)
            await until(lambda: details()[0] == "")
            server.kill()
            await until(lambda: "ConnectError" in details()[0])

        run(backend, service, main)


def test_closing_the_service_closes_the_connections_of_checks_that_hang(backend):
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        listening.settimeout(10)
        rule = HealthCheck(HttpCheck(), interval=0.01, idle_interval=0.01, timeout=20.0)
        service = Service("orders", Static([at(listening.getsockname()[1])]), health=rule)
        accepted: list[socket.socket] = []

        async def main() -> None:
            accepted.append((await anyio.to_thread.run_sync(listening.accept))[0])

        run(backend, service, main)
        with accepted[0] as connection:
            connection.settimeout(10)
            while connection.recv(65536):  # the request, and then the end
                pass


def test_in_synchronous_programs_the_checks_run_in_the_thread_of_the_service(server: Uvicorn):
    server.says(503)
    instances = Static([at(server.port), at(1)])
    service = Service("orders", instances, health=HealthCheck(HttpCheck(), interval=0.05, idle_interval=0.05))
    with service:
        until = time.monotonic() + 20
        while "503 from /health" not in [one.detail for one in service.instances()]:
            assert time.monotonic() < until
            time.sleep(0.01)
    assert {one.detail for one in service.instances()} == {""}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: HealthCheck("/health"), TypeError, "check='/health': HttpCheck"),  # type: ignore[arg-type]  # the test
        (lambda: HealthCheck(TcpCheck(), interval=0.0), ValueError, "interval=0.0: a finite number of seconds"),
        (lambda: HealthCheck(TcpCheck(), timeout=-1.0), ValueError, "timeout=-1.0"),
        (lambda: HealthCheck(TcpCheck(), idle_interval=5.0), ValueError, "idle_interval=5.0: .* least interval=10.0"),
        (lambda: HealthCheck(TcpCheck(), jitter=1.1), ValueError, "jitter=1.1: a share of the interval"),
        (lambda: HealthCheck(TcpCheck(), unhealthy_after=0), ValueError, "unhealthy_after=0: a whole number"),
        (lambda: HealthCheck(TcpCheck(), healthy_after=0), ValueError, "healthy_after=0"),
        (lambda: HealthCheck(TcpCheck(), concurrency=0), ValueError, "concurrency=0"),
        (lambda: HttpCheck("health"), ValueError, "path='health': a path, which begins with '/'"),
        (lambda: HttpCheck(expected=range(600)), ValueError, "500 is what an instance answers that is not well"),
        (lambda: HttpCheck(port=0), ValueError, "port=0: a whole number between 1 and 65535"),
        (lambda: TcpCheck(port=65536), ValueError, "port=65536"),
        (lambda: Service("s", "static://a:1", health=TcpCheck()), TypeError, "health=TcpCheck.*: a HealthCheck"),  # type: ignore[arg-type]  # the test
    ],
)  # fmt: skip
def test_arguments_that_cannot_work_are_refused(make, error, message: str):
    with pytest.raises(error, match=message):
        make()
