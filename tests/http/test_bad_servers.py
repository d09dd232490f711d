"""Servers that drip, hang, cut and reset, over real sockets, for clients of every kind."""

from __future__ import annotations

import gzip
import time

import anyio
import httpx
import pytest

import resilient
from resilient.errors import DeadlineExceeded
from resilient.http import PipelineTransport, Transport, client, sync_client
from resilient.pipeline import Pipeline
from resilient.policies.retry import Retry
from resilient.policies.timeout import Timeout
from resilient.service import Service
from resilient.stack import default_policies
from tests.http.network import settled
from tests.http.sockets import HEAD, OK, Full, Peer, RawServer, answering


def never_answers(peer: Peer) -> None:
    peer.request()
    peer.rest(30)


def drips_its_head(peer: Peer) -> None:
    peer.request()
    peer.drip(HEAD % 2 + b"ok", 0.1)


def drips_its_body(peer: Peer) -> None:
    peer.request()
    peer.send(HEAD % 1000)
    peer.drip(b"." * 1000, 0.05)


def drips_then_hangs(peer: Peer) -> None:
    peer.request()
    peer.send(HEAD % 1000)
    peer.drip(b"." * 9, 0.1)
    peer.rest(30)


def reads_slowly(peer: Peer) -> None:
    while peer.connection.recv(131_072):
        peer.rest(0.02)


def cuts_its_body(peer: Peer) -> None:
    peer.request()
    peer.send(HEAD % 1000 + b"half")


def resets(peer: Peer) -> None:
    peer.request()
    peer.reset()


def closes(peer: Peer) -> None:
    peer.request()


def talks_nonsense(peer: Peer) -> None:
    peer.request()
    peer.send(b"220 smtp.example.com ESMTP\r\n")


ENDLESS = [never_answers, drips_its_head, drips_its_body, drips_then_hangs]


@pytest.mark.parametrize("script", ENDLESS)
def test_a_synchronous_client_keeps_its_deadline_to_the_point(script):
    with RawServer(script) as server:
        orders = Service("orders", server.url, policies=[])
        with orders, sync_client(orders, timeout=1.0) as http:
            started = time.monotonic()
            with pytest.raises(DeadlineExceeded) as caught:
                http.get("/")
            assert 0.95 < time.monotonic() - started < 1.7
            assert caught.value.sent
            assert settled(orders)


def test_a_synchronous_client_keeps_its_deadline_while_it_sends():
    with RawServer(reads_slowly) as server:
        orders = Service("orders", server.url, policies=[])
        with orders, sync_client(orders, timeout=1.0) as http:
            started = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                http.put("/", content=b"." * 40_000_000)
            assert time.monotonic() - started < 1.7


def test_a_synchronous_pipeline_transport_keeps_its_deadline_too():
    with RawServer(drips_its_head) as server:
        transport = PipelineTransport(Pipeline(Timeout(1.0)), httpx.HTTPTransport())
        with httpx.Client(transport=transport, timeout=60) as http:
            started = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                http.get(f"http://127.0.0.1:{server.port}/")
            assert time.monotonic() - started < 1.7


@pytest.mark.parametrize("script", ENDLESS)
def test_an_asynchronous_client_keeps_its_deadline_to_the_point(script, backend):
    async def main():
        with RawServer(script) as server:
            orders = Service("orders", server.url, policies=[])
            async with orders, client(orders, timeout=1.0) as http:
                started = time.monotonic()
                with pytest.raises(DeadlineExceeded):
                    await http.get("/")
                assert 0.95 < time.monotonic() - started < 1.7
                assert settled(orders)

    anyio.run(main, backend=backend)


@pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")
def test_the_timeouts_of_one_request_are_httpxs_own(backend):
    async def main():
        with RawServer(never_answers) as server:
            orders = Service("orders", server.url, policies=[])
            async with orders, client(orders, timeout=5.0) as http:
                with pytest.raises(httpx.ReadTimeout):
                    await http.get("/", timeout=0.2)
                assert settled(orders)
            with orders, sync_client(orders, timeout=5.0) as blocking, pytest.raises(httpx.ReadTimeout):
                blocking.get("/", timeout=0.2)

    anyio.run(main, backend=backend)


def test_a_deadline_of_for_ever_is_none():
    with RawServer(answering()) as server:
        orders = Service("orders", server.url, policies=[])
        with orders, sync_client(orders) as http:
            with resilient.options(deadline=float("inf")):
                assert http.get("/").text == "ok"
            with resilient.options(timeout=1e12):
                assert http.get("/").text == "ok"


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (cuts_its_body, httpx.RemoteProtocolError),
        (resets, httpx.ReadError),
        (closes, httpx.RemoteProtocolError),
        (talks_nonsense, httpx.RemoteProtocolError),
    ],
)
def test_what_breaks_is_repeated_or_surfaces_as_it_is_and_leaves_nothing(script, error, backend):
    async def main():
        with RawServer(script) as server:
            orders = Service("orders", server.url)
            async with orders, client(orders) as http:
                with pytest.raises(error):
                    await http.get("/")
                assert settled(orders)
                assert server.connections == (1 if script is cuts_its_body else 3)
                with pytest.raises(error):
                    await http.post("/")
                assert server.connections == (2 if script is cuts_its_body else 4)
                assert settled(orders)

    anyio.run(main, backend=backend)


