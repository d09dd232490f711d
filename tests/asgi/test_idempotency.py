"""Requests under an Idempotency-Key: which of them run, and what the others are told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from resilient.asgi import IdempotencyMiddleware
from resilient.asgi.types import Message, Receive, Scope, Send
from resilient.backends.memory import MemoryStore
from resilient.context import current_runtime
from resilient.testing import virtual_time
from tests.asgi.calling import App, Client, make_scope, post, respond


@pytest.fixture
def run(backend: str) -> Callable[[Callable[[], Awaitable[None]]], None]:
    return lambda main: virtual_time.run(main, backend=backend)


def protect(app: Any, **terms: Any) -> IdempotencyMiddleware:
    return IdempotencyMiddleware(app, **{"store": MemoryStore(), **terms})


def test_a_retry_is_answered_with_the_first_response(run) -> None:
    async def main() -> None:
        app = App()
        protected = protect(app)
        first, retry = await post(protected), await post(protected)
        assert (first.status, first.body, first.replayed) == (201, b"run 1", False)
        assert (retry.status, retry.body, retry.replayed) == (201, b"run 1", True)
        assert retry.headers == {**first.headers, "content-length": "5", "idempotency-replayed": "true"}
        assert (await post(protected, '"other"')).body == b"run 2"
        assert app.runs == 2

    run(main)


def test_the_application_reads_the_body_that_was_sent(run) -> None:
    async def main() -> None:
        app = App()
        client = Client(b"one ", b"", b"two")
        await protect(app)(make_scope(headers=[("idempotency-key", '"k"')]), client.receive, client.send)
        assert app.bodies == [b"one two"]

    run(main)


def test_a_bare_key_is_the_same_as_a_quoted_one(run) -> None:
    async def main() -> None:
        protected = protect(App())
        assert (await post(protected, '"a-1"')).body == (await post(protected, "a-1")).body

    run(main)


@pytest.mark.parametrize(
    ("scope", "note"),
    [
        (make_scope("GET", headers=[("idempotency-key", '"k"')]), "another method"),
        (make_scope("PUT", headers=[("idempotency-key", '"k"')]), "a method that is idempotent by itself"),
        (make_scope("POST"), "no key"),
        ({"type": "websocket", "path": "/", "headers": [(b"idempotency-key", b'"k"')]}, "a websocket"),
        ({"type": "lifespan"}, "the life span"),
    ],
)
def test_where_it_has_nothing_to_do_the_application_gets_the_very_same_objects(run, scope: Scope, note: str) -> None:
    async def main() -> None:
        seen: list[object] = []

        async def app(*arguments: object) -> None:
            seen.extend(arguments)

        client = Client()
        # Methods are made anew at each access; what is passed on has to be the same object.
        receive, send = client.receive, client.send
        before = dict(scope)
        await protect(app)(scope, receive, send)
        assert [id(one) for one in seen] == [id(scope), id(receive), id(send)], note
        assert scope == before
        assert client.received == 0

    run(main)


def test_the_methods_may_be_chosen(run) -> None:
    async def main() -> None:
        app = App()
        protected = protect(app, methods=["put"])
        for _ in range(2):
            await post(protected, method="PUT")
        assert app.runs == 1
        for _ in range(2):
            await post(protected, method="POST")
        assert app.runs == 3

    run(main)


@pytest.mark.parametrize("key", ["", '""', '"open', "a b", '"' + "x" * 256 + '"', '"caf\xe9"'])
def test_a_key_that_is_none_is_400_and_nothing_runs(run, key: str) -> None:
    async def main() -> None:
        app = App()
        reply = await post(protect(app), key)
        assert (reply.status, reply.problem, app.runs) == (400, "key-malformed", 0)

    run(main)


def test_two_keys_are_400(run) -> None:
    async def main() -> None:
        reply = await post(protect(App()), headers=[("idempotency-key", '"k"')])
        assert (reply.status, reply.problem) == (400, "key-malformed")

    run(main)


def test_a_missing_key_is_400_where_it_is_required(run) -> None:
    async def main() -> None:
        app = App()
        protected = protect(app, require=True)
        reply = await post(protected, None)
        assert (reply.status, reply.problem, app.runs) == (400, "key-missing", 0)
        assert (await post(protected, None, method="GET")).status == 201

    run(main)


@pytest.mark.parametrize(
    "change",
    [
        {"body": b'{"amount": 2}'},
        {"query": b"page=2"},
        {"headers": [("content-type", "text/plain")]},
        {"headers": [("content-encoding", "gzip")]},
    ],
)
def test_another_request_under_the_key_is_422_and_does_not_run(run, change: dict[str, Any]) -> None:
    async def main() -> None:
        app = App()
        protected = protect(app)
        await post(protected)
        reply = await post(protected, **change)
        assert (reply.status, reply.problem, app.runs) == (422, "key-reused", 1)

    run(main)


def test_a_request_that_is_still_running_is_409_with_the_rest_of_its_lease(run) -> None:
    async def main() -> None:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await current_runtime().sleep(5)
            await respond()(send)

        app = App(answer)
        protected = protect(app, lease=30.0)
        async with anyio.create_task_group() as group:
            group.start_soon(post, protected)
            await current_runtime().sleep(1.5)
            reply = await post(protected)
            assert (reply.status, reply.problem, reply.headers["retry-after"]) == (409, "in-progress", "29")
        assert (await post(protected)).status == 200
        assert app.runs == 1

    run(main)


def test_keys_of_different_callers_never_meet(run) -> None:
    async def main() -> None:
        app = App()
        protected = protect(app)
        alice, bob = [("authorization", "Bearer alice")], [("authorization", "Bearer bob")]
        cookie = [("cookie", "session=1")]
        replies = [await post(protected, headers=headers) for headers in (alice, bob, cookie, [])]
        assert len({reply.body for reply in replies}) == 4
        again = [await post(protected, headers=headers) for headers in (alice, bob, cookie, [])]
        assert [reply.body for reply in again] == [reply.body for reply in replies]
        assert app.runs == 4

    run(main)


def test_neither_do_those_of_different_paths_and_methods(run) -> None:
    async def main() -> None:
        app = App()
        protected = protect(app)
        for method, path in (("POST", "/a"), ("POST", "/b"), ("PATCH", "/a"), ("POST", "/" + "x" * 300 + "1")):
            assert not (await post(protected, method=method, path=path)).replayed
            assert (await post(protected, method=method, path=path)).replayed
        assert not (await post(protected, path="/" + "x" * 300 + "2")).replayed

    run(main)


@pytest.mark.parametrize("kind", ["function", "coroutine function"])
def test_the_principal_may_be_named_by_the_application(run, kind: str) -> None:
    def from_scope(scope: Scope) -> str:
        return str(dict(scope["headers"])[b"x-user"])

    async def later(scope: Scope) -> str:
        return from_scope(scope)

    async def main() -> None:
        app = App()
        protected = protect(app, principal=from_scope if kind == "function" else later)
        for token in ("first", "refreshed"):  # a retry after a refresh is still the same caller's
            await post(protected, headers=[("x-user", "alice"), ("authorization", token)])
        assert app.runs == 1
        await post(protected, headers=[("x-user", "bob")])
        assert app.runs == 2

    run(main)


def test_a_caller_that_cannot_be_named_is_an_error_and_not_a_stranger(run) -> None:
    def nobody(scope: Scope) -> Any:
        return None

    def broken(scope: Scope) -> str:
        raise KeyError("x-user")

    async def main() -> None:
        app = App()
        with pytest.raises(TypeError, match="principal"):
            await post(protect(app, principal=nobody))
        with pytest.raises(KeyError):
            await post(protect(app, principal=broken))
        assert app.runs == 0

    run(main)


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize(("size", "status"), [(1000, 201), (1001, 413)])
def test_a_request_that_is_too_large_to_compare_is_413(run, size: int, status: int, declared: bool) -> None:
    async def main() -> None:
        app = App()
        headers = [("content-length", str(size))] if declared else []
        reply = await post(protect(app, max_body=1000), body=b"x" * size, headers=headers)
        assert (reply.status, app.runs) == (status, int(status == 201))
        if status == 413:
            assert reply.problem == "body-too-large"
        assert (await post(protect(app, max_body=1000), None, body=b"x" * 5000)).status == 201

    run(main)


def test_a_request_that_is_too_large_by_its_own_word_is_not_even_read(run) -> None:
    async def main() -> None:
        client = Client(b"x")
        scope = make_scope(headers=[("idempotency-key", "k"), ("content-length", "99999999999")])
        await protect(App())(scope, client.receive, client.send)
        assert (client.reply.status, client.received) == (413, 0)

    run(main)


def test_a_client_that_leaves_before_it_has_said_all_runs_nothing(run) -> None:
    async def main() -> None:
        app, client = App(), Client(b"half")
        messages: list[Message] = [
            {"type": "http.request", "body": b"half", "more_body": True},
            {"type": "http.disconnect"},
        ]

        async def receive() -> Message:
            return messages.pop(0)

        store = MemoryStore()
        await protect(app, store=store)(make_scope(headers=[("idempotency-key", "k")]), receive, client.send)
        assert (app.runs, client.reply.messages) == (0, [])
        assert (await store.stats()).records == 0

    run(main)


def test_the_claim_is_in_the_scope(run) -> None:
    async def main() -> None:
        seen = []

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            claim = scope["resilient.claim"]
            seen.append((claim.key, claim.scope.split()[:2], claim.derive_key("charge"), claim.fence > 0))
            await respond()(send)

        await post(protect(App(answer)), '"k"')
        assert seen[0][:2] == ("k", ["POST", "/orders"])
        assert seen[0][3]

    run(main)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"mode": "transactional"}, "mode='transactional'"),
        ({"lease": 0.0}, "lease=0.0"),
        ({"ttl": 0.0}, "ttl=0.0"),
        ({"max_body": -1}, "max_body=-1"),
        ({"store": "nothing://"}, "known are"),
    ],
)
def test_terms_that_cannot_be_kept_are_refused_at_once(terms: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        protect(App(), **terms)
