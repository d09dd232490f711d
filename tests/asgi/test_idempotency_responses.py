"""Responses under an Idempotency-Key: when they are recorded, what is kept of them, and when they are not results."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from resilient.asgi import IdempotencyMiddleware
from resilient.asgi.types import Message, Receive, Scope, Send
from resilient.backends.faces import DirectStore
from resilient.backends.memory import MemoryStore
from resilient.backends.store import Answer, Mode, Run
from resilient.context import current_runtime
from resilient.errors import StoreUnavailable
from resilient.testing import virtual_time
from tests.asgi.calling import App, Client, make_scope, post, respond


@pytest.fixture
def run(backend: str) -> Callable[[Callable[[], Awaitable[None]]], None]:
    return lambda main: virtual_time.run(main, backend=backend)


def protect(app: Any, **terms: Any) -> IdempotencyMiddleware:
    return IdempotencyMiddleware(app, **{"store": MemoryStore(), **terms})


@pytest.mark.parametrize("status", [200, 204, 303, 304, 400, 402, 404, 409, 500, 503])
@pytest.mark.parametrize("mode", ["fenced", "at_most_once"])
def test_every_response_that_is_returned_is_the_result(run, status: int, mode: Mode) -> None:
    async def main() -> None:
        body = b"" if status in {204, 304} else b"body"

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await respond(status, body, [("location", "/orders/1")])(send)

        app = App(answer)
        protected = protect(app, mode=mode)
        first, retry = await post(protected), await post(protected)
        assert (first.status, first.body) == (retry.status, retry.body) == (status, body)
        assert retry.headers["location"] == "/orders/1"
        assert ("content-length" in retry.headers) == bool(body)
        assert app.runs == 1

    run(main)


def test_headers_of_the_connection_the_moment_and_the_client_are_not_replayed(run) -> None:
    given = [
        ("content-type", "text/plain"),
        ("etag", '"1"'),
        ("x-mine", "1"),
        ("Set-Cookie", "session=secret"),
        ("Date", "Thu, 01 Jan 2026 00:00:00 GMT"),
        ("Connection", "keep-alive, X-Hop"),
        ("X-Hop", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Transfer-Encoding", "chunked"),
    ]

    async def main() -> None:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await respond(200, b"ok", given)(send)

        protected = protect(App(answer))
        first, retry = await post(protected), await post(protected)
        assert first.headers == dict(given)  # untouched
        assert retry.headers == {
            "content-type": "text/plain",
            "etag": '"1"',
            "x-mine": "1",
            "content-length": "2",
            "idempotency-replayed": "true",
        }

    run(main)


def test_a_response_in_many_chunks_is_replayed_as_one(run) -> None:
    async def main() -> None:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await respond(200, bytes(range(256)), chunks=7)(send)

        protected = protect(App(answer))
        assert (await post(protected)).body == (await post(protected)).body == bytes(range(256))

    run(main)


class Watched(DirectStore):
    """Shows what a client had been sent when the outcome was recorded."""

    def __init__(self) -> None:
        super().__init__(MemoryStore().blocking)
        self.client: Client | None = None
        self.sent_before: list[int] = []

    async def complete(self, run: Run, result: bytes | None, *, ttl: float) -> bool:
        assert self.client is not None
        self.sent_before.append(len(self.client.reply.messages))
        return await super().complete(run, result, ttl=ttl)


@pytest.mark.parametrize("content", ["text/plain", "text/event-stream; charset=utf-8"])
def test_the_outcome_is_recorded_before_a_byte_is_sent(run, content: str) -> None:
    async def main() -> None:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await respond(200, b"x" * 5000, [("content-type", content)], chunks=50)(send)

        store = Watched()
        protected = protect(App(answer), store=store, max_body=1000)
        for key, body in (("a", b""), ("b", b"y")):
            store.client = Client(body)
            scope = make_scope(headers=[("idempotency-key", key)])
            await protected(scope, store.client.receive, store.client.send)
            assert store.client.reply.body == b"x" * 5000
        assert store.sent_before == [0, 0]

    run(main)


@pytest.mark.parametrize(("size", "kept"), [(0, True), (999, True), (1000, True), (1001, False), (50_000, False)])
def test_a_response_that_is_too_large_is_remembered_without_its_body(run, size: int, kept: bool) -> None:
    async def main() -> None:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            headers = [("content-type", "text/plain"), ("content-length", str(size)), ("location", "/orders/1")]
            await respond(201, b"x" * size, headers, chunks=9)(send)

        app = App(answer)
        protected = protect(app, max_body=1000)
        first, retry = await post(protected), await post(protected)
        assert first.body == b"x" * size
        assert app.runs == 1
        assert (retry.status, retry.replayed, retry.headers["location"]) == (201, True, "/orders/1")
        if kept:
            assert retry.body == first.body
        else:
            assert retry.problem == "body-not-kept"
            assert retry.headers["content-length"] == str(len(retry.body))

    run(main)


@pytest.mark.parametrize("status", [200, 500])
def test_what_follows_a_large_response_that_was_recorded_changes_nothing(run, status: int) -> None:
    async def main() -> None:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await respond(status, b"x" * 5000, chunks=5)(send)
            raise ConnectionError

        client = Client(b"{}")
        app = App(answer)
        protected = protect(app, max_body=1000)
        with pytest.raises(ConnectionError):
            await protected(make_scope(headers=[("idempotency-key", '"k"')]), client.receive, client.send)
        assert (client.reply.status, client.reply.body) == (status, b"x" * 5000)
        assert (await post(protected)).problem == "body-not-kept"
        assert app.runs == 1

    run(main)


def test_a_stream_of_events_flows_while_it_is_made(run) -> None:
    async def main() -> None:
        client = Client(b"{}")

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            headers = [(b"content-type", b"text/event-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            for number in range(3):
                await send({"type": "http.response.body", "body": b"data: %d\n\n" % number, "more_body": True})
                assert len(client.reply.messages) == number + 2
            await send({"type": "http.response.body", "body": b""})

        app = App(answer)
        protected = protect(app)
        await protected(make_scope(headers=[("idempotency-key", "k")]), client.receive, client.send)
        assert client.reply.body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
        retry = await post(protected, "k")
        assert (retry.status, retry.problem, app.runs) == (200, "body-not-kept", 1)

    run(main)


def test_a_client_that_leaves_does_not_tear_the_effect_from_its_record(run) -> None:
    """Frameworks cancel a stream when they see the disconnect, as Starlette does."""

    async def main() -> None:
        client = Client(b"{}")
        seen: list[Message] = []

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            async with anyio.create_task_group() as group:

                async def watch() -> None:
                    seen.append(await receive())
                    group.cancel_scope.cancel()

                group.start_soon(watch)
                client.leave()
                await current_runtime().sleep(1)
                await respond(200, b"the whole response", chunks=3)(send)
                await current_runtime().sleep(1)

        app = App(answer)
        protected = protect(app)
        await protected(make_scope(headers=[("idempotency-key", "k")]), client.receive, client.send)
        assert (await post(protected, "k")).body == b"the whole response"
        assert app.runs == 1
        assert [message["type"] for message in seen] == ["http.disconnect"]  # late, and the server's own

    run(main)


def test_a_disconnect_that_was_kept_back_is_told_again_and_again(run) -> None:
    async def main() -> None:
        client = Client(b"{}")
        told = []

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            client.leave()
            with anyio.move_on_after(1):
                told.append(await receive())
            await respond()(send)
            told.extend([await receive(), await receive()])

        await protect(App(answer))(make_scope(headers=[("idempotency-key", "k")]), client.receive, client.send)
        assert [message["type"] for message in told] == ["http.disconnect"] * 2

    run(main)


def test_an_exception_records_nothing_and_holds_the_lease(run) -> None:
    async def main() -> None:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            if app.runs == 1:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                raise ConnectionError
            await respond()(send)

        app = App(answer)
        protected = protect(app, lease=30.0)
        client = Client(b"{}")
        with pytest.raises(ConnectionError):
            await protected(make_scope(headers=[("idempotency-key", '"k"')]), client.receive, client.send)
        assert client.reply.messages == []  # so that the server can say 500
        assert (await post(protected)).problem == "in-progress"
        await current_runtime().sleep(30)
        assert (await post(protected)).status == 200
        assert app.runs == 2

    run(main)


def test_a_500_that_a_framework_makes_of_an_exception_is_sent_but_not_recorded(run) -> None:
    async def main() -> None:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await respond(500, b"Internal Server Error")(send)
            raise ConnectionError

        app = App(answer)
        protected = protect(app, lease=30.0)
        client = Client(b"{}")
        with pytest.raises(ConnectionError):
            await protected(make_scope(headers=[("idempotency-key", '"k"')]), client.receive, client.send)
        assert client.reply.status == 500
        assert (await post(protected)).problem == "in-progress"

    run(main)


def test_at_most_once_stops_after_an_exception(run) -> None:
    async def main() -> None:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            raise ConnectionError

        app = App(answer)
        protected = protect(app, mode="at_most_once")
        with pytest.raises(ConnectionError):
            await post(protected)
        reply = await post(protected)
        assert (reply.status, reply.problem, app.runs) == (409, "outcome-unknown", 1)
        assert "retry-after" not in reply.headers

    run(main)


def test_a_response_without_an_end_is_no_result(run) -> None:
    async def main() -> None:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})

        protected = protect(App(answer), lease=30.0)
        assert (await post(protected)).messages == []  # for the server to complain about
        assert (await post(protected)).problem == "in-progress"

    run(main)


def test_a_handler_can_keep_its_response_from_being_recorded(run) -> None:
    async def main() -> None:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            if app.runs == 1:
                scope["resilient.claim"].release()
                await respond(429, b"later")(send)
            else:
                await respond(200, b"done")(send)

        app = App(answer)
        protected = protect(app)
        assert [(await post(protected)).status for _ in range(3)] == [429, 200, 200]
        assert app.runs == 2

    run(main)


def test_ways_around_the_recorded_response_are_not_offered(run) -> None:
    async def main() -> None:
        seen: list[set[str]] = []

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(set(scope["extensions"]))
            await send({"type": "http.response.debug", "info": {}})
            await respond()(send)

        reply = await post(protect(App(answer)))
        assert seen == [{"http.response.debug"}]
        assert reply.messages[0]["type"] == "http.response.debug"

    run(main)


def test_work_after_the_response_is_outside_the_claim(run) -> None:
    async def main() -> None:
        done = []

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await respond(200, b"ok")(send)
            await current_runtime().sleep(100)
            done.append(await receive_after(receive))
            raise ConnectionError("in the background")

        async def receive_after(receive: Receive) -> str:
            return str((await receive())["type"])

        client = Client(b"{}")
        client.leave()
        protected = protect(App(answer), lease=1.0)
        with pytest.raises(ConnectionError):
            await protected(make_scope(headers=[("idempotency-key", '"k"')]), client.receive, client.send)
        assert client.reply.body == b"ok"
        assert done == ["http.disconnect"]
        assert (await post(protected)).body == b"ok"

    run(main)


class Failing(DirectStore):
    """A store that is not there when it is asked for one thing."""

    def __init__(self, step: str) -> None:
        super().__init__(MemoryStore().blocking)
        self.step = step

    async def begin(self, *args: Any, **kwargs: Any) -> Answer:
        if self.step == "begin":
            raise ConnectionRefusedError
        return await super().begin(*args, **kwargs)

    async def complete(self, run: Run, result: bytes | None, *, ttl: float) -> bool:
        if self.step == "complete":
            raise StoreUnavailable("gone")
        return await super().complete(run, result, ttl=ttl)


@pytest.mark.parametrize(("step", "runs"), [("begin", 0), ("complete", 1)])
def test_a_store_that_cannot_tell_is_503(run, step: str, runs: int) -> None:
    async def main() -> None:
        app = App()
        store = Failing(step)
        protected = protect(app, store=store)
        reply = await post(protected)
        assert (reply.status, reply.problem, app.runs) == (503, "store-unavailable", runs)
        if step == "complete":
            # It may have taken effect: the lease is held.
            assert (await post(protected)).problem == "in-progress"

    run(main)


def test_who_was_taken_over_does_not_answer_for_the_other(run) -> None:
    async def main() -> None:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            if app.runs == 1:
                claim = scope["resilient.claim"]
                await store.heartbeat(Run(scope=claim.scope, key="k", fence=claim.fence, owner=""), lease=0.0)
                replies.append(await post(protected))  # meanwhile, on another server
            await respond(200, f"by {app.runs}".encode())(send)

        store = MemoryStore()
        replies: list[Any] = []
        app = App(answer)
        protected = protect(app, store=store)
        first = await post(protected)
        assert (first.status, first.problem, first.headers["retry-after"]) == (409, "in-progress", "1")
        assert replies[0].body == (await post(protected)).body == b"by 2"

    run(main)


def test_a_result_that_took_effect_without_a_record_is_409(run) -> None:
    async def main() -> None:
        store = MemoryStore()

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            claim = scope["resilient.claim"]
            await store.complete(Run(scope=claim.scope, key="k", fence=claim.fence, owner=""), None, ttl=60.0)
            await respond()(send)

        protected = protect(App(answer), store=store)
        await post(protected)
        assert (await post(protected)).problem == "outcome-unknown"

    run(main)
