"""HTTP calls that are written down before they are sent."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import anyio
import httpx
import pytest

import resilient
from resilient.backends.intents import Intent
from resilient.backends.memory import MemoryStore
from resilient.context import current_runtime
from resilient.errors import InProgress, KeyReused, OutcomeUnknown, StoreUnavailable
from resilient.idempotency import Intents
from resilient.testing import virtual_time
from tests.idempotency.bank import URL, Bank, Chunks, stack

PLACE = f"POST {URL}/payments"


def key(call: Any) -> str:
    """A business key: the number of the order."""
    return str(call.request.headers["x-order"])


async def pay(client: httpx.AsyncClient, order: str = "17", cents: int = 500, **arguments: Any) -> httpx.Response:
    headers = {"x-order": order, **arguments.pop("headers", {})}
    return await client.post("/payments", json={"cents": cents}, headers=headers, **arguments)


def state(intents: Intents, order: str = "17") -> Intent | None:
    return intents.terms.store.lookup(PLACE, order)


def test_the_request_is_written_down_before_the_first_byte_leaves(run):
    async def main():
        intents = Intents("memory://")
        seen: list[Intent | None] = []

        class Watched(Bank):
            def answer(self, request: httpx.Request) -> httpx.Response:
                seen.append(intents.terms.store.lookup(PLACE, "17"))
                return super().answer(request)

        async with Watched("lost").client(*stack(intents, keys=key)) as client:
            response = await pay(client)
        assert [known.state for known in seen if known] == ["open", "open"]
        assert seen[0] is not None
        assert seen[0].request.endswith(b'\n{"cents":500}')
        assert (response.status_code, response.content) == (201, b"receipt 1")

    run(main)


def test_a_call_that_is_repeated_gets_what_came_of_it_and_is_not_sent(run):
    async def main():
        bank, intents = Bank(), Intents("memory://")
        async with bank.client(*stack(intents, keys=key)) as client:
            first, second = await pay(client), await pay(client)
            assert first.content == second.content == b"receipt 1"
            assert first.status_code == second.status_code == 201
            assert second.headers["x-kind"] == "receipt"
            assert "set-cookie" not in second.headers
            assert (await pay(client, "18")).content == b"receipt 2"
        assert bank.keys == ['"17"', '"18"']

    run(main)


def test_another_payload_under_a_known_key_is_not_sent(run):
    async def main():
        bank, intents = Bank(), Intents("memory://")
        async with bank.client(*stack(intents, keys=key)) as client:
            await pay(client)
            with pytest.raises(KeyReused, match="'17' is the key of another request"):
                await pay(client, cents=501)
        assert len(bank.requests) == 1

    run(main)


def test_one_intent_is_sent_by_one_caller_at_a_time(run):
    async def main():
        bank, intents = Bank(), Intents("memory://")
        bank.delay = 2.0
        async with bank.client(*stack(intents, keys=key)) as client:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pay, client)
                await current_runtime().sleep(1.0)
                with pytest.raises(InProgress) as caught:
                    await pay(client)
                assert caught.value.retry_after == 29.0
            assert (await pay(client)).content == b"receipt 1"
        assert len(bank.requests) == 1

    run(main)


def test_the_lease_is_renewed_as_long_as_the_call_runs(run):
    async def main():
        bank, intents = Bank(), Intents("memory://", lease=3.0)
        bank.delay = 60.0
        (_, honoured, *_) = stack(intents, keys=key)
        async with bank.client(honoured) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(pay, client)
            await current_runtime().sleep(50.0)
            with pytest.raises(InProgress):
                await pay(client)

    run(main)


def test_a_lease_that_cannot_be_renewed_harms_nobody(run, caplog):
    async def main():
        bank, intents = Bank(), Intents("memory://", lease=3.0)
        kept: Any = intents.terms.store

        def fail(*args: Any, **kwargs: Any) -> Any:
            raise OSError("the disk is full")

        kept.heartbeat = fail
        bank.delay = 10.0
        (_, honoured, *_) = stack(intents, keys=key)
        async with bank.client(honoured) as client:
            assert (await pay(client)).content == b"receipt 1"
            assert "its lease was not renewed" in caplog.text
            assert (await pay(client)).content == b"receipt 1"
        assert len(bank.requests) == 1

    run(main)


UNKNOWN = [httpx.ReadError("broke"), httpx.ReadTimeout("slow"), httpx.Response(500), httpx.Response(503)]


@pytest.mark.parametrize("failure", UNKNOWN, ids=repr)
def test_what_may_have_been_done_stays_open(run, failure):
    async def main():
        bank, intents = Bank(failure, failure), Intents("memory://")
        async with bank.client(*stack(intents, keys=key)) as client:
            if isinstance(failure, Exception):
                with pytest.raises(type(failure)) as caught:
                    await pay(client)
                assert "intent '17' stays open, to be resumed" in caught.value.__notes__
            else:
                assert (await pay(client)).status_code == failure.status_code
            known = state(intents)
            assert known is not None
            assert (known.state, known.attempts) == ("open", 1)
            assert known.reason
            assert (await pay(client)).content == b"receipt 1"  # the caller may do it again at once
        assert set(bank.keys) == {'"17"'}

    run(main)


NOTHING_DONE = [
    httpx.ConnectError("refused"),
    httpx.Response(429),
    httpx.Response(401),
    httpx.Response(404),
    httpx.UnsupportedProtocol("what"),
]


@pytest.mark.parametrize("failure", NOTHING_DONE, ids=repr)
def test_where_nothing_was_done_nothing_is_left(run, failure):
    async def main():
        intents = Intents("memory://")
        async with Bank(failure, failure).client(*stack(intents, keys=key)) as client:
            if isinstance(failure, Exception):
                with pytest.raises(type(failure)):
                    await pay(client)
            else:
                assert (await pay(client)).status_code == failure.status_code
        assert state(intents) is None

    run(main)


@pytest.mark.parametrize("second", [httpx.ConnectError("refused"), httpx.Response(429), httpx.Response(401)], ids=repr)
def test_an_attempt_that_did_nothing_does_not_hide_one_that_may_have_done_something(run, second):
    async def main():
        intents = Intents("memory://")
        async with Bank("lost", second).client(*stack(intents, keys=key)) as client:
            with contextlib.suppress(httpx.HTTPError):
                await pay(client)
        known = state(intents)
        assert known is not None
        assert known.state == "open"

    run(main)


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(402, json={"error": "no money"}),
        httpx.Response(303, headers={"location": "/receipts/1"}),
        httpx.Response(500, headers={"idempotency-replayed": "true"}, content=b"it broke"),
        httpx.Response(204),
    ],
    ids=repr,
)
def test_a_refusal_is_a_result_and_so_is_an_error_that_is_replayed(run, response):
    async def main():
        bank, intents = Bank(response, response), Intents("memory://")
        async with bank.client(*stack(intents, keys=key)) as client:
            first = await pay(client)
            sent = len(bank.requests)
            second = await pay(client)
        assert second.status_code == first.status_code == response.status_code
        assert second.content == first.content
        assert len(bank.requests) == sent

    run(main)


def test_a_body_that_breaks_off_leaves_the_intent_open(run):
    async def main():
        broken = httpx.Response(201, stream=Chunks([b"rec", httpx.ReadError("broke")]))
        bank, intents = Bank(broken), Intents("memory://")
        async with bank.client(*stack(intents, keys=key)) as client:
            with pytest.raises(httpx.ReadError):
                await pay(client)
            known = state(intents)
            assert known is not None
            assert known.state == "open"
            assert (await pay(client)).status_code == 201

    run(main)


def test_a_response_that_is_too_large_is_passed_on_and_not_kept(run):
    async def main():
        large = httpx.Response(201, stream=Chunks([b"x" * 60, b"y" * 60, b"z" * 60]))
        declared = httpx.Response(201, headers={"content-length": "180"}, stream=Chunks([b"x" * 180]))
        events = httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=Chunks([b"data: 1\n\n"]))
        bank, intents = Bank(large, declared, events), Intents("memory://", max_body=100)
        async with bank.client(*stack(intents, keys=key)) as client:
            assert (await pay(client, "17")).content == b"x" * 60 + b"y" * 60 + b"z" * 60
            assert (await pay(client, "18")).content == b"x" * 180
            assert (await pay(client, "19")).content == b"data: 1\n\n"
            for order in ("17", "18", "19"):
                with pytest.raises(OutcomeUnknown, match="too large to be kept"):
                    await pay(client, order)

    run(main)


def test_a_stream_is_read_as_usual_after_it_was_kept(run):
    async def main():
        bank, intents = Bank(), Intents("memory://")
        async with bank.client(*stack(intents, keys=key)) as client:
            for _ in range(2):
                async with client.stream("POST", "/payments", json={}, headers={"x-order": "1"}) as response:
                    assert [chunk async for chunk in response.aiter_bytes()][-1].endswith(b"ipt 1")

    run(main)


def test_a_body_that_can_be_read_only_once_is_refused(run):
    async def body() -> Any:
        yield b"cents"

    async def main():
        bank, intents = Bank(), Intents("memory://", max_body=200)
        async with bank.client(*stack(intents, keys=key)) as client:
            headers = {"x-order": "17"}
            with pytest.raises(ValueError, match=r"its body, .*, can be read only once"):
                await client.post("/payments", content=body(), headers=headers)
            with pytest.raises(ValueError, match="a body of 201 bytes, and max_body=200"):
                await client.post("/payments", content=b"x" * 201, headers=headers)
            assert (await client.post("/payments", files={"a": b"1"}, headers=headers)).status_code == 201
        assert len(bank.requests) == 1
        assert await intents.open() == []

    run(main)


def test_calls_that_need_no_key_are_not_kept(run):
    async def main():
        bank, intents = Bank(httpx.Response(200), httpx.Response(500), httpx.Response(500)), Intents("memory://")
        async with bank.client(*stack(intents)) as client:
            assert (await client.get("/payments")).status_code == 200
            assert (await client.put("/payments/1")).status_code == 500
        assert await intents.open() == []

    run(main)


def test_a_store_that_fails_sends_nothing_and_one_that_fails_afterwards_keeps_nobody_from_the_result(run, caplog):
    async def main():
        bank, store = Bank(), MemoryStore()
        intents = Intents(store)
        kept: Any = intents.terms.store

        def fail(*args: Any, **kwargs: Any) -> Any:
            raise OSError("the disk is full")

        async with bank.client(*stack(intents, keys=key)) as client:
            kept.begin, begin = fail, kept.begin
            with pytest.raises(StoreUnavailable, match="the disk is full"):
                await pay(client)
            assert bank.requests == []
            kept.begin, kept.finish = begin, fail
            assert (await pay(client)).content == b"receipt 1"
        known = state(intents)
        assert known is not None
        assert known.state == "open"
        assert "the intent stays open" in caplog.text

    run(main)


def test_after_the_window_less_its_margin_nothing_is_sent_any_more(run):
    async def main():
        bank, intents = Bank("lost", "lost", "lost", "lost"), Intents("memory://", margin=10.0)
        async with bank.client(*stack(intents, keys=key, window=100.0)) as client:
            with pytest.raises(httpx.ReadError):
                await pay(client)
            await current_runtime().sleep(89.0)
            with pytest.raises(httpx.ReadError):
                await pay(client)
            await current_runtime().sleep(2.0)
            sent = len(bank.requests)
            with pytest.raises(OutcomeUnknown, match="its window is over"):
                await pay(client)
            assert len(bank.requests) == sent
            (lapsed,) = await intents.open()
            assert lapsed.state == "lapsed"
            # Somebody has found out that nothing had happened.
            assert await intents.settle(lapsed)
            assert not await intents.settle(lapsed)
            assert (await pay(client)).status_code == 201

    run(main)


def test_a_call_that_outlasts_the_window_is_ended_and_its_outcome_is_unknown(run):
    async def main():
        bank, intents = Bank(), Intents("memory://", margin=0.0)
        bank.delay = 5.0
        (_, honoured, *_) = stack(intents, keys=key, window=3.0)
        async with bank.client(honoured) as client:
            with pytest.raises(OutcomeUnknown, match="the far side may have forgotten it by now"):
                await pay(client)
            assert current_runtime().now() == 3.0

    run(main)


def test_a_done_intent_is_kept_for_a_while_and_then_forgotten(run):
    async def main():
        bank, intents = Bank(), Intents("memory://", keep=100.0)
        async with bank.client(*stack(intents, keys=key)) as client:
            await pay(client)
            await current_runtime().sleep(101.0)
            assert state(intents) is None
            assert (await pay(client)).headers["idempotency-replayed"] == "true"
            assert await intents.gc() == 0
            await current_runtime().sleep(101.0)
            assert await intents.gc() == 1
        assert len(bank.requests) == 2

    run(main)


def test_plain_code_does_the_same():
    runtime = virtual_time.runtime()
    with resilient.context.use_runtime(runtime):
        bank, intents = Bank("lost"), Intents("memory://")
        with bank.sync_client(*stack(intents, keys=key)) as client:
            headers = {"x-order": "17"}
            for _ in range(2):
                assert client.post("/payments", headers=headers).content == b"receipt 1"
            bank.script = ["lost", "lost"]
            with pytest.raises(httpx.ReadError):
                client.post("/payments", headers={"x-order": "18"})
        (left,) = intents.blocking.open()
        assert left.key == "18"
        assert intents.blocking.settle(left)
        assert intents.blocking.gc() == 0
        intents.blocking.close()


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: Intents("memory://", lease=0), "lease=0"),
    (lambda: Intents("memory://", keep=float("inf")), "keep=inf"),
    (lambda: Intents("memory://", margin=-1), "margin=-1"),
    (lambda: Intents("memory://", max_body=-1), "max_body=-1"),
    (lambda: Intents("memory://", headers=["Authorization"]), "authorization would put credentials on the disk"),
    (lambda: stack(Intents("memory://", margin=60.0), window=60.0), "margin=60.0: less than the window"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_terms_that_cannot_be_kept_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_store_without_intents_is_refused():
    class Other:
        blocking = object()

    with pytest.raises(ValueError, match="it keeps no intents"):
        Intents(Other())  # type: ignore[arg-type]
