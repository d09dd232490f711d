"""Calls under a leased identity, through real clients and the real middleware, in virtual time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Self

import anyio
import httpx
import pytest

import resilient
from resilient.asgi import IdempotencyMiddleware
from resilient.asgi.types import Receive, Scope, Send
from resilient.backends.memory import BlockingMemoryStore, MemoryStore
from resilient.backends.sqlite import SQLiteStore
from resilient.context import current_runtime
from resilient.errors import ConcurrencyExceeded, DeadlineExceeded, ExpiredKey, StoreUnavailable
from resilient.http import PipelineTransport, Transport
from resilient.idempotency import BlockingClaim, Claim, ClientCall, ClientLease, Intents, client_call, once
from resilient.pipeline import Pipeline
from resilient.policies.hedge import Hedge
from resilient.policies.honoured import Honoured
from resilient.policies.retry import Backoff, Retry
from resilient.policies.timeout import Timeout
from resilient.service import Service
from resilient.testing import virtual_time
from tests.asgi.serving import served

LEASE = 60.0
PATH = "/.well-known/resilient-clients"


class Far:
    """An application behind the middleware, and a network in front of it that loses and repeats."""

    def __init__(self, **terms: Any) -> None:
        self.store = MemoryStore()
        self.effects: Counter[str] = Counter()
        self.app = IdempotencyMiddleware(self.answer, self.store, **{"client_lease": LEASE, **terms})
        self.inner = httpx.ASGITransport(app=self.app)
        self.sent: list[httpx.Request] = []
        self.lose: list[str] = []
        """For each of the next payments: "request" or "answer"."""
        self.delay = 0.0
        self.nonsense = b"1"

    @property
    def clients(self) -> Any:
        blocking = self.store.blocking
        assert isinstance(blocking, BlockingMemoryStore)
        return blocking.clients()

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        body = message["body"].decode()
        while message.get("more_body"):
            message = await receive()
        if scope["path"].startswith(PATH):  # nobody leases identities
            await send({"type": "http.response.start", "status": 201, "headers": []})
            await send({"type": "http.response.body", "body": self.nonsense})
            return
        self.effects[body] += 1
        if self.delay:
            await current_runtime().sleep(self.delay)
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": f"{body} {self.effects[body]}".encode()})

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        asked = request.url.path.startswith(PATH)
        self.sent.append(request)
        lost = self.lose.pop(0) if self.lose and not asked else ""
        if lost == "request":
            raise httpx.WriteError("the connection broke")
        response = await self.inner.handle_async_request(request)
        if lost == "answer":
            raise httpx.ReadError("the connection broke")
        return response

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        return None

    async def aclose(self) -> None:
        pass

    def client(self, lease: ClientLease, *policies: Any, **arguments: Any) -> httpx.AsyncClient:
        stack = policies or (Retry(attempts=4, backoff=Backoff(base=0.1), budget=None), Timeout(20.0))
        pipeline = Pipeline(Timeout(100.0), Honoured(lease=lease), *stack)
        arguments = {"base_url": "http://far", "timeout": None, **arguments}
        return httpx.AsyncClient(transport=PipelineTransport(pipeline, self), **arguments)

    def payments(self) -> list[httpx.Request]:
        return [request for request in self.sent if not request.url.path.startswith(PATH)]

    def asked(self) -> list[str]:
        return [
            f"{request.method} {request.url.raw_path.decode()}"
            for request in self.sent
            if request not in self.payments()
        ]

    async def records(self) -> int:
        return (await self.store.stats()).records


async def pay(client: httpx.AsyncClient, what: str) -> str:
    response = await client.post("/payments", content=what)
    assert response.status_code == 201, response.text
    return response.text


def test_calls_are_numbered_under_one_identity_and_acknowledged_when_they_are_over(run):
    async def main():
        far, lease = Far(), ClientLease()
        async with far.client(lease) as client:
            for what in "abc":
                assert await pay(client, what) == f"{what} 1"
        name = lease.client
        shapes = [
            (
                request.headers["idempotency-key"],
                request.headers["resilient-client"],
                request.headers["resilient-ack"],
            )
            for request in far.payments()
        ]
        assert shapes == [(f'"{name}.{n}"', name, str(n - 1)) for n in (1, 2, 3)]
        assert far.asked() == [f"POST {PATH}"]
        assert await far.records() == 1  # the last one, which nobody has acknowledged yet

    run(main)


def test_an_answer_that_is_lost_is_replayed_and_a_request_that_is_lost_is_sent_again(run):
    async def main():
        far, lease = Far(), ClientLease()
        far.lose = ["answer", "request", "answer", "", "request"]
        async with far.client(lease) as client:
            assert await pay(client, "a") == "a 1"
            assert await pay(client, "b") == "b 1"
        assert far.effects == {"a": 1, "b": 1}

    run(main)


def test_the_server_remembers_what_is_under_way_and_nothing_else(run):
    async def main():
        far, lease = Far(), ClientLease()
        far.delay = 1.0
        async with far.client(lease) as client:
            async with anyio.create_task_group() as tasks:
                for number in range(50):
                    tasks.start_soon(pay, client, f"p{number}")
            assert far.asked() == [f"POST {PATH}"]
            await pay(client, "z")
            assert await far.records() == 1
        assert set(far.effects.values()) == {1}

    run(main)


def test_a_late_copy_of_what_was_acknowledged_is_refused_and_never_runs(run):
    async def main():
        far, lease = Far(), ClientLease()
        far.lose = ["request", "request", "request", "request"]
        async with far.client(lease) as client:
            with pytest.raises(httpx.WriteError):
                await pay(client, "never arrived")
            await pay(client, "b")
            for late in (far.payments()[0], far.payments()[-1]):
                copied = httpx.Request("POST", late.url, headers=late.headers, content=late.read())
                async with httpx.AsyncClient(transport=far.inner) as network:
                    response = await network.send(copied)
                if late is far.payments()[0]:
                    assert response.status_code == 410
                    assert response.json()["type"] == "urn:problem-type:idempotency-key-expired"
                    assert "resilient-client" not in response.headers
                else:
                    assert response.headers["idempotency-replayed"] == "true"
        assert far.effects == {"b": 1}
        assert await far.records() == 1

    run(main)


def test_the_lease_is_renewed_while_a_call_is_under_way_and_let_go_when_nobody_calls(run):
    async def main():
        far, lease = Far(), ClientLease()
        async with far.client(lease, Timeout(1000.0)) as client:
            far.delay = 90.0
            assert await pay(client, "slow") == "slow 1"
            first = lease.client
            renewals = [what for what in far.asked() if what.startswith("PUT")]
            assert len(renewals) == 4
            await current_runtime().sleep(30.0)
            assert await far.records() == 0  # renewals acknowledge, too
            await current_runtime().sleep(10 * LEASE)
            asked = len(far.asked())
            far.delay = 0.0
            assert await pay(client, "later") == "later 1"
            assert len(far.asked()) == asked + 1
            assert lease.client != first
        assert far.clients.count() == 1

    run(main)


def test_a_client_that_died_is_forgotten_with_all_that_it_left(run):
    async def main():
        far = Far()

        async def live_and_die() -> None:
            lease = ClientLease()
            async with far.client(lease) as client:
                await pay(client, "a")
            (identity := lease._identity).lost = True  # type: ignore[union-attr]  # its process is gone, and renews nothing
            assert identity

        await live_and_die()
        assert await far.records() == 1
        await current_runtime().sleep(2 * LEASE)
        async with far.client(ClientLease()) as client:
            await pay(client, "b")
        assert far.clients.count() == 1
        assert await far.records() == 1

    run(main)


def test_after_the_lease_a_known_call_is_replayed_and_a_new_one_refused(run):
    async def main():
        far, lease = Far(), ClientLease()
        async with far.client(lease) as client:
            await pay(client, "a")
        name = lease.client
        far.clients._rows[name].lease_until = current_runtime().now()
        headers = {"resilient-client": str(name), "resilient-ack": "0"}
        async with httpx.AsyncClient(transport=far.inner, base_url="http://far") as network:
            known = {**headers, "idempotency-key": f'"{name}.1"'}
            response = await network.post("/payments", content="a", headers=known)
            assert (response.status_code, response.text) == (201, "a 1")
            response = await network.post(
                "/payments", content="new", headers={**headers, "idempotency-key": f"{name}.2"}
            )
            assert response.status_code == 410
            assert response.headers["resilient-client"] == "expired"
        assert far.effects == {"a": 1}

    run(main)


def test_an_identity_that_was_lost_is_replaced_with_the_next_call(run):
    async def main():
        far, lease = Far(), ClientLease()
        async with far.client(lease) as client:
            await pay(client, "a")
            first = lease.client
            far.clients._rows.clear()  # the store was lost
            response = await client.post("/payments", content="b")
            assert response.status_code == 410
            assert lease.client is None
            assert await pay(client, "c") == "c 1"
            assert lease.client not in {None, first}
        assert far.effects == {"a": 1, "c": 1}

    run(main)


def test_a_renewal_that_is_refused_loses_the_identity_and_one_that_fails_is_tried_again(run, caplog):
    async def main():
        far, lease = Far(), ClientLease()
        async with far.client(lease, Timeout(1000.0)) as client:
            await pay(client, "a")
            begin = far.inner.handle_async_request

            async def broken(request: httpx.Request) -> httpx.Response:
                raise httpx.ReadError("broke")

            far.inner.handle_async_request = broken  # type: ignore[method-assign]
            await current_runtime().sleep(25.0)
            assert "was not renewed" in caplog.text
            far.inner.handle_async_request = begin  # type: ignore[method-assign]
            await current_runtime().sleep(20.0)
            assert lease.client is not None
            await pay(client, "b")
            far.clients._rows.clear()
            await current_runtime().sleep(25.0)
            assert lease.client is None

    run(main)


def test_the_window_bounds_how_much_the_server_has_to_remember(run):
    async def main():
        far, lease = Far(), ClientLease(window=3, max_wait=5.0)
        far.delay = 8.0
        ends: list[str] = []

        async def call(what: str) -> None:
            try:
                await pay(client, what)
                ends.append(what)
            except ConcurrencyExceeded as error:
                ends.append("full" if "3 calls are ahead of one that is still under way" in str(error) else "wrong")

        async with far.client(lease) as client:
            async with anyio.create_task_group() as tasks:
                for number in range(5):
                    tasks.start_soon(call, f"p{number}")
            assert ends.count("full") == 2
            ends.clear()
            far.delay = 2.0
            async with anyio.create_task_group() as tasks:
                for number in range(6):
                    tasks.start_soon(call, f"q{number}")
            assert len(ends) == 6
            assert "full" not in ends
            far.delay = 50.0
            async with anyio.create_task_group() as tasks:
                for number in range(3):
                    tasks.start_soon(pay, client, f"r{number}")
                await current_runtime().sleep(1.0)
                with resilient.options(timeout=2.0), pytest.raises(DeadlineExceeded) as caught:
                    await pay(client, "late")
                assert not caught.value.sent
                tasks.cancel_scope.cancel()
            assert len(lease._waiters) == 0

    run(main)


def test_many_calls_at_the_start_share_one_registration_and_one_that_fails_is_repeated(run):
    async def main():
        far, lease = Far(client_lease=None), ClientLease()
        async with far.client(lease) as client:
            for nonsense in (b"1", b"", b"{}", b'{"client": 1, "lease": 2}', b'{"client": "a", "lease": "x"}'):
                far.nonsense = nonsense
                with pytest.raises(StoreUnavailable, match="was answered with 201 and no lease"):
                    await pay(client, "a")
        assert far.effects == {}

        far, failures = Far(), [httpx.ConnectError("refused")] * 2
        begin = far.handle_async_request

        async def refused_at_first(request: httpx.Request) -> httpx.Response:
            await current_runtime().sleep(0.1)
            if failures:
                raise failures.pop()
            return await begin(request)

        far.handle_async_request = refused_at_first  # type: ignore[method-assign]
        async with far.client(lease) as client, anyio.create_task_group() as tasks:
            for number in range(9):
                tasks.start_soon(pay, client, f"p{number}")
        assert far.asked() == [f"POST {PATH}"]
        assert len(far.effects) == 9

    run(main)


def test_a_hedge_carries_the_same_number(run):
    async def main():
        far, lease = Far(), ClientLease()
        far.delay = 3.0
        async with far.client(lease, Hedge(delay=1.0), Timeout(20.0)) as client:
            await client.post("/payments", content="a")
        assert far.effects == {"a": 1}
        assert len({request.headers["idempotency-key"] for request in far.payments()}) == 1
        assert len(far.payments()) == 2

    run(main)


def test_a_key_of_the_callers_own_is_left_alone(run):
    async def main():
        far, lease = Far(), ClientLease()
        async with far.client(lease) as client:
            response = await client.post("/payments", content="a", headers={"idempotency-key": '"mine"'})
            assert response.status_code == 201
        assert lease.client is None
        assert "resilient-client" not in far.payments()[0].headers

    run(main)


def test_an_identity_belongs_to_whoever_took_it(run):
    async def main():
        far, lease = Far(), ClientLease()
        async with far.client(lease, headers={"authorization": "alice"}) as client:
            await pay(client, "a")
        name = str(lease.client)
        assert far.sent[0].headers["authorization"] == "alice"
        headers = {"resilient-client": name, "idempotency-key": f"{name}.1", "authorization": "bob"}
        async with httpx.AsyncClient(transport=far.inner, base_url="http://far") as network:
            assert (await network.post("/payments", content="a", headers=headers)).status_code == 410
            headers["authorization"] = "alice"
            assert (await network.post("/payments", content="b", headers=headers)).status_code == 422
            assert (await network.post("/other", content="a", headers=headers)).status_code == 422
            bob, alice = {"authorization": "bob"}, {"authorization": "alice"}
            assert (await network.put(f"{PATH}/{name}", headers=bob)).status_code == 410
            assert (await network.delete(f"{PATH}/{name}", headers=bob)).status_code == 204
            assert (await network.put(f"{PATH}/{name}", headers=alice)).status_code == 200

    run(main)


def test_the_leases_are_given_at_a_well_known_path(run):
    async def main():
        far = Far()
        async with httpx.AsyncClient(transport=far.inner, base_url="http://far") as network:
            response = await network.post(PATH)
            assert (response.status_code, response.headers["cache-control"]) == (201, "no-store")
            name = response.json()["client"]
            assert response.json() == {"client": name, "lease": LEASE}
            for query, status in (
                ("", 200),
                ("?acknowledged=3", 200),
                ("?acknowledged=x", 400),
                ("?acknowledged=", 200),
            ):
                assert (await network.put(f"{PATH}/{name}{query}")).status_code == status
            for method, path in (("GET", PATH), ("DELETE", PATH), ("PATCH", f"{PATH}/{name}")):
                assert (await network.request(method, path)).status_code == 405
            assert (await network.put(f"{PATH}/unknown")).status_code == 410
            assert (await network.delete(f"{PATH}/{name}")).status_code == 204
            assert (await network.delete(f"{PATH}/{name}")).status_code == 204
            malformed = {"resilient-client": name, "idempotency-key": "other.1"}
            assert (await network.post("/payments", headers=malformed)).status_code == 400

            def fail(*args: Any, **kwargs: Any) -> Any:
                raise OSError

            far.clients.register = fail
            assert (await network.post(PATH)).status_code == 503

    run(main)


def test_leaving_gives_everything_back_at_once(run):
    async def main():
        far, lease = Far(), ClientLease()
        async with far.client(lease) as client:
            await pay(client, "a")
            await lease.leave()
            assert (far.clients.count(), await far.records()) == (0, 0)
            await lease.leave()
            assert await pay(client, "b") == "b 1"

    run(main)


def test_a_service_tells_its_instances_and_nobody_else_says_it(run):
    async def main():
        far, lease = Far(), ClientLease()
        service = Service("far", "static://10.0.0.1:80,10.0.0.2:80", idempotency=Honoured(lease=lease))
        transport = Transport(service, lambda instance: far)
        async with service, httpx.AsyncClient(transport=transport, base_url="http://far") as client:
            forged = {"resilient-client": "me", "resilient-ack": "7"}
            response = await client.post("/payments", content="a", headers=forged)
            assert response.text == "a 1"
        (request,) = far.payments()
        names = [name for name, _ in request.headers.raw if name.lower().startswith(b"resilient-client")]
        assert names == [b"Resilient-Client"]
        assert request.headers["resilient-client"] == lease.client

    run(main)


def test_functions_share_a_store_with_the_far_side(run):
    async def main():
        store, lost = MemoryStore(), [ConnectionResetError("lost")]
        lease = ClientLease(store)
        effects: list[str] = []

        @once(store, key=lambda call, what: call, mode="fenced", scope="charge")
        async def charge_there(claim: Claim, call: ClientCall, what: str) -> str:
            effects.append(what)
            return f"{what} {claim.key}"

        calls: list[ClientCall] = []

        @Pipeline(Honoured(lease=lease), Retry(attempts=3, budget=None))
        async def charge(what: str) -> str:
            call = client_call()
            assert call is not None
            calls.append(call)
            result = await charge_there(call, what)
            if lost:
                raise lost.pop()
            return result

        assert client_call() is None
        assert await charge("a") == "a 1"
        assert await charge("b") == "b 2"
        assert effects == ["a", "b"]
        assert [call.number for call in calls] == [1, 1, 2]
        assert (await store.stats()).records == 1
        with pytest.raises(ExpiredKey) as caught:
            await charge_there(calls[0], "a")
        assert caught.value.stale
        with pytest.raises(ExpiredKey):
            await charge_there(ClientCall(client="unknown", number=1, acknowledged=0), "a")
        await lease.leave()
        assert (await store.stats()).records == 0

    run(main)


def test_plain_functions_likewise():
    with resilient.context.use_runtime(virtual_time.runtime()):
        store = MemoryStore()
        lease = ClientLease(store, lease=3600.0)

        @once(store, key=lambda call, what: call, mode="fenced")
        def charge_there(claim: BlockingClaim, call: ClientCall, what: str) -> str:
            return what

        @Pipeline(Honoured(lease=lease))
        def charge(what: str) -> str:
            call = client_call()
            assert call is not None
            return charge_there(call, what)

        assert [charge(what) for what in "abc"] == ["a", "b", "c"]
        with pytest.raises(RuntimeError, match="was only used elsewhere"):
            anyio.run(lease.leave)


def test_functions_whose_client_was_forgotten_take_a_new_name(run):
    async def main():
        store = MemoryStore()
        lease = ClientLease(store)
        clients: Any = store.blocking.clients()  # type: ignore[attr-defined]

        @once(store, key=lambda call: call, mode="fenced")
        async def there(claim: Claim, call: ClientCall) -> str:
            return call.client

        @Pipeline(Honoured(lease=lease))
        async def here() -> str:
            call = client_call()
            assert call is not None
            return await there(call)

        first = await here()
        clients._rows.clear()
        with pytest.raises(ExpiredKey) as caught:
            await here()
        assert not caught.value.stale
        assert await here() not in {first, None}

    run(main)


@pytest.mark.parametrize("slow", [0.0, 1.5])
def test_plain_clients_lease_and_renew_over_real_sockets(tmp_path, slow):
    store = SQLiteStore(tmp_path / "far.db")
    effects: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        effects.append((await receive())["body"].decode())
        await anyio.sleep(slow)
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    lease = ClientLease()
    with served(IdempotencyMiddleware(app, store, client_lease=0.9)) as url:
        transport = PipelineTransport(Pipeline(Honoured(lease=lease), Retry(), Timeout(20.0)), httpx.HTTPTransport())
        with httpx.Client(transport=transport, base_url=url, timeout=30.0) as client:
            for number in range(2):
                assert client.post("/", content=str(number)).status_code == 201
            assert store.blocking.stats().records <= 2
            lease.sync_leave()
            assert store.blocking.stats().records == 0
            lease.sync_leave()
            assert client.post("/", content="2").status_code == 201
    assert effects == ["0", "1", "2"]
    store.blocking.close()


def test_a_function_without_a_store_is_refused(run):
    async def main():
        @Pipeline(Honoured(lease=ClientLease()))
        async def charge() -> None:
            raise AssertionError

        with pytest.raises(TypeError, match="a function cannot ask the far side for a lease"):
            await charge()

    run(main)


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: ClientLease(window=0), "window=0"),
    (lambda: ClientLease(max_wait=-1), "max_wait=-1"),
    (lambda: ClientLease("memory://", lease=0), "lease=0"),
    (lambda: Honoured(lease=ClientLease(), intents=Intents("memory://")), "its keys end with the process"),
    (lambda: Honoured(lease=ClientLease(), keys=lambda call: "a"), "its keys end with the process"),
    (lambda: Far(client_lease=-1.0), "client_lease=-1.0"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_store_without_clients_is_refused():
    class Other:
        blocking = object()

    with pytest.raises(ValueError, match="it keeps no leased clients"):
        ClientLease(Other())  # type: ignore[arg-type]
