"""What the user of the middleware may choose: to wait, to stay open without a store, to link to documentation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from resilient.asgi import IdempotencyMiddleware, ServingMiddleware
from resilient.asgi.types import Receive, Scope, Send
from resilient.backends.faces import DirectStore
from resilient.backends.memory import MemoryStore
from resilient.backends.store import Answer, Mode, Run
from resilient.context import current_runtime
from resilient.errors import StoreUnavailable
from resilient.events import Event, IdempotencyBypassed, ResultRecorded
from resilient.testing import virtual_time
from tests.asgi.calling import App, Client, Reply, make_scope, post, respond
from tests.idempotency.shop import Shop, insert, whole


@pytest.fixture
def run(backend: str) -> Callable[[Callable[[], Awaitable[None]]], None]:
    return lambda main: virtual_time.run(main, backend=backend)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def protect(app: Any, **terms: Any) -> IdempotencyMiddleware:
    return IdempotencyMiddleware(app, **{"store": MemoryStore(), **terms})


class Down(DirectStore):
    """A store that cannot be reached for one thing."""

    def __init__(self, step: str) -> None:
        super().__init__(MemoryStore().blocking)
        self.step = step

    async def begin(self, *args: Any, **kwargs: Any) -> Answer:
        if self.step == "begin":
            raise ConnectionRefusedError("nobody there")
        return await super().begin(*args, **kwargs)

    async def complete(self, run: Run, result: bytes | None, *, ttl: float) -> bool:
        if self.step == "complete":
            raise StoreUnavailable("nobody there")
        return await super().complete(run, result, ttl=ttl)


def slowly(seconds: float) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await current_runtime().sleep(seconds)
        await respond(200, b"done")(send)

    return answer


def test_a_duplicate_may_wait_for_the_response(run) -> None:
    async def main() -> None:
        app = App(slowly(3))
        protected = protect(app, wait=10.0)
        replies: list[Reply] = []

        async def send_it() -> None:
            replies.append(await post(protected))

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(send_it)
        assert {(reply.status, reply.body) for reply in replies} == {(200, b"done")}
        assert sorted(reply.replayed for reply in replies) == [False] + [True] * 19
        assert app.runs == 1

    run(main)


def test_it_does_not_wait_for_ever(run) -> None:
    async def main() -> None:
        protected = protect(App(slowly(30)), wait=2.0, lease=60.0)
        async with anyio.create_task_group() as group:
            group.start_soon(post, protected)
            await current_runtime().sleep(1)
            began = current_runtime().now()
            reply = await post(protected)
            assert (reply.status, reply.problem, reply.headers["retry-after"]) == (409, "in-progress", "57")
            assert current_runtime().now() - began == pytest.approx(2.0, abs=0.01)

    run(main)


def test_nor_longer_than_its_client_does(run) -> None:
    async def main() -> None:
        protected = ServingMiddleware(protect(App(slowly(30)), wait=20.0))
        async with anyio.create_task_group() as group:
            group.start_soon(post, protected)
            await current_runtime().sleep(1)
            began = current_runtime().now()
            reply = await post(protected, headers=[("resilient-timeout-ms", "1500")])
            assert reply.problem == "in-progress"
            assert current_runtime().now() - began == pytest.approx(1.5, abs=0.01)

    run(main)


def test_open_by_choice_a_request_runs_without_the_store_and_it_is_told(run) -> None:
    async def main() -> None:
        heard: list[Event] = []
        claims: list[Any] = []
        listening = replace(current_runtime(), emit=heard.append)

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            claims.append(scope.get("resilient.claim"))
            await respond(201, b"served")(send)

        app = App(answer)
        protected = protect(app, store=Down("begin"), on_store_failure="open", runtime=listening)
        for _ in range(2):
            reply = await post(protected, body=b"the body")
            assert (reply.status, reply.body, reply.replayed) == (201, b"served", False)
        assert (app.runs, app.bodies, claims) == (2, [b"the body"] * 2, [None, None])
        bypassed = [event for event in heard if isinstance(event, IdempotencyBypassed)]
        assert [(event.name, event.key, event.ran) for event in bypassed] == [("POST /orders", "k", False)] * 2
        assert "nobody there" in bypassed[0].error

    run(main)


def test_open_by_choice_the_application_hears_of_a_disconnect_after_its_body(run) -> None:
    async def main() -> None:
        told = []

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            told.append((await receive())["type"])
            await respond()(send)

        client = Client(b"{}")
        client.leave()
        protected = protect(App(answer), store=Down("begin"), on_store_failure="open")
        await protected(make_scope(headers=[("idempotency-key", "k")]), client.receive, client.send)
        assert told == ["http.disconnect"]

    run(main)


def test_open_by_choice_a_response_goes_out_unrecorded(run) -> None:
    async def main() -> None:
        heard: list[Event] = []
        listening = replace(current_runtime(), emit=heard.append)
        app = App()
        protected = protect(app, store=Down("complete"), on_store_failure="open", runtime=listening)
        assert (await post(protected)).body == b"run 1"
        (bypassed,) = (event for event in heard if isinstance(event, IdempotencyBypassed))
        assert bypassed.ran
        assert not any(isinstance(event, ResultRecorded) for event in heard)
        assert (await post(protected)).problem == "in-progress"  # the lease is in force all the same

    run(main)


@pytest.mark.parametrize("step", ["begin", "complete"])
def test_closed_is_the_default(run, step: str) -> None:
    async def main() -> None:
        heard: list[Event] = []
        protected = protect(App(), store=Down(step), runtime=replace(current_runtime(), emit=heard.append))
        reply = await post(protected)
        assert (reply.status, reply.problem) == (503, "store-unavailable")
        assert not any(isinstance(event, IdempotencyBypassed) for event in heard)

    run(main)


def test_a_stream_that_is_remembered_without_its_body_is_told_as_such(run) -> None:
    async def main() -> None:
        heard: list[Event] = []

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await respond(200, b"data: 1\n\n", [("content-type", "text/event-stream")])(send)

        protected = protect(App(answer), runtime=replace(current_runtime(), emit=heard.append))
        await post(protected)
        assert [type(event).__name__ for event in heard] == ["ClaimBegan", "ResultRecorded"]
        assert heard[1].name == "POST /orders"
        assert isinstance(heard[1], ResultRecorded)
        assert not heard[1].kept

    run(main)


@pytest.mark.parametrize(
    "cause", ["missing", "malformed", "too large", "reused", "in progress", "unavailable", "unrecorded"]
)
def test_every_problem_links_to_the_documentation(run, cause: str) -> None:
    async def main() -> None:
        link = "https://developer.example.com/idempotency?lang=en"
        down = {"unavailable": "begin", "unrecorded": "complete"}.get(cause)
        terms: dict[str, Any] = {"store": MemoryStore() if down is None else Down(down)}
        app = App(slowly(5) if cause == "in progress" else None)
        protected = protect(app, require=True, max_body=100, documentation=link, **terms)
        async with anyio.create_task_group() as group:
            if cause in {"reused", "in progress"}:
                group.start_soon(post, protected)
                await current_runtime().sleep(1)
            body = {"too large": b"x" * 101, "reused": b"other"}.get(cause, b"{}")
            reply = await post(protected, {"missing": None, "malformed": ""}.get(cause, '"k"'), body)
            assert reply.status >= 400
            assert reply.headers["link"] == f'<{link}>; rel="describedby"'
        assert "link" not in (await post(protected, '"another"', b"{}")).headers or down

    run(main)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"on_store_failure": "ajar"}, "on_store_failure='ajar': 'closed' or 'open'"),
        ({"on_store_failure": "open", "mode": "at_most_once"}, "mode='at_most_once' excludes"),
        ({"wait": -1.0}, "wait=-1.0: a finite number of seconds, at least 0"),
        ({"documentation": "https://a>; rel=x"}, "documentation="),
        ({"documentation": ""}, "documentation=''"),
    ],
)
def test_a_choice_that_there_is_not_is_refused(terms: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        protect(App(), **terms)


@pytest.mark.parametrize(
    ("mode", "next_reply"),
    [("transactional", "runs"), ("fenced", "in-progress"), ("at_most_once", "outcome-unknown")],
)
def test_where_a_framework_makes_the_500_a_handler_can_say_that_it_failed(
    run, shop: Shop, mode: Mode, next_reply: str
) -> None:
    """Litestar and Django answer an exception themselves: from outside, that looks like a result."""

    async def main() -> None:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            claim = scope["resilient.claim"]
            if mode == "transactional":
                async with claim.transaction() as connection:
                    insert(connection, "an order")
            if app.runs == 1:
                claim.fail()
            await respond(500 if app.runs == 1 else 201)(send)

        app = App(answer)
        heard: list[Event] = []
        protected = protect(app, store=shop.store, mode=mode, runtime=replace(current_runtime(), emit=heard.append))
        assert (await post(protected)).status == 500
        assert shop.orders() == []
        assert [type(event).__name__ for event in heard] == ["ClaimBegan", "ClaimFailed"]
        reply = await post(protected)
        if next_reply == "runs":
            assert reply.status == 201
            assert shop.orders() == whole("an order")
        else:
            assert reply.problem == next_reply

    run(main)
