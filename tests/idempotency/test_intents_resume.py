"""What a process that starts again does with the intents that it finds."""

from __future__ import annotations

from typing import Any

import anyio
import httpx
import pytest

import resilient
from resilient.backends.memory import MemoryStore
from resilient.context import current_runtime
from resilient.errors import InProgress, OutcomeUnknown
from resilient.idempotency import Intents, Report
from resilient.pipeline import Pipeline
from resilient.policies.honoured import Honoured
from resilient.testing import virtual_time
from tests.idempotency.bank import URL, Bank, stack


async def leave_open(bank: Bank, intents: Intents, count: int = 1, **arguments: Any) -> None:
    """Calls whose answers are lost, in a process that then ends."""
    bank.script += ["lost", "lost"] * count
    async with bank.client(*stack(intents), **arguments) as client:
        for number in range(count):
            with pytest.raises(httpx.ReadError):
                await client.post(f"/payments?n={number}", json={"cents": number}, headers={"accept": "text/plain"})
    await current_runtime().sleep(5.0)  # it is left alone for a moment


def reasons(report: Report) -> list[str]:
    return [str(item.error) for item in report.open]


def test_what_an_earlier_process_left_open_is_sent_again_byte_by_byte(run):
    async def main():
        bank, store = Bank(), MemoryStore()
        await leave_open(bank, Intents(store), 3)
        intents = Intents(store)
        async with bank.client(*stack(intents)) as client:
            report = await intents.resume(client)
        assert (report.open, report.lapsed) == ([], [])
        assert sorted(item.result.content for item in report.finished) == [b"receipt 1", b"receipt 2", b"receipt 3"]
        assert len(bank.done) == 3
        sent: dict[str, Any] = {}
        for request in bank.requests:
            shape = (request.method, request.url, request.content, request.headers["accept"])
            assert sent.setdefault(request.headers["idempotency-key"], shape) == shape
        assert await intents.open() == []
        async with bank.client(*stack(intents)) as client:
            assert await intents.resume(client) == Report()

    run(main)


def test_credentials_come_from_the_client_that_resumes_and_are_not_on_the_disk(run):
    async def main():
        bank, store = Bank(), MemoryStore()
        first = Intents(store, headers=["X-Tenant"])
        headers = {"x-tenant": "t1"}
        cookies = {"session": "secret cookie"}
        await leave_open(bank, first, auth=("user", "secret"), headers=headers, cookies=cookies)
        (intent,) = await first.open()
        old = bank.requests[0].headers
        assert b"secret" not in intent.request
        assert old["authorization"].encode() not in intent.request
        assert b'["x-tenant", "t1"]' in intent.request
        async with bank.client(*stack(first), auth=("user", "new"), cookies={"session": "new"}) as client:
            assert len((await first.resume(client)).finished) == 1
        new = bank.requests[-1].headers
        assert new["authorization"] != old["authorization"]
        assert (new["cookie"], new["x-tenant"]) == ("session=new", "t1")

    run(main)


@pytest.mark.parametrize(
    ("before", "missing"),
    [
        ({"auth": ("user", "secret")}, "authorization"),
        ({"headers": {"X-Tenant": "t1"}}, "x-tenant"),
        ({"cookies": {"a": "b"}}, "cookie"),
    ],
)
def test_a_request_is_not_sent_without_what_it_had(run, before, missing):
    async def main():
        bank, intents = Bank(), Intents("memory://")
        await leave_open(bank, intents, **before)
        sent = len(bank.requests)
        async with bank.client(*stack(intents)) as client:
            report = await intents.resume(client)
        assert f"it had the headers {missing}, which are not kept" in reasons(report)[0]
        assert len(bank.requests) == sent
        await current_runtime().sleep(5.0)
        async with bank.client(*stack(intents), **before) as client:
            assert len((await intents.resume(client)).finished) == 1

    run(main)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda request: setattr(request, "url", request.url.copy_with(path="/refunds")), "method, URL or body differ"),
        (
            lambda request: request.headers.update({"content-type": "text/plain"}),
            "the headers accept, content-type differ",
        ),
    ],
)
def test_a_client_that_sends_something_else_sends_nothing(run, change, message):
    async def main():
        bank, intents = Bank(), Intents("memory://")
        await leave_open(bank, intents)
        sent = len(bank.requests)

        async def hook(request: httpx.Request) -> None:
            change(request)

        async with bank.client(*stack(intents), event_hooks={"request": [hook]}) as client:
            report = await intents.resume(client)
        assert f"not what was to be sent: {message}" in reasons(report)[0]
        assert len(bank.requests) == sent

    run(main)


