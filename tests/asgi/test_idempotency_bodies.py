"""Bodies of requests: all sizes, compared whole, kept in memory up to a limit and in a file beyond it."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from resilient.asgi import IdempotencyMiddleware
from resilient.asgi.bodies import Body, TooLarge
from resilient.asgi.types import Message, Receive, Scope, Send
from resilient.backends.memory import MemoryStore
from tests.asgi.calling import App, Client, make_scope, post, respond

MIB = 1_048_576


@pytest.fixture
def run(backend: str) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Runs a scenario in real time: worker threads have no virtual one."""
    return lambda main: anyio.run(main, backend=backend)


def protect(app: Any, **terms: Any) -> IdempotencyMiddleware:
    return IdempotencyMiddleware(app, **{"store": MemoryStore(), **terms})


def open_files() -> list[str]:
    """What this process holds open in the folder for temporary files."""
    gc.collect()
    found = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - links, not files
        try:
            found.append(str(Path("/proc/self/fd", name).readlink()))
        except OSError:
            continue
    return [path for path in found if path.startswith(tempfile.gettempdir() + "/")]


async def send_chunks(app: Any, chunks: list[bytes], key: str = "k", headers: Any = ()) -> Client:
    client = Client(*chunks)
    await app(make_scope(headers=[("idempotency-key", key), *headers]), client.receive, client.send)
    return client


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 7])
def test_a_body_of_any_size_reaches_the_application_byte_for_byte(run, size: int) -> None:
    async def main() -> None:
        body = os.urandom(1024) * (size // 1024 + 1)
        body = body[:size]
        chunks = [body[at : at + 65_536] for at in range(0, size, 65_536)]
        app = App()
        protected = protect(app, max_request=4 * MIB)
        first = await send_chunks(protected, chunks)
        retry = await send_chunks(protected, [body])  # cut otherwise, it is the same request
        assert app.bodies == [body]
        assert (first.reply.status, retry.reply.status, retry.reply.replayed) == (201, 201, True)
        if size:
            other = body[:-1] + bytes([body[-1] ^ 1])
            assert (await send_chunks(protected, [other])).reply.problem == "key-reused"
        assert app.runs == 1

    run(main)


def test_what_is_spooled_is_read_in_parts_of_bounded_size(run) -> None:
    async def main() -> None:
        parts: list[int] = []

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await respond()(send)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            more = True
            while more:
                message = await receive()
                parts.append(len(message["body"]))
                more = message["more_body"]
            await answer(scope, receive, send)

        await send_chunks(protect(app, max_body=1000, max_request=4 * MIB), [b"x" * 65_536] * 20)
        assert sum(parts) == 20 * 65_536
        assert max(parts) <= 262_144

    run(main)


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize(("size", "status"), [(5000, 201), (5001, 413)])
def test_beyond_the_limit_of_requests_it_is_413(run, size: int, status: int, *, declared: bool) -> None:
    async def main() -> None:
        app = App()
        chunks = [b"x" * 700] * (size // 700) + [b"x" * (size % 700)]
        headers = [("content-length", str(size))] if declared else []
        before = open_files()
        client = await send_chunks(protect(app, max_body=1000, max_request=5000), chunks, headers=headers)
        assert (client.reply.status, app.runs) == (status, int(status == 201))
        if status == 413:
            assert client.reply.problem == "body-too-large"
            assert (client.received == 0) is declared
        assert open_files() == before

    run(main)


@pytest.mark.parametrize("ending", ["answered", "raised", "replayed", "refused", "left"])
def test_no_file_outlives_its_request(run, ending: str) -> None:
    async def main() -> None:
        seen: list[int] = []

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(len(open_files()))
            if ending == "raised":
                raise ConnectionError
            await respond()(send)

        before = len(open_files())
        protected = protect(App(answer), max_body=1000, max_request=MIB)
        if ending == "left":
            messages: list[Message] = [
                {"type": "http.request", "body": b"x" * 5000, "more_body": True},
                {"type": "http.disconnect"},
            ]

            async def receive() -> Message:
                return messages.pop(0)

            await protected(make_scope(headers=[("idempotency-key", "k")]), receive, Client().send)
        else:
            try:
                await send_chunks(protected, [b"x" * 5000])
            except ConnectionError:
                assert ending == "raised"
            if ending == "replayed":
                assert (await send_chunks(protected, [b"x" * 5000])).reply.replayed
            if ending == "refused":
                assert (await send_chunks(protected, [b"y" * 5000])).reply.problem == "key-reused"
            assert seen == [before + 1]
        assert len(open_files()) == before

    run(main)


def test_a_native_cancellation_while_it_is_written_leaves_nothing_open() -> None:
    """The thread goes on without its caller, and must not write to a file that was closed, or leave one behind."""

    async def main() -> None:
        before = open_files()
        store = MemoryStore()
        protected = protect(App(), store=store, max_body=1000, max_request=100 * MIB)
        for pause in range(30):
            task = asyncio.create_task(send_chunks(protected, [b"x" * 100_000] * 30))
            for _ in range(pause):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait((task,))
            assert task.cancelled() or task.result().reply.messages
        deadline = asyncio.get_running_loop().time() + 10
        while open_files() != before:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.01)

    asyncio.run(main())


def test_a_scope_that_is_cancelled_leaves_nothing_open(backend: str) -> None:
    async def main() -> None:
        before = open_files()
        protected = protect(App(), max_body=1000, max_request=100 * MIB)
        for patience in range(10):
            with anyio.move_on_after(patience / 2000):
                await send_chunks(protected, [b"x" * 100_000] * 30)
        assert open_files() == before

    anyio.run(main, backend=backend)


def test_a_disk_that_is_full_is_503_and_nothing_runs(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> Any:
        raise OSError(errno.ENOSPC, "no space left on device")

    async def main() -> None:
        app = App()
        client = await send_chunks(protect(app, max_body=1000, max_request=MIB), [b"x" * 5000])
        assert (client.reply.status, client.reply.problem, app.runs) == (503, "body-not-spooled", 0)

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    run(main)


def test_an_application_that_reads_only_a_part_is_answered_all_the_same(run) -> None:
    async def main() -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await respond(200, b"enough")(send)

        protected = protect(app, max_body=1000, max_request=MIB)
        replies = [await send_chunks(protected, [b"x" * 600_000]) for _ in range(2)]
        assert [client.reply.body for client in replies] == [b"enough"] * 2

    run(main)


def test_after_its_request_a_body_cannot_be_read(run) -> None:
    """Work in the background would get half of it, and take it for the whole."""

    async def main() -> None:
        client = Client(b"x" * 5000)
        body = await Body.read(make_scope(), client.receive, memory=1000, limit=5000)
        assert body is not None
        await body.close()
        with pytest.raises(OSError, match="the request is over"):
            await body.next()

    run(main)


def test_a_step_that_outlived_its_request_opens_no_file(run) -> None:
    """A thread that was about to write when its caller was cancelled finds that it is too late."""

    async def main() -> None:
        before = open_files()
        body = await Body.read(make_scope(), Client(b"x" * 5000).receive, memory=1000, limit=5000)
        assert body is not None
        await body.close()
        body._file = None
        body._write(b"late")
        body._rewind()
        assert open_files() == before

    run(main)


def test_tiny_chunks_are_held_in_one_piece(run) -> None:
    async def main() -> None:
        client = Client(*[b"ab"] * 1000, b"", b"c")
        body = await Body.read(make_scope(), client.receive, memory=5000, limit=5000)
        assert body is not None
        assert await body.next() == {"type": "http.request", "body": b"ab" * 1000 + b"c", "more_body": False}
        with pytest.raises(TooLarge):
            await Body.read(make_scope(), Client(b"x" * 11).receive, memory=10, limit=10)

    run(main)


@pytest.mark.parametrize(("name", "size"), [("max_request", -1), ("max_body", -5)])
def test_a_limit_is_a_number_of_bytes(name: str, size: int) -> None:
    with pytest.raises(ValueError, match=f"{name}={size}: bytes, at least 0"):
        protect(App(), **{name: size})


def test_a_key_without_a_body_needs_no_file(run) -> None:
    async def main() -> None:
        app = App()
        protected = protect(app, max_body=0)
        before = open_files()
        for _ in range(2):
            assert (await post(protected, body=b"")).status == 201
        assert app.runs == 1
        assert open_files() == before

    run(main)
