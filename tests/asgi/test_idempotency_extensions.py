"""Extensions of ASGI under a key: what is offered, what is recorded, and what goes past the record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from resilient.asgi import IdempotencyMiddleware
from resilient.asgi.recorded import Recorded
from resilient.asgi.types import Message, Receive, Scope, Send
from resilient.backends.memory import MemoryStore
from resilient.testing import virtual_time
from tests.asgi.calling import App, Client, make_scope, post, respond

TRAILERS = "http.response.trailers"


@pytest.fixture
def run(backend: str) -> Callable[[Callable[[], Awaitable[None]]], None]:
    return lambda main: virtual_time.run(main, backend=backend)


def protect(app: Any, **terms: Any) -> IdempotencyMiddleware:
    return IdempotencyMiddleware(app, **{"store": MemoryStore(), **terms})


async def ask(app: Any, *extensions: str) -> Client:
    client = Client(b"{}")
    scope = make_scope(headers=[("idempotency-key", "k")])
    scope["extensions"] = {name: {} for name in extensions}
    await app(scope, client.receive, client.send)
    return client


async def with_trailers(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"content-type", b"text/plain"), (b"trailer", b"x-sum")]
    await send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": True})
    await send({"type": "http.response.body", "body": b"some ", "more_body": True})
    await send({"type": "http.response.body", "body": b"text"})
    await send({"type": TRAILERS, "headers": [(b"x-sum", b"\xe9")], "more_trailers": True})
    await send({"type": TRAILERS, "headers": [(b"x-end", b"1")]})


def test_trailers_are_recorded_and_replayed(run) -> None:
    async def main() -> None:
        app = App(with_trailers)
        protected = protect(app)
        first, retry = await ask(protected, TRAILERS), await ask(protected, TRAILERS)
        assert [message["type"].removeprefix("http.response.") for message in first.reply.messages] == [
            "start", "body", "body", "trailers", "trailers",
        ]  # fmt: skip
        assert retry.reply.messages == [
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"text/plain"), (b"idempotency-replayed", b"true")],
                "trailers": True,
            },
            {"type": "http.response.body", "body": b"some text"},
            {"type": TRAILERS, "headers": [(b"x-sum", b"\xe9"), (b"x-end", b"1")], "more_trailers": False},
        ]
        assert app.runs == 1

    run(main)


def test_a_server_that_has_none_gets_the_response_without_its_trailers(run) -> None:
    """The retry may come over HTTP/1.1."""

    async def main() -> None:
        protected = protect(App(with_trailers))
        await ask(protected, TRAILERS)
        for retry in (await ask(protected), await post(protected, "k")):
            reply = retry.reply if isinstance(retry, Client) else retry
            assert (reply.status, reply.body, reply.replayed) == (200, b"some text", True)
            assert len(reply.messages) == 2
            assert "trailers" not in reply.messages[0]

    run(main)


def test_nothing_is_sent_before_the_trailers_are_recorded(run) -> None:
    async def main() -> None:
        client = Client(b"{}")

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
            await send({"type": "http.response.body", "body": b"text"})
            assert client.reply.messages == []
            await send({"type": TRAILERS, "headers": [(b"x-sum", b"1")]})
            assert len(client.reply.messages) == 3

        await protect(App(answer))(make_scope(headers=[("idempotency-key", "k")]), client.receive, client.send)
        assert len(client.reply.messages) == 3

    run(main)


def test_trailers_count_as_part_of_the_response(run) -> None:
    async def main() -> None:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
            await send({"type": "http.response.body", "body": b"x"})
            for _ in range(20):
                await send({"type": TRAILERS, "headers": [(b"x", b"y" * 99)], "more_trailers": True})
            await send({"type": TRAILERS, "headers": []})

        app = App(answer)
        protected = protect(app, max_body=1000)
        first = await ask(protected, TRAILERS)
        assert len(first.reply.messages) == 23
        assert (await ask(protected, TRAILERS)).reply.problem == "body-not-kept"
        assert app.runs == 1

    run(main)


def test_promised_trailers_that_do_not_come_are_no_end(run) -> None:
    async def main() -> None:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
            await send({"type": "http.response.body", "body": b"x"})

        protected = protect(App(answer))
        assert (await ask(protected, TRAILERS)).reply.messages == []
        assert (await ask(protected, TRAILERS)).reply.problem == "in-progress"

    run(main)


def test_only_what_can_be_recorded_is_offered(run) -> None:
    async def main() -> None:
        seen: list[set[str]] = []

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(set(scope["extensions"]))
            await respond()(send)

        given = {"pathsend", "zerocopysend", "push", "trailers", "early_hint", "debug"}
        await ask(protect(App(answer)), *(f"http.response.{name}" for name in given), "tls")
        assert seen == [{"http.response.trailers", "http.response.early_hint", "http.response.debug", "tls"}]

    run(main)


def test_early_hints_go_out_at_once_and_are_not_replayed(run) -> None:
    async def main() -> None:
        client = Client(b"{}")
        hint: Message = {"type": "http.response.early_hint", "links": [b"</style.css>; rel=preload"]}

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await send(hint)
            assert client.reply.messages == [hint]
            await respond(200, b"ok")(send)

        protected = protect(App(answer))
        await protected(make_scope(headers=[("idempotency-key", "k")]), client.receive, client.send)
        assert client.reply.messages[0] == hint
        retry = await post(protected, "k")
        assert (retry.status, retry.body) == (200, b"ok")
        assert len(retry.messages) == 2

    run(main)


@pytest.mark.parametrize("kind", ["pathsend", "zerocopysend"])
def test_a_file_that_is_sent_without_being_offered_is_remembered_without_its_content(run, kind: str) -> None:
    async def main() -> None:
        message: Message = {"type": f"http.response.{kind}", "path": "/etc/hostname"}

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"1")]})
            await send(message)

        app = App(answer)
        protected = protect(app)
        first = await ask(protected)
        assert [one["type"] for one in first.reply.messages] == ["http.response.start", message["type"]]
        retry = await post(protected, "k")
        assert (retry.status, retry.problem, retry.headers["x-a"], app.runs) == (200, "body-not-kept", "1", 1)

    run(main)


@pytest.mark.parametrize(
    "recorded",
    [
        Recorded(204, [], b""),
        Recorded(200, [(b"a", b"\xff"), (b"a", b"2")], bytes(range(256)), [(b"t", b"\n")]),
        Recorded(500, [(b"a", b"b")], None),
    ],
)
def test_what_is_recorded_is_what_is_read(recorded: Recorded) -> None:
    assert Recorded.load(recorded.dump()) == recorded


@pytest.mark.parametrize("extensions", [None, {}])
def test_a_server_without_extensions_will_do(run, extensions: Any) -> None:
    async def main() -> None:
        client = Client(b"{}")
        scope = make_scope(headers=[("idempotency-key", "k")])
        scope["extensions"] = extensions
        await protect(App())(scope, client.receive, client.send)
        assert client.reply.status == 201

    run(main)


@pytest.mark.parametrize("chunks", [1, 5])
@pytest.mark.parametrize("status", [200, 204, 500])
def test_the_first_response_is_message_for_message_what_the_application_said(run, status: int, chunks: int) -> None:
    async def main() -> None:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            body = b"" if status == 204 else b"a whole response"
            given = [("Content-Type", "text/plain"), ("Set-Cookie", "a=1"), ("Date", "now"), ("X-A", "1"), ("x-a", "2")]
            await respond(status, body, given, chunks=chunks)(send)

        bare, protected = Client(b"{}"), Client(b"{}")
        scope = make_scope(headers=[("idempotency-key", "k")])
        await answer(dict(scope), bare.receive, bare.send)
        await protect(answer)(dict(scope), protected.receive, protected.send)
        assert protected.reply.messages == bare.reply.messages

    run(main)