def test_what_somebody_else_has_done_since_the_intents_were_read_is_left_to_them(run):
    async def main():
        bank, store = Bank(), MemoryStore()
        intents = Intents(store)
        await leave_open(bank, intents, 3)
        kept: Any = intents.terms.store
        read = await intents.open()
        done, busy, lapsed = read
        terms: dict[str, Any] = {"lease": 9.0, "window": 0.0, "create": False}
        kept.begin(busy.scope, busy.key, busy.fingerprint, b"", owner="somebody", **terms)
        kept.settle(done.scope, done.key, done=True, result=b"", keep=9.0)
        kept._rows[lapsed.scope, lapsed.key].until = 0.0
        kept.unfinished = lambda **_: read
        sent = len(bank.requests)
        async with bank.client(*stack(intents)) as client:
            report = await intents.resume(client)
        assert report.finished == []
        assert [item.intent.key for item in report.open] == [busy.key]
        assert [item.intent.key for item in report.lapsed] == [lapsed.key]
        assert len(bank.requests) == sent
        await intents.close()

    run(main)


def test_a_user_and_password_in_a_url_are_not_kept(run):
    async def main():
        bank, intents = Bank("lost", "lost"), Intents("memory://")
        async with bank.client(*stack(intents)) as client:
            with pytest.raises(httpx.ReadError):
                await client.post("https://user:secret@bank.example/payments")
        (intent,) = await intents.open()
        assert b"secret" not in intent.request
        assert intent.scope == f"POST {URL}/payments"

    run(main)


def test_expired_credentials_are_no_result(run):
    async def main():
        bank, intents = Bank(), Intents("memory://")
        await leave_open(bank, intents)
        bank.script = [httpx.Response(401)]
        async with bank.client(*stack(intents)) as client:
            report = await intents.resume(client)
            (item,) = report.open
            assert item.result.status_code == 401
            assert "stays open: answered with <Response [401 Unauthorized]>" in reasons(report)[0]
            await current_runtime().sleep(10.0)
            assert len((await intents.resume(client)).finished) == 1

    run(main)


def test_an_intent_that_fails_again_is_left_alone_for_longer_and_longer(run):
    async def main():
        bank, intents = Bank(), Intents("memory://")
        await leave_open(bank, intents)
        pauses = []
        async with bank.client(*stack(intents)) as client:
            for _ in range(12):
                bank.script = ["lost", "lost"]
                report = await intents.resume(client)
                assert "the connection broke" in reasons(report)[0]
                (intent,) = await intents.open()
                pauses.append(intent.due_in)
                sent = len(bank.requests)
                if intent.due_in > 0.5:
                    await current_runtime().sleep(intent.due_in / 2)
                    report = await intents.resume(client)
                    assert isinstance(report.open[0].error, InProgress)
                    assert "failed a moment ago: ReadError" in reasons(report)[0]
                    assert len(bank.requests) == sent
                await current_runtime().sleep(300.0)
        assert max(pauses) <= 300.0
        assert max(pauses[6:]) > max(pauses[:4])
        assert len(bank.done) == 1

    run(main)


def test_after_the_window_an_intent_is_reported_and_not_sent(run):
    async def main():
        bank, intents = Bank(), Intents("memory://")
        await leave_open(bank, intents)
        await current_runtime().sleep(23 * 3600)
        sent = len(bank.requests)
        async with bank.client(*stack(intents)) as client:
            for _ in range(2):
                report = await intents.resume(client)
                (item,) = report.lapsed
                assert isinstance(item.error, OutcomeUnknown)
                assert "last known: ReadError" in str(item.error)
                assert (report.finished, report.open) == ([], [])
        assert len(bank.requests) == sent

    run(main)


def test_many_processes_resume_at_once_and_each_intent_is_sent_by_one_of_them(run):
    async def main():
        bank, store = Bank(), MemoryStore()
        await leave_open(bank, Intents(store), 20)
        sent, bank.delay = len(bank.requests), 1.0
        finished, others = [], []

        async def restart() -> None:
            intents = Intents(store)
            async with bank.client(*stack(intents)) as client:
                report = await intents.resume(client)
            finished.extend(report.finished)
            others.extend(report.open)

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(restart)
        assert len(finished) == 20
        assert all(isinstance(item.error, InProgress) for item in others)
        assert len(bank.requests) == sent + 20

    run(main)


def test_only_so_many_are_sent_at_once(run):
    async def main():
        bank, intents = Bank(), Intents("memory://")
        await leave_open(bank, intents, 10)
        bank.delay = 1.0
        begun = current_runtime().now()
        async with bank.client(*stack(intents)) as client:
            assert len((await intents.resume(client, concurrency=5)).finished) == 10
            assert current_runtime().now() - begun == 2.0
            with pytest.raises(ValueError, match="concurrency=0: at least 1"):
                await intents.resume(client, concurrency=0)

    run(main)


def test_only_so_many_are_looked_at_the_oldest_first_and_page_by_page(run):
    async def main():
        bank, intents = Bank(), Intents("memory://")
        await leave_open(bank, intents, 130)
        await current_runtime().sleep(300.0)
        async with bank.client(*stack(intents)) as client:
            assert len((await intents.resume(client, limit=3)).finished) == 3
            left = await intents.open()
            assert left[0].request.endswith(b'{"cents":3}')
            assert len((await intents.resume(client)).finished) == 127

    run(main)


