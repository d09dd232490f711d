"""A service in Kubernetes, over real sockets: what naive clients get wrong."""

from __future__ import annotations

import json
import logging
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme

from resilient.backends.kubernetes import Access, Api, find_access
from resilient.backends.listwatch import Changes, SourceFailed
from resilient.context import current_runtime
from resilient.discovery import LastGood, connect
from resilient.discovery.kubernetes import EndpointSlices, Kubernetes
from resilient.discovery.reflector import Reflector
from resilient.machines.backoff import Backoff
from resilient.snapshot import Snapshot
from resilient.testing.kubernetes import FakeApiServer
from tests.discovery.kubernetes.replay import Replay

QUICK = Backoff(base=0.02, cap=0.2)


def ids(snapshot: Snapshot) -> str:
    return " ".join(one.host for one in snapshot.instances)


def run(main: Callable[[], Awaitable[None]], backend: str) -> None:
    async def bounded() -> None:
        with anyio.fail_after(50):
            await main()

    anyio.run(bounded, backend=backend)


@asynccontextmanager
async def watching(
    server: FakeApiServer,
    *,
    find: Callable[[], Access] | None = None,
    seconds: tuple[int, int] = (300, 600),
    slack: float = 15.0,
    read: float = 30.0,
    port: str | int = "http",
) -> AsyncGenerator[Reflector, None]:
    """What a `Kubernetes` makes, with shorter waits."""
    runtime = current_runtime()
    api = Api(find or (lambda: Access(server=server.url, token="secret")), read=read, slack=slack)  # noqa: S106
    source = EndpointSlices(api, "shop", "orders", port, terminating="fallback", random=runtime.random, seconds=seconds)
    watch = Reflector(
        "orders", source, known=LastGood("fail"), runtime=runtime, debounce=0.02, backoff=QUICK, list_timeout=5.0
    )
    try:
        yield watch
    finally:
        await watch.aclose()


async def until(watch: Reflector, hosts: str, *, stale: bool | None = False) -> Snapshot:
    """Follow until these are known, and no others."""
    while True:
        snapshot = await anext(watch)
        if ids(snapshot) == hosts and (stale is None or (snapshot.stale_since is not None) == stale):
            return snapshot


async def watched(server: FakeApiServer, count: int) -> None:
    """Wait until so many watches were asked for."""
    while len(server.watches) < count:
        await anyio.sleep(0.01)


def test_a_url_leads_to_the_pods(backend: str, tmp_path: Path) -> None:
    async def main() -> None:
        with FakeApiServer() as server:
            server.put_slice("shop", "orders-a", "orders", ["10.0.0.1", "10.0.0.2"])
            server.put_slice("shop", "stock-a", "stock", ["10.0.0.9"])
            server.put_slice("test", "orders-a", "orders", ["10.0.0.8"])
            kubeconfig = server.kubeconfig(tmp_path / "config")
            watch = connect(f"kubernetes://shop/orders:http?kubeconfig={kubeconfig}").watch()
            assert isinstance(watch, Reflector)
            try:
                first = await anext(watch)
                assert (ids(first), first.version) == ("10.0.0.1 10.0.0.2", 1)
                server.put_slice("shop", "orders-b", "orders", ["10.0.0.3"])
                assert ids(await anext(watch)) == "10.0.0.1 10.0.0.2 10.0.0.3"
            finally:
                await watch.aclose()

    run(main, backend)


def test_the_namespace_may_be_the_contexts_own(backend: str, tmp_path: Path) -> None:
    async def main() -> None:
        with FakeApiServer() as server:
            server.put_slice("shop", "orders-a", "orders", ["10.0.0.1"])
            kubeconfig = server.kubeconfig(tmp_path / "config", namespace="shop")
            found = Kubernetes(service="orders", port=8080, kubeconfig=kubeconfig)
            watch = found.watch()
            assert ids(await anext(watch)) == "10.0.0.1"

    run(main, backend)