def test_a_host_that_does_not_answer_is_unreachable_so_that_even_a_post_goes_elsewhere(backend):
    async def main():
        with Full() as full, RawServer(answering()) as server:
            policies = default_policies(attempt_timeout=0.5)
            for _ in range(4):  # whichever is picked first
                orders = Service("orders", f"static://127.0.0.1:{full.port},127.0.0.1:{server.port}", policies=policies)
                async with orders, client(orders) as http:
                    assert (await http.post("/", content=b"x")).text == "ok"
                    assert settled(orders)

    anyio.run(main, backend=backend)


def test_a_host_that_does_not_answer_is_unreachable_for_a_synchronous_client_too():
    with Full() as full, RawServer(answering()) as server:
        policies = default_policies(attempt_timeout=0.5)
        for _ in range(4):
            orders = Service("orders", f"static://127.0.0.1:{full.port},127.0.0.1:{server.port}", policies=policies)
            with orders, sync_client(orders) as http:
                assert http.post("/", content=b"x").text == "ok"


@pytest.mark.parametrize(
    ("method", "answer", "content"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", b""),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", b""),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nTrailer: x\r\n\r\n", b"ok"),
        ("GET", b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK, b"ok"),
        (
            "GET",
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
            % len(gzip.compress(b"ok", mtime=0))
            + gzip.compress(b"ok", mtime=0),
            b"ok",
        ),
    ],
)
def test_every_kind_of_answer_arrives_and_keeps_the_connection(method, answer, content, backend):
    async def main():
        with RawServer(answering(answer)) as server:
            orders = Service("orders", server.url)
            async with orders, client(orders) as http:
                for _ in range(3):
                    assert (await http.request(method, "/")).content == content
                assert server.connections == 1
                assert settled(orders)

    anyio.run(main, backend=backend)


def test_a_body_without_a_length_ends_with_its_connection():
    with RawServer(answering(b"HTTP/1.0 200 OK\r\n\r\nto the end", keeps=False)) as server:
        orders = Service("orders", server.url)
        with orders, sync_client(orders) as http:
            assert [http.get("/").text for _ in range(3)] == ["to the end"] * 3
            assert settled(orders)


def test_an_error_page_is_read_so_that_its_connection_serves_the_next_attempt(backend):
    async def main():
        answers = [b"HTTP/1.1 503 Busy\r\nContent-Length: 5\r\n\r\nbusy!", OK]

        def script(peer: Peer) -> None:
            while True:
                peer.request()
                peer.send(answers.pop(0))

        with RawServer(script) as server:
            orders = Service("orders", server.url, policies=[Retry()])
            async with orders, client(orders) as http:
                assert (await http.get("/")).text == "ok"
                assert server.connections == 1

    anyio.run(main, backend=backend)


@pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")
def test_big_bodies_go_both_ways_and_a_download_can_be_left(backend):
    big = b"0123456789" * 800_000

    def script(peer: Peer) -> None:
        while True:
            body = peer.request().partition(b"\r\n\r\n")[2]
            peer.send(HEAD % len(body or big) + (body or big))

    async def main():
        with RawServer(script) as server:
            orders = Service("orders", server.url)
            async with orders, client(orders) as http:
                assert (await http.put("/", content=big)).content == big
                async with http.stream("GET", "/") as response:
                    async for chunk in response.aiter_bytes(1000):
                        assert len(chunk) == 1000
                        break
                    assert not settled(orders)
                assert settled(orders)
                assert (await http.put("/", content=big)).content == big

    anyio.run(main, backend=backend)


def test_what_is_told_of_the_call_is_told_once(backend):
    async def main():
        with RawServer(answering()) as server:
            orders = Service("orders", server.url)
            headers = {"Resilient-Timeout-Ms": "999999", "Resilient-Priority": "critical-plus"}
            transport = Transport(orders)
            async with orders, httpx.AsyncClient(transport=transport, base_url="http://orders") as http:
                await http.get("/", headers=headers)
                with resilient.options(priority=resilient.Priority.SHEDDABLE):
                    await http.get("/", headers=headers)
            first, second = server.requests
            for request in (first, second):
                assert request.lower().count(b"resilient-timeout-ms") == 1
                assert b"999999" not in request
            assert b"riority" not in first
            assert second.count(b"Resilient-Priority: sheddable\r\n") == 1

    anyio.run(main, backend=backend)
