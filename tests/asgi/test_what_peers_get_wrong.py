"""Each defect that was found in another idempotency library, as a question to this one.

Which library answered how is on the benchmark page `docs/idempotency-peers.md`; here every answer has to be right, on
every kind of store.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from resilient.asgi import IdempotencyMiddleware
from resilient.asgi.types import Receive, Scope, Send
from resilient.backends.faces import DirectStore
from resilient.backends.memory import MemoryStore
from resilient.backends.store import Run, Store
from resilient.context import current_runtime
from resilient.testing import virtual_time
from tests.asgi.calling import App, Client, Reply, make_scope, post, respond
from tests.idempotency.shop import Shop


@pytest.fixture
def run(backend: str) -> Callable[[Callable[[], Awaitable[None]]], None]:
    return lambda main: virtual_time.run(main, backend=backend)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else Shop(tmp_path).store


def protect(app: Any, store: Store, **terms: Any) -> IdempotencyMiddleware:
    return IdempotencyMiddleware(app, store, **terms)


def slowly(seconds: float) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await current_runtime().sleep(seconds)
        await respond(200, b"done")(send)

    return answer


def test_another_body_under_the_key_is_not_answered_with_the_first_response(run, store: Store) -> None:
    async def main() -> None:
        app = App()
        protected = protect(app, store)
        await post(protected, body=b'{"cents": 500}')
        assert (await post(protected, body=b'{"cents": 5000}')).status == 422
        assert app.runs == 1

    run(main)


def test_one_tenant_never_sees_what_another_was_answered(run, store: Store) -> None:
    async def main() -> None:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await respond(200, dict(scope["headers"])[b"authorization"])(send)

        protected = protect(App(answer), store)
        for _ in range(2):
            for tenant in ("alice", "bob"):
                assert (await post(protected, headers=[("authorization", tenant)])).body == tenant.encode()

    run(main)


def test_two_tenants_behind_one_proxy_are_two(run, store: Store) -> None:
    """Who a caller is, is not its address; nor does a retry from another address make it another caller."""

    async def main() -> None:
        app = App()
        protected = protect(app, store)

        async def send_from(address: str, tenant: str) -> Reply:
            client = Client(b"{}")
            scope = make_scope(headers=[("idempotency-key", "k"), ("authorization", tenant)])
            scope["client"] = [address, 50_000]
            await protected(scope, client.receive, client.send)
            return client.reply

        assert (await send_from("10.0.0.1", "alice")).body != (await send_from("10.0.0.1", "bob")).body
        assert (await send_from("10.9.9.9", "alice")).replayed
        assert app.runs == 2

    run(main)


def test_one_route_never_answers_for_another(run, store: Store) -> None:
    async def main() -> None:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await respond(200, scope["path"].encode())(send)

        protected = protect(App(answer), store)
        for _ in range(2):
            assert (await post(protected, path="/pay")).body == b"/pay"
            assert (await post(protected, path="/refund")).body == b"/refund"

    run(main)


@pytest.mark.parametrize("status", [201, 204, 303, 402, 404, 500])
@pytest.mark.parametrize("content", ["application/json", "text/plain", "application/octet-stream"])
def test_neither_a_status_nor_a_content_type_keeps_a_response_from_being_a_result(
    run, store: Store, status: int, content: str
) -> None:
    async def main() -> None:
        body = b"" if status == 204 else b"\x00\xff"

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await respond(status, body, [("content-type", content)])(send)

        app = App(answer)
        protected = protect(app, store)
        replies = [await post(protected) for _ in range(3)]
        assert {(reply.status, reply.body) for reply in replies} == {(status, body)}
        assert app.runs == 1

    run(main)


@pytest.mark.parametrize("content", ["text/plain", "text/event-stream"])
def test_a_stream_is_not_run_again(run, store: Store, content: str) -> None:
    async def main() -> None:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await respond(200, b"123456789", [("content-type", content)], chunks=9)(send)

        app = App(answer)
        protected = protect(app, store)
        assert (await post(protected)).body == b"123456789"
        assert (await post(protected)).status == 200
        assert app.runs == 1

    run(main)


def test_a_later_retry_of_the_very_same_request_is_not_refused(run, store: Store) -> None:
    """A store that forgets the fingerprint when it records the result answers 422 to every retry."""

    async def main() -> None:
        app = App(slowly(0.5))
        protected = protect(app, store)
        for pause in (0, 1, 60, 3600):
            await current_runtime().sleep(pause)
            assert (await post(protected)).status == 200
        assert app.runs == 1

    run(main)


def test_of_many_duplicates_at_once_one_runs(run, store: Store) -> None:
    async def main() -> None:
        app = App(slowly(0.5))
        protected = protect(app, store)
        statuses = []

        async def send_it() -> None:
            statuses.append((await post(protected)).status)

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(send_it)
        assert sorted(statuses) == [200] + [409] * 19
        assert app.runs == 1

    run(main)


def test_a_handler_that_outlasts_its_lease_is_not_joined_by_another(run, store: Store) -> None:
    async def main() -> None:
        app = App(slowly(25))
        protected = protect(app, store, lease=10.0)
        async with anyio.create_task_group() as group:
            group.start_soon(post, protected)
            for _ in range(4):
                await current_runtime().sleep(6)
                assert (await post(protected)).status == 409
        assert (await post(protected)).replayed
        assert app.runs == 1

    run(main)


async def killed(app: IdempotencyMiddleware) -> None:
    """A request whose process dies in the middle: what it held is never given back."""

    class Dead(DirectStore):
        async def heartbeat(self, run: Run, *, lease: float) -> bool:
            raise ConnectionError("dead")

    async def cut(scope: Scope, receive: Receive, send: Send) -> None:
        raise ConnectionError("kill -9")

    terms = app._terms
    dying = IdempotencyMiddleware(cut, Dead(terms.store.blocking), lease=terms.lease, ttl=terms.ttl)
    with pytest.raises(ConnectionError):
        await post(dying)


def test_after_a_crash_the_key_is_not_stuck_beyond_the_lease(run, store: Store) -> None:
    async def main() -> None:
        app = App()
        protected = protect(app, store, lease=5.0)
        await killed(protected)
        assert (await post(protected)).status == 409
        await current_runtime().sleep(5.1)
        assert (await post(protected)).status == 201
        assert app.runs == 1

    run(main)


def test_after_the_retention_the_key_is_not_stuck_either(run, store: Store) -> None:
    async def main() -> None:
        app = App()
        protected = protect(app, store, ttl=60.0)
        for _ in range(2):
            assert not (await post(protected)).replayed
            assert (await post(protected)).replayed
            await current_runtime().sleep(60.1)
        assert app.runs == 2

    run(main)


@pytest.mark.parametrize("ending", ["raises", "returns"])
def test_an_executor_that_was_followed_neither_removes_nor_replaces_the_others_record(
    run, store: Store, ending: str
) -> None:
    async def main() -> None:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            if app.runs == 1:
                await current_runtime().sleep(30)
                if ending == "raises":
                    raise ConnectionError
            await respond(200, f"by {app.runs}".encode())(send)

        class Deaf(DirectStore):
            async def heartbeat(self, run: Run, *, lease: float) -> bool:
                raise ConnectionError("unplugged")

        app = App(answer)
        zombie = protect(app, Deaf(store.blocking), lease=10.0)
        successor = protect(app, store, lease=10.0)
        told: list[Reply | None] = []

        async def late() -> None:
            try:
                told.append(await post(zombie))
            except ConnectionError:
                told.append(None)

        async with anyio.create_task_group() as group:
            group.start_soon(late)
            await current_runtime().sleep(11)
            assert (await post(successor)).body == b"by 2"
        (reply,) = told
        assert reply is None or (reply.status, reply.problem) == (409, "in-progress")
        replay = await post(successor)
        assert (replay.body, replay.replayed, app.runs) == (b"by 2", True, 2)

    run(main)


@pytest.mark.parametrize("seconds", [0.5, 3.4, 3.5])
def test_a_cancellation_while_a_heartbeat_is_in_flight_does_not_lose_the_claim(
    run, store: Store, seconds: float
) -> None:
    """The owner's token stays the same: an answer that was not heard changes nothing."""

    class Slow(DirectStore):
        async def heartbeat(self, run: Run, *, lease: float) -> bool:
            done = await super().heartbeat(run, lease=lease)
            await current_runtime().sleep(0.3)  # the answer is on its way
            return done

    async def main() -> None:
        app = App(slowly(seconds))
        protected = protect(app, Slow(store.blocking), lease=10.0)
        assert (await post(protected)).body == b"done"
        assert (await post(protected)).replayed
        assert app.runs == 1

    run(main)


def test_without_a_key_nothing_is_touched(run, store: Store) -> None:
    """Not even the end of a stream."""

    async def main() -> None:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            with anyio.move_on_after(1):
                pytest.fail(f"nobody has left: {await receive()}")
            await respond(200, b"123456789", chunks=9)(send)

        protected = protect(App(answer), store)
        for method in ("GET", "POST"):
            reply = await post(protected, None, method=method)
            assert (reply.body, len(reply.messages)) == (b"123456789", 10)
        assert (await post(protected, method="GET")).body == b"123456789"

    run(main)