def test_several_slices_are_one_service(backend: str) -> None:
    """Of one pod in two slices the better is believed, as long as both are there."""

    async def main() -> None:
        leaving = {"addresses": ["10.0.0.1"], "conditions": {"ready": False, "serving": True, "terminating": True}}
        unready = {"addresses": ["10.0.0.4"], "conditions": {"ready": False}}
        with FakeApiServer() as server:
            server.put_slice("shop", "orders-a", "orders", ["10.0.0.1", "10.0.0.2"])
            server.put_slice("shop", "orders-b", "orders", [leaving, unready, {"addresses": ["10.0.0.3"]}])
            async with watching(server) as watch:
                assert ids(await anext(watch)) == "10.0.0.1 10.0.0.2 10.0.0.3"
                server.put_slice("shop", "orders-a", "orders", ["10.0.0.2"])
                assert ids(await anext(watch)) == "10.0.0.2 10.0.0.3"
                server.put_slice("shop", "orders-a", "orders", [])
                server.put_slice("shop", "orders-b", "orders", [leaving, unready])
                found = await until(watch, "10.0.0.1")  # better than nobody
                assert found.instances[0].metadata["terminating"] == "true"
                server.put_slice("shop", "orders-b", "orders", [unready])
                assert ids(await anext(watch)) == ""

    run(main, backend)


def test_an_object_that_loses_its_label_is_gone(backend: str) -> None:
    async def main() -> None:
        with FakeApiServer() as server:
            server.put_slice("shop", "orders-a", "orders", ["10.0.0.1"])
            server.put_slice("shop", "orders-b", "orders", ["10.0.0.2"])
            async with watching(server) as watch:
                await anext(watch)
                server.label_slice("shop", "orders-b", "other")
                assert ids(await anext(watch)) == "10.0.0.1"
                server.label_slice("shop", "orders-b", "orders")
                assert ids(await anext(watch)) == "10.0.0.1 10.0.0.2"

    run(main, backend)


def test_of_events_that_come_together_the_last_one_counts(backend: str) -> None:
    def line(kind: str, name: str, revision: int) -> bytes:
        metadata = {"name": name, "resourceVersion": str(revision)}
        found = {"metadata": metadata, "addressType": "IPv4", "endpoints": [], "ports": []}
        return json.dumps({"type": kind, "object": found}).encode() + b"\n"

    chunk = b"".join(
        [
            line("ADDED", "a", 2),
            line("DELETED", "a", 3),
            line("DELETED", "b", 4),
            line("ADDED", "b", 5),
            line("BOOKMARK", "", 9),
        ]
    )

    async def main() -> None:
        with Replay([chunk]) as replay:
            source = EndpointSlices(
                Api(replay.access), "shop", "orders", "http", terminating="never", random=lambda: 0.0
            )
            found = [change async for change in source.watch("1")]
        assert found == [Changes("9", {"b": []}, {"a": None})]

    run(main, backend)


def test_what_a_watch_says_beyond_that_is_a_failure(backend: str) -> None:
    async def main() -> None:
        with Replay([b'{"type": "SURPRISE", "object": {}}\n']) as replay:
            source = EndpointSlices(
                Api(replay.access), "shop", "orders", "http", terminating="never", random=lambda: 0.0
            )
            with pytest.raises(SourceFailed, match="a watch said 'SURPRISE'"):
                await anext(source.watch("1"))

    run(main, backend)


def test_expired_is_listed_again_and_what_has_gone_is_gone(backend: str) -> None:
    async def main() -> None:
        with FakeApiServer() as server:
            server.put_slice("shop", "orders-a", "orders", ["10.0.0.1"])
            server.put_slice("shop", "orders-b", "orders", ["10.0.0.2"])
            async with watching(server) as watch:
                await anext(watch)
                server.put_slice("shop", "orders-c", "orders", ["10.0.0.3"])  # a sign of life
                assert ids(await anext(watch)) == "10.0.0.1 10.0.0.2 10.0.0.3"
                with server.objects.changed:  # nobody can hear of it
                    server.delete_slice("shop", "orders-b")
                    server.put_slice("shop", "orders-d", "orders", ["10.0.0.4"])
                    server.compact()
                found = await anext(watch)
                assert (ids(found), found.stale_since) == ("10.0.0.1 10.0.0.3 10.0.0.4", None)
                await watched(server, 2)
            assert len(server.lists) == 2

    run(main, backend)


def test_gone_at_every_watch_makes_no_loop(backend: str) -> None:
    """A known client asked 342 times in 3 seconds."""

    async def main() -> None:
        with FakeApiServer() as server:
            server.put_slice("shop", "orders-a", "orders", ["10.0.0.1"])
            server.objects.oldest = 10**9  # whatever is asked for is too old
            runtime = current_runtime()
            api = Api(lambda: Access(server=server.url, token="secret"))  # noqa: S106
            source = EndpointSlices(api, "shop", "orders", 8080, terminating="never", random=runtime.random)
            watch = Reflector("orders", source, known=LastGood(), runtime=runtime)
            with anyio.move_on_after(2.0):
                while True:
                    assert ids(await anext(watch)) == "10.0.0.1"
            await watch.aclose()
            assert 1 <= len(server.watches) <= 10

    run(main, backend)


