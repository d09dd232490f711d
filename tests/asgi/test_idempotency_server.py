"""The middleware under a real server, in front of a real framework, with orders and records in one database."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from resilient.asgi import IdempotencyMiddleware
from resilient.asgi.types import ASGIApp, Receive, Scope, Send
from resilient.backends.sqlite import SQLiteStore
from tests.asgi.serving import served
from tests.idempotency.shop import Shop, insert, whole

ROOT = Path(__file__).parents[2]


class Site:
    """A shop with a web front. Events let a test hold a handler at a place of its choice."""

    def __init__(self, folder: Path) -> None:
        self.shop = Shop(folder)
        self.calls: Counter[str] = Counter()
        self.reached = threading.Event()
        self.go_on = threading.Event()
        self.background = threading.Event()
        handlers: list[Callable[[Request], Any]] = [
            self.place,
            self.place_in_one_piece,
            self.place_plainly,
            self.place_slowly,
            self.place_and_stream,
            self.fail_after_placing,
            self.refuse,
            self.swallow_what_undid_it,
            self.answer,
        ]
        routes = [Route(f"/{handler.__name__}", handler, methods=["POST"]) for handler in handlers]
        routes.append(Route("/stream", self.stream, methods=["GET", "POST"]))
        self.routes = routes

    def app(self, *, outside: bool = False, **terms: Any) -> ASGIApp:
        """The middleware inside the framework, where its users add it, or around the whole of it."""
        terms = {"store": SQLiteStore(self.shop.path), "mode": "transactional", **terms}
        if outside:
            return IdempotencyMiddleware(Starlette(routes=self.routes), **terms)
        return Starlette(routes=self.routes, middleware=[Middleware(IdempotencyMiddleware, **terms)])

    async def order_of(self, request: Request) -> str:
        self.calls[request.url.path] += 1
        return (await request.body()).decode()

    async def pause(self) -> None:
        self.reached.set()
        await asyncio.to_thread(self.go_on.wait, 10)

    async def place(self, request: Request) -> Response:
        order = await self.order_of(request)
        async with request.scope["resilient.claim"].transaction() as connection:
            insert(connection, order)
        done = BackgroundTask(self.background.set)
        return JSONResponse({"order": order}, 201, {"location": f"/orders/{order}"}, background=done)

    async def place_in_one_piece(self, request: Request) -> Response:
        order = await self.order_of(request)
        await request.scope["resilient.claim"].run(insert, order)
        return Response(status_code=204)

    def place_plainly(self, request: Request) -> Response:
        self.calls[request.url.path] += 1
        order = request.headers["x-order"]
        with request.scope["resilient.claim"].blocking.transaction() as connection:
            insert(connection, order)
        return PlainTextResponse(order, 201)

    async def place_slowly(self, request: Request) -> Response:
        order = await self.order_of(request)
        await self.pause()
        await request.scope["resilient.claim"].run(insert, order)
        return PlainTextResponse(order, 201)

    async def place_and_stream(self, request: Request) -> Response:
        order = await self.order_of(request)
        await request.scope["resilient.claim"].run(insert, order)
        await self.pause()
        return StreamingResponse(self.chunks(), 201)

    async def fail_after_placing(self, request: Request) -> Response:
        order = await self.order_of(request)
        await request.scope["resilient.claim"].run(insert, order)
        if self.calls[request.url.path] == 1:
            raise ConnectionError("after the effect")
        return PlainTextResponse(order, 201)

    async def refuse(self, request: Request) -> Response:
        order = await self.order_of(request)
        try:
            async with request.scope["resilient.claim"].transaction() as connection:
                insert(connection, order)
                raise LookupError
        except LookupError:
            return PlainTextResponse("not enough money", 402)

    async def swallow_what_undid_it(self, request: Request) -> Response:
        order = await self.order_of(request)
        async with request.scope["resilient.claim"].transaction() as connection:
            insert(connection, order)
            connection.execute("ROLLBACK")  # as some errors do
        return PlainTextResponse("placed", 201)

    async def answer(self, request: Request) -> Response:
        self.calls[request.url.path] += 1
        status = int(request.query_params["status"])
        return Response(None if status == 204 else f"run {self.calls['/answer']}", status, {"location": "/there"})

    async def stream(self, request: Request) -> Response:
        self.calls[request.url.path] += 1
        return StreamingResponse(self.chunks())

    async def chunks(self) -> AsyncIterator[bytes]:
        for number in range(5):
            await asyncio.sleep(0.002)
            yield b"%d," % number


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture(params=["inside", "outside"])
def client(request: pytest.FixtureRequest, site: Site) -> Iterator[httpx.Client]:
    with served(site.app(outside=request.param == "outside")) as url, httpx.Client(base_url=url) as client:
        yield client


def post(client: httpx.Client, path: str, order: str = "a", **more: Any) -> httpx.Response:
    # uvicorn closes a connection after an exception, and a client that comes back too soon would run into that.
    headers = {"idempotency-key": f'"{order}"', "x-order": order, "connection": "close"}
    return client.post(path, content=order, headers=headers, **more)


def answered(client: httpx.Client, path: str, order: str = "a") -> httpx.Response:
    """Repeat while the same request is running."""
    deadline = time.monotonic() + 10
    while (response := post(client, path, order)).status_code == 409:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return response


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [("/place", 201, b'{"order":"a"}'), ("/place_in_one_piece", 204, b""), ("/place_plainly", 201, b"a")],
)
def test_an_order_is_placed_once_with_its_response(
    site: Site, client: httpx.Client, path: str, status: int, body: bytes
) -> None:
    first, retry = post(client, path), post(client, path)
    assert (first.status_code, first.content) == (retry.status_code, retry.content) == (status, body)
    assert ("idempotency-replayed" in first.headers, retry.headers["idempotency-replayed"]) == (False, "true")
    assert first.headers.get("location") == retry.headers.get("location")
    assert site.shop.orders() == whole("a")
    assert site.calls[path] == 1


def test_work_after_the_response_is_done(site: Site, client: httpx.Client) -> None:
    post(client, "/place")
    assert site.background.wait(5)


def test_of_many_duplicates_at_once_one_runs(site: Site, client: httpx.Client) -> None:
    with ThreadPoolExecutor(10) as pool:
        responses = list(pool.map(lambda number: post(client, "/place", str(number % 2)), range(20)))
    assert {response.status_code for response in responses} <= {201, 409}
    assert all("retry-after" in response.headers for response in responses if response.status_code == 409)
    assert site.shop.orders() == whole("0", "1")
    assert site.calls["/place"] == 2


def test_an_exception_undoes_the_order_and_a_retry_runs_at_once(site: Site, client: httpx.Client) -> None:
    """The 500 that the framework makes of it is not a result."""
    assert post(client, "/fail_after_placing").status_code == 500
    assert site.shop.orders() == []
    assert post(client, "/fail_after_placing").status_code == 201
    assert site.shop.orders() == whole("a")


def test_a_refusal_is_a_result_without_an_effect(site: Site, client: httpx.Client) -> None:
    assert [post(client, "/refuse").status_code for _ in range(2)] == [402, 402]
    assert site.calls["/refuse"] == 1
    assert site.shop.orders() == []


def test_a_success_whose_effect_was_undone_is_never_sent(site: Site, client: httpx.Client) -> None:
    for _ in range(2):
        assert post(client, "/swallow_what_undid_it").status_code == 500
    assert site.shop.orders() == []
    assert site.calls["/swallow_what_undid_it"] == 2


@pytest.mark.parametrize("status", [204, 303, 402, 404, 500, 503])
def test_every_response_is_a_result(site: Site, client: httpx.Client, status: int) -> None:
    first, retry = (post(client, f"/answer?status={status}") for _ in range(2))
    assert first.status_code == retry.status_code == status
    assert first.content == retry.content
    assert first.headers["location"] == retry.headers["location"]
    assert site.calls["/answer"] == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("key", [True, False])
def test_streams_arrive_whole(site: Site, client: httpx.Client, method: str, *, key: bool) -> None:
    headers = {"idempotency-key": "k"} if key else {}
    for _ in range(2):
        assert client.request(method, "/stream", headers=headers).content == b"0,1,2,3,4,"
    assert site.calls["/stream"] == (1 if method == "POST" and key else 2)


@pytest.mark.parametrize("path", ["/place_slowly", "/place_and_stream"])
def test_a_client_that_leaves_finds_its_order_placed_when_it_returns(
    site: Site, client: httpx.Client, path: str
) -> None:
    with pytest.raises(httpx.ReadTimeout):
        post(client, path, timeout=0.2)
    assert site.reached.wait(10)
    time.sleep(0.05)  # until the server has noticed
    site.go_on.set()
    response = answered(client, path)
    assert response.status_code == 201
    assert response.headers["idempotency-replayed"] == "true"
    assert site.shop.orders() == whole("a")
    assert site.calls[path] == 1


def test_a_timeout_of_asyncio_around_it_tears_nothing(site: Site) -> None:
    """A native cancellation, wherever it strikes."""

    def limited(app: ASGIApp) -> ASGIApp:
        async def run(scope: Scope, receive: Receive, send: Send) -> None:
            seconds = float(dict(scope["headers"]).get(b"x-seconds", b"10"))
            try:
                async with asyncio.timeout(seconds):
                    await app(scope, receive, send)
            except TimeoutError:
                await PlainTextResponse("too late", 504)(scope, receive, send)

        return run

    orders = [f"order {number}" for number in range(20)]
    late = 0
    with served(limited(site.app())) as url, httpx.Client(base_url=url) as client:
        for number, order in enumerate(orders):
            headers = {"idempotency-key": f'"{order}"', "x-seconds": str(0.0007 * number), "connection": "close"}
            late += client.post("/place", content=order, headers=headers).status_code == 504
        for order in orders:
            assert answered(client, "/place", order).status_code == 201
    assert late > 0
    assert site.shop.orders() == whole(*orders)


KILLED = """
import os, signal, sys
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from resilient.asgi import IdempotencyMiddleware

