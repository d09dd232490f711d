"""A server tells how busy it is."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from resilient.asgi import LoadReportMiddleware
from resilient.balancing import Load, parse_load
from resilient.testing import virtual_time
from tests.asgi.calling import App, Client, make_scope, post, respond
from tests.asgi.serving import served

PROBE = "/.well-known/resilient-load"


def told(reply: Any) -> Load:
    load = parse_load(reply.headers["endpoint-load-metrics"])
    assert load is not None
    return load


async def probe(app: LoadReportMiddleware, path: str = PROBE) -> Load:
    reply = await post(app, method="GET", path=path)
    assert (reply.status, reply.body) == (204, b"")
    return told(reply)


def taking(seconds: float, status: int = 200) -> App:
    async def answer(scope, receive, send):
        await anyio.sleep(seconds)
        await respond(status)(send)

    return App(answer)


def test_a_probe_tells_what_is_in_flight_and_how_long_it_takes(backend) -> None:
    async def main():
        app = LoadReportMiddleware(taking(0.2))
        idle = await probe(app)
        assert (idle.in_flight, idle.latency) == (0, None)
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(post, app)
            await anyio.sleep(0.1)
            assert (await probe(app)).in_flight == 3
        after = await probe(app)
        assert after.in_flight == 0
        assert after.latency == pytest.approx(0.2)
        assert after.rps is not None
        assert after.rps > 0
        assert app.app.runs == 3  # type: ignore[attr-defined]  # a probe is no request

    virtual_time.run(main, backend=backend)


def test_every_response_tells_it_and_keeps_its_own_headers(backend) -> None:
    async def main():
        app = LoadReportMiddleware(App())
        reply = await post(app)
        assert reply.headers["content-type"] == "text/plain"
        assert told(reply).in_flight == 1
        silent = LoadReportMiddleware(App(), report=False)
        assert "endpoint-load-metrics" not in (await post(silent)).headers
        assert (await probe(silent)).in_flight == 0

    virtual_time.run(main, backend=backend)


def test_the_latency_is_that_of_the_first_byte(backend) -> None:
    async def slowly(scope, receive, send):
        await anyio.sleep(0.1)
        await send({"type": "http.response.start", "status": 200})
        await anyio.sleep(60.0)
        await send({"type": "http.response.body", "body": b"at last"})

    async def main():
        app = LoadReportMiddleware(App(slowly))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(post, app)
            await anyio.sleep(30.0)
            assert app.load().in_flight == 1
        assert app.load().latency == pytest.approx(0.1)

    virtual_time.run(main, backend=backend)


def test_failures_are_errors_and_no_latencies(backend) -> None:
    async def breaks(scope, receive, send):
        raise LookupError("broken")

    async def main():
        for app in (LoadReportMiddleware(taking(0.1, 500)), LoadReportMiddleware(App(breaks))):
            with suppress(LookupError):
                await post(app)
            load = app.load()
            assert load.eps == load.rps
            assert load.eps
            assert (load.in_flight, load.latency) == (0, None)
        app = LoadReportMiddleware(taking(0.1, 404))
        await post(app)
        assert app.load().eps == 0

    virtual_time.run(main, backend=backend)


def test_a_request_that_is_cancelled_is_over_and_no_error(backend) -> None:
    async def main():
        app = LoadReportMiddleware(taking(60.0))
        with anyio.move_on_after(1.0):
            await post(app)
        load = app.load()
        assert (load.in_flight, load.eps, load.latency) == (0, 0.0, None)

    virtual_time.run(main, backend=backend)


def test_the_utilisation_is_the_processors_or_what_one_says(backend) -> None:
    async def main():
        used = 0.0
        app = LoadReportMiddleware(taking(0.1), cpu=lambda: used)
        assert app.load().cpu_utilization is None
        await anyio.sleep(2.0)
        used = 0.5
        assert app.load().cpu_utilization == 0.25
        await anyio.sleep(0.1)  # too short to be measured
        assert app.load().cpu_utilization == 0.25
        assert app.load().application_utilization is None

        async with anyio.create_task_group() as tasks:
            app = LoadReportMiddleware(taking(0.1), capacity=4)
            tasks.start_soon(post, app)
            await anyio.sleep(0.05)
            assert app.load().application_utilization == 0.25
        app = LoadReportMiddleware(taking(0.1), capacity=4, utilization=lambda: 0.9)
        assert app.load().application_utilization == 0.9

    virtual_time.run(main, backend=backend)


def test_probes_are_answered_where_one_says_or_nowhere(backend) -> None:
    async def main():
        assert (await probe(LoadReportMiddleware(App(), path="/load"), "/load")).in_flight == 0
        inner = App()
        await post(LoadReportMiddleware(inner, path="/load"), path=PROBE)
        await post(LoadReportMiddleware(inner, path=None), path=PROBE)
        assert inner.runs == 2

    virtual_time.run(main, backend=backend)


def test_what_is_not_http_passes_untouched(backend) -> None:
    seen = []

    async def app(scope, receive, send):
        seen.append((scope["type"], send))

    async def main():
        client = Client()
        await LoadReportMiddleware(app)({"type": "lifespan"}, client.receive, client.send)
        assert seen == [("lifespan", client.send)]
        assert make_scope()["type"] == "http"

    virtual_time.run(main, backend=backend)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"path": "load"}, "path='load': it begins with a /"), ({"capacity": 0}, "capacity=0: how many requests at once")],
)
def test_a_bad_argument_is_refused_by_name(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoadReportMiddleware(App(), **arguments)


def test_a_real_application_on_a_real_server() -> None:
    async def hello(request):
        return PlainTextResponse("hello")

    async def stream(request):
        async def parts():
            yield b"a"
            yield b"b"

        return StreamingResponse(parts())

    app = Starlette(routes=[Route("/hello", hello), Route("/stream", stream)])
    with served(LoadReportMiddleware(app, capacity=8)) as url, httpx.Client(base_url=url) as client:
        for path, content in (("/hello", b"hello"), ("/stream", b"ab")):
            response = client.get(path)
            assert response.content == content
            load = told(response)
            assert load.in_flight == 1
            assert load.application_utilization == 0.125
        answer = client.get(PROBE)
        assert (answer.status_code, answer.content) == (204, b"")
        assert told(answer).latency is not None