def test_a_clean_end_goes_on_from_the_last_version(backend: str) -> None:
    async def main() -> None:
        with FakeApiServer(bookmarks=0.1) as server:
            server.put_slice("shop", "orders-a", "orders", ["10.0.0.1"])
            async with watching(server, seconds=(1, 1)) as watch:
                await anext(watch)
                server.put_slice("shop", "stock-a", "stock", ["10.0.0.9"])  # only a bookmark tells of it
                await anyio.sleep(0.3)
                for _ in range(3):
                    before = len(server.watches)
                    server.end_watches()
                    await watched(server, before + 1)
                    await anyio.sleep(0.3)
                server.put_slice("shop", "orders-b", "orders", ["10.0.0.2"])
                assert ids(await anext(watch)) == "10.0.0.1 10.0.0.2"
            assert len(server.lists) == 1
            assert [one.params["resourceVersion"] for one in server.watches[:3]] == ["101", "102", "102"]

    run(main, backend)


def test_without_bookmarks_it_works_as_well(backend: str) -> None:
    async def main() -> None:
        with FakeApiServer(bookmarks=None) as server:
            server.put_slice("shop", "orders-a", "orders", ["10.0.0.1"])
            async with watching(server, seconds=(1, 1)) as watch:
                await anext(watch)
                await watched(server, 2)
                server.put_slice("shop", "orders-b", "orders", ["10.0.0.2"])
                assert ids(await anext(watch)) == "10.0.0.1 10.0.0.2"

    run(main, backend)


def test_a_server_that_was_restored_is_believed(backend: str) -> None:
    """Its versions have gone back: a watch from ours would hang, for as long as it takes to catch up."""

    async def main() -> None:
        with FakeApiServer(bookmarks=None) as server:
            server.put_slice("shop", "orders-a", "orders", ["10.0.0.1"])
            async with watching(server, seconds=(1, 1)) as watch:
                await anext(watch)
                await watched(server, 1)
                server.put_slice("shop", "orders-b", "orders", ["10.0.0.2"])
                await anext(watch)
                with server.objects.changed:
                    server.restore(50, lambda one: one["metadata"]["name"] == "orders-a")
                    server.end_watches()
                assert ids(await anext(watch)) == "10.0.0.1"
            assert [one.params["resourceVersion"] for one in server.watches[:2]] == ["101", "102"]

    run(main, backend)


def test_a_server_that_lags_is_asked_again_when_it_says_so(backend: str) -> None:
    async def main() -> None:
        with FakeApiServer() as server:
            server.put_slice("shop", "orders-a", "orders", ["10.0.0.1"])
            server.fail_next(504, retry_after=1)
            async with watching(server) as watch:
                await anext(watch)
            first, second = server.lists
            assert second.at - first.at >= 1.0

    run(main, backend)


def test_nothing_is_asked_that_an_old_server_would_not_know(backend: str) -> None:
    async def main() -> None:
        with FakeApiServer(initial_events=False, bookmarks=None) as server:
            server.put_slice("shop", "orders-a", "orders", ["10.0.0.1"])
            async with watching(server) as watch:
                await anext(watch)
                await watched(server, 1)
            for seen in server.requests:
                assert {"sendInitialEvents", "resourceVersionMatch"}.isdisjoint(seen.params)
            assert 300 <= int(server.watches[0].params["timeoutSeconds"]) <= 600

    run(main, backend)


def test_long_lines_and_strange_characters_arrive(backend: str) -> None:
    async def main() -> None:
        pods = [f"10.1.{number // 250}.{number % 250}" for number in range(1000)]
        note = {"labels": {"kubernetes.io/service-name": "orders"}, "annotations": {"note": "a\u2028b\u0085c"}}
        with FakeApiServer(chunk=1000) as server:
            server.put_slice("shop", "orders-a", "orders", ["10.0.0.1"])
            async with watching(server) as watch:
                await anext(watch)
                server.put_slice("shop", "orders-b", "orders", pods, metadata={"name": "orders-b", **note})
                assert len((await anext(watch)).instances) == 1001

    run(main, backend)