async def place(request):
    order = (await request.body()).decode()
    def effect(connection):
        connection.execute("INSERT INTO orders VALUES (?, 1)", (order,))
        connection.execute("INSERT INTO orders VALUES (?, 2)", (order,))
    await request.scope["resilient.claim"].run(effect)
    if sys.argv[3] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return PlainTextResponse(order, 201)

app = IdempotencyMiddleware(
    Starlette(routes=[Route("/place", place, methods=["POST"])]),
    store="sqlite:///" + sys.argv[2], mode="transactional", lease=0.3,
)
uvicorn.run(app, fd=int(sys.argv[1]), log_level="critical")
"""


def test_a_server_that_is_killed_after_the_effect_is_replaced_by_one_that_answers(site: Site) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        arguments = [sys.executable, "-c", KILLED, str(listener.fileno()), str(site.shop.path)]

        def start(how: str) -> subprocess.Popen[bytes]:
            return subprocess.Popen([*arguments, how], cwd=ROOT, pass_fds=[listener.fileno()])

        first = start("kill")
        with httpx.Client(base_url=url, timeout=10) as client, pytest.raises(httpx.TransportError):
            post(client, "/place")
        assert first.wait(10) == -signal.SIGKILL
        assert site.shop.orders() == []
        second = start("live")
        try:
            with httpx.Client(base_url=url, timeout=10) as client:
                assert answered(client, "/place").status_code == 201
                assert post(client, "/place").headers["idempotency-replayed"] == "true"
        finally:
            second.terminate()
            second.wait(10)
    assert site.shop.orders() == whole("a")
