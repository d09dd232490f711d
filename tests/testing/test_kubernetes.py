"""The fake API server, against traces of real ones."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from resilient.testing.kubernetes import RESOURCES, FakeApiServer
from resilient.testing.kubernetes.selector import Selector
from tests.discovery.kubernetes.traces import Trace, steady

PATH = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices"
SLICES, LEASES, _ = RESOURCES
LABEL = "kubernetes.io/service-name"
TOKEN = {"authorization": "Bearer secret"}


def hold(server: FakeApiServer, objects: list[Any]) -> None:
    """Let a server have these objects, in their resource versions."""
    for one in sorted(objects, key=lambda one: int(one["metadata"]["resourceVersion"])):
        server.objects.revision = int(one["metadata"]["resourceVersion"]) - 1
        server.objects.put(SLICES, "shop", one)


def as_in(name: str, server: FakeApiServer) -> None:
    """Bring a server to the state in which a real one was listed."""
    (listed,) = Trace.load(name).objects
    hold(server, listed["items"])
    server.objects.revision = int(listed["metadata"]["resourceVersion"])


def ask(server: FakeApiServer, trace: Trace, timeout: float = 10.0, **params: str) -> httpx.Response:
    return httpx.request(
        trace.method,
        server.url + trace.path,
        params={**trace.params, **params},
        json=trace.body,
        headers=TOKEN,
        timeout=timeout,
    )


def said(response: httpx.Response) -> list[Any]:
    return [steady(json.loads(line)) for line in response.content.split(b"\n") if line]


def without_bookmarks(lines: list[Any]) -> list[Any]:
    return [line for line in lines if line["type"] != "BOOKMARK"]


def same(response: httpx.Response, trace: Trace) -> None:
    assert response.status_code == trace.status
    for name in ("cache-control", "content-type", "retry-after"):
        assert response.headers.get(name) == trace.headers.get(name)


@pytest.mark.parametrize("name", ["list_rv0", "list_selector", "list_limit_1"])
def test_lists_are_those_of_a_real_server(name: str) -> None:
    trace = Trace.load(name)
    with FakeApiServer() as server:
        as_in("list_rv0", server)
        response = ask(server, trace)
    same(response, trace)
    assert said(response) == trace.objects


def test_pages_are_those_of_a_real_server() -> None:
    """Its token, too: it tells from where to go on, and in which version."""
    trace = Trace.load("list_limit_1")
    (first,) = trace.objects
    with FakeApiServer() as server:
        as_in("list_rv0", server)
        token = first["metadata"]["continue"]
        server.put_slice("shop", "orders-aa", "orders", ["10.0.0.9"])  # since then
        names: list[str] = []
        while token:
            page = httpx.get(server.url + PATH, params={"limit": "2", "continue": token}, headers=TOKEN).json()
            assert page["metadata"]["resourceVersion"] == "228"
            names += [one["metadata"]["name"] for one in page["items"]]
            token = page["metadata"].get("continue")
    (listed,) = Trace.load("list_rv0").objects
    assert names == [one["metadata"]["name"] for one in listed["items"]][1:]


def test_a_page_of_before_a_compaction_is_gone() -> None:
    trace = Trace.load("uncached_list_continue_after_compaction")
    with FakeApiServer() as server:
        as_in("list_rv0", server)
        token = httpx.get(server.url + PATH, params={"limit": "2"}, headers=TOKEN).json()["metadata"]["continue"]
        server.put_slice("shop", "orders-z", "orders", [])
        server.compact()
        response = httpx.get(server.url + PATH, params={"limit": "2", "continue": token}, headers=TOKEN)
        same(response, trace)
        (expected,), (status,) = trace.objects, said(response)
        again = status["metadata"].pop("continue")
        expected["metadata"].pop("continue")
        assert status.pop("message") == expected.pop("message").partition(", or use")[0] + "."
        assert status == expected
        rest = httpx.get(server.url + PATH, params={"continue": again}, headers=TOKEN).json()
    assert "orders-z" in {one["metadata"]["name"] for one in rest["items"]}  # inconsistent, as it says


def test_a_continue_that_is_none_is_refused() -> None:
    with FakeApiServer() as server:
        for token in ("x", "e30", "AAAA"):
            assert httpx.get(server.url + PATH, params={"continue": token}, headers=TOKEN).status_code == 400


def test_a_watch_tells_what_a_real_one_told() -> None:
    trace = Trace.load("watch_from_rv")
    changed, added, *_ = without_bookmarks(trace.objects)

    def happen(server: FakeApiServer) -> None:
        time.sleep(0.2)
        server.objects.put(SLICES, "shop", changed["object"])
        server.objects.put(SLICES, "shop", added["object"])
        server.delete_slice("shop", "orders-b")
        server.label_slice("shop", "orders-c", "other")

    with FakeApiServer(bookmarks=0.3) as server:
        as_in("list_rv0", server)
        thread = threading.Thread(target=happen, args=(server,))
        thread.start()
        response = ask(server, trace, timeoutSeconds="1")
        thread.join()
    same(response, trace)
    assert response.headers["transfer-encoding"] == trace.headers["transfer-encoding"]
    assert without_bookmarks(said(response)) == without_bookmarks(trace.objects)
    bookmarks = [line for line in said(response) if line["type"] == "BOOKMARK"]
    assert bookmarks[-1] == [line for line in trace.objects if line["type"] == "BOOKMARK"][-1]


def test_a_watch_of_the_past_catches_up() -> None:
    """The same events, which happened before it began."""
    trace = Trace.load("watch_bookmark_over_a_minute")
    events = without_bookmarks(trace.objects)
    with FakeApiServer() as server:
        as_in("list_rv0", server)
        server.objects.put(SLICES, "shop", events[0]["object"])
        server.objects.put(SLICES, "shop", events[1]["object"])
        server.delete_slice("shop", "orders-b")
        server.label_slice("shop", "orders-c", "other")
        response = ask(server, trace, timeoutSeconds="1")
    assert said(response) == events


@pytest.mark.parametrize("name", ["watch_no_rv", "watch_rv0"])
def test_a_watch_from_nowhere_begins_with_the_present(name: str) -> None:
    trace = Trace.load(name)
    with FakeApiServer() as server:
        hold(server, [line["object"] for line in trace.objects])
        response = ask(server, trace)
    same(response, trace)
    assert said(response) == trace.objects


def test_initial_events_end_with_a_bookmark_that_says_so() -> None:
    trace = Trace.load("watch_send_initial_events")
    with FakeApiServer() as server:
        hold(server, [line["object"] for line in without_bookmarks(trace.objects)])
        server.objects.revision = 234
        response = ask(server, trace, timeoutSeconds="1")
    same(response, trace)
    assert said(response) == trace.objects


def test_a_server_that_is_old_does_not_know_initial_events() -> None:
    trace = Trace.load("watch_send_initial_events")
    with FakeApiServer(initial_events=False) as server:
        response = ask(server, trace)
    assert response.status_code == 422
    (status,) = said(response)
    assert (status["reason"], status["code"]) == ("Invalid", 422)
    assert "resourceVersionMatch is forbidden for watch" in status["message"]


def test_an_old_version_is_gone_in_a_line() -> None:
    trace = Trace.load("uncached_watch_rv_1_expired")
    with FakeApiServer() as server:
        began = time.monotonic()
        response = ask(server, trace)
        assert time.monotonic() - began < 1.0
    same(response, trace)
    assert said(response) == trace.objects


def test_a_version_of_the_future_hangs_until_its_time_is_over() -> None:
    trace = Trace.load("watch_future_rv")
    with FakeApiServer() as server:
        began = time.monotonic()
        response = ask(server, trace, timeoutSeconds="1")
        assert 0.9 < time.monotonic() - began < 5.0
    same(response, trace)
    assert said(response) == trace.objects == []


def test_a_list_of_the_future_is_told_to_come_back() -> None:
    trace = Trace.load("list_future_rv")
    with FakeApiServer(patience=0.1) as server:
        server.objects.revision = 228
        response = ask(server, trace)
    same(response, trace)
    assert said(response) == trace.objects


@pytest.mark.parametrize(
    "name", ["list_401_bad_token", "list_401_no_token", "list_403", "list_404_group", "watch_bad_rv"]
)
def test_refusals_are_those_of_a_real_server(name: str) -> None:
    trace = Trace.load(name)
    with FakeApiServer() as server:
        if name == "list_403":
            server.forbid("list")
        headers = {"list_401_no_token": {}, "list_401_bad_token": {"authorization": "Bearer x"}}.get(name, TOKEN)
        response = httpx.request(trace.method, server.url + trace.path, params=trace.params, headers=headers)
    same(response, trace)
    (expected,), (status,) = trace.objects, said(response)
    if name == "list_403":
        expected["message"] = expected["message"].replace("noaccess", "tester")
    assert status == expected


def test_a_long_line_comes_in_many_pieces_and_characters_of_unicode_stay_what_they_are() -> None:
    for name in ("watch_big_slice", "watch_unicode_separators"):
        trace = Trace.load(name)
        (line,) = trace.objects[:1]
        with FakeApiServer(chunk=1000) as server:
            hold(server, [line["object"]])
            with httpx.stream(
                "GET", server.url + trace.path, params={**trace.params, "timeoutSeconds": "1"}, headers=TOKEN
            ) as response:
                pieces = list(response.iter_raw())
        assert steady(json.loads(b"".join(pieces))) == line
        assert max(map(len, pieces)) <= 1000


def test_leases_are_those_of_a_real_server() -> None:
    with FakeApiServer() as server:
        server.objects.revision = 251
        for name in ("lease_create", "lease_create_conflict", "lease_get_missing", "lease_renew", "lease_renew_stale"):
            trace = Trace.load(name)
            response = ask(server, trace)
            same(response, trace)
            assert said(response) == trace.objects, name


def test_a_restored_server_goes_back_in_time() -> None:
    with FakeApiServer() as server:
        server.put_slice("shop", "a", "orders", ["10.0.0.1"])
        server.put_slice("shop", "b", "orders", ["10.0.0.2"])
        server.restore(50, lambda one: one["metadata"]["name"] == "a")
        found = httpx.get(server.url + PATH, headers=TOKEN).json()
    assert found["metadata"]["resourceVersion"] == "50"
    assert [one["metadata"]["name"] for one in found["items"]] == ["a"]


def test_all_namespaces_are_listed_too_and_objects_can_be_deleted() -> None:
    with FakeApiServer() as server, httpx.Client(base_url=server.url, headers=TOKEN) as client:
        server.put_slice("a", "x", "orders", [])
        server.put_slice("b", "x", "orders", [])
        everywhere = "/apis/discovery.k8s.io/v1/endpointslices"
        assert [one["metadata"]["namespace"] for one in client.get(everywhere).json()["items"]] == ["a", "b"]
        assert client.delete("/apis/discovery.k8s.io/v1/namespaces/a/endpointslices/x").status_code == 200
        assert client.delete("/apis/discovery.k8s.io/v1/namespaces/a/endpointslices/x").status_code == 404
        assert [one["metadata"]["namespace"] for one in client.get(everywhere).json()["items"]] == ["b"]
        assert client.post(everywhere).status_code == 405
        assert client.patch(f"{PATH}/x").status_code == 405
        assert client.get("/api/v1/namespaces/a/configmaps").json()["items"] == []
        assert client.get("/api/v1/namespaces/a/secrets").status_code == 404
        assert client.get(f"{PATH}/x").status_code == 404


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"kind": "Pod", "metadata": {"name": "x"}}'])
def test_an_object_that_is_none_is_refused(body: bytes) -> None:
    with FakeApiServer() as server:
        assert httpx.post(server.url + PATH, headers=TOKEN, content=body).status_code == 400
        assert httpx.post(server.url + PATH, headers=TOKEN, content=b"{}").status_code == 422
        assert httpx.put(f"{server.url}{PATH}/x", headers=TOKEN, content=b"{}").status_code == 404


@pytest.mark.parametrize(
    ("text", "labels", "matches"),
    [
        ("", {}, True),
        ("a=b", {"a": "b"}, True),
        ("a==b", {"a": "c"}, False),
        ("a=b", {}, False),
        ("a!=b", {}, True),
        ("a!=b", {"a": "b"}, False),
        ("a", {"a": ""}, True),
        ("!a", {"a": "x"}, False),
        ("!a", {}, True),
        ("a in (b, c)", {"a": "c"}, True),
        ("a notin (b,c)", {"a": "c"}, False),
        ("a notin (b,c)", {}, True),
        ("a=b,kubernetes.io/service-name = orders", {"a": "b", LABEL: "orders"}, True),
        ("a=b,c=d", {"a": "b"}, False),
    ],
)
def test_selectors_select(text: str, labels: dict[str, str], matches: bool) -> None:
    assert Selector(text).matches({"metadata": {"labels": labels}}) is matches
    assert bool(Selector(text)) is bool(text)


@pytest.mark.parametrize("text", ["a=b c", "=b", "a in b", "a,,b", "a=(b)"])
def test_a_selector_that_is_none_is_refused(text: str) -> None:
    with FakeApiServer() as server:
        response = httpx.get(server.url + PATH, params={"labelSelector": text}, headers=TOKEN)
        assert response.status_code == 400
        assert "unable to parse requirement" in response.json()["message"]


def watching(server: FakeApiServer, then: Callable[[], object]) -> Exception | None:
    """How a watch ends in the middle of which something happens."""
    server.put_slice("shop", "a", "orders", ["10.0.0.1"])
    with suppress(httpx.ReadTimeout):
        try:
            with httpx.stream("GET", server.url + PATH, params={"watch": "1"}, headers=TOKEN, timeout=0.5) as response:
                for _ in response.iter_raw():
                    then()
        except httpx.TransportError as error:
            return error
    return None


def test_it_can_be_killed_and_begun_again_on_its_port() -> None:
    with FakeApiServer() as server:
        assert isinstance(watching(server, server.kill), httpx.ReadError)
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.url + PATH)
        server.start()
        assert httpx.get(server.url + PATH, headers=TOKEN).status_code == 200


def test_it_can_be_stopped_politely() -> None:
    with FakeApiServer() as server:
        assert watching(server, server.stop) is None
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.url + PATH)


def test_it_can_hang_while_its_connections_live() -> None:
    with FakeApiServer() as server:
        assert isinstance(watching(server, server.freeze), httpx.ReadTimeout)
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(server.url + PATH, headers=TOKEN, timeout=0.2)
        server.thaw()
        assert httpx.get(server.url + PATH, headers=TOKEN).status_code == 200


def test_it_can_end_watches_and_fail_and_change_its_token() -> None:
    with FakeApiServer() as server:
        assert watching(server, server.end_watches) is None
        server.fail_next(500, 429, retry_after=3)
        first, second, third = (httpx.get(server.url + PATH, headers=TOKEN) for _ in range(3))
        assert [one.status_code for one in (first, second, third)] == [500, 429, 200]
        assert second.headers["retry-after"] == "3"
        server.token = "other"  # noqa: S105 - of a test
        assert httpx.get(server.url + PATH, headers=TOKEN).status_code == 401
        server.token = None
        assert httpx.get(server.url + PATH).status_code == 200
        assert [one.params.get("watch") for one in server.requests].count("1") == len(server.watches) == 1
        assert len(server.lists) == 5


def test_who_leaves_is_forgotten() -> None:
    with FakeApiServer() as server:
        watching(server, lambda: None)
        until = time.monotonic() + 10
        while server.connections and time.monotonic() < until:
            time.sleep(0.01)
        assert (server.accepted, server.connections) == (1, 0)
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as one:
            one.sendall(b"not HTTP\r\n\r\n")
            assert one.recv(10) == b""


def test_it_speaks_tls(tmp_path: Path) -> None:
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    client = ssl.create_default_context(cadata=ca.cert_pem.bytes().decode())
    with FakeApiServer(tls=context) as server:
        assert server.url.startswith("https://")
        assert httpx.get(server.url + PATH, headers=TOKEN, verify=client).status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.url + PATH)


def test_who_is_killed_during_a_handshake_is_dead() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with FakeApiServer(tls=context) as server:
        port = int(server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as one:
            while not server.connections:
                time.sleep(0.01)
            time.sleep(0.1)  # until it waits for the client's hello
            server.kill()
            with suppress(ConnectionResetError):
                assert one.recv(1) == b""
