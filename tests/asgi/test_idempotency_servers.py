"""The middleware under other people's servers, over sockets: HTTP/1.1 and HTTP/2, asyncio and trio."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import anyio
import h2.config
import h2.connection
import h2.events
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from resilient.asgi import IdempotencyMiddleware
from resilient.asgi.types import ASGIApp, Receive, Scope, Send
from resilient.backends.sqlite import SQLiteStore
from tests.asgi.large import pass_through
from tests.asgi.serving import Kind, served
from tests.idempotency.shop import Shop, insert, whole

KINDS: list[tuple[Kind, bool]] = [
    ("uvicorn", False),
    ("hypercorn", False),
    ("hypercorn", True),
    ("hypercorn on trio", False),
    ("hypercorn on trio", True),
]
PATIENCE = 10.0


class Site:
    """A shop with a web front. A test holds a handler at a place of its choice."""

    def __init__(self, folder: Path) -> None:
        self.shop = Shop(folder)
        self.calls: Counter[str] = Counter()
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def app(self, **terms: Any) -> ASGIApp:
        handlers = [self.place, self.place_slowly, self.place_and_stream, self.events, self.much, self.status]
        routes = [Route(f"/{handler.__name__}", handler, methods=["GET", "POST"]) for handler in handlers]
        return IdempotencyMiddleware(
            Starlette(routes=routes), SQLiteStore(self.shop.path), mode="transactional", max_body=100_000, **terms
        )

    async def order_of(self, request: Request) -> str:
        self.calls[request.url.path] += 1
        return (await request.body()).decode()

    async def pause(self) -> None:
        self.reached.set()
        with anyio.fail_after(PATIENCE):
            while not self.go_on.is_set():
                await anyio.sleep(0.005)

    async def place(self, request: Request) -> Response:
        order = await self.order_of(request)
        await request.scope["resilient.claim"].run(insert, order)
        return PlainTextResponse(order, 201, {"location": f"/orders/{order}"})

    async def place_slowly(self, request: Request) -> Response:
        order = await self.order_of(request)
        await self.pause()
        await request.scope["resilient.claim"].run(insert, order)
        return PlainTextResponse(order, 201)

    async def place_and_stream(self, request: Request) -> Response:
        order = await self.order_of(request)
        await request.scope["resilient.claim"].run(insert, order)

        async def parts() -> AsyncIterator[bytes]:
            yield b"a part, "
            await self.pause()
            yield b"and the rest"

        return StreamingResponse(parts(), 201)

    async def events(self, request: Request) -> Response:
        order = await self.order_of(request)
        if "resilient.claim" in request.scope:
            await request.scope["resilient.claim"].run(insert, order)

        async def parts() -> AsyncIterator[bytes]:
            yield b"data: 1\n\n"
            await self.pause()  # the client has to have the first before there is a second
            yield b"data: 2\n\n"

        return StreamingResponse(parts(), media_type="text/event-stream")

    async def much(self, request: Request) -> Response:
        await self.order_of(request)

        async def parts() -> AsyncIterator[bytes]:
            for _ in range(30):
                yield b"x" * 10_000

        return StreamingResponse(parts())

    async def status(self, request: Request) -> Response:
        await self.order_of(request)
        status = int(request.query_params["is"])
        return Response(None if status == 204 else f"run {self.calls['/status']}", status, {"location": "/there"})


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0]}, HTTP/{2 if kind[1] else 1}")
def client(request: pytest.FixtureRequest, site: Site) -> Iterator[httpx.Client]:
    kind, http2 = request.param
    with (
        served(site.app(), kind) as url,
        httpx.Client(base_url=url, http1=not http2, http2=http2, timeout=PATIENCE) as client,
    ):
        yield client


def post(client: httpx.Client, path: str, order: str = "a", **more: Any) -> httpx.Response:
    return client.post(path, content=order, headers={"idempotency-key": f'"{order}"'}, **more)


def answered(client: httpx.Client, path: str, order: str = "a") -> httpx.Response:
    """Repeat while the same request is running."""
    deadline = time.monotonic() + PATIENCE
    while (response := post(client, path, order)).status_code == 409:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return response


def connection_of(response: httpx.Response) -> Any:
    return response.extensions["network_stream"].get_extra_info("client_addr")


def test_replays_leave_the_connection_as_they_found_it(site: Site, client: httpx.Client) -> None:
    connections = set()
    for order in ("a", "b", "c"):
        responses = [post(client, "/place", order) for _ in range(3)]
        connections |= {connection_of(response) for response in responses}
        assert [(response.status_code, response.text) for response in responses] == [(201, order)] * 3
        assert [response.headers.get("idempotency-replayed") for response in responses] == [None, "true", "true"]
    assert len(connections) == 1
    assert site.calls["/place"] == 3
    assert site.shop.orders() == whole("a", "b", "c")


def test_of_many_duplicates_at_once_one_runs(site: Site, client: httpx.Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda number: post(client, "/place", str(number % 2)), range(16)))
    assert {response.status_code for response in responses} <= {201, 409}
    assert site.calls["/place"] == 2
    assert site.shop.orders() == whole("0", "1")


@pytest.mark.parametrize("kind", ["uvicorn", "hypercorn on trio"])
def test_duplicates_that_may_wait_all_get_the_response(site: Site, kind: Kind) -> None:
    with (
        served(site.app(wait=PATIENCE), kind) as url,
        httpx.Client(base_url=url, timeout=PATIENCE) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        waiting = [pool.submit(post, client, "/place_slowly") for _ in range(8)]
        assert site.reached.wait(PATIENCE)
        time.sleep(0.05)  # until the others wait
        site.go_on.set()
        responses = [one.result() for one in waiting]
    assert {(response.status_code, response.text) for response in responses} == {(201, "a")}
    assert sum("idempotency-replayed" in response.headers for response in responses) == 7
    assert site.calls["/place_slowly"] == 1


@pytest.mark.parametrize("status", [204, 303, 402, 500])
def test_every_response_is_a_result(site: Site, client: httpx.Client, status: int) -> None:
    first, retry = (post(client, f"/status?is={status}") for _ in range(2))
    assert first.status_code == retry.status_code == status
    assert first.content == retry.content
    assert first.headers["location"] == retry.headers["location"]
    assert site.calls["/status"] == 1


def test_events_flow_while_they_are_made_and_are_remembered(site: Site, client: httpx.Client) -> None:
    headers = {"idempotency-key": '"a"'}
    with client.stream("POST", "/events", content="a", headers=headers) as response:
        parts = response.iter_bytes()
        assert next(parts) == b"data: 1\n\n"
        site.go_on.set()
        assert b"".join(parts) == b"data: 2\n\n"
    retry = post(client, "/events")
    assert (retry.status_code, retry.headers["idempotency-replayed"]) == (200, "true")
    assert retry.json()["type"] == "urn:problem-type:idempotency-body-not-kept"
    assert site.calls["/events"] == 1
    assert site.shop.orders() == whole("a")


def test_a_large_response_arrives_whole_and_is_remembered(site: Site, client: httpx.Client) -> None:
    assert post(client, "/much").content == b"x" * 300_000
    assert post(client, "/much").headers["content-type"] == "application/problem+json"
    assert site.calls["/much"] == 1


def test_a_stream_without_a_key_is_let_alone(site: Site, client: httpx.Client) -> None:
    site.go_on.set()
    for method in ("GET", "POST"):
        assert client.request(method, "/events", content="a" if method == "POST" else None).text.count("data:") == 2
        assert client.request(method, "/much").content == b"x" * 300_000


@pytest.mark.parametrize("path", ["/place_slowly", "/place_and_stream"])
def test_a_client_that_leaves_finds_its_order_placed_when_it_returns(
    site: Site, client: httpx.Client, path: str
) -> None:
    with pytest.raises(httpx.ReadTimeout):
        post(client, path, timeout=httpx.Timeout(PATIENCE, read=0.1))
    assert site.reached.wait(PATIENCE)
    time.sleep(0.05)  # until the server has noticed
    site.go_on.set()
    response = answered(client, path)
    assert (response.status_code, response.headers["idempotency-replayed"]) == (201, "true")
    assert site.shop.orders() == whole("a")
    assert site.calls[path] == 1


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((cast("str", parts.hostname), cast("int", parts.port)), timeout=PATIENCE)


def converse(url: str, request: bytes, end: bytes) -> bytes:
    """What a server says, byte for byte, until `end`."""
    with connect(url) as connection:
        connection.sendall(request)
        said = b""
        while not said.endswith(end):
            chunk = connection.recv(65_536)
            assert chunk, said
            said += chunk
        return said


@pytest.mark.parametrize("kind", ["uvicorn", "hypercorn", "hypercorn on trio"])
def test_a_client_that_leaves_in_the_middle_of_its_request_has_asked_for_nothing(site: Site, kind: Kind) -> None:
    with served(site.app(), kind) as url:
        with connect(url) as connection:
            connection.sendall(
                b"POST /place HTTP/1.1\r\nhost: a\r\nidempotency-key: a\r\ncontent-length: 100\r\n\r\nhalf of it"
            )
            time.sleep(0.05)
        time.sleep(0.05)
        assert site.calls["/place"] == 0
        with httpx.Client(base_url=url, timeout=PATIENCE) as client:
            assert post(client, "/place").status_code == 201
    assert site.shop.orders() == whole("a")


LEFT_ALONE = [
    (b"GET /status?is=200 HTTP/1.1\r\nidempotency-key: a\r\n", b"run 1"),
    (b"POST /status?is=402 HTTP/1.1\r\ncontent-length: 0\r\n", b"run 2"),
    (b"PUT /status?is=200 HTTP/1.1\r\nidempotency-key: a\r\ncontent-length: 0\r\n", b"Method Not Allowed"),
    (b"HEAD /much HTTP/1.1\r\nidempotency-key: a\r\n", b"\r\n\r\n"),
    (b"GET /much HTTP/1.1\r\nidempotency-key: a\r\n", b"0\r\n\r\n"),
    (b"POST /nowhere HTTP/1.1\r\ntransfer-encoding: chunked\r\n", b"Not Found"),
]


@pytest.mark.parametrize("kind", ["uvicorn", "hypercorn", "hypercorn on trio"])
def test_where_it_has_nothing_to_do_the_bytes_on_the_wire_are_the_same(tmp_path: Path, kind: Kind) -> None:
    said: list[list[bytes]] = []
    for name in ("protected", "bare"):
        (folder := tmp_path / name).mkdir()
        app = Site(folder).app()
        assert isinstance(app, IdempotencyMiddleware)
        with served(app if name == "protected" else app.app, kind) as url:
            said.append([])
            for line, end in LEFT_ALONE:
                body = b"0\r\n\r\n" if b"chunked" in line else b""
                said[-1].append(converse(url, line + b"host: a\r\n\r\n" + body, end))
    assert said[0] == said[1]
    assert all(response.startswith(b"HTTP/1.1 ") for response in said[0])


@pytest.mark.parametrize("kind", ["uvicorn", "hypercorn"])
def test_a_native_cancellation_tears_nothing(site: Site, kind: Kind) -> None:
    """A timeout of asyncio around the whole, wherever it strikes."""
    inner = site.app()

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        seconds = float(dict(scope["headers"]).get(b"x-seconds", b"10"))
        try:
            async with asyncio.timeout(seconds):
                await inner(scope, receive, send)
        except TimeoutError:
            await PlainTextResponse("too late", 504)(scope, receive, send)

    orders = [f"order {number}" for number in range(12)]
    late = 0
    with served(limited, kind) as url, httpx.Client(base_url=url, timeout=PATIENCE) as client:
        for number, order in enumerate(orders):
            headers = {"idempotency-key": f'"{order}"', "x-seconds": str(0.001 * number)}
            late += client.post("/place", content=order, headers=headers).status_code == 504
        for order in orders:
            assert answered(client, "/place", order).status_code == 201
    assert late > 0
    assert site.shop.orders() == whole(*orders)


async def with_trailers(scope: Scope, receive: Receive, send: Send) -> None:
    assert "http.response.trailers" in scope["extensions"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"trailer", b"x-sum")], "trailers": True})
    await send({"type": "http.response.body", "body": b"text"})
    await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"42")]})


def ask_for_trailers(url: str) -> tuple[dict[bytes, bytes], bytes, dict[bytes, bytes]]:
    """Headers, body and trailers of a response over HTTP/2, which httpx does not show."""
    headers: dict[bytes, bytes] = {}
    trailers: dict[bytes, bytes] = {}
    body = b""
    with connect(url) as plug:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        connection.initiate_connection()
        request = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a"), ("te", "trailers")]
        connection.send_headers(1, [*request, ("idempotency-key", '"a"')], end_stream=True)
        plug.sendall(connection.data_to_send())
        while True:
            for event in connection.receive_data(plug.recv(65_536)):
                if isinstance(event, h2.events.ResponseReceived):
                    headers = dict(cast("Any", event.headers))
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data or b""
                elif isinstance(event, h2.events.TrailersReceived):
                    trailers = dict(cast("Any", event.headers))
                elif isinstance(event, h2.events.StreamEnded):
                    return headers, body, trailers
            plug.sendall(connection.data_to_send())


@pytest.mark.parametrize("kind", ["hypercorn", "hypercorn on trio"])
def test_trailers_are_replayed_over_http_2(tmp_path: Path, kind: Kind) -> None:
    with served(IdempotencyMiddleware(with_trailers, SQLiteStore(tmp_path / "claims.db")), kind) as url:
        first, retry = ask_for_trailers(url), ask_for_trailers(url)
        assert first[1:] == retry[1:] == (b"text", {b"x-sum": b"42"})
        assert (first[0].get(b"idempotency-replayed"), retry[0][b"idempotency-replayed"]) == (None, b"true")
    with contextlib.closing(sqlite3.connect(tmp_path / "claims.db")) as claims:
        assert claims.execute("SELECT state FROM resilient_claims").fetchall() == [("done",)]


def test_a_large_request_costs_the_server_no_memory(tmp_path: Path) -> None:
    passage = pass_through(tmp_path, mib=64)
    assert passage.intact
    assert passage.changed_is_refused
    assert passage.runs == 1
    assert passage.grown < 16  # MiB, for the 64 of the body