def test_an_intent_goes_to_the_client_of_its_host(run):
    async def main():
        bank, other, intents = Bank(), Bank(), Intents("memory://")
        await leave_open(bank, intents)
        async with other.client(*stack(intents), base_url="https://other.example") as wrong:
            report = await intents.resume(wrong)
            assert f"no client for {URL}/payments?n=0" in reasons(report)[0]
            assert (await intents.open())[0].attempts == 1
            async with bank.client(*stack(intents)) as right:
                assert len((await intents.resume(wrong, right)).finished) == 1
            await leave_open(bank, intents)
            async with bank.client(*stack(intents), base_url="") as anywhere:
                assert len((await intents.resume(wrong, anywhere)).finished) == 1
        assert other.requests == []

    run(main)


def test_a_client_past_these_intents_sends_the_same_and_is_reported(run):
    async def main():
        bank, intents = Bank(), Intents("memory://")
        await leave_open(bank, intents)
        async with httpx.AsyncClient(transport=httpx.MockTransport(bank.answer)) as bare:
            report = await intents.resume(bare)
        assert "it was sent past these intents" in reasons(report)[0]
        await current_runtime().sleep(5.0)
        async with bank.client(Honoured(intents=Intents("memory://"))) as client:
            report = await intents.resume(client)
        assert "the intent belongs to Intents(" in reasons(report)[0]
        assert len(set(bank.keys)) == 1
        assert len(bank.done) == 1

    run(main)


def test_a_challenge_is_answered_with_the_same_key(run):
    async def main():
        bank, intents = Bank(), Intents("memory://")
        challenge = httpx.Response(401, headers={"www-authenticate": 'Digest realm="a", nonce="b", qop="auth"'})
        bank.script = [challenge, "lost", "lost"]
        auth = httpx.DigestAuth("user", "secret")
        async with bank.client(*stack(intents), auth=auth) as client:
            with pytest.raises(httpx.ReadError):
                await client.post("/payments", json={})
        await current_runtime().sleep(5.0)
        bank.script = [challenge]
        async with bank.client(*stack(intents), auth=httpx.DigestAuth("user", "secret")) as client:
            report = await intents.resume(client)
        assert reasons(report) == []
        assert report.finished[0].result.content == b"receipt 1"
        assert len(set(bank.keys)) == 1

    run(main)


def test_a_redirect_is_a_request_of_its_own_under_the_same_key(run):
    async def main():
        moved = httpx.Response(307, headers={"location": "/v2/payments"})
        bank, intents = Bank(moved, "lost", "lost"), Intents("memory://")
        async with bank.client(*stack(intents), follow_redirects=True) as client:
            with pytest.raises(httpx.ReadError):
                await client.post("/payments", json={})
            (intent,) = await intents.open()
            assert intent.scope == f"POST {URL}/v2/payments"
            await current_runtime().sleep(5.0)
            assert len((await intents.resume(client)).finished) == 1
        assert len(set(bank.keys)) == 1

    run(main)


def test_an_operation_that_is_not_there_is_reported(run):
    async def main():
        store = MemoryStore()

        async def leave() -> None:
            intents = Intents(store)

            @intents.operation(name="charge")
            @Pipeline(Honoured(intents=intents))
            async def charge() -> None:
                raise ConnectionResetError

            with pytest.raises(ConnectionResetError):
                await charge()
            await current_runtime().sleep(5.0)

        await leave()
        intents = Intents(store)
        assert "no operation is named 'charge'" in reasons(await intents.resume())[0]
        assert "no operation is named 'charge'" in reasons(intents.blocking.resume())[0]

        @intents.operation(name="charge")
        @Pipeline(Honoured(intents=intents))
        async def charge() -> str:
            return "done"

        assert "is asynchronous: resume it with" in reasons(intents.blocking.resume())[0]
        assert [item.result for item in (await intents.resume()).finished] == ["done"]

    run(main)


def test_clients_of_the_wrong_kind_are_refused(run):
    async def main():
        intents = Intents("memory://")
        with httpx.Client() as client, pytest.raises(TypeError, match="an asynchronous client is needed"):
            await intents.resume(client)
        async with httpx.AsyncClient() as client:
            with pytest.raises(TypeError, match="a synchronous client is needed"):
                intents.blocking.resume(client)
        with pytest.raises(TypeError, match="a client of httpx or httpx2"):
            await intents.resume(run)

    run(main)


def test_plain_code_resumes_one_after_the_other():
    with resilient.context.use_runtime(virtual_time.runtime()):
        bank, intents = Bank(*["lost"] * 6), Intents("memory://")
        with bank.sync_client(*stack(intents)) as client:
            for number in range(3):
                with pytest.raises(httpx.ReadError):
                    client.post("/payments", json={"cents": number})
            current_runtime().pause(5.0)
            report = intents.blocking.resume(client)
        assert len(report.finished) == 3
        assert len(bank.done) == 3
