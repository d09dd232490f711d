"""HTTPS: the certificate is verified against the name of the service, whatever address its instance has."""

from __future__ import annotations

import gc
import ssl
import threading
import time
from contextlib import suppress
from pathlib import Path

import anyio
import httpx
import httpx2
import pytest
import trustme

from resilient.errors import DeadlineExceeded
from resilient.http import Transport, client, sync_client
from resilient.policies.timeout import Timeout
from resilient.service import Service
from tests.http.network import settled
from tests.http.sockets import HEAD, Peer, RawServer, answering


class Identity:
    """A certificate for `orders` that nobody has signed, and a server that shows it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "orders.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.path))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("orders").configure_cert(self.context)
        self.names: list[str | None] = []
        self.context.sni_callback = lambda _socket, name, _context: self.names.append(name)


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity(tmp_path_factory.mktemp("tls"))


def reasons(error: BaseException) -> str:
    """What an error says, and what it came from: trio says nothing itself."""
    said = []
    cause: BaseException | None = error
    while cause is not None:
        said.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    return "\n".join(said)


def test_an_authority_of_ones_own_is_a_path_or_a_context(identity, backend):
    async def main():
        with RawServer(answering(), identity.context) as server:
            for verify in (str(identity.path), ssl.create_default_context(cafile=identity.path)):
                orders = Service("orders", server.url)
                async with orders, client(orders, verify=verify, base_url="https://orders") as http:
                    for _ in range(3):
                        assert (await http.get("/")).text == "ok"
                    assert settled(orders)
            assert server.connections == 2

    identity.names.clear()
    anyio.run(main, backend=backend)
    assert identity.names == ["orders"] * 2


def test_a_stranger_is_refused_and_nothing_is_sent(identity, backend):
    async def main():
        with RawServer(answering(), identity.context) as server:
            orders = Service("orders", server.url, policies=[])
            async with orders, client(orders, base_url="https://orders") as http:
                with pytest.raises(httpx.ConnectError) as caught:
                    await http.post("/", content=b"secret")
                assert "CERTIFICATE_VERIFY_FAILED" in reasons(caught.value)
                assert settled(orders)
            assert server.requests == []

    anyio.run(main, backend=backend)


def test_a_stranger_is_refused_where_the_url_is_of_a_websocket_too(identity, backend):
    async def main():
        with RawServer(answering(), identity.context) as server:
            orders = Service("orders", server.url, policies=[])
            async with orders, client(orders) as http:
                with pytest.raises(httpx.ConnectError) as caught:
                    await http.get("wss://orders/")
                assert "CERTIFICATE_VERIFY_FAILED" in reasons(caught.value)
            assert server.requests == []
            async with orders, client(orders, verify=str(identity.path)) as http:
                assert (await http.get("wss://orders/")).text == "ok"

    anyio.run(main, backend=backend)


def test_the_certificate_of_another_service_is_refused(identity, backend):
    async def main():
        with RawServer(answering(), identity.context) as server:
            other = Service("payments", server.url, policies=[])
            async with other, client(other, verify=str(identity.path), base_url="https://payments") as http:
                with pytest.raises(httpx.ConnectError) as caught:
                    await http.get("/")
                assert "'payments'" in reasons(caught.value)

    anyio.run(main, backend=backend)


def test_everybody_is_trusted_only_if_that_is_asked_for(identity):
    with RawServer(answering(), identity.context) as server:
        orders = Service("orders", server.url)
        with orders, sync_client(orders, verify=False, base_url="https://orders") as http:
            assert http.get("/").text == "ok"


def test_the_continuation_of_httpx_verifies_too(identity, backend):
    async def main():
        with RawServer(answering(), identity.context) as server:
            orders = Service("orders", server.url, policies=[])
            for verify in (True, str(identity.path)):
                transport = Transport(orders, verify=verify)
                async with orders, httpx2.AsyncClient(transport=transport, base_url="https://orders") as http:
                    if verify is True:
                        with pytest.raises(httpx2.ConnectError) as caught:
                            await http.get("/")
                        assert "CERTIFICATE_VERIFY_FAILED" in reasons(caught.value)
                    else:
                        assert (await http.get("/")).text == "ok"

    anyio.run(main, backend=backend)


def test_a_synchronous_client_keeps_its_deadline_over_tls(identity):
    def drip(peer: Peer) -> None:
        peer.request()
        peer.send(HEAD % 1000)
        peer.drip(b"." * 9, 0.1)
        peer.rest(30)

    with RawServer(drip, identity.context) as server:
        orders = Service("orders", server.url, policies=[])
        with orders, sync_client(orders, timeout=1.0, verify=str(identity.path), base_url="https://orders") as http:
            started = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                http.get("/")
            assert 0.95 < time.monotonic() - started < 1.7


def test_a_synchronous_client_keeps_its_deadline_while_the_other_side_says_nothing_to_its_greeting(identity):
    with RawServer(lambda peer: peer.rest(30)) as server:  # it takes the connection and does not speak TLS
        orders = Service("orders", server.url, policies=[])
        with orders, sync_client(orders, timeout=1.0, verify=str(identity.path), base_url="https://orders") as http:
            started = time.monotonic()
            with pytest.raises(httpx.ConnectTimeout):
                http.get("/")
            assert 0.85 < time.monotonic() - started < 1.7


def test_certificates_that_cannot_be_read_are_no_failure_of_an_instance(identity, tmp_path):
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    with RawServer(answering(), identity.context) as server:
        orders = Service("orders", server.url)
        with orders, sync_client(orders, verify=str(broken), base_url="https://orders") as http:
            with pytest.raises(ssl.SSLError):
                http.get("/")
            assert orders.instances()[0].failures == 0


@pytest.mark.parametrize("package", [httpx, httpx2])
@pytest.mark.parametrize("ended_by", ["the caller", "the deadline"])
def test_a_handshake_that_is_broken_off_leaves_no_connection_behind(backend, package, ended_by):
    """httpcore closes it when a handshake fails, not when it is cancelled; that is left to the garbage collector."""
    closed = threading.Event()

    def says_nothing(peer: Peer) -> None:
        while peer.connection.recv(65536):
            pass
        closed.set()

    async def main():
        with RawServer(says_nothing) as server:
            orders = Service("orders", server.url, policies=[Timeout(0.2 if ended_by == "the deadline" else 30.0)])
            transport = Transport(orders, verify=False)
            async with orders, package.AsyncClient(transport=transport, timeout=None) as http:
                with (
                    anyio.move_on_after(0.2 if ended_by == "the caller" else 30.0),
                    suppress(DeadlineExceeded, package.TimeoutException),
                ):
                    await http.get("https://orders/")
                assert await anyio.to_thread.run_sync(closed.wait, 5.0)
                assert server.connections == 1
                assert settled(orders)

    gc.disable()
    try:
        anyio.run(main, backend=backend)
    finally:
        gc.enable()