def test_a_large_service_comes_in_pages(backend: str) -> None:
    async def main() -> None:
        with FakeApiServer() as server:
            for number in range(1100):
                server.put_slice("shop", f"orders-{number}", "orders", [f"10.1.{number // 250}.{number % 250}"])
            async with watching(server) as watch:
                assert len((await anext(watch)).instances) == 1100
            assert len(server.lists) == 3

    run(main, backend)


def test_a_connection_that_has_gone_silent_is_given_up(backend: str) -> None:
    """Half-open, or a process that hangs: nothing comes, and nothing says that nothing will."""

    async def main() -> None:
        with FakeApiServer() as server:
            server.put_slice("shop", "orders-a", "orders", ["10.0.0.1"])
            async with watching(server, seconds=(1, 1), slack=0.5, read=0.5) as watch:
                await anext(watch)
                await watched(server, 1)
                server.freeze()
                await until(watch, "10.0.0.1", stale=True)
                server.put_slice("shop", "orders-a", "orders", ["10.0.0.2"])
                server.thaw()
                await until(watch, "10.0.0.2")

    run(main, backend)


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_server_that_dies_leaves_the_last_good_pods(backend: str, end: str) -> None:
    async def main() -> None:
        with FakeApiServer() as server:
            server.put_slice("shop", "orders-a", "orders", ["10.0.0.1"])
            server.put_slice("shop", "orders-b", "orders", ["10.0.0.2"])
            async with watching(server) as watch:
                await anext(watch)
                await watched(server, 1)
                await anyio.to_thread.run_sync(getattr(server, end))
                await until(watch, "10.0.0.1 10.0.0.2", stale=True)
                server.delete_slice("shop", "orders-b")  # nobody is there to hear of it
                await anyio.sleep(0.5)
                server.start()
                await until(watch, "10.0.0.1")

    run(main, backend)


def test_a_server_that_is_not_there_yet_is_waited_for(backend: str) -> None:
    async def main() -> None:
        with FakeApiServer() as server:
            server.put_slice("shop", "orders-a", "orders", ["10.0.0.1"])
            server.kill()
            async with watching(server) as watch:
                with anyio.move_on_after(0.5):
                    await anext(watch)
                    raise AssertionError
                server.start()
                assert ids(await anext(watch)) == "10.0.0.1"

    run(main, backend)


def account(folder: Path, ca: trustme.CA, token: str) -> None:
    (folder / "ca.crt").write_bytes(ca.cert_pem.bytes())
    (folder / "token").write_text(f"{token}\n")
    (folder / "namespace").write_text("shop")


def serving(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    return context


def test_a_pod_follows_its_token_and_its_certificate_authority(backend: str, tmp_path: Path) -> None:
    async def main() -> None:
        ca = trustme.CA()
        with FakeApiServer(tls=serving(ca), token="first") as server:  # noqa: S106
            port = server.url.rpartition(":")[2]
            account(tmp_path, ca, "first")
            pod = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port}
            server.put_slice("shop", "orders-a", "orders", ["10.0.0.1"])
            find = partial(find_access, environment=pod, service_account=tmp_path)
            async with watching(server, find=find) as watch:
                assert ids(await anext(watch)) == "10.0.0.1"
                await watched(server, 1)

                server.token = "second"  # noqa: S105
                server.end_watches()
                server.put_slice("shop", "orders-b", "orders", ["10.0.0.2"])
                await until(watch, "10.0.0.1", stale=True)  # 401
                account(tmp_path, ca, "second")
                await until(watch, "10.0.0.1 10.0.0.2")

                other = trustme.CA()
                server.kill()
                server._listener.tls = serving(other)
                server.start()
                server.put_slice("shop", "orders-c", "orders", ["10.0.0.3"])
                await until(watch, "10.0.0.1 10.0.0.2", stale=True)  # its certificate is not trusted
                account(tmp_path, other, "second")
                await until(watch, "10.0.0.1 10.0.0.2 10.0.0.3")

    run(main, backend)


