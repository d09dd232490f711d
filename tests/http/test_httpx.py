"""What people do with httpx works through a service as it does without one."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import anyio
import httpx
import httpx2
import pytest

import resilient
from resilient.context import Options
from resilient.http import PipelineTransport, Transport, sync_client
from resilient.pipeline import Pipeline
from resilient.policies.hedge import Hedge
from resilient.policies.honoured import Honoured
from resilient.policies.retry import Retry
from resilient.service import Service
from resilient.stack import default_policies
from resilient.testing import virtual_time
from tests.http.network import Network, settled

SERVICE = "static://10.0.0.1:8000,10.0.0.2:8000,10.0.0.3:8000"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Tells what it received; `/login` sets a cookie, `/private` wants a digest."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    answer: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json")]
    status = 200
    if scope["path"] == "/login":
        answer.append((b"set-cookie", b"session=abc; Path=/"))
    if scope["path"] == "/private" and "authorization" not in headers:
        status = 401
        answer.append((b"www-authenticate", b'Digest realm="r", qop="auth", nonce="n", algorithm=MD5'))
    told = {"path": scope["path"], "method": scope["method"], "headers": headers, "size": len(body)}
    told["sha"] = hashlib.sha256(body).hexdigest()
    await send({"type": "http.response.start", "status": status, "headers": answer})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})


def client(service: Service, **arguments: Any) -> httpx.AsyncClient:
    transport = Transport(service, lambda instance: httpx.ASGITransport(app))
    return httpx.AsyncClient(transport=transport, base_url="http://orders", **arguments)


def test_an_asgi_application_can_be_an_instance(backend):
    async def main():
        service = Service("orders", SERVICE, idempotency=Honoured())
        async with service, client(service) as http:
            told = (await http.post("/orders", json={"a": 1}, params={"b": "c"})).json()
            assert told["path"] == "/orders"
            assert told["headers"]["host"] == "orders"
            assert told["headers"]["content-length"] == str(told["size"])
            assert 0 < int(told["headers"]["resilient-timeout-ms"]) <= 2500
            assert settled(service)

    virtual_time.run(main, backend=backend)


def test_cookies_belong_to_the_service_and_not_to_an_instance(backend):
    async def main():
        service = Service("orders", SERVICE)
        async with service, client(service) as http:
            await http.get("/login")
            for _ in range(5):
                assert (await http.get("/")).json()["headers"]["cookie"] == "session=abc"

    virtual_time.run(main, backend=backend)


def test_a_digest_is_answered_with_a_second_request_of_the_same_call(backend):
    async def main():
        service = Service("orders", SERVICE, idempotency=Honoured())
        async with service, client(service, auth=httpx.DigestAuth("user", "secret")) as http:
            response = await http.post("/private", content=b"x" * 10)
            assert response.status_code == 200
            told = response.json()
            assert told["size"] == 10
            assert 'uri="/private"' in told["headers"]["authorization"]
            (first,) = response.history
            assert first.json()["headers"]["idempotency-key"] == told["headers"]["idempotency-key"]
            assert settled(service)

    virtual_time.run(main, backend=backend)


def test_event_hooks_see_the_callers_request(backend):
    seen: list[Any] = []

    async def before(request: httpx.Request) -> None:
        seen.append(("before", str(request.url), "idempotency-key" in request.headers))

    async def after(response: httpx.Response) -> None:
        await response.aread()
        key = response.request.headers["idempotency-key"]
        assert json.loads(response.content)["headers"]["idempotency-key"] == key
        seen.append(("after", str(response.request.url), "resilient-timeout-ms" in response.request.headers))

    async def main():
        service = Service("orders", SERVICE, idempotency=Honoured())
        hooks = {"request": [before], "response": [after]}
        async with service, client(service, event_hooks=hooks) as http:
            await http.post("/")

    virtual_time.run(main, backend=backend)
    assert seen == [("before", "http://orders/", False), ("after", "http://orders/", False)]


def test_bodies_of_every_kind_arrive(backend, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 200_000)

    class Chunks:
        def __init__(self) -> None:
            self.chunks = [b"a" * 70_000, b"b"]

        def __aiter__(self):
            return self

        async def __anext__(self) -> bytes:
            if not self.chunks:
                raise StopAsyncIteration
            return self.chunks.pop(0)

    async def main():
        service = Service("orders", SERVICE)
        async with service, client(service) as http:
            with path.open("rb") as file:
                told = (await http.post("/", files={"file": file}, data={"a": "b"})).json()
                assert told["size"] > 200_000
                assert told["headers"]["content-length"] == str(told["size"])
            assert (await http.post("/", content=Chunks())).json()["size"] == 70_001
            assert (await http.post("/", data={"a": "b"})).json()["size"] == 3
            assert (await http.post("/")).json()["size"] == 0

    virtual_time.run(main, backend=backend)


def test_redirects_go_by_the_services_name_and_elsewhere_by_a_mount(backend):
    network = Network(
        (302, {"location": "http://orders/2"}, []),
        (307, {"location": "http://other.example/3"}, []),
    )

    async def main():
        service = network.service()
        elsewhere = httpx.MockTransport(lambda request: httpx.Response(200, text=str(request.url)))
        async with (
            service,
            httpx.AsyncClient(
                mounts={"http://orders": Transport(service, network.transport)},
                transport=PipelineTransport(Pipeline(Retry()), elsewhere),
                follow_redirects=True,
            ) as http,
        ):
            response = await http.get("http://orders/1")
            assert response.text == "http://other.example/3"
            assert [str(one.url) for one in response.history] == ["http://orders/1", "http://orders/2"]
            assert settled(service)

    virtual_time.run(main, backend=backend)
    assert [request.url.path for request in network.requests] == ["/1", "/2"]
    assert network.open == 0


def test_a_redirect_to_https_stays_at_the_service(backend):
    network = Network((301, {"location": "https://orders/x"}, []), 200)

    async def main():
        async with network.client(follow_redirects=True) as (http, _):
            assert str((await http.get("/")).url) == "https://orders/x"

    virtual_time.run(main, backend=backend)
    assert [request.url.scheme for request in network.requests] == ["http", "https"]


def test_the_same_request_sent_twice_is_the_same_call(backend):
    network = Network()

    async def main():
        async with network.client(keys=True) as (http, _):
            request = http.build_request("POST", "/")
            await http.send(request)
            await http.send(request)
            await http.post("/")

    virtual_time.run(main, backend=backend)
    first, second, other = (request.headers["idempotency-key"] for request in network.requests)
    assert first == second != other


@pytest.mark.parametrize("value", ["a b", 'a"b', "ä", "x" * 300])
def test_a_malformed_key_of_the_caller_is_told_before_anything_is_sent(value, backend):
    network = Network()

    async def main():
        async with network.client(keys=True) as (http, service):
            with pytest.raises(ValueError, match=r"(?i)idempotency.key"):
                await http.post("/", headers={"Idempotency-Key": value.encode()})
            assert settled(service)

    virtual_time.run(main, backend=backend)
    assert network.requests == []


def test_a_key_of_the_caller_is_sent_as_it_was_written(backend):
    network = Network(503, 200)

    async def main():
        async with network.client(keys=True) as (http, _):
            response = await http.post("/", headers={"Idempotency-Key": "bare"})
            assert response.extensions["resilient"].idempotency_key == "bare"

    virtual_time.run(main, backend=backend)
    assert [request.headers["idempotency-key"] for request in network.requests] == ["bare", "bare"]


def test_two_keys_for_one_call_are_refused(backend):
    network = Network()

    async def main():
        async with network.client(keys=True) as (http, _):
            headers = {"Idempotency-Key": '"one"'}
            with pytest.raises(ValueError, match=r"two idempotency keys: 'one' .* 'two'"):
                await http.post("/", headers=headers, extensions={"resilient": {"idempotency_key": "two"}})
            with resilient.options(idempotency_key="outer"):  # the header is nearer
                response = await http.post("/", headers=headers)
            assert response.extensions["resilient"].idempotency_key == "one"

    virtual_time.run(main, backend=backend)
    assert [request.headers["idempotency-key"] for request in network.requests] == ['"one"']


def test_options_may_be_given_as_options(backend):
    network = Network(60.0)

    async def main():
        async with network.client() as (http, _):
            extensions = {"resilient": Options(timeout=0.5)}
            with pytest.raises(TimeoutError):
                await http.get("/", extensions=extensions)
            assert anyio.current_time() == pytest.approx(0.5)

    virtual_time.run(main, backend=backend)


def test_what_needs_an_event_loop_is_refused_in_a_synchronous_client():
    service = Service("orders", SERVICE, policies=default_policies(hedge=Hedge(0.1)))
    with service, sync_client(service) as http, pytest.raises(TypeError, match=r"synchronous client.*Hedge"):
        http.get("/")


def test_a_transport_that_is_opened_opens_its_inner_one(backend):
    happened: list[str] = []

    class Inner(httpx.MockTransport):
        async def __aenter__(self):
            happened.append("opened")
            return self

        async def __aexit__(self, *_: object) -> None:
            happened.append("closed")

        def __enter__(self):
            happened.append("opened")
            return self

        def __exit__(self, *_: object) -> None:
            happened.append("closed")

    async def main():
        inner = Inner(lambda request: httpx.Response(200))
        async with httpx.AsyncClient(transport=PipelineTransport(Pipeline(), inner)) as http:
            await http.get("http://x")
        with httpx.Client(transport=PipelineTransport(Pipeline(), inner)) as http:
            http.get("http://x")

    virtual_time.run(main, backend=backend)
    assert happened == ["opened", "closed"] * 2


def test_errors_name_the_callers_request(backend):
    network = Network(*[httpx.ReadError("lost")] * 3)

    async def main():
        async with network.client() as (http, _):
            with pytest.raises(httpx.ReadError) as caught:
                await http.get("/a")
            assert str(caught.value.request.url) == "http://orders/a"

    virtual_time.run(main, backend=backend)


def test_the_continuation_of_httpx_streams_and_fails_the_same_way(backend):
    script: list[Any] = [httpx2.ReadError("lost"), 503, 200]

    def answer(request: httpx2.Request) -> httpx2.Response:
        step = script.pop(0)
        if isinstance(step, Exception):
            raise step
        return httpx2.Response(step, stream=httpx2.ByteStream(b"two"))

    async def main():
        service = Service("orders", SERVICE)
        transport = Transport(service, lambda instance: httpx2.MockTransport(answer))
        async with service, httpx2.AsyncClient(transport=transport, base_url="http://orders") as http:
            async with http.stream("GET", "/") as response:
                assert await response.aread() == b"two"
                assert response.extensions["resilient"].attempt == 3
            with pytest.raises(httpx2.UnsupportedProtocol, match="mount"):
                await http.get("http://elsewhere/")
            assert settled(service)

    virtual_time.run(main, backend=backend)