def test_a_client_certificate_is_shown_and_another_name_expected(backend: str, tmp_path: Path) -> None:
    async def main() -> None:
        ca = trustme.CA()
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("kubernetes.default").configure_cert(tls)
        ca.configure_trust(tls)
        tls.verify_mode = ssl.CERT_REQUIRED
        pair = ca.issue_cert("client@example.com")
        (tmp_path / "ca.pem").write_bytes(ca.cert_pem.bytes())
        (tmp_path / "client.pem").write_bytes(b"".join(one.bytes() for one in pair.cert_chain_pems))
        (tmp_path / "key.pem").write_bytes(pair.private_key_pem.bytes())
        with FakeApiServer(tls=tls, token=None) as server:
            server.put_slice("shop", "orders-a", "orders", ["10.0.0.1"])
            path = server.kubeconfig(tmp_path / "config", ca="ca.pem")
            config = json.loads(path.read_text())
            config["clusters"][0]["cluster"]["tls-server-name"] = "kubernetes.default"
            config["users"][0]["user"] = {"client-certificate": "client.pem", "client-key": "key.pem"}
            path.write_text(json.dumps(config))
            async with watching(server, find=partial(find_access, path)) as watch:
                assert ids(await anext(watch)) == "10.0.0.1"

    run(main, backend)


async def never(watch: Reflector) -> None:
    snapshot = await anext(watch)
    raise AssertionError(snapshot)


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (
            lambda server: server.forbid("list"),
            '403 endpointslices.discovery.k8s.io is forbidden: User "tester" cannot',
        ),
        (lambda server: setattr(server, "token", "other"), "401 Unauthorized"),
        (
            lambda server: server.put_slice("shop", "a", "orders", ["10.0.0.1"], port_name="grpc"),
            "they have grpc (8080)",
        ),
        (lambda server: server.put_slice("shop", "a", "orders", ["10.0.0.300"]), "has the address '10.0.0.300'"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_yielded(
    backend: str, trouble: Callable[[FakeApiServer], Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with FakeApiServer() as server:
            trouble(server)
            async with watching(server) as watch, anyio.create_task_group() as tasks:
                tasks.start_soon(never, watch)
                while len(server.requests) < 3:
                    await anyio.sleep(0.01)
                tasks.cancel_scope.cancel()

    with caplog.at_level(logging.WARNING):
        run(main, backend)
    (message,) = caplog.messages
    assert reason in message


def test_a_service_that_nobody_knows_is_empty_and_that_is_said(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with FakeApiServer() as server:
            async with watching(server) as watch:
                assert ids(await anext(watch)) == ""
                server.put_slice("shop", "orders-a", "orders", ["10.0.0.1"])
                assert ids(await anext(watch)) == "10.0.0.1"

    run(main, backend)
    assert caplog.messages == ["no EndpointSlice belongs to the service 'orders'; does it exist?"]


def test_who_may_list_but_not_watch_is_told_and_stays_up_to_date(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with FakeApiServer() as server:
            server.put_slice("shop", "orders-a", "orders", ["10.0.0.1"])
            server.forbid("watch")
            async with watching(server) as watch:
                await until(watch, "10.0.0.1", stale=None)
                await until(watch, "10.0.0.1", stale=True)
                server.put_slice("shop", "orders-a", "orders", ["10.0.0.2"])
                await until(watch, "10.0.0.2", stale=None)

    run(main, backend)
    assert any("cannot watch resource" in message for message in caplog.messages)


def test_a_burst_gives_few_snapshots(backend: str) -> None:
    async def main() -> None:
        with FakeApiServer() as server:
            server.put_slice("shop", "orders-a", "orders", ["10.0.0.1"])
            path = Access(server=server.url, token="secret")  # noqa: S106
            watch = Kubernetes(service="orders", port="http", namespace="shop", find=lambda: path).watch()
            await anext(watch)
            count = 0
            began = time.monotonic()
            for number in range(300):
                server.put_slice("shop", f"orders-{number}", "orders", [f"10.1.{number // 250}.{number % 250}"])
            while len((await anext(watch)).instances) < 301:
                count += 1
            assert count <= (time.monotonic() - began) / 0.1 + 1

    run(main, backend)


def test_what_is_left_in_the_middle_is_cleaned_up(backend: str) -> None:
    async def main() -> None:
        with FakeApiServer() as server:
            server.put_slice("shop", "orders-a", "orders", ["10.0.0.1"])
            access = Access(server=server.url, token="secret")  # noqa: S106
            async for _ in Kubernetes(service="orders", port="http", namespace="shop", find=lambda: access).watch():
                break
            while server.connections:
                await anyio.sleep(0.01)

    run(main, backend)
